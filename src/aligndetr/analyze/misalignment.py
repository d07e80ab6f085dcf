"""How far the most confident boxes are from being the best ones: recalls and mean IoUs.

All definitions of the analysis of misalignment (Align-DETR, arXiv:2304.07527, section 1, figure 1),
and what they mean where the paper leaves it open:

**Objects** are the annotations that are no crowd regions. **N** is the number of objects of an
image, of all classes. **Rank**: predictions of an image by descending confidence; of equal ones the
earlier in the file is first. The **top mN** of an image are its first m * N predictions, or all
of them where there are fewer. Classes of predictions play no part except where it says so.
Predictions of classes that the ground truth does not list are left out, as everywhere in COCO.

**Best-regressed (BR) sample** of an object: the prediction of its image that has the highest IoU
with it, of equal ones the more confident, then the earlier. One prediction may be the BR
sample of several objects. An object that no prediction overlaps has, by the same rule, the
most confident prediction of its image, with IoU 0; so it counts as recalled, which is not
the detector's merit: it found nothing to misrank. Such objects are counted (`unreached`) and
are few wherever detectors write hundreds of boxes. In an image without predictions an object has no
BR sample: it is not recalled, and its IoU counts as 0.

**BR recall at m** (`br_recall`): the share of objects whose BR sample is among the top mN.

**BR recall within a tolerance** (`br_recall_within`): the share of objects for which the top mN
have a prediction whose IoU is at least that of the BR sample minus the tolerance. At tolerance 0
it equals the BR recall. It does not fall merely because a detector makes nearly equal boxes.

**Share of the best IoU at m** (`best_iou_share`): the mean over objects of the highest IoU in the
top mN divided by the highest IoU of all. Objects that nothing overlaps are left out.

**Mean IoU of BR samples** (`mean_iou_br`): over objects.

**Highest-confidence (HC) samples**: the top N of an image. Each has the IoU with the object that it
overlaps most (the first of equals), 0 without one. **Mean IoU of HC samples** (`mean_iou_hc`): over
HC samples of all images.

**Parts** (a class, a size): the objects of the part; N stays that of the image, predictions stay
those of any class. An HC sample belongs to the part of the object that it overlaps most; those that
overlap none belong to no part. Sizes are COCO's, by the annotated area; an object on the border
belongs to both sizes.

Images without objects have N = 0 and take no part. What has nothing to measure on is NaN here and
null in files.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from aligndetr.analyze.curve_kernels import Rows
from aligndetr.analyze.overlaps import ANY, TOPS, Overlaps
from aligndetr.analyze.record import Bools, Floats, Ints, Record
from aligndetr.analyze.sums import Sums, divide, sum_by_image

TOLERANCES = (0.0, 0.02, 0.05)
"""By how much IoU a box may be worse than the BR sample."""

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Misalignment(Generic[T]):
    """The numbers defined above, or something about each of them, such as its interval.

    `br_recall` and `best_iou_share` for m = 1..5; `br_recall_within` so many for each tolerance.
    """

    br_recall: tuple[T, ...]
    br_recall_within: tuple[tuple[T, ...], ...]
    best_iou_share: tuple[T, ...]
    mean_iou_br: T
    mean_iou_hc: T

    @staticmethod
    def of(columns: Sequence[U]) -> "Misalignment[U]":
        """Return them from one row, in the order of the fields."""
        within = TOPS * (1 + len(TOLERANCES))
        return Misalignment(
            tuple(columns[:TOPS]),
            tuple(tuple(columns[start : start + TOPS]) for start in range(TOPS, within, TOPS)),
            tuple(columns[within : within + TOPS]),
            columns[-2],
            columns[-1],
        )


@dataclass(frozen=True, eq=False)
class MisalignmentSums:
    """Sums by image: of objects (numerators, then denominators), and of HC samples (IoU, count)."""

    objects: Sums
    confident: Sums

    def values(self, weights: Rows) -> Floats:
        """Return the numbers (R, M) for each row of weights (R, I)."""
        objects, confident = self.objects.weighted(weights), self.confident.weighted(weights)
        half = objects.shape[1] // 2
        of_objects = divide(objects[:, :half], objects[:, half:])
        return np.hstack((of_objects, divide(confident[:, :1], confident[:, 1:])))

    def br_recall(self, weights: Rows) -> Floats:
        """Return the BR recall at N (R,), without the work for all the other numbers."""
        half = self.objects.columns.shape[1] // 2
        few = Sums(self.objects.images, self.objects.columns[:, [0, half]]).weighted(weights)
        return divide(few[:, 0], few[:, 1])

    def summary(self, weights: Rows, of_column: Callable[[Floats], T]) -> Misalignment[T]:
        """Return what `of_column` says of each number's values (R,)."""
        return Misalignment.of([of_column(column) for column in self.values(weights).T])


@dataclass(frozen=True, eq=False)
class Measures:
    """What each object and each HC sample of a record adds to the numbers.

    `objects` (O, M) numerators, then denominators; `images` (O,) theirs; `confident` (H, 2) IoU and
    one of each HC sample; `confident_images` (H,); `nearest` (H,) the object that it overlaps most,
    -1 for none.
    """

    objects: Floats
    images: Ints
    confident: Floats
    confident_images: Ints
    nearest: Ints

    @staticmethod
    def of(record: Record, overlaps: Overlaps) -> "Measures":
        """Return those of a record."""
        chosen = overlaps.highest_confidence(record)
        iou = overlaps.iou[chosen, ANY]
        return Measures(
            np.hstack(_object_columns(record, overlaps)),
            record.objects.images,
            np.stack((iou, np.ones_like(iou)), axis=1),
            record.predictions.images[chosen],
            overlaps.object[chosen, ANY],
        )

    def sums(self, part: Bools | None = None) -> MisalignmentSums:
        """Return the sums over all objects, or over some: `part` (O,)."""
        if part is None:
            keep, confident = slice(None), slice(None)
        else:
            keep, confident = part, np.append(part, False)[self.nearest]
        return MisalignmentSums(
            sum_by_image(self.images[keep], self.objects[keep]),
            sum_by_image(self.confident_images[confident], self.confident[confident]),
        )


def recalled(record: Record, overlaps: Overlaps) -> Bools:
    """(O, 5) Whether the object's BR sample is among the top N, 2N, ..."""
    objects, predictions = record.objects, record.predictions
    ranks = np.append(predictions.ranks, np.iinfo(np.int64).max)[overlaps.best]
    tops = objects.counts[objects.images][:, None] * np.arange(1, TOPS + 1)
    return ranks[:, None] < tops


def _object_columns(record: Record, overlaps: Overlaps) -> tuple[Floats, Floats]:
    """Return what each object adds to the numerators and to the denominators, (O, M) each."""
    best, top = overlaps.best_iou[:, None], overlaps.top_iou
    has_best = overlaps.best[:, None] >= 0
    within = [has_best & (top >= best - tolerance) for tolerance in TOLERANCES]
    share = divide(top, np.broadcast_to(best, top.shape))
    overlapped = best > 0
    numerators = recalled(record, overlaps), *within, np.where(overlapped, share, 0.0), best
    ones = np.ones((len(best), TOPS * (1 + len(TOLERANCES))))
    denominators = ones, np.repeat(overlapped, TOPS, axis=1), np.ones_like(best)
    return np.hstack(numerators).astype(np.float64), np.hstack(denominators).astype(np.float64)
