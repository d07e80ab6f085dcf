"""Deformable attention in machine code for the CPU, forward and backward, by numba.

For each head of a query:  output = sum over its samples of weight * bilinear(value, location).
All samples of a head together become four cells (rows of the value) and four shares each; then
each cell is read with all channels of the head together. A block of queries takes the first
step before it takes the second, so that loads do not wait for stores.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

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
"""Queries of a block; their scratch memory stays in the first-level cache."""

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int32]


class Points(NamedTuple):
    """Where to sample; flat arrays, n samples a head.

    `locations` (B, Q, H, n, 2); `weights` (B, Q, H, n); `sizes` (2, n) width and height of each
    sample's level; `rows` (2, n) cells between two lines of that level and the cell it begins at.
    """

    locations: Floats
    weights: Floats
    sizes: Floats
    rows: Ints


class Plan(NamedTuple):
    """The sizes of arrays, and the elements of the value between two images, heads and cells."""

    queries: int
    heads: int
    samples: int
    image_step: int
    head_step: int
    cell_step: int


class Task(NamedTuple):
    """A part of the work: pairs (image * heads + head) and queries from..end - 1, first sample."""

    pair: int
    pair_end: int
    query: int
    query_end: int
    sample: int


class Scratch(NamedTuple):
    """What a block of queries is about to read, [query, corner, sample].

    Corners: top left, top right, bottom left, bottom right. `shares` include the weight.
    """

    cells: Ints
    shares: Floats


@njit(forceinline=True)
def scratch(value: Floats, lanes: Count) -> Scratch:
    """Return memory for a block of queries."""
    size = BLOCK * 4 * len(lanes)
    return Scratch(np.empty(size, np.int32), np.empty(size, value.dtype))


@njit(forceinline=True)
def row_of(plan: Plan, pair: int, query: int) -> int:
    """Return the row of an image's query and head in arrays (B, Q, H, ...)."""
    image, head = pair // plan.heads, pair % plan.heads
    return (image * plan.queries + query) * plan.heads + head


@njit(forceinline=True)
def start_of(plan: Plan, pair: int) -> int:
    """Return the element of the value at which an image's head begins."""
    return pair // plan.heads * plan.image_step + pair % plan.heads * plan.head_step


@njit(forceinline=True)
def axis(position: Vector, size: Vector) -> tuple[Vector, Vector, Vector, Vector, Vector]:
    """Return the lower and the upper cell of one axis, the share of each, and the last cell.

    Positions in [0, 1]; cell i has its centre at (i + 0.5) / size. A cell outside has share 0;
    the clamp keeps cells within what an int32 holds. NaN stays NaN.
    """
    one = fill(size, 1.0)
    last = size - one
    position = clamp(position * size - fill(size, 0.5), fill(size, -2.0), size)
    low = floor(position)
    high = low + one
    share = position - low
    return low, high, inside(one - share, low, last), inside(share, high, last), last


@njit
def place(
    points: Points,
    plan: Plan,
    pair: int,
    queries: tuple[int, int],
    sample: int,
    lanes: Count,
    memory: Scratch,
) -> None:
    """Write the cells and shares of a block of queries."""
    count = len(lanes)
    cells, shares = memory
    widths, heights = load(points.sizes, sample, lanes), load(points.sizes, plan.samples + sample, lanes)
    steps, begins = load(points.rows, sample, lanes), load(points.rows, plan.samples + sample, lanes)
    for query in range(*queries):
        first = row_of(plan, pair, query) * plan.samples + sample
        x, y = load_pairs(points.locations, 2 * first, lanes)
        weight = load(points.weights, first, lanes)
        left, right, left_share, right_share, last = axis(x, widths)
        left, right = to_index(left, last), to_index(right, last)
        top, bottom, top_share, bottom_share, last = axis(y, heights)
        top, bottom = begins + to_index(top, last) * steps, begins + to_index(bottom, last) * steps
        top_share, bottom_share = top_share * weight, bottom_share * weight
        slot = (query - queries[0]) * 4 * count
        store(cells, slot, top + left)
        store(cells, slot + count, top + right)
        store(cells, slot + 2 * count, bottom + left)
        store(cells, slot + 3 * count, bottom + right)
        store(shares, slot, top_share * left_share)
        store(shares, slot + count, top_share * right_share)
        store(shares, slot + 2 * count, bottom_share * left_share)
        store(shares, slot + 3 * count, bottom_share * right_share)


@njit
def gather(
    value: Floats,
    plan: Plan,
    start: int,
    memory: Scratch,
    slot: int,
    lanes: Count,
    channels: Count,
) -> Vector:
    """Return the output of one query and head: the sum of share * value over its cells."""
    cells, shares = memory
    total = zeros(value, channels)
    for index in range(slot, slot + 4 * len(lanes)):
        cell = load(value, start + plan.cell_step * np.int64(cells[index]), channels)
        total = total + fill(total, shares[index]) * cell
    return total
