"""Work in pieces: on a CPU, tensors that fit the cache are several times cheaper to compute."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

CACHE_ELEMENTS = 1 << 17
"""Elements of a tensor that a processor's cache holds along with a few others of its size."""
OTHER_ELEMENTS = 1 << 22
"""Elements that take little of another device's memory, and fill its units."""


def chunk_rows(x: Tensor, elements: int) -> int:
    """Return how many rows of `x`, each leading to `elements` results, to compute at once.

    All of them on other devices than a CPU, where every further call costs.
    """
    return max(1, CACHE_ELEMENTS // max(1, elements) if x.device.type == "cpu" else len(x))


def chunk_spans(counts: Sequence[int], elements: int, device: torch.device) -> Iterator[slice]:
    """Yield spans of consecutive images to compute at once, none of them with nothing in it.

    As many as lead to few results, but one at least: each of `counts` leads to `elements`.
    """
    most = CACHE_ELEMENTS if device.type == "cpu" else OTHER_ELEMENTS
    start, taken = 0, 0
    for index, count in enumerate(counts):
        is_full = (taken + count) * elements > most
        if taken and (is_full or count == 0):
            yield slice(start, index)
            taken = 0
        if taken == 0:
            start = index
        taken += count
    if taken:
        yield slice(start, len(counts))
