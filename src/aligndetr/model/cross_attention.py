"""How queries read the memory: one class for each kind of cross-attention.

Each takes states (B, Q, D), their places and the memory, and returns what was read, (B, Q, D).
"""

from torch import Tensor, nn

from aligndetr.layers.conditional import ConditionalAttention
from aligndetr.layers.deformable import DeformableAttention
from aligndetr.layers.full import FullAttention, GaussianAttention
from aligndetr.layers.row_column import RowColumnAttention
from aligndetr.model.encoder import read_map
from aligndetr.model.places import Place, on_levels
from aligndetr.types import Memory


class FullReading(nn.Module):
    """Every query reads every token (DETR)."""

    def __init__(self, attention: FullAttention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor, place: Place, memory: Memory) -> Tensor:
        """Return what the queries read."""
        return self.attention(x + place.position, memory.tokens, memory.position, memory.padding)


class GaussianReading(nn.Module):
    """Every query reads every token, those around its reference more (SMCA)."""

    def __init__(self, attention: GaussianAttention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor, place: Place, memory: Memory) -> Tensor:
        """Return what the queries read."""
        assert place.reference is not None
        return self.attention(
            x + place.position,
            place.reference[..., :2],
            memory.tokens,
            memory.position,
            memory.padding,
            valid_ratios=memory.valid_ratios,
            shapes=memory.shapes,
        )


class ConditionalReading(nn.Module):
    """Queries compare contents and places (Conditional DETR, DAB-DETR)."""

    def __init__(self, attention: ConditionalAttention, *, sees_padding: bool) -> None:
        super().__init__()
        self.attention, self.sees_padding = attention, sees_padding

    def forward(self, x: Tensor, place: Place, memory: Memory) -> Tensor:
        """Return what the queries read."""
        assert place.guide is not None
        padding = None if self.sees_padding else memory.padding
        return self.attention(
            x, place.position, place.guide, memory.tokens, memory.position, padding
        )


class RowColumnReading(nn.Module):
    """Queries read along rows, then along columns, of a single level (Anchor DETR)."""

    def __init__(self, attention: RowColumnAttention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor, place: Place, memory: Memory) -> Tensor:
        """Return what the queries read."""
        assert place.guide is not None
        return read_map(self.attention, x, place.guide, memory)


class DeformableReading(nn.Module):
    """Queries read a few points of every level around their reference (Deformable DETR)."""

    def __init__(self, attention: DeformableAttention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor, place: Place, memory: Memory) -> Tensor:
        """Return what the queries read."""
        assert place.reference is not None
        reference = on_levels(place.reference, memory)
        return self.attention(
            x + place.position, reference, memory.tokens, memory.shapes, memory.padding
        )


Reading = FullReading | GaussianReading | ConditionalReading | RowColumnReading | DeformableReading
