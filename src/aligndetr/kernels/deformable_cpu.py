"""Deformable attention on the CPU: numba kernels, forward and backward.

For each head of a query:  output = sum over samples i of weight_i * bilinear(value, location_i).
A kernel first turns all samples at once into four cells (rows of the value) and four shares
each, then gathers those rows with all channels of the head at once. It does so for a few queries
at a time, so that the loads of the second step do not wait for the stores of the first.

Every row of every output belongs to one thread and is summed in one order: the same numbers at
every run, without atomics. Nothing compiles before the first call.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numba import njit
from torch import Tensor

from aligndetr.kernels.simd import (
    Count,
    Vector,
    clamp,
    dots,
    fill,
    floor,
    inside,
    interleave,
    load,
    load_fours,
    load_pairs,
    store,
    to_index,
    zeros,
)

BLOCK = 8
"""Queries between the two steps; their scratch memory stays in the first-level cache."""


@njit(forceinline=True)
def axis(position: Vector, size: Vector) -> tuple[Vector, Vector, Vector, Vector, Vector]:
    """Return the lower cell, the upper cell, the share of each, and the last cell of one axis.

    Positions in [0, 1]; cell i has its centre at (i + 0.5) / size. Cells outside have share 0;
    the clamp keeps them within the numbers of an int32. NaN has share NaN in cell 0.
    """
    one = fill(size, 1.0)
    last = size - one
    position = clamp(position * size - fill(size, 0.5), fill(size, -2.0), size)
    low = floor(position)
    high = low + one
    share = position - low
    return low, high, inside(one - share, low, last), inside(share, high, last), last


@njit(forceinline=True)
def place(
    locations: Array, weights: Array, sizes: Array, rows: Array, sample: int, lane: int,
    lanes: Count, cells: Array, shares: Array, slot: int,
) -> None:
    ...
