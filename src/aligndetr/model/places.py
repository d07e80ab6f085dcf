"""What a decoder layer knows of where its queries are."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from aligndetr.layers.basic import MLP
from aligndetr.layers.conditional import PlaceEmbedding
from aligndetr.layers.position import embed_boxes
from aligndetr.types import Memory


@dataclass(frozen=True)
class Place:
    """Where the queries of one layer are, and how self- and cross-attention are told.

    `position` (B, Q, D); `reference` (B, Q, 2 or 4) in (0, 1) of the unpadded image, if there is
    one; `guide` what only the cross-attention needs: a sine embedding (B, Q, D) for the
    conditional one, embeddings (B, Q, 2, D) of x and y for the row-column one.
    """

    position: Tensor
    reference: Tensor | None
    guide: Tensor | None


class GivenPositions(nn.Module):
    """Positions that came with the queries (DETR), the same in every layer."""

    def forward(self, depth: int, x: Tensor, reference: Tensor | None, given: Tensor) -> Tensor:
        """Return (B, Q, D)."""
        del depth, x, reference
        return given


class EmbeddedPositions(nn.Module):
    """An MLP of the sine embedding of each layer's reference (DAB-DETR, section 4.2).

    `scaled` multiplies it by an MLP of the state after the first layer (DAB-Deformable-DETR).
    """

    def __init__(self, width: int, *, coordinates: Literal[2, 4], is_scaled: bool) -> None:
        super().__init__()
        self.features = width // 2
        self.embed = MLP(coordinates * self.features, width, width)
        self.scale = MLP(width, width, width) if is_scaled else None

    def forward(self, depth: int, x: Tensor, reference: Tensor, given: Tensor | None) -> Tensor:
        """Return (B, Q, D) positions for the layer that has `depth` layers before it."""
        del given
        position = self.embed(embed_boxes(reference, self.features))
        if self.scale is None or depth == 0:
            return position
        return position * self.scale(x)


class AxisEmbedding(nn.Module):
    """An MLP of the sine embedding of single coordinates (Anchor DETR, section 3.2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.embed = MLP(width, width, width)

    def forward(self, points: Tensor) -> Tensor:
        """Return (..., 2, D), of x and of y, for points (..., 2) in (0, 1)."""
        features = embed_boxes(points, self.width, order="xy")
        return self.embed(features.unflatten(-1, (2, self.width)))


class Places(nn.Module):
    """Gives every layer the places of its queries.

    Where the memory has levels that are read at points, references are taken relative to the
    padded finest level, as published: `on_padded`.
    """

    def __init__(
        self,
        positions: GivenPositions | EmbeddedPositions,
        guide: PlaceEmbedding | AxisEmbedding | None,
        *,
        on_padded: bool,
    ) -> None:
        super().__init__()
        self.positions, self.guide, self.on_padded = positions, guide, on_padded

    def forward(
        self,
        depth: int,
        x: Tensor,
        reference: Tensor | None,
        given: Tensor | None,
        memory: Memory,
    ) -> Place:
        """Return the places for states x (B, Q, D) before the layer at `depth`."""
        seen = reference
        if self.on_padded and reference is not None:
            seen = on_levels(reference, memory)[:, :, 0]
        position = self.positions(depth, x, seen, given)
        return Place(position, reference, self._guide(depth, x, reference))

    def _guide(self, depth: int, x: Tensor, reference: Tensor | None) -> Tensor | None:
        match self.guide:
            case PlaceEmbedding():
                return self.guide(x, reference, is_first=depth == 0)
            case AxisEmbedding():
                assert reference is not None
                return self.guide(reference[..., :2])
            case _:
                return None


def on_levels(reference: Tensor, memory: Memory) -> Tensor:
    """Return references (B, Q, 2 or 4) relative to each of the L padded levels, (B, Q, L, 2 or 4).

    Where nothing is padded they are a view that repeats the reference.
    """
    repeated = reference.unsqueeze(2).expand(-1, -1, len(memory.shapes), -1)
    if memory.padding is None:
        return repeated
    ratios = memory.valid_ratios.repeat(1, 1, reference.shape[-1] // 2)
    return repeated * ratios.unsqueeze(1)
