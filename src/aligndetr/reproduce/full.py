"""The paper's scale: COCO 2017, commands for eight GPUs, and about how long they take.

Nobody has run these with this code yet. Hours are an estimate from published ones: Deformable DETR
(arXiv:2010.04159, Table 1 and its README) gives V100 hours of an epoch on COCO and GMACs of an
image: DETR 4.0 h for 86, Deformable DETR 6.5 h for 173 and 3.2 h for 78 at a single scale,
Faster R-CNN 3.5 h for 180, DETR-DC5 14 h for 187. That is 13 to 51 GMACs an hour, mostly 25,
which is taken for all. It may be wrong by a factor of two, and says nothing of other GPUs.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from aligndetr.checkpoint import LAST_WEIGHTS
from aligndetr.config.codec import override
from aligndetr.config.presets import get_preset
from aligndetr.config.schema import AnyConfig
from aligndetr.cost import Network
from aligndetr.reproduce.experiment import Arm, Experiment
from aligndetr.train.state import STATE_FILE

GPUS = 8
LAUNCH = f"accelerate launch --num_processes {GPUS} -m aligndetr"
GMACS_PER_HOUR = 25.0
"""GMACs of one image, for each V100 hour of an epoch on COCO's 118,000 images."""
TYPICAL_SIZE = (800, 1128)
"""The image size at which published GMACs are ours, on average (docs/presets.md)."""
BRANCH_WEIGHT = "postprocess.iou_power="

FUNCTIONS = f"""\
# Both functions skip what is done, so that this file may be run again at any time.
train() {{  # run folder, command
  run=$1; shift
  if [ -e "$run/trained" ]; then return; fi
  if [ -e "$run/{STATE_FILE.as_posix()}" ]; then
    {LAUNCH} train --resume "$run"
  else
    rm -rf "$run"  # left by a run that was stopped before its first epoch ended
    "$@"
  fi
  touch "$run/trained"
}}
measure() {{  # file, command
  file=$1; shift
  if [ -e "$file" ]; then return; fi
  "$@" > "$file.partial"
  mv "$file.partial" "$file"
}}"""


@dataclass(frozen=True)
class FullArm:
    """One training at the paper's scale, or one more measurement of another's weights.

    `training` trains on COCO in the folder $DATA into the folder `run` below $OUT; None where that
    is the training of the arm `shares`. `measuring` prints the metrics of its last weights as JSON,
    for a file of that `name`. `gpu_hours` are estimated V100 hours.
    """

    arm: Arm
    experiment: str
    name: str
    run: str
    training: str | None
    measuring: str
    shares: str | None
    epochs: int
    batch_size: int
    gmacs: float
    gpu_hours: float

    @property
    def command(self) -> str:
        """What trains and measures it, once."""
        return "\n".join(part for part in (self.training, self.measuring) if part is not None)

    def as_json(self) -> dict[str, object]:
        """Return it for programs."""
        return {
            "experiment": self.experiment,
            "key": self.arm.key,
            "label": self.arm.label,
            "paper": dict(self.arm.paper),
            "run": self.run,
            "command": self.command,
            "shares_training_of": self.shares,
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "gpus": GPUS,
            "gmacs": round(self.gmacs, 1),
            "v100_hours_estimated": round(self.gpu_hours),
        }


def full_arms(experiments: Sequence[Experiment]) -> list[FullArm]:
    """Return every arm of the experiments; of equal arms the first is trained."""
    made: list[FullArm] = []
    trained: dict[str, FullArm] = {}
    for experiment in experiments:
        for arm in experiment.arms:
            key = _training_key(arm.config())
            first = trained.get(key)
            made.append(_full_arm(experiment, arm, first))
            trained.setdefault(key, made[-1])
    return made


def unique_arms(experiments: Sequence[Experiment]) -> list[Arm]:
    """Return the arms that are trained: of equal ones the first."""
    arms: dict[str, Arm] = {}
    for experiment in experiments:
        for arm in experiment.arms:
            arms.setdefault(_training_key(arm.config()), arm)
    return list(arms.values())


def script(arms: Sequence[FullArm]) -> str:
    """Return a shell script that trains and measures all arms, and goes on where it was stopped."""
    hours = sum(arm.gpu_hours for arm in arms)
    lines = [
        "#!/bin/sh",
        f"# About {hours:.0f} V100 hours in all, {hours / GPUS / 24:.1f} days on {GPUS} of them;",
        "# an estimate from published times that may be wrong by a factor of two.",
        "# Usage: DATA=coco OUT=runs/paper sh FILE; the same again after an interruption.",
        "set -eu",
        ': "${DATA:?the folder of COCO 2017}" "${OUT:=runs/paper}"',
        'mkdir -p "$OUT"',
        FUNCTIONS,
    ]
    for arm in arms:
        told = "" if arm.shares is None else f" (the training of {arm.shares})"
        paper = ", ".join(f"{name} {value:g}" for name, value in arm.arm.paper.items())
        lines += ["", f"# Table or figure {arm.experiment}: {arm.arm.label}{told}",
                  f"# The paper: {paper or 'no numbers'}"]  # fmt: skip
        if arm.training is not None:
            lines.append(f'train "$OUT"/{arm.run} {arm.training}')
        lines.append(f'measure "$OUT"/{arm.name}.json {arm.measuring}')
    return "\n".join([*lines, ""])


def _full_arm(experiment: Experiment, arm: Arm, first: FullArm | None) -> FullArm:
    config = arm.config()
    name = f"{experiment.folder}-{arm.key.replace('*', '-unfused')}"
    run = first.run if first else name
    gmacs = _gmacs(config.name)  # no arm changes those of its preset by a per cent
    return FullArm(
        arm,
        experiment.name,
        name,
        run,
        None if first else _training(arm, run, config),
        _measuring(arm, run),
        None if first is None else f"{first.experiment}, {first.arm.label}",
        config.training.epochs,
        config.data.batch_size,
        gmacs,
        0.0 if first else gmacs * config.training.epochs / GMACS_PER_HOUR,
    )


def _training(arm: Arm, run: str, config: AnyConfig) -> str:
    sets = [*arm.overrides, f"data.batch_size={config.data.batch_size // GPUS}"]
    quoted = " ".join(shlex.quote(text) for text in sets)
    return f'{LAUNCH} train --model {arm.preset} --data "$DATA" --out "$OUT"/{run} --set {quoted}'


def _measuring(arm: Arm, run: str) -> str:
    """Return the command that measures the last weights, as laptop scale does.

    Scores may be fused otherwise than in the training.
    """
    weights = f'"$OUT"/{run}/{LAST_WEIGHTS}'
    power = [text for text in arm.overrides if text.startswith(BRANCH_WEIGHT)]
    if not power:
        return f'aligndetr eval --model {weights} --data "$DATA" --json'
    code = (
        "import json, sys, aligndetr; from aligndetr.config.codec import override; "
        "d = aligndetr.Detector(sys.argv[1]); "
        f"d.config = override(d.config, {power!r}); "
        "print(json.dumps(d.evaluate(sys.argv[2])))"
    )
    return f'python -c {shlex.quote(code)} {weights} "$DATA"'


def _training_key(config: AnyConfig) -> str:
    return config.model_dump_json(exclude={"name": True, "postprocess": {"iou_power"}})


@cache
def _gmacs(preset: str) -> float:
    return Network(override(get_preset(preset), ())).gmacs(TYPICAL_SIZE)
