"""Numba code for precision-recall curves of weighted images."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from aligndetr.analyze.box_kernels import Bits
from aligndetr.analyze.record import Floats, Ints

Rows = NDArray[np.int32]


@njit(nogil=True, error_model="numpy")
def precision_curves(
    weights: Rows,
    starts: Ints,
    images: Rows,
    events: tuple[Ints, Bits, Bits],
    object_starts: Ints,
    object_images: Rows,
    recalls: Floats,
    curves: Floats,
) -> None:
    """Write the precision at each recall: the best that is reached at that recall or a higher one.

    Args:
        weights: (I,) how often each image counts.
        starts: (C + 1,) first prediction of each class.
        images: (D,) image of each prediction, by class and there best first.
        events: (E,) rows of the few predictions that are hits or ignored at some threshold,
            ascending; and two (E,) that say where, hit and ignored, a bit for each threshold.
        object_starts: (C + 1,) first object of each class.
        object_images: (O,) image of each object, by class.
        recalls: (R,) evenly from 0 to 1.
        curves: (C, T, R), to write to; NaN for a class without objects.
    """
    rows, is_hit, is_ignored = events
    thresholds = curves.shape[1]
    hits, ignored = np.empty(thresholds, np.int64), np.empty(thresholds, np.int64)
    event = 0
    for label in range(len(curves)):
        objects = _total(weights, object_images, object_starts[label], object_starts[label + 1])
        curves[label] = 0.0 if objects > 0 else np.nan
        hits[:], ignored[:] = 0, 0
        counted, total = starts[label], 0
        while event < len(rows) and rows[event] < starts[label + 1]:
            row, hit, skip = rows[event], is_hit[event], is_ignored[event]
            event += 1
            total += _total(weights, images, counted, row + 1)
            counted = row + 1
            weight = weights[images[row]]
            if weight == 0 or objects == 0:
                continue
            for index in range(thresholds):
                if skip >> index & 1:
                    ignored[index] += weight
                elif hit >> index & 1:
                    hits[index] += weight
                    place = _last_reached(hits[index] / objects, recalls)
                    precision = hits[index] / (total - ignored[index])
                    curves[label, index, place] = max(curves[label, index, place], precision)
        _fill(curves[label])


@njit(nogil=True, error_model="numpy")
def _total(weights: Rows, images: Rows, start: int, stop: int) -> int:
    """Return the sum of the weights of images[start:stop]."""
    total = 0
    for row in range(start, stop):
        total += int(weights[images[row]])
    return total


@njit(nogil=True, error_model="numpy")
def _last_reached(recall: float, recalls: Floats) -> int:
    """Return the place of the largest of `recalls` that is not above `recall`."""
    last = len(recalls) - 1
    place = min(int(recall * last), last)
    while place < last and recalls[place + 1] <= recall:
        place += 1
    while recalls[place] > recall:
        place -= 1
    return place


@njit(nogil=True, error_model="numpy")
def _fill(curves: Floats) -> None:
    """Raise each number of (T, R) to the largest one behind it."""
    for index in range(curves.shape[0]):
        for place in range(curves.shape[1] - 2, -1, -1):
            curves[index, place] = max(curves[index, place], curves[index, place + 1])
