"""What a run wrote while it trained: the lines of `metrics.jsonl`, and pictures on the way."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from aligndetr.checkpoint import METRICS_FILE, SHEETS
from aligndetr.errors import CheckpointError

NOT_TERMS = {"step", "epoch", "elapsed_seconds", "learning_rate", "images_per_second", "loss"}


@dataclass(frozen=True)
class Moment:
    """Numbers of one line: loss terms and learning rate of a "train" line, metrics of an "eval"."""

    step: int
    epoch: int
    values: dict[str, float]


@dataclass(frozen=True)
class Picture:
    """What the model of a step found in some images."""

    step: int
    path: Path


@dataclass(frozen=True)
class History:
    """A training from first step to last, each step once."""

    train: tuple[Moment, ...] = ()
    evaluations: tuple[Moment, ...] = ()
    pictures: tuple[Picture, ...] = ()

    @property
    def steps_per_epoch(self) -> float | None:
        """Steps of a whole epoch; None before the first one is over."""
        moments = (*self.train, *self.evaluations)
        return min((m.step / m.epoch for m in moments if m.epoch > 0 and m.step > 0), default=None)

    @property
    def terms(self) -> tuple[str, ...]:
        """The names of all loss terms, such as "main.0.class", in the order of their coming."""
        names = (name for moment in self.train for name in moment.values if name not in NOT_TERMS)
        return tuple(dict.fromkeys(names))


def read_history(run: Path) -> History:
    """Return the history of a run folder.

    What was written twice, by a run and by its continuation from an earlier step, counts as the
    continuation has it. Lines that are no JSON, such as a last one cut short, are left out.

    Raises:
        CheckpointError: the folder has no `metrics.jsonl`.
    """
    path = run / METRICS_FILE
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise CheckpointError(
            f"{path}: expected the log of a training, found: {error.strerror}; "
            "give the --out folder of a training"
        ) from error
    moments: dict[str, list[Moment]] = {"train": [], "eval": []}
    for line in lines:
        if (read := _read_line(line)) is not None and read[0] in moments:
            event, moment = read
            for kept in moments.values():  # of the steps that are being repeated
                while kept and kept[-1].step > moment.step:
                    kept.pop()
            if moments[event] and moments[event][-1].step == moment.step:
                moments[event].pop()
            moments[event].append(moment)
    return History(tuple(moments["train"]), tuple(moments["eval"]), _pictures(run))


def _read_line(line: str) -> tuple[str, Moment] | None:
    try:
        content = json.loads(line)
    except ValueError:
        return None
    if not isinstance(content, dict):
        return None
    values = _numbers(cast(dict[str, object], content))
    event = content.get("event")
    if not isinstance(event, str) or "step" not in values:
        return None
    return event, Moment(int(values["step"]), int(values.get("epoch", 0)), values)


def _numbers(content: Mapping[str, object]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in content.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }


def _pictures(run: Path) -> tuple[Picture, ...]:
    found = [
        Picture(int(match[1]), path)
        for path in run.glob(SHEETS.format("*"))
        if (match := re.fullmatch(r"step-(\d+)", path.stem))
    ]
    return tuple(sorted(found, key=lambda picture: (picture.step, picture.path.name)))
