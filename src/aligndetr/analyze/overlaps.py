"""The highest IoU of each prediction with the objects, and of each object with the predictions."""

from dataclasses import dataclass

import numpy as np

from aligndetr.analyze.box_kernels import iou_matrix, overlaps
from aligndetr.analyze.compiled import call
from aligndetr.analyze.record import Bools, Floats, Ints, Record

TOPS = 5
"""Multiples of the image's number of objects at which recalls are taken."""

ANY, OWN, OTHER = 0, 1, 2
"""Columns: objects of any class, of the prediction's own, of the others."""


@dataclass(frozen=True, eq=False)
class Overlaps:
    """IoU of the D predictions and the O objects of the same image; crowd regions are no objects.

    `iou` (D, 3) the highest of each prediction, 0 if it overlaps nothing; `object` (D, 3) whose it
    is, the first of equals, -1 for none; `best_iou` (O,) the highest of each object;
    `best` (O,) whose that is, the most confident of equals, -1 in an image without predictions;
    `top_iou` (O, 5) the highest among the N, 2N, ... most confident of the image.
    """

    iou: Floats
    object: Ints
    best_iou: Floats
    best: Ints
    top_iou: Floats

    def highest_confidence(self, record: Record) -> Bools:
        """(D,) Whether the prediction is among the N most confident of its N objects' image."""
        predictions = record.predictions
        return predictions.ranks < record.objects.counts[predictions.images]


def measure_overlaps(record: Record) -> Overlaps:
    """Return the overlaps of a record."""
    predictions, objects = record.predictions, record.objects
    found = np.zeros((len(predictions), 3)), np.full((len(predictions), 3), -1)
    best = np.zeros(len(objects)), np.full(len(objects), -1)
    top = np.zeros((len(objects), TOPS))
    call(
        overlaps,
        predictions.boxes,
        predictions.labels,
        predictions.starts,
        objects.boxes,
        objects.labels,
        objects.starts,
        found,
        best,
        top,
    )
    return Overlaps(*found, *best, top)


def iou_of(boxes: Floats, others: Floats, *, are_crowd: bool = False) -> Floats:
    """Return the IoU (M, N) of N boxes with M others, or the share of each box inside a crowd."""
    iou = np.empty((len(others), len(boxes)))
    call(iou_matrix, boxes, others, are_crowd, iou)
    return iou
