"""Conditional cross-attention: contents and places side by side in every head.

Conditional DETR (arXiv:2108.06152), section 3.3; with sizes DAB-DETR (arXiv:2201.12329),
section 4.4.
"""

import torch
from torch import Tensor, nn

from aligndetr.layers.attention import attend, merge_heads, split_heads
from aligndetr.layers.basic import MLP
from aligndetr.layers.linear import Linear
from aligndetr.layers.position import embed_boxes


class ConditionalAttention(nn.Module):
    """Heads compare contents, and sine embeddings of places, in equal shares of twice the width.

    The first layer of a decoder, whose content is empty, adds the learned positions to contents.
    """

    def __init__(self, width: int, heads: int, *, is_first: bool, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.key = Linear(width, width), Linear(width, width)
        self.query_position = Linear(width, width) if is_first else None
        self.key_position = Linear(width, width)
        self.query_place = Linear(width, width)
        self.value, self.output = Linear(width, width), Linear(width, width)
        nn.init.zeros_(self.output.bias)

    def forward(
        self,
        x: Tensor,
        position: Tensor,
        place: Tensor,
        tokens: Tensor,
        token_position: Tensor,
        padding: Tensor | None,
    ) -> Tensor:
        """Read the memory.

        Args:
            x: (B, Q, D) content.
            position: (B, Q, D), added to content in the first layer.
            place: (B, Q, D) sine embedding of where to look, from `PlaceEmbedding`.
            tokens: (B, S, D).
            token_position: (B, S, D), or (1, S, D) for all images.
            padding: (B, S) bool, or None.

        Returns:
            (B, Q, D).
        """
        query, key = self.query(x), self.key(tokens)
        key_place = self.key_position(token_position).expand_as(key)
        if self.query_position is not None:
            query, key = query + self.query_position(position), key + key_place
        mixed = attend(
            self._side_by_side(query, self.query_place(place)),
            self._side_by_side(key, key_place),
            split_heads(self.value(tokens), self.heads),
            None if padding is None else padding[:, None, None],
            dropout=self.dropout if self.training else 0.0,
        )
        return self.output(merge_heads(mixed))

    def _side_by_side(self, content: Tensor, place: Tensor) -> Tensor:
        parts = split_heads(content, self.heads), split_heads(place, self.heads)
        return torch.cat(parts, dim=-1)  # (B, heads, Q, 2 D / heads)


class PlaceEmbedding(nn.Module):
    """Sine embeddings of reference centres, scaled by what the queries hold; for all layers."""

    def __init__(self, width: int, *, has_size: bool) -> None:
        super().__init__()
        self.width = width
        self.scale = MLP(width, width, width)
        self.size = MLP(width, width, 2) if has_size else None

    def forward(self, x: Tensor, reference: Tensor, *, is_first: bool) -> Tensor:
        """Return (B, Q, D); the first layer's are not scaled.

        Args:
            x: (B, Q, D) states.
            reference: (B, Q, 2 or 4) in (0, 1); boxes where sizes count.
            is_first: Whether this is the decoder's first layer.
        """
        place = embed_boxes(reference[..., :2], self.width // 2)  # features of y, then of x
        if not is_first:
            place = place * self.scale(x)
        if self.size is None:
            return place
        ratio = self.size(x).sigmoid() / reference[..., 2:]  # width, height
        return (place.unflatten(-1, (2, -1)) * ratio.flip(-1).unsqueeze(-1)).flatten(-2)
