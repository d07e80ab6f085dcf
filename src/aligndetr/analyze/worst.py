"""The objects where confidence and IoU disagree most: a gallery.

An object is misaligned where its best-regressed (BR) sample is not among the N most confident
predictions of the image, while one of those N overlaps this object more than any other, by an IoU
of at least `LEAST_IOU` (a box that merely touches it is one of something else) that is lower than
the BR sample's by at least `LEAST_GAP`. Of several such the most confident is shown. Objects are
sorted by that one's score times the IoU that is lost, at most `IN_AN_IMAGE` an image.
"""

from dataclasses import dataclass

import numpy as np

from aligndetr.analyze.misalignment import recalled
from aligndetr.analyze.overlaps import ANY, Overlaps, iou_of
from aligndetr.analyze.record import Ints, Record

LEAST_IOU, LEAST_GAP = 0.1, 0.1
SHOWN = 24
IN_AN_IMAGE = 2

Box = tuple[float, float, float, float]
"""Left, top, width, height in pixels."""


@dataclass(frozen=True)
class Found:
    """A prediction: its IoU with the object; its rank in the image, 1 for the most confident."""

    bbox: Box
    score: float
    iou: float
    class_name: str
    rank: int


@dataclass(frozen=True)
class Misaligned:
    """An object, the `confident` bad box for it, and the `best` one that was ranked low."""

    image_id: int
    file_name: str
    box: Box
    class_name: str
    confident: Found
    best: Found


def worst(record: Record, overlaps: Overlaps) -> tuple[Misaligned, ...]:
    """Return the worst misaligned objects, worst first."""
    confident = _most_confident(record, overlaps)
    lost = ~recalled(record, overlaps)[:, 0] & (overlaps.best >= 0) & (confident >= 0)
    things = np.flatnonzero(lost)
    confident = confident[things]
    gap = overlaps.best_iou[things] - overlaps.iou[confident, ANY]
    loss = gap * record.predictions.scores[confident]
    order = np.lexsort((things, -loss))
    order = order[gap[order] >= LEAST_GAP]
    shown: list[int] = []
    seen: dict[int, int] = {}
    for place in order.tolist():
        image = int(record.objects.images[things[place]])
        seen[image] = seen.get(image, 0) + 1
        if seen[image] <= IN_AN_IMAGE and len(shown) < SHOWN:
            shown.append(place)
    return tuple(
        _misaligned(record, int(things[place]), int(confident[place]), overlaps) for place in shown
    )


def _most_confident(record: Record, overlaps: Overlaps) -> Ints:
    """(O,) The most confident of the top N that is a box of the object, -1 for none."""
    is_near = overlaps.iou[:, ANY] >= LEAST_IOU
    top = np.flatnonzero(overlaps.highest_confidence(record) & is_near)
    things, first = np.unique(overlaps.object[top, ANY], return_index=True)
    chosen = np.full(len(record.objects), -1)
    chosen[things] = top[first]
    return chosen


def _misaligned(record: Record, thing: int, confident: int, overlaps: Overlaps) -> Misaligned:
    objects = record.objects
    image = int(objects.images[thing])
    return Misaligned(
        int(record.image_ids[image]),
        record.file_names[image],
        _box(objects.boxes[thing].tolist()),
        record.classes[objects.labels[thing]],
        _found(record, thing, confident),
        _found(record, thing, int(overlaps.best[thing])),
    )


def _found(record: Record, thing: int, prediction: int) -> Found:
    predictions = record.predictions
    box = predictions.boxes[prediction]
    return Found(
        _box(box.tolist()),
        float(predictions.scores[prediction]),
        float(iou_of(box[None], record.objects.boxes[thing][None])[0, 0]),
        record.classes[predictions.labels[prediction]],
        int(predictions.ranks[prediction]) + 1,
    )


def _box(numbers: list[float]) -> Box:
    left, top, width, height = numbers
    return left, top, width, height
