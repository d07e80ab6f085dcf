"""COCO's average precision, with other scores, other weights of images, and its curves.

A `Ranking` is what AP needs: the predictions of each class, best first, each with what COCO's
greedy matching says of it at every IoU threshold: hit, ignored or neither. Matching is of images on
their own, so a bootstrap replicate, in which image i counts w_i times, keeps the ranking and
only weighs it; it equals COCO's AP of a data set with w_i copies of the image.

**Oracle AP**: the AP of the same boxes when each is ranked by its true IoU, the highest that it has
with an object of its own class in its image, 0 without one. Equal IoUs fall back on the
confidence, then on the order of images. Crowd regions give no score; a box that COCO matches with
one is ignored as ever. COCO's limit, 100 predictions of a class an image, takes the best by IoU.
Oracle AP is usually, not always, above AP: greedy matching is not the best possible.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from aligndetr.analyze.box_kernels import Bits, match
from aligndetr.analyze.compiled import call
from aligndetr.analyze.curve_kernels import Rows, precision_curves
from aligndetr.analyze.overlaps import OWN, Overlaps
from aligndetr.analyze.record import Bools, Floats, Ints, Record
from aligndetr.kernels.threads import run

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""COCO's IoU thresholds."""
AT_50, AT_75 = 0, 5
"""Places among the thresholds."""
RECALLS = np.linspace(0, 1, 101)
LIMIT = 100
"""Predictions of a class that count in an image."""

AreaName = Literal["all", "small", "medium", "large"]
AREAS: dict[AreaName, tuple[float, float]] = {
    "all": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}
"""COCO's sizes of objects in square pixels; both ends belong to them."""

RankBy = Literal["confidence", "iou"]


@dataclass(frozen=True, eq=False)
class Matches:
    """What COCO's matching says of the D predictions of a record.

    `hits` and `ignored` (D,) a bit for each threshold; `partner` (D,) the region that was matched
    at the first threshold, -1 for none.
    """

    hits: Bits
    ignored: Bits
    partner: Ints


@dataclass(frozen=True, eq=False)
class Ranking:
    """Predictions by class, best first, and the objects of each class.

    `starts` (C + 1,) first prediction of each class; `images`, `hits`, `ignored` (D,);
    `object_starts` (C + 1,); `object_images` (O,) of the objects that count.
    """

    starts: Ints
    images: Rows
    hits: Bits
    ignored: Bits
    object_starts: Ints
    object_images: Rows
    thresholds: int = len(THRESHOLDS)

    def curves(self, weights: Rows) -> Floats:
        """Return precision (C, T, 101) at the recalls where image i counts weights[i] times.

        NaN for classes without objects.
        """
        curves = np.empty((len(self.starts) - 1, self.thresholds, len(RECALLS)))
        objects = self.object_starts, self.object_images
        found = self.starts, self.images, self._events
        call(precision_curves, weights, *found, *objects, RECALLS, curves)
        return curves

    @cached_property
    def _events(self) -> tuple[Rows, NDArray[np.uint8], Bools]:
        """Predictions that are not simply wrong, at which threshold, and whether ignored."""
        some = np.flatnonzero(self.hits | self.ignored)
        bits = (self.hits | self.ignored)[some, None] >> np.arange(self.thresholds) & 1
        place, threshold = np.nonzero(bits)
        rows = some[place]
        is_ignored = self.ignored[rows] >> threshold & 1 != 0
        return rows.astype(np.int32), threshold.astype(np.uint8), is_ignored

    def average_precisions(self, weights: Rows) -> Floats:
        """Return AP (R, C, T) of each row of weights (R, I), NaN for classes without objects."""
        shape = len(weights), len(self.starts) - 1, self.thresholds
        found = np.empty(shape)

        def work(row: int) -> None:
            found[row] = self.curves(weights[row]).mean(axis=-1)

        run(work, range(len(weights)))
        return found


@dataclass(frozen=True, eq=False)
class AP:
    """AP over all thresholds, at .5 and at .75; NaN where there are no objects.

    Each (...) of average precisions (..., C, T).
    """

    values: Floats

    @cached_property
    def overall(self) -> Floats:
        """AP."""
        return mean_known(self.values, axes=(-2, -1))

    @cached_property
    def at_50(self) -> Floats:
        """AP50."""
        return mean_known(self.values[..., AT_50], axes=(-1,))

    @cached_property
    def at_75(self) -> Floats:
        """AP75."""
        return mean_known(self.values[..., AT_75], axes=(-1,))

    def of_class(self, label: int) -> "AP":
        """Return that of one class."""
        return AP(self.values[..., label : label + 1, :])


def mean_known(values: Floats, *, axes: Sequence[int]) -> Floats:
    """Return the mean of what is not NaN, NaN where that is nothing."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0.0).sum(axis=tuple(axes))
    count = known.sum(axis=tuple(axes))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def match_as_coco(record: Record, overlaps: Overlaps, *, by: RankBy, area: AreaName) -> Matches:
    """Return COCO's matching of the predictions in the order of their confidence or true IoU."""
    predictions, regions = record.predictions, record.regions
    images = max(len(record.image_ids), 1)
    keys = predictions.labels * images + predictions.images
    order = _best_first(record, keys, overlaps, by)
    region_keys = regions.labels * images + regions.images
    region_order = np.argsort(region_keys, kind="stable")
    marks = np.zeros(len(order), np.uint16), np.zeros(len(order), np.uint16)
    partner = np.full(len(order), -1)
    call(
        match,
        (keys[order], region_keys[region_order]),
        predictions.boxes[order],
        tuple(column[region_order] for column in (regions.boxes, regions.areas, regions.crowd)),
        AREAS[area],
        THRESHOLDS,
        LIMIT,
        marks,
        partner,
    )
    partner[partner >= 0] = region_order[partner[partner >= 0]]
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return Matches(marks[0][back], marks[1][back], partner[back])


def order_by_class(record: Record, overlaps: Overlaps, *, by: RankBy) -> Ints:
    """Return the predictions (D,) by class and there best first."""
    scores = record.predictions.scores
    keys = (-scores, record.predictions.labels)
    return np.lexsort(keys if by == "confidence" else (keys[0], -overlaps.iou[:, OWN], keys[1]))


def rank(record: Record, order: Ints, matches: Matches, area: AreaName) -> Ranking:
    """Return the ranking of predictions in an order by class."""
    order = order[matches.ignored[order] != 2 ** len(THRESHOLDS) - 1]
    low, high = AREAS[area]
    objects = record.objects
    objects = objects.where((objects.areas >= low) & (objects.areas <= high))
    object_order = np.argsort(objects.labels, kind="stable")
    classes = np.arange(len(record.classes) + 1)
    return Ranking(
        np.searchsorted(record.predictions.labels[order], classes).astype(np.int64),
        record.predictions.images[order].astype(np.int32),
        matches.hits[order],
        matches.ignored[order],
        np.searchsorted(objects.labels[object_order], classes).astype(np.int64),
        objects.images[object_order].astype(np.int32),
    )


def every_image_once(record: Record) -> Rows:
    """Return weights (1, I) of one."""
    return np.ones((1, len(record.image_ids)), np.int32)


def _best_first(record: Record, keys: Ints, overlaps: Overlaps, by: RankBy) -> Ints:
    """Return the order by keys, by class and image, and within one by confidence or true IoU."""
    if by == "confidence":  # the record's own order in each class
        return np.argsort(record.short_labels, kind="stable")
    return np.lexsort((-overlaps.iou[:, OWN], keys))
