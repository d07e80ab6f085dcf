"""Deformable attention on the CPU: numba kernels, forward and backward, and their threads.

For a head of a query, with n = L * P samples:  out = sum_i weight_i * bilinear(value, location_i).
A kernel first turns all n samples at once into four cells (rows of the value array) and four
shares each, then gathers those rows with all channels of the head at once. It does so for a few
queries at a time, so that the loads of the second step do not wait for the stores of the first.

Every row of every output belongs to one thread and is summed in one order: the same numbers at
every run, without atomics. Nothing compiles before the first call.
"""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import accumulate

import numba
import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from aligndetr.kernels.simd import (
    Count,
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
from aligndetr.kernels.threads import run

BLOCK = 8
"""Queries between the two steps of a kernel; their scratch memory stays in the first cache."""

SMALL = 20_000
"""Samples below which waking a second thread costs more than it saves."""

Array = NDArray[np.floating] | NDArray[np.integer]
Plan = tuple[int, int, int, int, int, int]
"""queries, heads, samples per head and query; elements between images, heads, rows of value."""
Task = tuple[int, int, int, int, int]
"""first and last + 1 of the image-head pairs and of the queries; first sample."""

OPTIONS = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "reassoc", "nsz"}}


@njit(forceinline=True)
def _cells(position, size):
    """Return along one axis the lower and upper cell, their shares and the last cell.

    Vectors of one lane per sample. Positions in [0, 1]; cell i has its centre at (i + 0.5) / size.
    Cells outside get share 0; the clamp keeps the far outside within the range of an int32.
    """
    one = fill(size, 1.0)
    last = size - one
    position = clamp(position * size - fill(size, 0.5), fill(size, -2.0), size)
    low = floor(position)
    high = low + one
    share = position - low
    return low, high, inside(one - share, low, last), inside(share, high, last), last
