"""Deformable attention's sampling operator (arXiv:2010.04159, eq. 3), by the best way there is.

On the CPU it is one operator of PyTorch's, `aligndetr::deformable_attention`, which autograd,
`torch.compile` and `torch.export` know; elsewhere, and under `portable`, it is `grid_sample`.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from aligndetr.kernels import deformable_torch

FORWARD = "aligndetr::deformable_attention"
BACKWARD = "aligndetr::deformable_attention_backward"
# `define` and `impl`, not `custom_op`: its first call imports the compiler, for over a second.

_is_portable = False


def deformable_attention(
    value: Tensor, shapes: Sequence[Sequence[int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Return, for each head of a query, the weighted sum of bilinear samples of the value.

    Pixel (i, j) of a level of h x w has its centre at x = (j + 0.5) / w, y = (i + 0.5) / h; outside
    the level there are zeros. A NaN location gives NaN. Half precision is computed in float32.

    Args:
        value: (B, S, H, D), the levels one after the other, each row by row.
        shapes: (height, width) of each of the L levels; their areas add up to S.
        locations: (B, Q, H, L, P, 2), x and y in [0, 1]; others are outside.
        weights: (B, Q, H, L, P).

    Returns:
        (B, Q, H * D) in the value's dtype.

    Raises:
        ValueError: The shapes do not fit each other.
    """
    _check(value, shapes, locations, weights)
    if _is_portable or value.device.type != "cpu":
        levels = [(height, width) for height, width in shapes]
        return deformable_torch.forward(value, levels, locations, weights)
    sizes = [size for shape in shapes for size in shape]
    return torch.ops.aligndetr.deformable_attention.default(value, sizes, locations, weights)


@contextmanager
def portable() -> Generator[None]:
    """Within this context, use operators that every exporter knows (ONNX: GridSample)."""
    global _is_portable
    before, _is_portable = _is_portable, True
    try:
        yield
    finally:
        _is_portable = before


def _check(
    value: Tensor, shapes: Sequence[Sequence[int]], locations: Tensor, weights: Tensor
) -> None:
    """Raise a ValueError unless the shapes fit: the kernels trust them."""
    if value.dim() != 4 or locations.dim() != 6:
        raise ValueError(
            "deformable_attention: expected value (B, S, H, D) and locations (B, Q, H, L, P, 2), "
            f"found {tuple(value.shape)} and {tuple(locations.shape)}"
        )
    if any(len(shape) != 2 or min(shape) < 1 for shape in shapes):
        raise ValueError(
            f"deformable_attention: expected shapes as (height, width) above 0, found {shapes}"
        )
    total = sum(height * width for height, width in shapes)
    if total != value.shape[1]:
        raise ValueError(
            f"deformable_attention: expected {total} tokens in value for levels {shapes}, "
            f"found {value.shape[1]}"
        )
    B, _, H, _ = value.shape
    expected = (B, locations.shape[1], H, len(shapes), locations.shape[4], 2)
    if locations.shape != expected or weights.shape != expected[:-1]:
        raise ValueError(
            f"deformable_attention: expected locations {expected} and weights {expected[:-1]}, "
            f"found {tuple(locations.shape)} and {tuple(weights.shape)}"
        )


torch.library.define(
    FORWARD,
    "(Tensor value, SymInt[] shapes, Tensor locations, Tensor weights) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)
torch.library.define(
    BACKWARD,
    "(Tensor grad_output, Tensor value, SymInt[] shapes, Tensor locations, Tensor weights)"
    " -> (Tensor, Tensor, Tensor)",
    tags=torch.Tag.pt2_compliant_tag,
)


@torch.library.impl(FORWARD, "cpu")
def _forward(value: Tensor, shapes: list[int], locations: Tensor, weights: Tensor) -> Tensor:
    from aligndetr.kernels import deformable_cpu  # numba: a moment that not every import needs

    return deformable_cpu.forward(value, shapes, locations, weights)


@torch.library.impl(BACKWARD, "cpu")
def _backward(
    grad_output: Tensor, value: Tensor, shapes: list[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    from aligndetr.kernels import deformable_cpu

    return deformable_cpu.backward(grad_output, value, shapes, locations, weights)


@torch.library.register_fake(FORWARD)
def _(value: Tensor, _shapes: list[int], locations: Tensor, _weights: Tensor) -> Tensor:
    return value.new_empty((value.shape[0], locations.shape[1], value.shape[2] * value.shape[3]))


@torch.library.register_fake(BACKWARD)
def _(
    _grad: Tensor, value: Tensor, _shapes: list[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        value.new_empty(value.shape),
        locations.new_empty(locations.shape),
        weights.new_empty(weights.shape),
    )


Inputs = tuple[Tensor, list[int], Tensor, Tensor]


def _remember(ctx: Any, inputs: Inputs, output: Tensor) -> None:  # noqa: ARG001 (named by torch)
    value, ctx.shapes, locations, weights = inputs
    ctx.save_for_backward(value, locations, weights)


def _differentiate(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
    value, locations, weights = ctx.saved_tensors
    grads = torch.ops.aligndetr.deformable_attention_backward.default(
        grad_output, value, ctx.shapes, locations, weights
    )
    return grads[0], None, grads[1], grads[2]


def _refuse(ctx: Any, *grads: Tensor) -> None:  # noqa: ARG001 (named by torch)
    raise RuntimeError(
        "deformable_attention: create_graph=True, no second derivative; aligndetr.kernels."
        "portable() has one"
    )


torch.library.register_autograd(FORWARD, _differentiate, setup_context=_remember)
torch.library.register_autograd(BACKWARD, _refuse)
