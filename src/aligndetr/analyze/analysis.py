"""The whole analysis of what a detector found in a split.

What each number means is said once: misalignment in `misalignment.py`, correlations in `pairs.py`,
AP and its oracle in `average_precision.py`, errors in `error_types.py`, the rest in the file that
makes it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from aligndetr.analyze.as_json import (
    Json,
    calibration_json,
    confusion_json,
    misalignment_json,
    part_json,
    plain,
    precision_json,
    worst_json,
)
from aligndetr.analyze.average_precision import (
    AT_50,
    AT_75,
    RECALLS,
    match_as_coco,
    order_by_class,
    rank,
)
from aligndetr.analyze.bootstrap import Interval, Number, draw, interval, number
from aligndetr.analyze.calibration import Calibration, calibrate
from aligndetr.analyze.confusion import Confusion, confusion_matrix
from aligndetr.analyze.error_types import ErrorTypes, error_types
from aligndetr.analyze.misalignment import Measures, Misalignment
from aligndetr.analyze.overlaps import ANY, Overlaps, measure_overlaps
from aligndetr.analyze.pairs import Pairs, match_pairs, pearson, spearman
from aligndetr.analyze.parts import (
    Costs,
    Material,
    Part,
    Precision,
    Weights,
    histogram,
    measure_costs,
)
from aligndetr.analyze.record import Floats, Ints, Record, gather
from aligndetr.analyze.worst import Misaligned, worst
from aligndetr.data.annotations import CocoDict
from aligndetr.evaluate.evaluator import Results

HISTOGRAM_BINS, DENSITY_BINS = 20, 50
"""Bins of the IoU histograms, and of each side of the density."""


@dataclass(frozen=True)
class Source:
    """What was analysed: a run folder or file, the data, the split."""

    title: str = ""
    data: str = ""
    split: str = ""


@dataclass(frozen=True)
class Settings:
    """How to analyse: bootstrap replicates and their seed; where the confusion matrix is taken."""

    replicates: int = 500
    seed: int = 0
    confusion_threshold: float = 0.3
    confusion_iou: float = 0.5


@dataclass(frozen=True)
class Counts:
    """How much was analysed; `unreached` are objects that no prediction overlaps."""

    images: int
    objects: int
    crowd: int
    predictions: int
    unreached: int


@dataclass(frozen=True)
class Correlation:
    """Confidence against IoU of the matched pairs, with intervals."""

    pearson: Number
    spearman: Number
    pairs: int
    pearson_interval: Interval
    spearman_interval: Interval


@dataclass(frozen=True, eq=False)
class Distributions:
    """IoUs of BR and of HC samples in 20 bins; `density` (50, 50) of pairs: confidence, IoU."""

    best_regressed: tuple[int, ...]
    highest_confidence: tuple[int, ...]
    density: Ints


@dataclass(frozen=True)
class ClassCurve:
    """Precision of a class at the 101 recalls, at IoU .5 and .75; None without objects."""

    name: str
    at_50: tuple[float, ...] | None
    at_75: tuple[float, ...] | None


Replicates = Mapping[str, Floats]
"""Some of the numbers (R,) in the replicates of the bootstrap, by their name in files."""


@dataclass(frozen=True, eq=False)
class Analysis:
    """All that was measured; None stands where there was nothing to measure on."""

    source: Source
    counts: Counts
    classes: tuple[str, ...]
    misalignment: Misalignment[Number]
    misalignment_intervals: Misalignment[Interval]
    correlation: Correlation
    distributions: Distributions
    precision: Precision
    oracle: Precision
    ap_cost: Number
    ap_cost_interval: Interval
    by_class: tuple[Part, ...]
    by_size: tuple[Part, ...]
    errors: ErrorTypes
    curves: tuple[ClassCurve, ...]
    confusion: Confusion
    calibration: Calibration
    worst: tuple[Misaligned, ...]
    replicates: Replicates

    def to_json(self) -> dict[str, Json]:
        """Return the content of `analysis.json`; docs/analyze.md has its keys."""
        counts = self.counts
        found: dict[str, Json] = {
            "title": self.source.title,
            "data": self.source.data,
            "split": self.source.split,
            "images": counts.images,
            "objects": counts.objects,
            "crowd": counts.crowd,
            "predictions": counts.predictions,
            "unreached": counts.unreached,
            **misalignment_json(self.misalignment),
            "pearson": self.correlation.pearson,
            "spearman": self.correlation.spearman,
            "matched_pairs": self.correlation.pairs,
            "intervals": self._intervals(),
            **self._distributions(),
            "ap": precision_json(self.precision),
            "oracle_ap": precision_json(self.oracle),
            "ap_cost": self.ap_cost,
            "by_class": [part_json(part) for part in self.by_class],
            "by_size": [part_json(part) for part in self.by_size],
            "errors": dict(self.errors.gains),
            "error_counts": dict(self.errors.counts),
            "curves": [_curve_json(curve) for curve in self.curves],
            "confusion": confusion_json(self.confusion, self.classes),
            "calibration": calibration_json(self.calibration),
            "worst": [worst_json(entry) for entry in self.worst],
        }
        return {key: plain(value) for key, value in found.items()}

    def _intervals(self) -> dict[str, Json]:
        ap, ap50, ap75 = self.precision.intervals
        return {
            **misalignment_json(self.misalignment_intervals),
            "pearson": self.correlation.pearson_interval,
            "spearman": self.correlation.spearman_interval,
            "AP": ap,
            "AP50": ap50,
            "AP75": ap75,
            "oracle_AP": self.oracle.intervals[0],
            "ap_cost": self.ap_cost_interval,
        }

    def _distributions(self) -> dict[str, Json]:
        found = self.distributions
        return {
            "histogram": {
                "edges": _edges(HISTOGRAM_BINS),
                "best_regressed": found.best_regressed,
                "highest_confidence": found.highest_confidence,
            },
            "density": {"edges": _edges(DENSITY_BINS), "counts": found.density.tolist()},
        }


def analyze(
    results: Results,
    ground_truth: CocoDict,
    *,
    source: Source = Source(),
    settings: Settings = Settings(),
    progress: Callable[[str], None] = lambda _: None,
) -> Analysis:
    """Return the analysis of what a detector found in a split.

    Args:
        results: Boxes found (see `evaluate.evaluator`).
        ground_truth: A COCO file's content, of all images of the split.
        source: What to call it.
        settings: How to analyse.
        progress: Told what is done next.

    Raises:
        DatasetError: Results are of images that the ground truth does not have.
    """
    progress("overlaps")
    record = gather(results, ground_truth)
    overlaps = measure_overlaps(record)
    replicates = draw(len(record.image_ids), settings.replicates, seed=settings.seed)
    weights = Weights(np.ones((1, len(record.image_ids)), np.int32), replicates)
    measures = Measures.of(record, overlaps)
    sums = measures.sums()
    progress("matching")
    pairs = match_pairs(record)
    matches = match_as_coco(record, overlaps, by="confidence", area="all")
    progress("average precision")
    costs = measure_costs(record, overlaps, weights, matches)
    curves = rank(record, order_by_class(record, overlaps, by="confidence"), matches, "all")
    progress("errors")
    errors = error_types(record, overlaps, matches)
    confusion = confusion_matrix(
        record, threshold=settings.confusion_threshold, iou=settings.confusion_iou
    )
    progress("classes and sizes")
    material = Material(record, measures, pairs, weights, costs)
    every: Costs = costs["all"]
    resampled = sums.values(replicates)
    return Analysis(
        source=source,
        counts=_counts(record, overlaps),
        classes=record.classes,
        misalignment=sums.summary(weights.once, number),
        misalignment_intervals=Misalignment.of([interval(column) for column in resampled.T]),
        correlation=_correlation(pairs, weights),
        distributions=_distributions(record, overlaps, pairs),
        precision=every.precision,
        oracle=every.oracle_precision,
        ap_cost=every.cost,
        ap_cost_interval=every.cost_interval,
        by_class=material.by_class(),
        by_size=material.by_size(),
        errors=errors,
        curves=_class_curves(record, curves.curves(weights.once[0])),
        confusion=confusion,
        calibration=calibrate(record, overlaps, matches),
        worst=worst(record, overlaps),
        replicates={
            "br_recall": resampled[:, 0],
            "mean_iou_br": resampled[:, -2],
            "mean_iou_hc": resampled[:, -1],
            "pearson": pearson(pairs, replicates),
            **every.replicates,
        },
    )


def _counts(record: Record, overlaps: Overlaps) -> Counts:
    return Counts(
        images=len(record.image_ids),
        objects=len(record.objects),
        crowd=int(record.regions.crowd.sum()),
        predictions=len(record.predictions),
        unreached=int((overlaps.best_iou == 0).sum()),
    )


def _correlation(pairs: Pairs, weights: Weights) -> Correlation:
    return Correlation(
        number(pearson(pairs, weights.once)),
        number(spearman(pairs, weights.once)),
        len(pairs),
        interval(pearson(pairs, weights.replicates)),
        interval(spearman(pairs, weights.replicates)),
    )


def _distributions(record: Record, overlaps: Overlaps, pairs: Pairs) -> Distributions:
    confident = overlaps.iou[overlaps.highest_confidence(record), ANY]
    rows, columns = (
        np.clip(np.floor(values * DENSITY_BINS), 0, DENSITY_BINS - 1).astype(np.int64)
        for values in (pairs.scores, pairs.iou)
    )
    density = np.bincount(rows * DENSITY_BINS + columns, minlength=DENSITY_BINS**2)
    return Distributions(
        histogram(overlaps.best_iou, HISTOGRAM_BINS),
        histogram(confident, HISTOGRAM_BINS),
        density.reshape(DENSITY_BINS, DENSITY_BINS),
    )


def _class_curves(record: Record, curves: Floats) -> tuple[ClassCurve, ...]:
    present = ~np.isnan(curves[:, AT_50, 0])
    return tuple(
        ClassCurve(name, tuple(curve[AT_50].tolist()), tuple(curve[AT_75].tolist()))
        if is_present
        else ClassCurve(name, None, None)
        for name, curve, is_present in zip(record.classes, curves, present, strict=True)
    )


def _curve_json(curve: ClassCurve) -> Json:
    return {
        "name": curve.name,
        "recall": RECALLS.tolist(),
        "precision": {"0.5": curve.at_50, "0.75": curve.at_75},
    }


def _edges(bins: int) -> list[float]:
    return np.linspace(0, 1, bins + 1).tolist()
