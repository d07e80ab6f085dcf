"""Experiments at laptop scale: choose class weights, train every arm with paired seeds, report.

Short trainings differ mostly by the scale of their class loss, so every arm has the class weight
with the highest AP of a grid, chosen with a seed of its own. Then all arms are trained with
further seeds, seed by seed; tables are written after each, so that an interrupted call leaves what
is known. Whatever is finished is found again, also by other experiments with the same arm, and
several processes may share a folder.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from aligndetr.checkpoint import write_json
from aligndetr.config.schema import AnyConfig
from aligndetr.errors import ConfigError
from aligndetr.reproduce.ablations import TABLE_4
from aligndetr.reproduce.arithmetic import Arithmetic
from aligndetr.reproduce.experiment import Arm, Experiment
from aligndetr.reproduce.outcome import ArmOutcome, Outcome
from aligndetr.reproduce.places import Place, locked
from aligndetr.reproduce.small import (
    TUNING_SEED,
    DataSet,
    Trial,
    has_weight,
    is_fused,
    small_config,
)
from aligndetr.reproduce.trials import measure_trial, train_trial, tuned_ap

TIMING_STEPS = 60
"""Of the training that tells how many steps fit a number of minutes."""
WAIT_SECONDS = 5.0
"""Before looking again whether another process has finished one of its trials."""
CURVE_POINTS = 12

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What is trained, on what, for how long, and where it goes."""

    experiments: tuple[Experiment, ...]
    data: DataSet
    out: Path
    steps: int
    seeds: int
    weights: tuple[float, ...]
    arithmetic: Arithmetic
    overrides: tuple[str, ...] = ()

    def place(self, trial: Trial) -> Place:
        """Return the folder of a trial."""
        return Place(self.out / "trials" / trial.name(self.data))

    def config(self, arm: Arm) -> AnyConfig:
        """Return the configuration of an arm, whose features are shared by all."""
        features = (self.out / "features").resolve()
        return small_config(
            arm,
            self.data,
            overrides=self.overrides,
            features=features,
            precision=self.arithmetic,
        )

    def trial(self, experiment: Experiment, arm: Arm, *, weight: float | None, seed: int) -> Trial:
        """Return the trial of an arm; curves are measured on the way, but not to choose weights."""
        is_curve = experiment.picture == "curves" and seed != TUNING_SEED
        return Trial(
            self.config(arm),
            weight,
            seed,
            max(1, round(self.steps * arm.length)),
            evaluations=CURVE_POINTS if is_curve else 1,
        )

    def arms(self) -> list[tuple[Experiment, Arm]]:
        """Return what is trained; equal arms of several experiments are all there."""
        return [
            (experiment, arm)
            for experiment in self.experiments
            for arm in experiment.arms
            if arm.is_small
        ]

    def tuning(self, experiment: Experiment, arm: Arm) -> list[Trial]:
        """Return the trials of which the best has the arm's class weight."""
        if len(self.weights) == 1 or not has_weight(self.config(arm)):
            return []
        return [
            self.trial(experiment, arm, weight=weight, seed=TUNING_SEED) for weight in self.weights
        ]


def steps_in(minutes: float, plan: Plan, say: Say) -> int:
    """Return how many steps of the baseline fit some minutes here, measured once a folder.

    All arms get the same number of steps, however long theirs take. What is timed has the plan's
    changes to all arms.

    Raises:
        ConfigError: The baseline diverges before its speed is known.
    """
    timing = replace(plan, steps=TIMING_STEPS)
    trial = timing.trial(TABLE_4, TABLE_4.arm("focal"), weight=None, seed=TUNING_SEED)
    place = plan.place(trial)
    file = plan.out / f"steps-{place.folder.name}-{minutes:g}.json"
    if file.is_file():
        return int(json.loads(file.read_text())["steps"])
    say("timing the baseline")
    _Queue(plan, 1, say).run([trial])
    speed = place.images_per_second()
    if speed is None:
        raise ConfigError(
            "--minutes-an-arm: expected a baseline whose speed can be measured, found that its "
            f"training diverges ({place.log}); give --steps"
        )
    steps = max(1, round(60 * minutes * speed / trial.config.data.batch_size))
    write_json(file, {"minutes": minutes, "steps": steps, "images_per_second": speed})
    return steps


