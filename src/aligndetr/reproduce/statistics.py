"""What runs with a few seeds can tell: means, paired differences, and whether an order holds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any, Literal

from scipy import stats

BySeed = Mapping[int, float]
"""A metric of one arm, by seed."""
Verdict = Literal["holds", "fails", "cannot be told", "not measured"]
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Summary:
    """Mean and standard deviation over seeds; no deviation of a single one."""

    mean: float
    deviation: float | None
    seeds: int


@dataclass(frozen=True)
class Difference:
    """Mean of the paired differences over seeds, with its 95 % t interval.

    `low` and `high` are None where there is one seed, which says nothing of the spread.
    """

    mean: float
    low: float | None
    high: float | None
    seeds: int


def summary(values: BySeed) -> Summary | None:
    """Return mean and spread of a metric; None where it was not measured."""
    if not values:
        return None
    numbers = list(values.values())
    return Summary(mean(numbers), stdev(numbers) if len(numbers) > 1 else None, len(numbers))


def difference(ours: BySeed, theirs: BySeed) -> Difference | None:
    """Return ours minus theirs over the seeds that both have; None where there is none."""
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        return None
    pairs = [ours[seed] - theirs[seed] for seed in shared]
    if len(pairs) == 1:
        return Difference(pairs[0], None, None, 1)
    quantile: Any = stats.t.ppf((1 + CONFIDENCE) / 2, len(pairs) - 1)
    reach = float(quantile) * stdev(pairs) / math.sqrt(len(pairs))
    centre = mean(pairs)
    return Difference(centre, centre - reach, centre + reach, len(pairs))


def verdict(better: Difference | None) -> Verdict:
    """Return whether the first of a pair is better than the second, given their difference.

    It cannot be told where the interval includes 0 (a tie does), or where there is none.
    """
    if better is None:
        return "not measured"
    if better.low is None or better.high is None:
        return "cannot be told"
    if better.low > 0:
        return "holds"
    return "fails" if better.high < 0 else "cannot be told"


def chain_verdict(pairs: Sequence[Verdict]) -> Verdict:
    """Return whether a whole order holds: all of its neighbours do; it fails where one does."""
    for decisive in ("not measured", "fails", "cannot be told"):
        if decisive in pairs:
            return decisive
    return "holds"
