"""Deformable attention on the CPU: tensors to the kernels and back, on torch's number of threads.

Every row of every output belongs to one task and is summed in one order: the same numbers at
every run, without atomics. Nothing compiles before the first call.
"""

from collections.abc import Sequence
from functools import cache, lru_cache, partial
from itertools import accumulate
from typing import Any, Literal

import numpy as np
import torch
from numba import from_dtype, types
from torch import Tensor

from aligndetr.kernels import deformable_kernels as kernels
from aligndetr.kernels.compiling import Kernel, compile_kernel
from aligndetr.kernels.deformable_kernels import (
    Floats,
    Gradients,
    Ints,
    Numbers,
    Plan,
    Points,
    Task,
)
from aligndetr.kernels.simd import Count, CountType
from aligndetr.kernels.threads import run

SMALL = 16_384
"""Samples, of all queries and heads, below which a second thread costs more than it saves."""

TASKS_PER_THREAD = 4
"""Of the forward pass, so that threads of uneven speed end together."""

EVEN = 8
"""Tasks per thread of the backward pass, as long as levels can be parted."""

READS_PER_CELL = 16
"""Reads of the average cell above which a copy of the value, one head after the other, pays, ..."""
CACHED = 1 << 19
"""... unless an image's value has no more numbers than these: the second-level cache holds it."""

NUMPY_DTYPES = {
    torch.float32: np.dtype(np.float32),
    torch.float64: np.dtype(np.float64),
    torch.bfloat16: np.dtype(np.uint16),
}


