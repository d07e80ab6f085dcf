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
    return intersection / union


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
    for image in range(len(starts) - 1):
        first, last = object_starts[image], object_starts[image + 1]
        for prediction in range(starts[image], starts[image + 1]):
            place = (prediction - starts[image]) // max(last - first, 1)
            for thing in range(first, last):
                iou = _overlap(boxes[prediction], object_boxes[thing], False)
                kind = 1 if labels[prediction] == object_labels[thing] else 2
                for column in (0, kind):
                    if iou > found[0][prediction, column]:
                        found[0][prediction, column] = iou
                        found[1][prediction, column] = thing
                if best[1][thing] < 0 or iou > best[0][thing]:
                    best[0][thing], best[1][thing] = iou, prediction
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
    start, first, everything = 0, 0, 2 ** len(thresholds) - 1
    while start < len(boxes):
        stop = start
        while stop < len(boxes) and keys[0][stop] == keys[0][start]:
            stop += 1
        while first < len(keys[1]) and keys[1][first] < keys[0][start]:
            first += 1
        last = first
        while last < len(keys[1]) and keys[1][last] == keys[0][start]:
            last += 1
        end = min(stop, start + limit)
        marks[1][end:stop] = everything
        if last > first:
            _match_one(
                (start, end), boxes, (first, last), regions, area_range, thresholds, marks, partner
            )
        for prediction in range(start, end):
            if not _is_inside(boxes[prediction, 2] * boxes[prediction, 3], area_range):
                marks[1][prediction] |= everything & ~marks[0][prediction]
        start, first = stop, last


@njit(nogil=True, error_model="numpy")
def _is_inside(area: float, area_range: tuple[float, float]) -> bool:
    return area_range[0] <= area <= area_range[1]


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
    count = span[1] - span[0]
    order, ignored = np.empty(count, np.int64), np.empty(count, np.bool_)
    place = 0
    for turn in (False, True):  # those that count come first
        for region in range(span[0], span[1]):
            skip = crowd[region] or not _is_inside(areas[region], area_range)
            if skip == turn:
                order[place], ignored[place] = region, skip
                place += 1
    iou = np.empty((rows[1] - rows[0], count))
    for row in range(len(iou)):
        for place in range(count):
            region = order[place]
            iou[row, place] = _overlap(boxes[rows[0] + row], region_boxes[region], crowd[region])
    for index in range(len(thresholds)):
        taken = np.zeros(count, np.bool_)
        for row in range(len(iou)):
            chosen = _best_region(iou[row], thresholds[index], order, ignored, taken, crowd)
            if chosen < 0:
                continue
            taken[chosen] = True
            marks[1 if ignored[chosen] else 0][rows[0] + row] |= 1 << index
            if index == 0:
                partner[rows[0] + row] = order[chosen]


@njit(nogil=True, error_model="numpy")
def _best_region(
    iou: Floats, threshold: float, order: Ints, ignored: Bools, taken: Bools, crowd: Bools
) -> int:
    """Return the place of the free region of the highest IoU, -1 if none has enough.

    Of equal ones the last is taken, and one that is ignored only if no other will do: as in COCO.
    """
    least, chosen = min(threshold, 1 - 1e-10), -1
    for place in range(len(order)):
        if taken[place] and not crowd[order[place]]:
            continue
        if chosen >= 0 and ignored[place] and not ignored[chosen]:
            break
        if iou[place] >= least:
            least, chosen = iou[place], place
    return chosen
