"""Multi-scale deformable attention around the sampling operator (arXiv:2010.04159, eq. 3)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from aligndetr.kernels import deformable_attention
from aligndetr.kernels.softmax import short_softmax
from aligndetr.layers.basic import numbers_beside
from aligndetr.layers.linear import Linear, linear


class DeformableAttention(nn.Module):
    """Each query reads a few points of every level around its reference."""

    def __init__(self, width: int, heads: int, *, levels: int, points: int) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.value = Linear(width, width)
        self.offsets = Linear(width, heads * levels * points * 2)
        self.weights = Linear(width, heads * levels * points)
        self.output = Linear(width, width)
        self.draw_parameters()

    def draw_parameters(self) -> None:
        """Start with equal weights and points on rays, one direction a head, one step a point."""
        nn.init.zeros_(self.offsets.weight)
        nn.init.zeros_(self.weights.weight)
        nn.init.zeros_(self.weights.bias)
        angle = torch.arange(self.heads, dtype=torch.float32) * (2 * math.pi / self.heads)
        ray = torch.stack((angle.cos(), angle.sin()), dim=-1)
        ray = ray / ray.abs().amax(dim=-1, keepdim=True)  # (heads, 2)
        steps = torch.arange(1, self.points + 1, dtype=torch.float32)
        bias = ray[:, None, None] * steps[:, None]  # (heads, 1, points, 2)
        with torch.no_grad():
            self.offsets.bias.copy_(bias.expand(-1, self.levels, -1, -1).flatten())
        for projection in (self.value, self.output):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self,
        query: Tensor,
        reference: Tensor,
        tokens: Tensor,
        shapes: Sequence[tuple[int, int]],
        padding: Tensor | None,
    ) -> Tensor:
        """Read the memory at the points that the queries ask for.

        Args:
            query: (B, Q, D) content with its position added.
            reference: (B, Q, L, 2) points or (B, Q, L, 4) boxes, in (0, 1) of each padded level.
            tokens: (B, S, D) memory.
            shapes: (height, width) of each of the L levels, finest first.
            padding: (B, S) bool, or None; padded tokens read as zeros.

        Returns:
            (B, Q, D).
        """
        return self.output(self.sample(query, reference, tokens, shapes, padding))

    def sample(
        self,
        query: Tensor,
        reference: Tensor,
        tokens: Tensor,
        shapes: Sequence[tuple[int, int]],
        padding: Tensor | None,
    ) -> Tensor:
        """Return what `forward` returns, (B, Q, D), before its last projection, `output`."""
        value = self.value(tokens)
        if padding is not None:
            value = value.masked_fill(padding.unsqueeze(-1), 0.0)
        value = value.unflatten(-1, (self.heads, -1))  # (B, S, D) -> (B, S, heads, D / heads)
        offsets, logits = self._asked(query)
        centres = self._for_points(reference[..., :2])
        if reference.shape[-1] == 4:  # offsets are shares of half the box
            shares = self._for_points(reference[..., 2:]) * (0.5 / self.points)
            locations = torch.addcmul(centres, offsets, shares)
        else:
            sides = [side for height, width in shapes for side in (width, height)]
            sizes_wh = numbers_beside(reference, sides).view(1, 1, -1, 2)
            locations = torch.addcdiv(centres, offsets, self._for_points(sizes_wh))
        return deformable_attention(
            value,
            shapes,
            locations.unflatten(-1, (self.levels, self.points, 2)),
            short_softmax(logits).unflatten(-1, (self.levels, self.points)),
        )

    def _asked(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """Return offsets (B, Q, heads, L * P * 2), logits of weights (B, Q, heads, L * P)."""
        offsets, weights = self.offsets, self.weights
        asked = linear(
            query,
            torch.cat((offsets.weight, weights.weight)),
            torch.cat((offsets.bias, weights.bias)),
        )
        parts = asked.split((offsets.out_features, weights.out_features), dim=-1)
        return parts[0].unflatten(-1, (self.heads, -1)), parts[1].unflatten(-1, (self.heads, -1))

    def _for_points(self, numbers: Tensor) -> Tensor:
        """Return (B, Q, L, 2) numbers for all points of a level: (B, Q, 1, L * P * 2).

        A long last axis, for a sum along short ones takes three times as long.
        """
        return numbers.unsqueeze(3).expand(-1, -1, -1, self.points, -1).flatten(2).unsqueeze(2)