def forward(value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    """Return deformable attention (B, Q, H * D) in the value's dtype.

    Tensors may have any strides and floating dtypes; sums are float32, or float64 if one is.
    bfloat16 values are read as they are.

    Args:
        value: (B, S, H, D).
        shapes: Height and width of level 0, of level 1, ...; trusted to fit.
        locations: (B, Q, H, L, P, 2).
        weights: (B, Q, H, L, P).
    """
    B, Q, H, L, P = weights.shape
    if 0 in (value.numel(), weights.numel()):
        return value.new_zeros(B, Q, H * value.shape[-1])
    dtype = _working_dtype(value, locations, weights)
    rows, plan = _lay_out(value, Q, L * P, dtype)
    output = torch.empty(B, Q, H * value.shape[-1], dtype=rows.dtype)
    points = _points(tuple(shapes), locations, weights, dtype)
    kernel = _compiled("forward", dtype, (rows.dtype, rows.dtype), L * P, value.shape[-1])
    run(partial(kernel, _flat(rows), points, _flat(output), plan), _chunks(plan, B * H))
    return output.to(value.dtype)


def backward(
    grad_output: Tensor, value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of `forward`'s value, locations and weights, each in its dtype.

    `grad_output` (B, Q, H * D); the rest as in `forward`.
    """
    B, Q, H, L, P = weights.shape
    if 0 in (value.numel(), weights.numel()):
        return (
            value.new_zeros(value.shape),
            locations.new_zeros(locations.shape),
            weights.new_zeros(weights.shape),
        )
    dtype = _working_dtype(value, locations, weights)
    rows, plan = _lay_out(value, Q, L * P, dtype)
    grad_rows = torch.zeros_like(rows, dtype=dtype)
    grad_locations = torch.empty(locations.shape, dtype=dtype)
    grad_weights = torch.empty(weights.shape, dtype=dtype)
    grad_output = _readable(grad_output, dtype)
    grads = (grad_output, grad_rows, grad_locations, grad_weights)
    gradients = Gradients(*map(_flat, grads))
    points = _points(tuple(shapes), locations, weights, dtype)
    lanes, tasks = _owned(plan, B * H, L)
    read = (rows.dtype, grad_output.dtype)
    kernel = _compiled("backward", dtype, read, lanes, value.shape[-1])
    run(partial(kernel, _flat(rows), points, gradients, plan), tasks)
    grad_value = grad_rows if plan.cell_step > plan.head_step else grad_rows.transpose(1, 2)
    return (
        grad_value.reshape(value.shape).contiguous().to(value.dtype),
        grad_locations.to(locations.dtype),
        grad_weights.to(weights.dtype),
    )


def _working_dtype(*tensors: Tensor) -> torch.dtype:
    is_double = any(tensor.dtype == torch.float64 for tensor in tensors)
    return torch.float64 if is_double else torch.float32


def _readable(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a tensor as it is where the kernel for `dtype` can read it, else converted."""
    is_half = tensor.dtype == torch.bfloat16 and dtype == torch.float32
    return tensor if is_half else tensor.to(dtype)


def _flat(tensor: Tensor) -> Numbers:
    """Return a tensor's numbers in a row; a reshape alone may leave a step between them."""
    row = tensor.detach().contiguous().view(-1)
    return (row.view(torch.uint16) if row.dtype == torch.bfloat16 else row).numpy()


def _lay_out(value: Tensor, queries: int, samples: int, dtype: torch.dtype) -> tuple[Tensor, Plan]:
    """Return the value (B, S, H, D) as it is, or as (B, H, S, D) where that copy pays."""
    _, S, H, D = value.shape
    if S * H * D > CACHED and 4 * queries * samples > READS_PER_CELL * S:
        rows = _readable(value.transpose(1, 2), dtype).contiguous()
        return rows, Plan(queries, H, samples, S * H * D, S * D, D)
    return _readable(value, dtype).contiguous(), Plan(queries, H, samples, S * H * D, D, H * D)


def _points(
    shapes: tuple[int, ...], locations: Tensor, weights: Tensor, dtype: torch.dtype
) -> Points:
    sizes, rows = _tables(shapes, weights.shape[-1], NUMPY_DTYPES[dtype])
    return Points(_flat(locations.to(dtype)), _flat(weights.to(dtype)), sizes, rows)


@lru_cache(256)
def _tables(shapes: tuple[int, ...], points: int, dtype: np.dtype[Any]) -> tuple[Floats, Ints]:
    """Return `sizes` and `rows` of `Points` for levels of height, width, height, width, ..."""
    heights, widths = shapes[::2], shapes[1::2]
    cells = [height * width for height, width in zip(heights, widths, strict=True)]
    begins = [0, *accumulate(cells)][:-1]
    sizes = np.repeat(np.array([widths, heights], dtype), points, axis=1)
    rows = np.repeat(np.array([widths, begins], np.int32), points, axis=1)
    return sizes.reshape(-1), rows.reshape(-1)


def _chunks(plan: Plan, pairs: int) -> list[Task]:
    """Return the tasks of a forward pass: each some of the queries of an image's head."""
    threads = torch.get_num_threads()
    if threads == 1 or pairs * plan.queries * plan.samples < SMALL:
        return [Task(0, pairs, 0, plan.queries, 0)]
    size = max(64, -(-plan.queries * pairs // (TASKS_PER_THREAD * threads)))
    starts = range(0, plan.queries, size)
    return [
        Task(pair, pair + 1, start, min(start + size, plan.queries), 0)
        for pair in range(pairs)
        for start in starts
    ]


def _owned(plan: Plan, pairs: int, levels: int) -> tuple[int, list[Task]]:
    """Return the samples that a task of a backward pass takes at once, and its tasks.

    A task owns the cells that it adds to: those of an image's head, or of some levels of it where
    heads are too few for threads of uneven speed to end together.
    """
    threads = torch.get_num_threads()
    if threads == 1 or pairs * plan.queries * plan.samples < SMALL:
        return plan.samples, [Task(0, pairs, 0, plan.queries, 0)]
    parts = next(
        (parts for parts in (1, 2) if levels % parts == 0 and pairs * parts >= EVEN * threads),
        levels,
    )
    lanes = plan.samples // parts
    starts = range(0, plan.samples, lanes)
    return lanes, [
        Task(pair, pair + 1, 0, plan.queries, start) for pair in range(pairs) for start in starts
    ]


@cache
def _compiled(
    name: Literal["forward", "backward"],
    dtype: torch.dtype,
    others: tuple[torch.dtype, torch.dtype],
    lanes: int,
    channels: int,
) -> Kernel:
    """Return the kernel for these numbers; its last two arguments are theirs already.

    `others` are the types of the value and of the output or its gradient.
    """
    floats = types.Array(from_dtype(NUMPY_DTYPES[dtype]), 1, "C")
    value, output = (types.Array(from_dtype(NUMPY_DTYPES[other]), 1, "C") for other in others)
    ints = types.Array(types.int32, 1, "C")
    points = types.NamedTuple((floats, floats, floats, ints), Points)
    gradients = types.NamedTuple((output, floats, floats, floats), Gradients)
    changed = output if name == "forward" else gradients
    plan = types.NamedUniTuple(types.int64, len(Plan._fields), Plan)
    task = types.NamedUniTuple(types.int64, len(Task._fields), Task)
    counts = CountType(lanes), CountType(channels)
    kernel = compile_kernel(getattr(kernels, name), (value, points, changed, plan, task, *counts))
    given = Count(lanes), Count(channels)
    return lambda *arguments: kernel(*arguments, *given)
