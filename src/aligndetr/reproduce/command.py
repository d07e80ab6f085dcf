"""What `aligndetr reproduce` does at either scale."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from aligndetr.checkpoint import write_json, write_text
from aligndetr.errors import ConfigError
from aligndetr.reproduce.arithmetic import arithmetic_of
from aligndetr.reproduce.catalogue import find
from aligndetr.reproduce.check import one_step
from aligndetr.reproduce.full import FullArm, full_arms, script
from aligndetr.reproduce.laptop import Plan, run, steps_in
from aligndetr.reproduce.outcome import Outcome
from aligndetr.reproduce.report import write_report
from aligndetr.reproduce.small import DataSet, small_config

Say = Callable[[str], None]
USUAL_STEPS = 600
SEEDS = 3
WEIGHTS = (1.0, 2.0, 4.0, 8.0)
SCRIPT, COMMANDS = "reproduce.sh", "reproduce.json"


@dataclass(frozen=True)
class Length:
    """How long an arm is trained at laptop scale: steps, or the steps that fit some minutes."""

    steps: int | None = None
    minutes: float | None = None


@dataclass(frozen=True)
class Small:
    """The options of laptop scale; `data` None is the synthetic set."""

    data: Path | None = None
    seeds: int = SEEDS
    length: Length = Length()
    weights: tuple[float, ...] = WEIGHTS
    overrides: tuple[str, ...] = ()


def reproduce_full(
    words: Sequence[str], out: Path | None, *, check: bool, say: Say
) -> list[FullArm]:
    """Return every arm of the named experiments; write script and list to `out`, if given.

    All configurations are resolved. With `check` each different training takes one step.

    Raises:
        ConfigError: There is no such experiment, or `out` is a file.
    """
    experiments = find(words)
    if out is not None:
        _check_folder(out)
    arms = full_arms(experiments)
    if check:
        for arm in arms:
            if arm.shares is None:
                say(f"{arm.experiment}, {arm.arm.label}: loss {one_step(arm.arm.config()):.2f}")
    if out is not None:
        write_text(out / SCRIPT, script(arms))
        write_json(out / COMMANDS, [arm.as_json() for arm in arms])
        say(f"{out / SCRIPT}: the commands; {out / COMMANDS}: the same for programs")
    return arms


def reproduce_small(
    words: Sequence[str], out: Path, options: Small, *, say: Say
) -> list[Mapping[str, object]]:
    """Train, measure and compare all arms; return the content of each table.json.

    Raises:
        ConfigError: There is no such experiment, a change does not fit the schema, or `out` is a
            file.
        DatasetError: The data cannot be used.
    """
    experiments = find(words)
    _check_folder(out)
    data = DataSet.open(options.data)
    for experiment in experiments:  # all mistakes before the first hour
        for arm in experiment.arms:
            small_config(arm, data, overrides=options.overrides)
    usual = options.length.steps or USUAL_STEPS
    plan = Plan(
        experiments,
        data,
        out,
        usual,
        options.seeds,
        options.weights,
        arithmetic_of(out),
        options.overrides,
    )
    if options.length.minutes is not None:
        plan = replace(plan, steps=steps_in(options.length.minutes, plan, say))

    def report(outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            folder = write_report(outcome, out)
            say(f"{folder}: {outcome.experiment.heading} so far")

    return [outcome.as_json() for outcome in run(plan, say=say, report=report)]


def _check_folder(out: Path) -> None:
    found = next(path for path in (out, *out.parents) if path.exists())
    if not found.is_dir():
        raise ConfigError(f"--out: expected a folder, found a file at {found}; choose another name")


def parse_weights(text: str) -> tuple[float, ...]:
    """Return the class weights of a list such as "1,2,4,8".

    Raises:
        ConfigError: It is not a list of positive numbers.
    """
    try:
        weights = tuple(float(word) for word in text.split(","))
    except ValueError:
        weights = ()
    if not weights or not all(0 < weight < float("inf") for weight in weights):
        raise ConfigError(
            f"aligndetr reproduce: expected --weights N,N,..., positive numbers, found {text!r}; "
            "write them like 1,2,4,8, or a single one to choose none"
        )
    return tuple(sorted(set(weights)))
