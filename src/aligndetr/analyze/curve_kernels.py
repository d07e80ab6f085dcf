"""Numba code for sums and precision-recall curves of weighted images."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from aligndetr.analyze.record import Bools, Floats, Ints

Rows = NDArray[np.int32]


@njit(nogil=True, error_model="numpy")
def precision_curves(
    weights: Rows,
    starts: Ints,
    images: Rows,
    events: tuple[Rows, NDArray[np.uint8], Bools],
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
        events: (E,) rows of the few predictions that are hits or ignored, ascending, one for each
            threshold; (E,) which; (E,) whether they are ignored.
        object_starts: (C + 1,) first object of each class.
        object_images: (O,) image of each object, by class.
        recalls: (R,) evenly from 0 to 1.
        curves: (C, T, R), to write to; NaN for a class without objects.
    """
    rows, at_threshold, is_ignored = events
    thresholds = curves.shape[1]
    hits, ignored = np.empty(thresholds, np.int64), np.empty(thresholds, np.int64)
    places, needed = np.empty(thresholds, np.int64), np.empty(len(recalls) + 1, np.int64)
    event = 0
    for label in range(len(curves)):
        objects = _total(weights, object_images, object_starts[label], object_starts[label + 1])
        curves[label] = 0.0 if objects > 0 else np.nan
        if objects > 0:
            _hits_needed(objects, recalls, needed)
        hits[:], ignored[:], places[:] = 0, 0, 0
        own = curves[label]
        counted, total = starts[label], 0
        while event < len(rows) and rows[event] < starts[label + 1]:
            row, index, skip = rows[event], at_threshold[event], is_ignored[event]
            event += 1
            total += _total(weights, images, counted, row + 1)
            counted = row + 1
            weight = weights[images[row]]
            if weight == 0 or objects == 0:
                continue
            if skip:
                ignored[index] += weight
                continue
            hits[index] += weight
            while hits[index] >= needed[places[index] + 1]:
                places[index] += 1
            precision = hits[index] / (total - ignored[index])
            own[index, places[index]] = max(own[index, places[index]], precision)
        _fill(curves[label])


@njit(nogil=True, error_model="numpy")
def _total(weights: Rows, images: Rows, start: int, stop: int) -> int:
    """Return the sum of the weights of images[start:stop]."""
    total = 0
    for row in range(start, stop):
        total += int(weights[images[row]])
    return total


@njit(nogil=True, error_model="numpy")
def _hits_needed(objects: int, recalls: Floats, needed: Ints) -> None:
    """Write how many hits reach each recall (R,), as it is rounded; more than all, behind them."""
    for place in range(len(recalls)):
        hits = int(recalls[place] * objects)
        while hits > 0 and (hits - 1) / objects >= recalls[place]:
            hits -= 1
        while hits / objects < recalls[place]:
            hits += 1
        needed[place] = hits
    needed[len(recalls)] = objects + 1


@njit(nogil=True, error_model="numpy")
def _fill(curves: Floats) -> None:
    """Raise each number of (T, R) to the largest one behind it."""
    for index in range(curves.shape[0]):
        for place in range(curves.shape[1] - 2, -1, -1):
            curves[index, place] = max(curves[index, place], curves[index, place + 1])


@njit(nogil=True, error_model="numpy")
def weighted_sums(weights: Rows, images: Ints, columns: Floats, sums: Floats) -> None:
    """Add up what images (n,) have, columns (n, M), for each row of weights (R, I).

    A product of matrices, but BLAS would wait for its threads longer than it takes.

    Args:
        weights: (R, I).
        images: (n,).
        columns: (n, M).
        sums: (R, M), to write to; holds 0.
    """
    for row in range(len(sums)):
        for place in range(len(images)):
            weight = weights[row, images[place]]
            if weight > 0:
                for column in range(columns.shape[1]):
                    sums[row, column] += weight * columns[place, column]
