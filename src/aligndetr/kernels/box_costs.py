"""What matching pays for boxes: the L1 distance and the GIoU of all predictions and targets."""

import itertools
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aligndetr.boxes import SMALLEST_AREA, cxcywh_to_xyxy, giou, pair_corners
from aligndetr.kernels.threads import run

UNUSABLE = 1e9
"""Cost of a prediction that is not finite: matched only when nothing else is left."""
COMPILED = (torch.float32, torch.float64)


def add_box_costs(
    cost: Tensor,
    boxes: Tensor,
    targets: Tensor,
    *,
    image: Tensor,
    counts: Sequence[int],
    weights: tuple[float, float],
    eps: float,
) -> Tensor:
    """Return cost + l1 * |box - target| - giou * GIoU, `UNUSABLE` where that is no number.

    Args:
        cost: (R, T, Q) of each target and the predictions of its image; may be written to.
        boxes: (R, B, Q, 4) cxcywh, predictions for B images in R rows.
        targets: (T, 4) cxcywh, of the same dtype, image after image.
        image: (T,) the image of each target.
        counts: Targets of each image: the same, known to the host.
        weights: l1 and giou.
        eps: Added to areas in the GIoU; 0 is exact.
    """
    if cost.device.type == "cpu" and cost.dtype in COMPILED and cost.dtype == boxes.dtype:
        return _compiled_costs(cost.contiguous(), boxes, targets, counts, (*weights, eps))
    distance = (boxes[:, image] - targets.unsqueeze(-2)).abs().sum(dim=-1)
    overlap = giou(*pair_corners(targets, boxes, image), eps=eps)
    cost = cost + weights[0] * distance - weights[1] * overlap
    return cost.nan_to_num(UNUSABLE, UNUSABLE, UNUSABLE)


def _compiled_costs(
    cost: Tensor,
    boxes: Tensor,
    targets: Tensor,
    counts: Sequence[int],
    numbers: tuple[float, float, float],
) -> Tensor:
    found, wanted, costs = _planes(boxes).numpy(), _planes(targets).numpy(), cost.numpy()
    options = np.array([*numbers, SMALLEST_AREA, UNUSABLE, 0, 1], costs.dtype)
    kernel, stops = _kernel(costs.dtype), np.cumsum(counts, dtype=np.int64)
    own = {
        image: slice(stop - count, stop)
        for image, (stop, count) in enumerate(zip(stops, counts, strict=True))
        if count
    }
    planes = {image: np.ascontiguousarray(wanted[:, span]) for image, span in own.items()}

    def work(task: tuple[int, int]) -> None:
        row, image = task
        kernel(costs[row, own[image]], found[row, image], planes[image], options)

    run(work, list(itertools.product(range(len(costs)), own)))
    return cost


def _planes(boxes: Tensor) -> Tensor:
    """Return (..., 9, n) from (..., n, 4): centre, size, edges and area, a plane each."""
    corners = cxcywh_to_xyxy(boxes)
    sides = corners[..., 2:] - corners[..., :2]
    planes = torch.cat((boxes, corners, sides.prod(dim=-1, keepdim=True)), dim=-1)
    return planes.transpose(-1, -2).contiguous()


@cache
def _kernel(dtype: np.dtype[Any]) -> Callable[..., object]:
    """Return the kernel; numba, which takes a second to import, waits for the first problem."""
    from numba import from_dtype, types

    from aligndetr.kernels import box_cost_kernels as kernels
    from aligndetr.kernels.compiling import compile_kernel

    matrix, vector = (types.Array(from_dtype(dtype), size, "C") for size in (2, 1))
    return compile_kernel(kernels.add_box_costs, (matrix, matrix, matrix, vector))
