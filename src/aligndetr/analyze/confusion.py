"""Which class is found where which class is: the confusion matrix of one score threshold.

Predictions with a score of at least the threshold are matched one to one with objects of any class,
from the highest IoU down, where it is at least the IoU asked for; of equal pairs those of one class
go first, then the more confident. Objects that are left were found as background; predictions
that are left found background, unless that share of them lies in a crowd region of their class.
"""

from dataclasses import dataclass

import numpy as np

from aligndetr.analyze.overlaps import iou_of
from aligndetr.analyze.record import Floats, Ints, Record


@dataclass(frozen=True, eq=False)
class Confusion:
    """`counts` (C + 1, C + 1): rows what it is, columns what was found, background last."""

    threshold: float
    iou: float
    counts: Ints


def confusion_matrix(record: Record, *, threshold: float = 0.3, iou: float = 0.5) -> Confusion:
    """Return the confusion matrix of what has a score of at least the threshold."""
    classes = len(record.classes)
    counts = np.zeros((classes + 1, classes + 1), np.int64)
    for image in range(len(record.image_ids)):
        is_, as_ = _pairs(record, image, threshold, iou)
        np.add.at(counts, (is_, as_), 1)
    return Confusion(threshold, iou, counts)


def _pairs(record: Record, image: int, threshold: float, least: float) -> tuple[Ints, Ints]:
    """Return the true and the found class of everything in an image; C is the background."""
    predictions, objects = record.predictions, record.objects
    start, stop = predictions.starts[image : image + 2].tolist()
    stop = start + int((predictions.scores[start:stop] >= threshold).sum())
    first, last = objects.starts[image : image + 2].tolist()
    labels, truth = predictions.labels[start:stop], objects.labels[first:last]
    iou = iou_of(predictions.boxes[start:stop], objects.boxes[first:last])
    things, found = _greedy(iou, truth[:, None] == labels, least)
    free = np.ones(len(labels), np.bool_)
    free[found] = False
    spare = np.flatnonzero(free)
    spare = spare[~_in_crowd(record, image, spare + start, least)]
    missed = np.setdiff1d(np.arange(len(truth)), things)
    background = len(record.classes)
    is_ = np.concatenate((truth[things], truth[missed], np.full(len(spare), background)))
    as_ = np.concatenate((labels[found], np.full(len(missed), background), labels[spare]))
    return is_, as_


def _greedy(iou: Floats, same: np.ndarray, least: float) -> tuple[Ints, Ints]:
    """Return rows and columns of the pairs of (M, N) IoU, from the highest down, each once."""
    rows, columns = np.nonzero(iou >= least)
    order = np.lexsort((columns, ~same[rows, columns], -iou[rows, columns]))
    used_rows: set[int] = set()
    used_columns: set[int] = set()
    pairs: list[tuple[int, int]] = []
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row not in used_rows and column not in used_columns:
            used_rows.add(row)
            used_columns.add(column)
            pairs.append((row, column))
    chosen = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return chosen[:, 0], chosen[:, 1]


def _in_crowd(record: Record, image: int, predictions: Ints, least: float) -> np.ndarray:
    """Return which predictions lie, by so large a share, in a crowd region of their class."""
    regions = record.regions
    span = slice(*regions.starts[image : image + 2].tolist())
    crowd = regions.crowd[span]
    if not crowd.any():
        return np.zeros(len(predictions), np.bool_)
    boxes, labels = regions.boxes[span][crowd], regions.labels[span][crowd]
    inside = iou_of(record.predictions.boxes[predictions], boxes, are_crowd=True) >= least
    return (inside & (labels[:, None] == record.predictions.labels[predictions])).any(axis=0)
