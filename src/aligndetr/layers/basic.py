"""Stacks of linear layers."""

import itertools
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CHUNK = 1024
"""Rows whose hidden states, 2,048 wide, stay in a second-level cache."""


def by_rows(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Return function(*inputs) for one that treats the rows of (B, S, ...) inputs independently.

    In inference on a CPU it gets few rows at a time: what it makes of them on the way stays in the
    cache, and the memory of all is never needed.
    """
    images, rows = inputs[0].shape[:2]
    is_direct = torch.is_grad_enabled() or torch.compiler.is_compiling()
    if is_direct or inputs[0].device.type != "cpu" or images * rows <= 2 * CHUNK:
        return function(*inputs)
    size = -(-CHUNK // images)
    parts = zip(*(x.split(size, dim=1) for x in inputs), strict=True)
    return torch.cat([function(*part) for part in parts], dim=1)


class MLP(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, *widths: int) -> None:
        """Take the width of the input, of every hidden layer and of the output."""
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Linear(before, after) for before, after in itertools.pairwise(widths)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., widths[0]) to (..., widths[-1])."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class FeedForward(nn.Module):
    """Residual two-layer network with post-norm, as in DETR's transformer layers."""

    def __init__(
        self,
        width: int,
        hidden: int,
        *,
        dropout: float = 0.0,
        activation: Literal["relu", "prelu"] = "relu",
    ) -> None:
        super().__init__()
        self.expand = nn.Linear(width, hidden)
        self.activation = nn.PReLU() if activation == "prelu" else nn.ReLU(inplace=True)
        self.contract = nn.Linear(hidden, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) to (..., D)."""
        hidden = self.dropout(self.activation(self.expand(x)))
        return self.norm(x + self.dropout(self.contract(hidden)))
