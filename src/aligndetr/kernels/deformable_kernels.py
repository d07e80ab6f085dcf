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
    at,
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
Numbers = NDArray[Any]
"""Floats, or bfloat16 numbers as uint16."""
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


class Gradients(NamedTuple):
    """Of the output (B, Q, H, D), the value (laid out as it is), `locations` and `weights`.

    The first is read, the others are written.
    """

    output: Numbers
    value: Floats
    locations: Floats
    weights: Floats


class Block(NamedTuple):
    """A few queries of a task: those of a pair from..end - 1, and the first sample."""

    pair: int
    query: int
    query_end: int
    sample: int


class Scratch(NamedTuple):
    """What a block of queries reads, [query, corner, sample], and found, [query, sample, corner].

    Corners: top left, top right, bottom left, bottom right. `shares` include the weight;
    `products` are gradient . value.
    """

    cells: Ints
    shares: Floats
    products: Floats


@njit(forceinline=True, error_model="numpy")
def scratch(points: Points, lanes: Count) -> Scratch:
    """Return memory for a block of queries."""
    size, dtype = BLOCK * 4 * len(lanes), points.weights.dtype
    shares, products = np.empty(size, dtype), np.empty(size, dtype)
    return Scratch(np.empty(size, np.int32), shares, products)


@njit(forceinline=True, error_model="numpy")
def row_of(plan: Plan, block: Block, query: int) -> int:
    """Return the row of a block's query in arrays (B, Q, H, ...)."""
    image, head = block.pair // plan.heads, block.pair % plan.heads
    return (image * plan.queries + query) * plan.heads + head


@njit(forceinline=True, error_model="numpy")
def start_of(plan: Plan, block: Block) -> int:
    """Return the element of the value at which the image's head of a block begins."""
    image, head = block.pair // plan.heads, block.pair % plan.heads
    return image * plan.image_step + head * plan.head_step


@njit(forceinline=True, error_model="numpy")
def element(start: int, step: int, cells: Ints, corner: int) -> np.int64:
    """Return the element of the value at which the cell of a corner begins."""
    return start + step * np.int64(at(cells, corner))


@njit(forceinline=True, error_model="numpy")
def load_both(table: Floats | Ints, plan: Plan, sample: int, lanes: Count) -> tuple[Vector, Vector]:
    """Return the two lines of a table (2, n), from `sample` on."""
    return load(table, sample, lanes), load(table, plan.samples + sample, lanes)


@njit(forceinline=True, error_model="numpy")
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
def place(points: Points, plan: Plan, block: Block, memory: Scratch, lanes: Count) -> None:
    """Write the cells and shares of a block of queries."""
    count = len(lanes)
    cells, shares = memory.cells, memory.shares
    width, height = load_both(points.sizes, plan, block.sample, lanes)
    step, begin = load_both(points.rows, plan, block.sample, lanes)
    for query in range(block.query, block.query_end):
        first = row_of(plan, block, query) * plan.samples + block.sample
        x, y = load_pairs(points.locations, 2 * first, lanes)
        weight = load(points.weights, first, lanes)
        low_x, high_x, left_share, right_share, last_x = axis(x, width)
        low_y, high_y, top_share, bottom_share, last_y = axis(y, height)
        left, right = to_index(low_x, last_x), to_index(high_x, last_x)
        top, bottom = to_index(low_y, last_y) * step, to_index(high_y, last_y) * step
        top, bottom = top + begin, bottom + begin
        top_share, bottom_share = top_share * weight, bottom_share * weight
        slot = 4 * count * (query - block.query)
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
    value: Numbers, output: Numbers, plan: Plan, block: Block, memory: Scratch, lanes: Count,
    channels: Count,
) -> None:  # fmt: skip
    """Write the output of a block: the sum of share * value over the cells of each query.

    Each corner has a sum of its own, so that none waits for the one before.
    """
    count = len(lanes)
    cells, shares = memory.cells, memory.shares
    start, step = start_of(plan, block), plan.cell_step
    for query in range(block.query, block.query_end):
        a = b = c = d = zeros(shares, channels)
        slot = 4 * count * (query - block.query)
        for i in range(slot, slot + count):
            j, k, m = i + count, i + 2 * count, i + 3 * count
            a = a + fill(a, at(shares, i)) * load(value, element(start, step, cells, i), channels)
            b = b + fill(b, at(shares, j)) * load(value, element(start, step, cells, j), channels)
            c = c + fill(c, at(shares, k)) * load(value, element(start, step, cells, k), channels)
            d = d + fill(d, at(shares, m)) * load(value, element(start, step, cells, m), channels)
        store(output, row_of(plan, block, query) * len(channels), (a + b) + (c + d))


