"""Numba code for overlaps of boxes, given as left, top, width, height, and for COCO's matching."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from aligndetr.analyze.record import Bools, Floats, Ints

Bits = NDArray[np.uint16]
"""One bit for each IoU threshold."""


@njit(nogil=True, error_model="numpy")
def _overlap(a: Floats, b: Floats, b_is_crowd: bool | Bools) -> float:
    """Return the IoU, or the share of `a` that is inside `b` if that is a crowd region."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    intersection = width * height
    area = a[2] * a[3]
    union = area if b_is_crowd else area + b[2] * b[3] - intersection
    return intersection / union if union > 0 else 0.0  # of sides so small that areas are 0


@njit(nogil=True, error_model="numpy")
def iou_matrix(boxes: Floats, others: Floats, are_crowd: bool, iou: Floats) -> None:
    """Write the IoU (M, N) of N boxes with M others, or the share of each box inside a crowd."""
    for row in range(len(others)):
        for column in range(len(boxes)):
            iou[row, column] = _overlap(boxes[column], others[row], are_crowd)


@njit(nogil=True, error_model="numpy")
def overlaps(
    boxes: Floats,
    labels: Ints,
    starts: Ints,
    object_boxes: Floats,
    object_labels: Ints,
    object_starts: Ints,
    found: tuple[Floats, Ints],
    best: tuple[Floats, Ints],
    top: Floats,
) -> None:
    """Write the highest IoU of each prediction, and of each object.

    Args:
        boxes: (D, 4), most confident first in each image.
        labels: (D,).
        starts: (I + 1,).
        object_boxes: (O, 4).
        object_labels: (O,).
        object_starts: (I + 1,).
        found: (D, 3) and (D, 3) IoU and object: of any class, of its own, of the others. To write
            to; holds 0 and -1.
        best: (O,) and (O,) IoU and prediction. To write to; holds 0 and -1.
        top: (O, m) highest IoU among the image's first N, 2N, ... To write to; holds 0.
    """
    found_iou, found_object = found  # once: taking an array out of a tuple counts references
    best_iou, best_prediction = best
    for image in range(len(starts) - 1):
        first, last = object_starts[image], object_starts[image + 1]
        for prediction in range(starts[image], starts[image + 1]):
            place = (prediction - starts[image]) // max(last - first, 1)
            for thing in range(first, last):
                iou = _overlap(boxes[prediction], object_boxes[thing], False)
                kind = 1 if labels[prediction] == object_labels[thing] else 2
                for column in (0, kind):
                    if iou > found_iou[prediction, column]:
                        found_iou[prediction, column] = iou
                        found_object[prediction, column] = thing
                if best_prediction[thing] < 0 or iou > best_iou[thing]:
                    best_iou[thing], best_prediction[thing] = iou, prediction
                if place < top.shape[1]:
                    top[thing, place] = max(top[thing, place], iou)
        for thing in range(first, last):
            for place in range(1, top.shape[1]):
                top[thing, place] = max(top[thing, place], top[thing, place - 1])


@njit(nogil=True, error_model="numpy")
def match(
    keys: tuple[Ints, Ints],
    boxes: Floats,
    regions: tuple[Floats, Floats, Bools],
    area_range: tuple[float, float],
    thresholds: Floats,
    limit: int,
    marks: tuple[Bits, Bits],
    partner: Ints,
) -> None:
    """Write which predictions COCO's greedy matching takes for hits, and which it ignores.

    Args:
        keys: (D,) and (G,) ascending; predictions and regions of one key are matched.
        boxes: (D, 4), best first within their key.
        regions: Boxes (G, 4), areas (G,) and crowd (G,), in the file's order within their key.
        area_range: What is smaller or larger is ignored; both ends belong to it.
        thresholds: (T,) IoU from which on a pair may match.
        limit: Predictions of a key that take part; the others are ignored.
        marks: (D,) and (D,) hit and ignored, a bit for each threshold. To write to; hold 0.
        partner: (D,) region that the prediction matches at the first threshold. To write to;
            holds -1.
    """
    own, theirs = keys  # once: taking an array out of a tuple counts references
    hits, ignored = marks
    low, high = area_range
    start, first, everything = 0, 0, 2 ** len(thresholds) - 1
    while start < len(boxes):
        stop = start
        while stop < len(boxes) and own[stop] == own[start]:
            stop += 1
        while first < len(theirs) and theirs[first] < own[start]:
            first += 1
        last = first
        while last < len(theirs) and theirs[last] == own[start]:
            last += 1
        end = min(stop, start + limit)
        ignored[end:stop] = everything
        if last > first:
            _match_one(
                (start, end), boxes, (first, last), regions, area_range, thresholds, marks, partner
            )
        for prediction in range(start, end):
            if not low <= boxes[prediction, 2] * boxes[prediction, 3] <= high:
                ignored[prediction] |= everything & ~hits[prediction]
        start, first = stop, last


@njit(nogil=True, error_model="numpy")
def _match_one(
    rows: tuple[int, int],
    boxes: Floats,
    span: tuple[int, int],
    regions: tuple[Floats, Floats, Bools],
    area_range: tuple[float, float],
    thresholds: Floats,
    marks: tuple[Bits, Bits],
    partner: Ints,
) -> None:
    """Match the predictions of one image and class with its regions."""
    region_boxes, areas, crowd = regions
    order, ignored = _those_that_count_first(span, areas, crowd, area_range)
    count = len(order)
    iou = np.empty((rows[1] - rows[0], count))
    highest = np.zeros(len(iou))
    for row in range(len(iou)):
        for place in range(count):
            region = order[place]
            iou[row, place] = _overlap(boxes[rows[0] + row], region_boxes[region], crowd[region])
            highest[row] = max(highest[row], iou[row, place])
    for index in range(len(thresholds)):
        taken, least = np.zeros(count, np.bool_), min(thresholds[index], 1 - 1e-10)
        for row in range(len(iou)):
            if highest[row] < least:
                continue
            chosen = _best_region(iou, row, least, order, ignored, taken, crowd)
            if chosen < 0:
                continue
            taken[chosen] = True
            marks[1 if ignored[chosen] else 0][rows[0] + row] |= 1 << index
            if index == 0:
                partner[rows[0] + row] = order[chosen]


@njit(nogil=True, error_model="numpy")
def _those_that_count_first(
    span: tuple[int, int], areas: Floats, crowd: Bools, area_range: tuple[float, float]
) -> tuple[Ints, Bools]:
    """Return the regions of a span, those that are ignored last, and which those are."""
    count, place = span[1] - span[0], 0
    order, ignored = np.empty(count, np.int64), np.empty(count, np.bool_)
    for turn in (False, True):
        for region in range(span[0], span[1]):
            skip = crowd[region] or not area_range[0] <= areas[region] <= area_range[1]
            if skip == turn:
                order[place], ignored[place] = region, skip
                place += 1
    return order, ignored


@njit(nogil=True, error_model="numpy")
def _best_region(
    iou: Floats, row: int, least: float, order: Ints, ignored: Bools, taken: Bools, crowd: Bools
) -> int:
    """Return the place of the free region of the highest IoU, -1 if none has enough.

    Of equal ones the last is taken, and one that is ignored only if no other will do: as in COCO.
    """
    chosen = -1
    for place in range(len(order)):
        if taken[place] and not crowd[order[place]]:
            continue
        if chosen >= 0 and ignored[place] and not ignored[chosen]:
            break
        if iou[row, place] >= least:
            least, chosen = iou[row, place], place
    return chosen
