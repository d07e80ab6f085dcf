"""Confidence against IoU of matched predictions: density, Pearson's and Spearman's coefficient.

Pairs are those of the cheapest one-to-one assignment of an image's objects and predictions, of any
class, at the cost 1 - IoU (Hungarian matching). Pairs of IoU 0 are left out. Where an object's
match has the same IoU as predictions that are left over, such as the same box under other classes,
the most confident of them is taken. Objects without a pair take no part. Both coefficients
are over all pairs of all images, and do not exist where there are fewer than 2 or where all
confidences or all IoUs are equal. Equal values share their mean rank (Spearman).
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from aligndetr.analyze.curve_kernels import Rows
from aligndetr.analyze.overlaps import iou_of
from aligndetr.analyze.record import Bools, Floats, Ints, Record
from aligndetr.analyze.sums import sum_by_image

FLAT = 1e-12
"""A variance below this, of numbers in [-1, 1], is that of equal numbers."""
ROUNDING = 1e-12
"""Numbers that differ by this share of the largest are equal."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """P matched pairs, each (P,): rows of predictions and objects, image, confidence, IoU."""

    predictions: Ints
    objects: Ints
    images: Ints
    scores: Floats
    iou: Floats

    def __len__(self) -> int:
        return len(self.iou)

    def where(self, keep: Bools) -> "Pairs":
        """Return some of the pairs."""
        return Pairs(
            self.predictions[keep],
            self.objects[keep],
            self.images[keep],
            self.scores[keep],
            self.iou[keep],
        )


def match_pairs(record: Record) -> Pairs:
    """Return the matched pairs of all images."""
    found = [_match(record, image) for image in range(len(record.image_ids))]
    nothing = np.empty(0, np.int64)
    objects = np.concatenate([nothing, *(pair[0] for pair in found)])
    predictions = np.concatenate([nothing, *(pair[1] for pair in found)])
    iou = np.concatenate([np.empty(0), *(pair[2] for pair in found)])
    return Pairs(
        predictions,
        objects,
        record.objects.images[objects],
        record.predictions.scores[predictions],
        iou,
    )


def pearson(pairs: Pairs, weights: Rows) -> Floats:
    """Return Pearson's coefficient (R,) for each row of weights (R, I), NaN for none."""
    x, y = _standing_out(pairs.scores), _standing_out(pairs.iou)
    columns = np.stack((np.ones_like(x), x, y, x * x, y * y, x * y), axis=1)
    sums = sum_by_image(pairs.images, columns).weighted(weights)
    return _correlation(*sums.T)


def spearman(pairs: Pairs, weights: Rows) -> Floats:
    """Return Spearman's coefficient (R,) for each row of weights (R, I), NaN for none."""
    scores, iou = _Ranks.of(pairs.scores), _Ranks.of(pairs.iou)
    found = np.full(len(weights), np.nan)
    for row, of_images in enumerate(weights):
        counts = of_images[pairs.images].astype(np.float64)
        total = counts.sum()
        if total == 0:
            continue
        x, y = (values.ranks(counts) / total - 0.5 for values in (scores, iou))
        sums = ((counts * column).sum() for column in (x, y, x * x, y * y, x * y))
        found[row] = _correlation(total, *sums)
    return found


@dataclass(frozen=True, eq=False)
class _Ranks:
    """The order of some numbers, and for each the group of equal ones that it belongs to."""

    group: Ints

    @staticmethod
    def of(numbers: Floats) -> "_Ranks":
        return _Ranks(np.unique(numbers, return_inverse=True)[1])

    def ranks(self, counts: Floats) -> Floats:
        """Return the mean rank of each number where it counts so often."""
        sizes = np.bincount(self.group, weights=counts)
        return (np.cumsum(sizes) - (sizes - 1) / 2)[self.group]


def _match(record: Record, image: int) -> tuple[Ints, Ints, Floats]:
    """Return objects, predictions and IoU of the pairs of an image."""
    first, last = record.objects.starts[image : image + 2].tolist()
    start, stop = record.predictions.starts[image : image + 2].tolist()
    iou = iou_of(record.predictions.boxes[start:stop], record.objects.boxes[first:last])
    if iou.size == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    objects, predictions = linear_sum_assignment(1 - iou)
    overlap = iou[objects, predictions] > 0
    objects, predictions = objects[overlap], predictions[overlap]
    predictions = _most_confident(iou, objects, predictions)
    return objects + first, predictions + start, iou[objects, predictions]


def _most_confident(iou: Floats, objects: Ints, predictions: Ints) -> Ints:
    """Return the first free prediction of the same IoU instead of each, object by object."""
    chosen, free = predictions.copy(), np.ones(iou.shape[1], np.bool_)
    free[predictions] = False
    for place, (thing, prediction) in enumerate(zip(objects, predictions, strict=True)):
        free[prediction] = True
        chosen[place] = np.argmax((iou[thing] == iou[thing, prediction]) & free)
        free[chosen[place]] = False
    return chosen


def _standing_out(numbers: Floats) -> Floats:
    """Return what numbers differ by from their mean, the most by 1, so that none is too small.

    What rounding leaves of equal numbers is none.
    """
    if not len(numbers):
        return numbers
    scaled = numbers / (np.abs(numbers).max() or 1.0)
    centred = scaled - scaled.mean()
    spread = np.abs(centred).max()
    return centred / spread if spread > ROUNDING else np.zeros_like(centred)


def _correlation(count: Floats, x: Floats, y: Floats, xx: Floats, yy: Floats, xy: Floats) -> Floats:
    """Return the coefficient from the sums of numbers, squares and products."""
    size = np.maximum(count, 1)
    variance_x, variance_y = xx / size - (x / size) ** 2, yy / size - (y / size) ** 2
    exists = (count >= 2) & (variance_x > FLAT) & (variance_y > FLAT)
    spread = np.sqrt(np.where(exists, variance_x * variance_y, 1.0))
    return np.where(exists, (xy / size - x * y / size**2) / spread, np.nan)