@njit
def scatter(
    value: Numbers, gradients: Gradients, plan: Plan, block: Block, memory: Scratch, lanes: Count,
    channels: Count,
) -> None:  # fmt: skip
    """Add share * gradient to the cells of a block and keep their gradient . value.

    One cell after the other, for at a border two corners are the same cell.
    """
    count = len(lanes)
    cells, shares = memory.cells, memory.shares
    start, step = start_of(plan, block), plan.cell_step
    for query in range(block.query, block.query_end):
        gradient = load(gradients.output, row_of(plan, block, query) * len(channels), channels)
        slot = 4 * count * (query - block.query)
        for sample in range(count):
            corner = slot + sample
            a = element(start, step, cells, corner)
            b = element(start, step, cells, corner + count)
            c = element(start, step, cells, corner + 2 * count)
            d = element(start, step, cells, corner + 3 * count)
            product = dots(
                gradient,
                load(value, a, channels),
                load(value, b, channels),
                load(value, c, channels),
                load(value, d, channels),
            )
            store(memory.products, slot + 4 * sample, product)
            for cell in (a, b, c, d):
                added = fill(gradient, at(shares, corner)) * gradient
                store(gradients.value, cell, load(gradients.value, cell, channels) + added)
                corner += count


@njit
def conclude(
    points: Points, gradients: Gradients, plan: Plan, block: Block, memory: Scratch, lanes: Count
) -> None:
    """Write the gradients of the locations and weights of a block from its products.

    With corners a b / c d:  d/dx = width * weight * sum over lines of share * (right - left), where
    a cell outside counts 0; a location moves by one cell per 1 / width.
    """
    count = len(lanes)
    width, height = load_both(points.sizes, plan, block.sample, lanes)
    for query in range(block.query, block.query_end):
        first = row_of(plan, block, query) * plan.samples + block.sample
        x, y = load_pairs(points.locations, 2 * first, lanes)
        weight = load(points.weights, first, lanes)
        low_x, high_x, left_share, right_share, last_x = axis(x, width)
        low_y, high_y, top_share, bottom_share, last_y = axis(y, height)
        a, b, c, d = load_fours(memory.products, 4 * count * (query - block.query), lanes)
        top, bottom = left_share * a + right_share * b, left_share * c + right_share * d
        left, right = top_share * a + bottom_share * c, top_share * b + bottom_share * d
        across = inside(right, high_x, last_x) - inside(left, low_x, last_x)
        down = inside(bottom, high_y, last_y) - inside(top, low_y, last_y)
        store(gradients.weights, first, top_share * top + bottom_share * bottom)
        moved = interleave(weight * width * across, weight * height * down)
        store(gradients.locations, 2 * first, moved)


@njit(nogil=True, error_model="numpy")
def forward(
    value: Numbers, points: Points, output: Numbers, plan: Plan, task: Task, lanes: Count,
    channels: Count,
) -> None:  # fmt: skip
    """Write the `output` (B, Q, H, D) of a task."""
    memory = scratch(points, lanes)
    for pair in range(task.pair, task.pair_end):
        for query in range(task.query, task.query_end, BLOCK):
            block = Block(pair, query, min(query + BLOCK, task.query_end), task.sample)
            place(points, plan, block, memory, lanes)
            gather(value, output, plan, block, memory, lanes, channels)


@njit(nogil=True, error_model="numpy")
def backward(
    value: Numbers, points: Points, gradients: Gradients, plan: Plan, task: Task, lanes: Count,
    channels: Count,
) -> None:  # fmt: skip
    """Add a task's part to the gradient of the value; write those of its locations and weights."""
    memory = scratch(points, lanes)
    for pair in range(task.pair, task.pair_end):
        for query in range(task.query, task.query_end, BLOCK):
            block = Block(pair, query, min(query + BLOCK, task.query_end), task.sample)
            place(points, plan, block, memory, lanes)
            scatter(value, gradients, plan, block, memory, lanes, channels)
            conclude(points, gradients, plan, block, memory, lanes)
