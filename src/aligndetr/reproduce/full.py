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

from aligndetr.config.codec import override
from aligndetr.config.presets import get_preset
from aligndetr.config.schema import AnyConfig
from aligndetr.cost import Network
from aligndetr.reproduce.experiment import Arm, Experiment

GPUS = 8
GMACS_PER_HOUR = 25.0
"""GMACs of one image, for each V100 hour of an epoch on COCO's 118,000 images."""
TYPICAL_SIZE = (800, 1128)
"""The image size at which published GMACs are ours, on average (docs/presets.md)."""
BRANCH_WEIGHT = "postprocess.iou_power="


@dataclass(frozen=True)
class FullArm:
    """One training at the paper's scale, or one more measurement of another's weights.

    `command` trains on COCO in the folder $DATA into a folder below $OUT; `shares` is the arm
    whose training this is, too; `gpu_hours` are estimated V100 hours.
    """

    arm: Arm
    experiment: str
    run: str
    command: str
    shares: str | None
    epochs: int
    batch_size: int
    gmacs: float
    gpu_hours: float

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


def script(arms: Sequence[FullArm]) -> str:
    """Return a shell script that trains and measures all arms."""
    hours = sum(arm.gpu_hours for arm in arms)
    lines = [
        "#!/bin/sh",
        f"# About {hours:.0f} V100 hours in all, {hours / GPUS / 24:.1f} days on {GPUS} of them;",
        "# an estimate from published times that may be wrong by a factor of two.",
        "# Usage: DATA=coco OUT=runs/paper sh FILE; an interrupted run: aligndetr train --resume",
        "set -eu",
        ': "${DATA:?the folder of COCO 2017}" "${OUT:=runs/paper}"',
    ]
    for arm in arms:
        told = "" if arm.shares is None else f" (the training of {arm.shares})"
        paper = ", ".join(f"{name} {value:g}" for name, value in arm.arm.paper.items())
        lines += ["", f"# Table or figure {arm.experiment}: {arm.arm.label}{told}",
                  f"# The paper: {paper or 'no numbers'}", arm.command]  # fmt: skip
    return "\n".join([*lines, ""])


def _full_arm(experiment: Experiment, arm: Arm, first: FullArm | None) -> FullArm:
    config = arm.config()
    run = first.run if first else f"{experiment.folder}-{arm.key.replace('*', '-unfused')}"
    gmacs = _gmacs(config.name)  # no arm changes those of its preset by a per cent
    commands = [_measuring(arm, run)]
    if first is None:
        commands.insert(0, _training(arm, run, config))
    return FullArm(
        arm,
        experiment.name,
        run,
        "\n".join(commands),
        None if first is None else f"{first.experiment}, {first.arm.label}",
        config.training.epochs,
        config.data.batch_size,
        gmacs,
        0.0 if first else gmacs * config.training.epochs / GMACS_PER_HOUR,
    )


def _training(arm: Arm, run: str, config: AnyConfig) -> str:
    sets = [*arm.overrides, f"data.batch_size={config.data.batch_size // GPUS}"]
    quoted = " ".join(shlex.quote(text) for text in sets)
    return (
        f"accelerate launch --num_processes {GPUS} -m aligndetr train --model {arm.preset} "
        f'--data "$DATA" --out "$OUT"/{run} --set {quoted}'
    )


def _measuring(arm: Arm, run: str) -> str:
    """Return the command that measures; scores may be fused otherwise than in the training."""
    power = [text for text in arm.overrides if text.startswith(BRANCH_WEIGHT)]
    if not power:
        return f'aligndetr eval --model "$OUT"/{run} --data "$DATA"'
    code = (
        "import sys, aligndetr; from aligndetr.config.codec import override; "
        "d = aligndetr.Detector(sys.argv[1]); "
        f"d.config = override(d.config, {power!r}); print(d.evaluate(sys.argv[2]))"
    )
    return f'python -c {shlex.quote(code)} "$OUT"/{run} "$DATA"'


def _training_key(config: AnyConfig) -> str:
    return config.model_dump_json(exclude={"name": True, "postprocess": {"iou_power"}})


@cache
def _gmacs(preset: str) -> float:
    return Network(override(get_preset(preset), ())).gmacs(TYPICAL_SIZE)
