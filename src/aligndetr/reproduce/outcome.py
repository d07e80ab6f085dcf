"""What an experiment gave: metrics by arm and seed, differences to the baseline, verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise

from aligndetr.config.schema import AnyConfig
from aligndetr.reproduce.experiment import Arm, Claim, Experiment
from aligndetr.reproduce.places import Place
from aligndetr.reproduce.small import DataSet
from aligndetr.reproduce.statistics import (
    BySeed,
    Difference,
    Summary,
    Verdict,
    chain_verdict,
    difference,
    summary,
    verdict,
)


@dataclass(frozen=True)
class ArmOutcome:
    """One arm: its chosen class weight, metrics in per cent by seed, and where its trials are.

    `tuned` is the AP of every class weight of the grid, None where its training diverged.
    """

    arm: Arm
    config: AnyConfig
    weight: float | None
    by_seed: Mapping[int, Mapping[str, float]]
    places: Mapping[int, Place]
    tuned: Mapping[float, float | None]
    steps: int

    def values(self, metric: str) -> BySeed:
        """Return a metric by seed, where it was measured."""
        return {seed: found[metric] for seed, found in self.by_seed.items() if metric in found}

    @property
    def first(self) -> Place | None:
        """The trial of the first seed that was measured; None where all have diverged."""
        return self.places[min(self.by_seed)] if self.by_seed else None

    @property
    def is_at_edge(self) -> bool:
        """Whether the chosen weight is the grid's smallest or largest: others may be better."""
        return len(self.tuned) > 1 and self.weight in (min(self.tuned), max(self.tuned))


@dataclass(frozen=True)
class Outcome:
    """What is known of an experiment at laptop scale; arms without such a version are left out."""

    experiment: Experiment
    arms: tuple[ArmOutcome, ...]
    data: DataSet

    def arm(self, key: str) -> ArmOutcome | None:
        """Return the arm of that key, if it was trained."""
        return next((outcome for outcome in self.arms if outcome.arm.key == key), None)

    def to_baseline(self, key: str, metric: str) -> Difference | None:
        """Return how much better an arm is than its baseline."""
        return self.between(key, self.experiment.baseline_of(key), metric)

    def between(self, better: str, worse: str, metric: str) -> Difference | None:
        """Return the paired difference of two arms; None where one was not measured."""
        ours, theirs = self.arm(better), self.arm(worse)
        if ours is None or theirs is None:
            return None
        return difference(ours.values(metric), theirs.values(metric))

    def judged(self, claim: Claim) -> Verdict:
        """Return whether the order that the paper claims holds here."""
        pairs: list[Verdict] = [
            verdict(self.between(better, worse, claim.metric))
            for better, worse in pairwise(claim.order)
        ]
        return chain_verdict(pairs)

    @property
    def metrics(self) -> list[str]:
        """The metrics that any arm has, in the order in which they were measured."""
        names = (name for arm in self.arms for found in arm.by_seed.values() for name in found)
        return list(dict.fromkeys(names))

    def as_json(self) -> dict[str, object]:
        """Return all of it, for programs: the content of table.json."""
        return {
            "experiment": self.experiment.name,
            "title": self.experiment.title,
            "scale": "laptop",
            "data": self.data.name,
            "data_digest": self.data.digest,
            "images": self.data.images,
            "baseline": self.experiment.baseline,
            "arms": [self._arm_json(arm) for arm in self.experiment.arms],
            "claims": [self._claim_json(claim) for claim in self.experiment.claims],
        }

    def _arm_json(self, arm: Arm) -> dict[str, object]:
        told: dict[str, object] = {
            "key": arm.key,
            "label": arm.label,
            "preset": arm.preset,
            "overrides": list(arm.overrides),
            "baseline": self.experiment.baseline_of(arm.key),
            "paper": dict(arm.paper),
        }
        outcome = self.arm(arm.key)
        if outcome is None:
            return {**told, "ours": None}
        metrics = {
            name: {
                "by_seed": {str(seed): value for seed, value in outcome.values(name).items()},
                "summary": _as_json(summary(outcome.values(name))),
                "to_baseline": _as_json(self.to_baseline(arm.key, name)),
            }
            for name in self.metrics
        }
        return {
            **told,
            "class_weight": outcome.weight,
            "class_weight_is_at_edge": outcome.is_at_edge,
            "tuned_AP": {f"{weight:g}": ap for weight, ap in outcome.tuned.items()},
            "steps": outcome.steps,
            "precision": outcome.config.precision,
            "trials": {str(seed): place.folder.name for seed, place in outcome.places.items()},
            "ours": metrics,
        }

    def _claim_json(self, claim: Claim) -> dict[str, object]:
        return {
            "text": claim.text,
            "order": list(claim.order),
            "metric": claim.metric,
            "verdict": self.judged(claim),
            "differences": [
                _as_json(self.between(better, worse, claim.metric))
                for better, worse in pairwise(claim.order)
            ],
        }


def _as_json(record: Summary | Difference | None) -> dict[str, object] | None:
    return None if record is None else asdict(record)
