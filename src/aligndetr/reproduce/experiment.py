"""What an experiment of the paper is: arms that differ in one thing, its numbers, its claims.

The paper is Align-DETR, arXiv:2304.07527. An arm is a preset and changes to it; what it is at
laptop scale is said in `small.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from aligndetr.config.codec import override
from aligndetr.config.presets import get_preset
from aligndetr.config.schema import AnyConfig

Numbers = Mapping[str, float]
"""Metrics by name, as the paper prints them: AP in per cent."""
COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl")

Picture = Literal["dots", "recall", "density", "curves", "boxes"]
"""What is drawn: metrics by arm; recall of best-regressed samples; confidence against IoU; AP
over the training; predictions."""


def numbers(*values: float | None) -> Numbers:
    """Return AP, AP50, AP75, APs, APm, APl of a row; a dash there is None here."""
    return {
        name: value
        for name, value in zip(COLUMNS, values, strict=False)
        if value is not None
    }  # fmt: skip


@dataclass(frozen=True)
class Arm:
    """One row: `key` is its short name, `label` what the paper calls it."""

    key: str
    label: str
    preset: str
    overrides: tuple[str, ...] = ()
    """Changes to the preset, as `--set` has them."""
    paper: Numbers = field(default_factory=dict[str, float])
    length: float = 1.0
    """How long it is trained at laptop scale, in usual lengths."""
    is_small: bool = True
    """Whether there is such an arm at laptop scale, where all have one backbone."""
    baseline: str | None = None
    """The arm that it is compared with, where that is not the experiment's own baseline."""

    def config(self) -> AnyConfig:
        """Return the configuration of the paper's scale."""
        return override(get_preset(self.preset), self.overrides)


@dataclass(frozen=True)
class Claim:
    """What the paper says, or shows, about the order of some arms: the best first."""

    order: tuple[str, ...]
    text: str
    metric: str = "AP"


@dataclass(frozen=True)
class Experiment:
    """A table or figure: its arms, the one that others are compared with, and its claims."""

    name: str
    title: str
    baseline: str
    arms: tuple[Arm, ...]
    claims: tuple[Claim, ...]
    picture: Picture = "dots"

    @property
    def heading(self) -> str:
        """Its name in the paper: Table 4, Figure A."""
        is_figure = self.name.startswith("fig")
        return f"Figure {self.name[3:].upper()}" if is_figure else f"Table {self.name}"

    @property
    def folder(self) -> str:
        """A name for what is written about it: table-4, figure-a."""
        return self.heading.lower().replace(" ", "-")

    def baseline_of(self, key: str) -> str:
        """Return the arm that this one is compared with."""
        return self.arm(key).baseline or self.baseline

    def arm(self, key: str) -> Arm:
        """Return the arm of that key."""
        return next(arm for arm in self.arms if arm.key == key)