def run(plan: Plan, *, say: Say, report: Callable[[Sequence[Outcome]], None]) -> list[Outcome]:
    """Train and measure all arms of the plan; `report` is told what is known after every seed."""
    arms = plan.arms()
    tuning = [trial for pair in arms for trial in plan.tuning(*pair)]
    unique = _unique(plan, tuning)
    first = _unique(plan, (plan.trial(*pair, weight=None, seed=1) for pair in arms))
    queue = _Queue(plan, len(unique) + plan.seeds * len(first), say)
    queue.run(unique, measured=[trial for trial in tuning if is_fused(trial.config)])
    weights = [_chosen(plan, *pair) for pair in arms]
    outcomes: list[Outcome] = []
    for seed in range(1, plan.seeds + 1):
        trials = [
            plan.trial(*pair, weight=weight, seed=seed)
            for pair, weight in zip(arms, weights, strict=True)
        ]
        unique = _unique(plan, trials)
        queue.expect(len(unique) * (plan.seeds - seed + 1))
        queue.run(unique, measured=trials)
        outcomes = _outcomes(plan, weights, seed)
        report(outcomes)
    return outcomes


def _unique(plan: Plan, trials: Iterable[Trial]) -> list[Trial]:
    return list({trial.name(plan.data): trial for trial in trials}.values())


def _chosen(plan: Plan, experiment: Experiment, arm: Arm) -> float | None:
    """Return the class weight of the grid with the highest AP; None keeps the preset's own."""
    trials = plan.tuning(experiment, arm)
    if not trials:
        return plan.weights[0] if has_weight(plan.config(arm)) else None
    return max(trials, key=lambda trial: _tuned_ap(plan, trial)).weight


def _tuned_ap(plan: Plan, trial: Trial) -> float:
    found = tuned_ap(trial, plan.data, plan.place(trial))
    return -1.0 if found is None else found


def _outcomes(plan: Plan, weights: Sequence[float | None], seeds: int) -> list[Outcome]:
    """Return what the seeds so far gave, by experiment."""
    made: dict[str, list[ArmOutcome]] = {experiment.name: [] for experiment in plan.experiments}
    for (experiment, arm), weight in zip(plan.arms(), weights, strict=True):
        trials = {
            seed: plan.trial(experiment, arm, weight=weight, seed=seed)
            for seed in range(1, seeds + 1)
        }
        places = {seed: plan.place(trial) for seed, trial in trials.items()}
        config = plan.config(arm)
        by_seed = {seed: measure_trial(config, plan.data, place) for seed, place in places.items()}
        by_seed = {seed: found for seed, found in by_seed.items() if found}
        tuned = {
            trial.weight: tuned_ap(trial, plan.data, plan.place(trial))
            for trial in plan.tuning(experiment, arm)
            if trial.weight is not None
        }
        made[experiment.name].append(
            ArmOutcome(arm, config, weight, by_seed, places, tuned, trials[1].steps)
        )
    return [Outcome(e, tuple(made[e.name]), plan.data) for e in plan.experiments]


class _Queue:
    """Runs trials one after the other, and says how far it is."""

    def __init__(self, plan: Plan, total: int, say: Say) -> None:
        self._plan, self._total, self._say = plan, total, say
        self._done, self._trained, self._seconds = 0, 0, 0.0
        self._told: set[str] = set()

    def expect(self, further: int) -> None:
        """Say how many are still to come: arms of one training may get weights of their own."""
        self._total = self._done + further

    def run(self, trials: Sequence[Trial], measured: Sequence[Trial] = ()) -> None:
        """Train all that are not; those of another process are waited for.

        Of `measured` several may be one training, whose predictions become detections differently.
        """
        configs: dict[str, list[AnyConfig]] = {}
        for trial in measured:
            configs.setdefault(trial.name(self._plan.data), []).append(trial.config)
        left = list(trials)
        while left:
            others = [trial for trial in left if not self._has_run(trial, configs)]
            if len(others) == len(left):
                self._wait(others)
            left = others

    def _has_run(self, trial: Trial, configs: Mapping[str, Sequence[AnyConfig]]) -> bool:
        place = self._plan.place(trial)
        with locked(place.folder) as is_ours:
            if is_ours:
                self._run(trial, place, configs.get(place.folder.name, ()))
        return is_ours

    def _wait(self, trials: Sequence[Trial]) -> None:
        names = [self._plan.place(trial).folder.name for trial in trials]
        if untold := [name for name in names if name not in self._told]:
            self._say(f"waiting for another process, which is at {', '.join(untold)}")
            self._told.update(untold)
        time.sleep(WAIT_SECONDS)

    def _run(self, trial: Trial, place: Place, configs: Sequence[AnyConfig]) -> None:
        was_done = place.trained() is not None
        start = time.monotonic()
        done = train_trial(trial, self._plan.data, place)
        for config in configs:
            measure_trial(config, self._plan.data, place)
        self._done += 1
        if was_done:
            return
        self._trained += 1
        self._seconds += time.monotonic() - start
        ap = "-" if done.ap is None else f"{100 * done.ap:.1f}"
        left = (self._total - self._done) * self._seconds / self._trained
        self._say(
            f"[{self._done}/{self._total}] {place.folder.name}: AP {ap}, "
            f"{done.seconds:.0f} s; about {_spelled(left)} left"
        )


def _spelled(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
