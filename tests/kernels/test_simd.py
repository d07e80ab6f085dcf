"""Every vector function against numpy, in kernels as small as can be."""

import numpy as np
import pytest
import torch
from numba import njit

from aligndetr.kernels.simd import (
    Count,
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

COUNT = 5  # not a power of two, as heads of a detector may be
NAN = np.nan


@njit
def fill_and_zeros(output, count):
    store(output, 0, zeros(output, count))
    store(output, len(count), fill(zeros(output, count), 2))


@njit
def picked(array, indices, output):
    for place in range(len(indices)):
        output[place] = at(array, indices[place])


@njit
def arithmetic(a, b, output, count):
    x, y = load(a, 0, count), load(b, 0, count)
    store(output, 0, x * y + x - y)


@njit
def deal(array, output, count):
    even, odd = load_pairs(array, 1, count)
    first, second, third, fourth = load_fours(array, 0, count)
    store(output, 0, interleave(odd, even))
    store(output, 10, first)
    store(output, 15, second)
    store(output, 20, third)
    store(output, 25, fourth)


@njit
def limits(x, low, high, clamped, kept, indices, count):
    value = load(x, 0, count)
    store(clamped, 0, clamp(value, load(low, 0, count), load(high, 0, count)))
    last = load(high, 0, count)
    store(kept, 0, inside(fill(value, 1), value, last))
    store(indices, 0, to_index(floor(value), last))


@njit
def four_dots(vector, rows, output, count):
    n = len(count)
    store(
        output,
        1,
        dots(
            load(vector, 0, count),
            load(rows, 0, count),
            load(rows, n, count),
            load(rows, 2 * n, count),
            load(rows, 3 * n, count),
        ),
    )


def test_a_count_has_the_length_it_counts() -> None:
    assert len(Count(7)) == 7


def test_zeros_and_fill_write_their_number_to_all_lanes() -> None:
    output = np.full(11, 9.0, np.float32)
    fill_and_zeros(output, Count(COUNT))
    assert output.tolist() == [0.0] * 5 + [2.0] * 5 + [9.0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
def test_arithmetic_is_numpys(dtype) -> None:
    a, b = np.arange(1, 6).astype(dtype), np.array([3, -1, 0, 2, 7], dtype)
    output = np.zeros(COUNT, dtype)
    arithmetic(a, b, output, Count(COUNT))
    assert output.tolist() == (a * b + a - b).tolist()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.uint16])
def test_a_number_is_read_at_its_index(dtype) -> None:
    array, output = np.arange(7, dtype=dtype)[::-1].copy(), np.zeros(3, dtype)
    picked(array, np.array([0, 6, 2], np.int32), output)
    assert output.tolist() == [6, 0, 4]
    picked(array[2:], np.array([-2, 0, -1]), output)  # before the first, not from the end
    assert output.tolist() == [6, 4, 5]


def test_a_run_is_dealt_out_and_interleaved() -> None:
    array, output = np.arange(20.0), np.zeros(30)
    deal(array, output, Count(COUNT))
    expected = [2, 1, 4, 3, 6, 5, 8, 7, 10, 9, *array.reshape(5, 4).T.reshape(-1)]
    assert output.tolist() == expected


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_limits_of_numbers_outside_and_of_nan(dtype) -> None:
    x = np.array([-1.5, 0.0, 2.5, 4.0, NAN], dtype)
    low, high = np.full(COUNT, -1, dtype), np.full(COUNT, 3, dtype)
    clamped, kept, indices = np.zeros_like(x), np.zeros_like(x), np.full(COUNT, -9, np.int32)
    limits(x, low, high, clamped, kept, indices, Count(COUNT))
    np.testing.assert_array_equal(clamped, [-1.0, 0.0, 2.5, 3.0, NAN])
    assert kept.tolist() == [0, 1, 1, 0, 1]
    assert indices.tolist() == [0, 0, 2, 3, 0]


@pytest.mark.parametrize("count", [1, 4, 5])
def test_dots_are_four_inner_products(count) -> None:
    rng = np.random.default_rng(0)
    vector, rows = rng.normal(size=count), rng.normal(size=(4, count))
    output = np.zeros(6)
    four_dots(vector, rows.reshape(-1), output, Count(count))
    np.testing.assert_allclose(output, [0, *(rows @ vector), 0], rtol=1e-12)


@njit
def copy(array, output, count):
    store(output, 0, load(array, 0, count))


@njit
def copy_pairs(array, output, count):
    even, odd = load_pairs(array, 0, count)
    store(output, 0, interleave(even, odd))


BITS = [0x3F80_0000, 0x3F80_8000, 0x3F81_8000, 0x3F80_8001, 0x3F80_7FFF, 0x0000_0001, 0x7F7F_FFFF]
"""One, ties to an even and to an odd neighbour, just above and below a tie, tiny, the largest."""


@pytest.mark.parametrize("sign", [0, 0x8000_0000])
def test_bfloat16_is_rounded_as_torch_rounds_it(sign) -> None:
    exact = (np.array(BITS, np.uint32) | np.uint32(sign)).view(np.float32)
    random = np.random.default_rng(0).normal(size=57).astype(np.float32)
    numbers = np.concatenate((exact, random, np.array([np.inf, -np.inf, 0.0], np.float32)))
    halves, back = np.empty(len(numbers), np.uint16), np.empty_like(numbers)
    copy(numbers, halves, Count(len(numbers)))
    expected = torch.from_numpy(numbers).bfloat16()
    assert np.array_equal(halves, expected.view(torch.uint16).numpy())
    copy(halves, back, Count(len(numbers)))
    assert np.array_equal(back, expected.float().numpy())
    pairs = np.empty_like(numbers[:-1])
    copy_pairs(halves, pairs, Count(len(pairs) // 2))
    assert np.array_equal(pairs, back[:-1])


def test_nan_stays_nan_in_bfloat16() -> None:
    # The second one's bits would round up to minus zero.
    numbers = np.array([0x7F80_0001, 0x7FFF_FFFF, 0xFFC0_0000], np.uint32).view(np.float32)
    halves, back = np.empty(3, np.uint16), np.empty_like(numbers)
    copy(numbers, halves, Count(3))
    copy(halves, back, Count(3))
    assert np.isnan(back).all()
