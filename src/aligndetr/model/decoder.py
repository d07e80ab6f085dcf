"""Decoder: queries attend to each other and to the memory, and may refine their boxes."""

from typing import Literal

from torch import Tensor, nn

from aligndetr.layers.attention import SelfAttention, SeparateSelfAttention
from aligndetr.layers.basic import FeedForward
from aligndetr.model.cross_attention import Reading
from aligndetr.model.groups import attention_mask
from aligndetr.model.heads import Head
from aligndetr.model.places import Place, Places
from aligndetr.types import LayerOutput, Memory, Queries

Refinement = Literal["none", "detached", "look_forward_twice"]


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention and a feed-forward network, post-norm."""

    def __init__(
        self,
        self_attention: SelfAttention | SeparateSelfAttention,
        cross_attention: Reading,
        feedforward: FeedForward,
        width: int,
        *,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.self_attention = self_attention
        self.cross_attention = cross_attention
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.feedforward = feedforward

    def forward(self, x: Tensor, place: Place, memory: Memory, blocked: Tensor | None) -> Tensor:
        """Return states (B, Q, D) from those of the layer before."""
        x = self.self_attention(x, place.position, blocked)
        read = self.cross_attention(x, place, memory)
        return self.feedforward(self.norm(x + self.dropout(read)))


class Decoder(nn.Module):
    """Layers that predict boxes relative to references, where there are some, and refine these.

    References are refined with the states as the layer leaves them, but boxes are predicted from
    their normalised copy, by the same head (DINO's and DAB-DETR's code).
    """

    def __init__(
        self,
        layers: list[DecoderLayer],
        heads: list[Head],
        places: Places,
        norm: nn.LayerNorm | None,
        *,
        refinement: Refinement,
        eps: float,
        norms_between: bool = False,
    ) -> None:
        """Take one head a layer; the same object may serve several.

        `norms_between`: whether layers start from normalised states, too.
        """
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.heads = nn.ModuleList(heads)
        self.places = places
        self.norm = nn.Identity() if norm is None else norm
        self.refinement: Refinement = refinement
        self.eps = eps
        self.norms_between = norms_between

    def forward(self, queries: Queries, memory: Memory) -> tuple[LayerOutput, ...]:
        """Return the predictions of every layer, first to last."""
        blocked = attention_mask(queries.groups, queries.content.device)
        x = queries.content
        start = reference = queries.reference  # of the layer itself, and of its prediction
        outputs: list[LayerOutput] = []
        for depth, layer in enumerate(self.layers):
            place = self.places(depth, x, start, queries.position, memory)
            x = layer(x, place, memory, blocked)
            if self.norms_between:
                x = self.norm(x)
            outputs.append(self._predict(depth, x, reference))
            if self.refinement != "none" and depth < len(self.layers) - 1:
                refined = self._head(depth).boxes(x, start, eps=self.eps)
                start = refined.detach()
                reference = start if self.refinement == "detached" else refined
        return tuple(outputs)

    def _predict(self, depth: int, x: Tensor, reference: Tensor | None) -> LayerOutput:
        is_normed = self.norms_between and depth < len(self.layers) - 1
        head, states = self._head(depth), x if is_normed else self.norm(x)
        boxes = head.boxes(states, reference, eps=self.eps)
        return LayerOutput(head.logits(states), boxes, head.iou_logits(states))

    def _head(self, depth: int) -> Head:
        head = self.heads[depth]
        assert isinstance(head, Head)
        return head
