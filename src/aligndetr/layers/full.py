"""Full cross-attention (DETR), and the same around a reference (SMCA)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from aligndetr.layers.attention import attend, merge_heads, split_heads
from aligndetr.layers.basic import numbers_beside
from aligndetr.layers.linear import Linear

RAY_CELLS = 4.0
"""How far from the reference the heads' Gaussians are centred at the start, in cells."""


class FullAttention(nn.Module):
    """Every query reads every token (DETR, section 3.2)."""

    def __init__(self, width: int, heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.key = Linear(width, width), Linear(width, width)
        self.value, self.output = Linear(width, width), Linear(width, width)
        for projection in (self.query, self.key, self.value, self.output):
            nn.init.zeros_(projection.bias)

    def forward(
        self,
        query: Tensor,
        tokens: Tensor,
        position: Tensor,
        padding: Tensor | None,
        *,
        bias: Tensor | None = None,
    ) -> Tensor:
        """Read the memory.

        Args:
            query: (B, Q, D) content with its position added.
            tokens: (B, S, D).
            position: (B, S, D) of the tokens.
            padding: (B, S) bool, or None.
            bias: (B, heads, Q, S), added to the logits of the weights.

        Returns:
            (B, Q, D).
        """
        mixed = attend(
            split_heads(self.query(query), self.heads),
            split_heads(self.key(tokens + position), self.heads),
            split_heads(self.value(tokens), self.heads),
            None if padding is None else padding[:, None, None],
            bias=bias,
            dropout=self.dropout if self.training else 0.0,
        )
        return self.output(merge_heads(mixed))


class GaussianAttention(nn.Module):
    """Full attention times a Gaussian for every head, level by level (SMCA, arXiv:2101.07448).

    Each head looks around its own shift from the reference, as wide as the query says
    (section 3.2); levels are read one by one and summed by weights of the query's (section 3.4).
    """

    def __init__(
        self, width: int, heads: int, *, levels: int, smoothness: float, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.heads, self.smoothness = heads, smoothness
        self.attention = FullAttention(width, heads, dropout=dropout)
        self.norm = nn.LayerNorm(width)
        self.shift = Linear(width, heads * 2)
        self.spread = Linear(width, heads * 2)
        self.level = Linear(width, levels) if levels > 1 else None
        self.draw_parameters()

    def draw_parameters(self) -> None:
        """Start with Gaussians of width 1 on rays around the reference, one direction a head."""
        nn.init.zeros_(self.shift.weight)
        nn.init.zeros_(self.spread.weight)
        nn.init.ones_(self.spread.bias)
        angle = torch.arange(self.heads, dtype=torch.float32) * (2 * math.pi / self.heads)
        ray = RAY_CELLS * torch.stack((angle.cos(), angle.sin()), dim=-1)
        with torch.no_grad():
            self.shift.bias.copy_(ray.flatten())

    def forward(
        self,
        query: Tensor,
        centre: Tensor,
        tokens: Tensor,
        position: Tensor,
        padding: Tensor | None,
        *,
        valid_ratios: Tensor,
        shapes: Sequence[tuple[int, int]],
    ) -> Tensor:
        """Read the memory.

        Args:
            query: (B, Q, D) content with its position added.
            centre: (B, Q, 2) reference points in (0, 1) of the unpadded image.
            tokens: (B, S, D).
            position: (B, S, D) of the tokens.
            padding: (B, S) bool, or None.
            valid_ratios: (B, L, 2) the unpadded share of each level's (width, height).
            shapes: (height, width) of each of the L levels.

        Returns:
            (B, Q, D).
        """
        state = self.norm(query)
        shift, spread = self._by_head(self.shift(state)), self._by_head(self.spread(state))
        reads: list[Tensor] = []
        start = 0
        for level, (height, width) in enumerate(shapes):
            part = slice(start, start + height * width)
            size_wh = numbers_beside(centre, (width, height))
            in_cells = centre * valid_ratios[:, level, None] * size_wh
            bias = self._gaussian(in_cells.unsqueeze(1) + shift, spread, (height, width))
            hidden = None if padding is None else padding[:, part]
            reads.append(
                self.attention(query, tokens[:, part], position[:, part], hidden, bias=bias)
            )
            start = part.stop
        if self.level is None:
            return reads[0]
        shares = self.level(query).softmax(-1)  # (B, Q, L)
        return (torch.stack(reads, dim=-1) * shares.unsqueeze(-2)).sum(dim=-1)

    def _by_head(self, x: Tensor) -> Tensor:
        """Return (B, Q, heads * 2) as (B, heads, Q, 2)."""
        return split_heads(x.float(), self.heads)

    def _gaussian(self, middle: Tensor, spread: Tensor, shape: tuple[int, int]) -> Tensor:
        """Return the logarithm (B, heads, Q, h * w) of every head's Gaussian.

        Precision and place of x and of y are independent, so that their exponents add up.

        Args:
            middle: (B, heads, Q, 2) in cells.
            spread: (B, heads, Q, 2) precision, in 1 / cells.
            shape: (height, width) of the level.
        """
        height, width = shape
        columns = torch.arange(width, device=middle.device) + 0.5
        rows = torch.arange(height, device=middle.device) + 0.5
        x = (spread[..., :1] * (columns - middle[..., :1])).square()
        y = (spread[..., 1:] * (rows - middle[..., 1:])).square()
        exponent = (y.unsqueeze(-1) + x.unsqueeze(-2)).flatten(-2)  # (B, heads, Q, h, w) flat
        return -exponent / self.smoothness
