"""Whether scores are probabilities: confidence against the share of hits at IoU .5.

Of the predictions that COCO counts (at most 100 of a class an image, none that it ignores), in ten
equal bins of their score; scores outside [0, 1] go to the first or the last. The expected
calibration error is the mean, over predictions, of how far their bin's mean score is from its
precision. The IoU is the highest with an object of the prediction's class.
"""

from dataclasses import dataclass

import numpy as np

from aligndetr.analyze.average_precision import Matches
from aligndetr.analyze.bootstrap import Number
from aligndetr.analyze.overlaps import OWN, Overlaps
from aligndetr.analyze.record import Floats, Record
from aligndetr.analyze.sums import divide, sum_in_groups

BINS = 10


@dataclass(frozen=True)
class Calibration:
    """For each bin the mean score, the share of hits, the mean IoU and the number of boxes."""

    edges: tuple[float, ...]
    confidence: tuple[Number, ...]
    precision: tuple[Number, ...]
    mean_iou: tuple[Number, ...]
    counts: tuple[int, ...]
    ece: Number


def calibrate(record: Record, overlaps: Overlaps, matches: Matches) -> Calibration:
    """Return the calibration of a record's scores; `matches` are of all sizes, by confidence."""
    counted = matches.ignored & 1 == 0
    scores = record.predictions.scores[counted]
    bins = np.clip(np.floor(scores * BINS), 0, BINS - 1).astype(np.int64)
    counts = np.bincount(bins, minlength=BINS).astype(np.float64)

    def mean(values: Floats) -> Floats:
        return divide(sum_in_groups(bins, values, BINS), counts)

    confidence = mean(scores)
    precision = mean((matches.hits[counted] & 1).astype(np.float64))
    gaps = np.nan_to_num(np.abs(confidence - precision))
    return Calibration(
        tuple(np.linspace(0, 1, BINS + 1).tolist()),
        _numbers(confidence),
        _numbers(precision),
        _numbers(mean(overlaps.iou[counted, OWN])),
        tuple(counts.astype(np.int64).tolist()),
        float((gaps * counts).sum() / counts.sum()) if counts.sum() else None,
    )


def _numbers(values: Floats) -> tuple[Number, ...]:
    return tuple(None if np.isnan(value) else value for value in values.tolist())
