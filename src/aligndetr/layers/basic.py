"""Stacks of linear layers."""

import itertools
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from aligndetr.layers.linear import Linear, with_relu

CHUNK = 1 << 22
"""Numbers of a hidden state at a time: enough for fast products, few enough to stay in a cache."""
PARTED = 2
"""Chunks from which on rows are parted."""


def by_rows(function: Callable[..., Tensor], *inputs: Tensor, widest: int) -> Tensor:
    """Return function(*inputs) for one that treats the rows of (B, S, ...) inputs independently.

    In inference on a CPU it gets few rows at a time: what it makes of them on the way stays in the
    cache.

    Args:
        function: From chunks of the inputs to (B, s, D).
        inputs: (B, S, ...) each.
        widest: Numbers of the largest hidden state of a row.
    """
    images, rows = inputs[0].shape[:2]
    size = max(CHUNK // (images * widest), 1)
    is_whole = torch.is_grad_enabled() or torch.compiler.is_compiling() or rows <= size * PARTED
    if is_whole or inputs[0].device.type != "cpu":
        return function(*inputs)
    chunks = zip(*(x.split(size, dim=1) for x in inputs), strict=True)
    return torch.cat([function(*chunk) for chunk in chunks], dim=1)


def numbers_beside(tensor: Tensor, numbers: Sequence[float]) -> Tensor:
    """Return (n,) numbers where a tensor is and of its type.

    They are made there: a copy of numbers from the CPU makes it wait for a GPU.
    """
    return torch.stack([tensor.new_full((), number) for number in numbers])


class MLP(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, *widths: int) -> None:
        """Take the width of the input, of every hidden layer and of the output."""
        super().__init__()
        self.layers = nn.ModuleList(
            Linear(before, after) for before, after in itertools.pairwise(widths)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., widths[0]) to (..., widths[-1])."""
        for layer in self.layers[:-1]:
            x = with_relu(layer, x)
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
        self.hidden = hidden
        self.expand = Linear(width, hidden)
        self.activation = nn.PReLU() if activation == "prelu" else None  # None is ReLU
        self.contract = Linear(hidden, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) to (..., D)."""
        if self.activation is None:
            hidden = with_relu(self.expand, x)
        else:
            hidden = self.activation(self.expand(x))
        return self.norm(x + self.dropout(self.contract(self.dropout(hidden))))
