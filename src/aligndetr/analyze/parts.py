"""The same numbers for a part of the objects: those of one class, or of one size."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from aligndetr.analyze.average_precision import (
    AP,
    AREAS,
    AreaName,
    Matches,
    RankBy,
    match_as_coco,
    order_by_class,
    rank,
)
from aligndetr.analyze.bootstrap import Interval, Number, interval, number
from aligndetr.analyze.curve_kernels import Rows
from aligndetr.analyze.misalignment import Measures, Misalignment
from aligndetr.analyze.overlaps import Overlaps
from aligndetr.analyze.pairs import Pairs, pearson
from aligndetr.analyze.record import Bools, Floats, Record

SIZES: tuple[AreaName, ...] = ("small", "medium", "large")


@dataclass(frozen=True, eq=False)
class Weights:
    """How often each image counts: `once` (1, I) as it is, `replicates` (R, I) in the bootstrap."""

    once: Rows
    replicates: Rows


@dataclass(frozen=True)
class Precision:
    """AP over all thresholds, at IoU .5 and at .75: the numbers, or their intervals."""

    ap: Number
    ap50: Number
    ap75: Number
    intervals: tuple[Interval, Interval, Interval]


@dataclass(frozen=True, eq=False)
class Costs:
    """AP by confidence and by true IoU, of the data and of its replicates."""

    plain: AP
    oracle: AP
    plain_replicates: AP
    oracle_replicates: AP

    def of_class(self, label: int) -> "Costs":
        """Return those of one class."""
        return Costs(
            self.plain.of_class(label),
            self.oracle.of_class(label),
            self.plain_replicates.of_class(label),
            self.oracle_replicates.of_class(label),
        )

    @property
    def precision(self) -> Precision:
        """AP by confidence."""
        return _precision(self.plain, self.plain_replicates)

    @property
    def oracle_precision(self) -> Precision:
        """AP by true IoU."""
        return _precision(self.oracle, self.oracle_replicates)

    @property
    def cost(self) -> Number:
        """Oracle AP minus AP."""
        return number(self.oracle.overall - self.plain.overall)

    @property
    def replicates(self) -> dict[str, Floats]:
        """AP, AP in the best order and their difference (R,) in the replicates."""
        plain, oracle = self.plain_replicates, self.oracle_replicates
        return {
            "AP": plain.overall,
            "AP50": plain.at_50,
            "AP75": plain.at_75,
            "oracle_AP": oracle.overall,
            "ap_cost": oracle.overall - plain.overall,
        }

    @property
    def cost_interval(self) -> Interval:
        """The interval of the cost."""
        return interval(self.replicates["ap_cost"])


@dataclass(frozen=True)
class Part:
    """The numbers of a part; intervals of BR recall at N, Pearson, AP and AP cost."""

    name: str
    objects: int
    misalignment: Misalignment[Number]
    pearson: Number
    precision: Precision
    oracle_ap: Number
    ap_cost: Number
    br_recall_interval: Interval
    pearson_interval: Interval
    ap_interval: Interval
    ap_cost_interval: Interval


@dataclass(frozen=True, eq=False)
class Material:
    """All that the numbers of parts are made of."""

    record: Record
    measures: Measures
    pairs: Pairs
    weights: Weights
    costs: Mapping[AreaName, Costs]

    def by_class(self) -> tuple[Part, ...]:
        """Return the numbers of each class, those without objects included."""
        labels = self.record.objects.labels
        return tuple(
            self._part(name, labels == label, self.costs["all"].of_class(label))
            for label, name in enumerate(self.record.classes)
        )

    def by_size(self) -> tuple[Part, ...]:
        """Return the numbers of COCO's three sizes."""
        return tuple(
            self._part(name, in_area(self.record.objects.areas, name), self.costs[name])
            for name in SIZES
        )

    def _part(self, name: str, part: Bools, costs: Costs) -> Part:
        sums = self.measures.sums(part)
        pairs = self.pairs.where(part[self.pairs.objects])
        precision = costs.precision
        return Part(
            name=name,
            objects=int(part.sum()),
            misalignment=sums.summary(self.weights.once, number),
            pearson=number(pearson(pairs, self.weights.once)),
            precision=precision,
            oracle_ap=costs.oracle_precision.ap,
            ap_cost=costs.cost,
            br_recall_interval=interval(sums.br_recall(self.weights.replicates)),
            pearson_interval=interval(pearson(pairs, self.weights.replicates)),
            ap_interval=precision.intervals[0],
            ap_cost_interval=costs.cost_interval,
        )


def in_area(areas: Floats, name: AreaName) -> Bools:
    """Return which areas are of a size."""
    low, high = AREAS[name]
    return (areas >= low) & (areas <= high)


def measure_costs(
    record: Record, overlaps: Overlaps, weights: Weights, matches: Matches
) -> dict[AreaName, Costs]:
    """Return the AP by confidence and by true IoU of all objects and of each size.

    `matches` are those of all sizes by confidence, which others need too.
    """
    known: dict[tuple[RankBy, AreaName], Matches] = {("confidence", "all"): matches}
    found: dict[tuple[RankBy, AreaName], tuple[AP, AP]] = {}
    ways: tuple[RankBy, ...] = ("confidence", "iou")
    for by in ways:
        order = order_by_class(record, overlaps, by=by)
        for area in AREAS:
            said = known.get((by, area)) or match_as_coco(record, overlaps, by=by, area=area)
            ranking = rank(record, order, said, area)
            found[by, area] = (
                AP(ranking.average_precisions(weights.once)),
                AP(ranking.average_precisions(weights.replicates)),
            )
    return {
        area: Costs(
            found["confidence", area][0],
            found["iou", area][0],
            found["confidence", area][1],
            found["iou", area][1],
        )
        for area in AREAS
    }


def _precision(once: AP, replicates: AP) -> Precision:
    return Precision(
        number(once.overall),
        number(once.at_50),
        number(once.at_75),
        (interval(replicates.overall), interval(replicates.at_50), interval(replicates.at_75)),
    )


def histogram(values: Floats, bins: int) -> tuple[int, ...]:
    """Return how many values are in each of so many equal bins of [0, 1]."""
    places = np.clip(np.floor(values * bins), 0, bins - 1).astype(np.int64)
    return tuple(np.bincount(places, minlength=bins).tolist())
