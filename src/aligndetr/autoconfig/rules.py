"""The rules: what data, machine and minutes say of each setting.

Nothing here measures or changes anything; docs/own-data.md has the rules in words.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from aligndetr.autoconfig.machine import Room, Speed
from aligndetr.config.schema import AnyConfig, Config
from aligndetr.data.statistics import Statistics
from aligndetr.data.transforms import LightAugmentation, fitted_size
from aligndetr.train.fit import CACHE_SHARE
from aligndetr.train.views import SHARE

SIDES = (192, 224, 256, 288, 320, 384, 448, 512, 640, 768, 896, 1024)
"""Longer sides of images to choose from; the shorter side is three quarters, at most."""
SHORT_SHARE = 0.75
NEEDED_PIXELS = 16.0
"""The side that small objects should have in the model's input: two cells of its finest level."""
LARGEST_SCALE = 2.0
"""Images are not blown up by more, but for the smallest of `SIDES`."""
STEPS_WANTED, STEPS_NEEDED = 450, 150
"""Below so many steps smaller images are worth more; below so few, also where objects get lost."""
WORTHWHILE = 0.8
"""Images are as large as leaves this share of the steps that the smallest would have."""
QUERIES_AN_OBJECT = 1.5
MOST_QUERIES, QUERY_STEP = 900, 50
LEAST_STEPS = 600
"""Of a training in epochs, whatever the size of its data."""
OVERHEAD_SECONDS = 12.0
"""What a command takes beside training and evaluation."""
FIRST_VIEW_SHARE = 0.2
"""Of the time, which caching one view of each image may take."""
EVALUATION_SHARE = 1 / 3
"""Of a step's time behind the backbone, which an image takes to be searched."""
TRAINED_FACTOR = 3.0
"""Forward and backward of a trained backbone, relative to forward alone."""


@dataclass(frozen=True)
class Choice:
    """Fields of a configuration, the values that they should have, and why."""

    values: dict[str, object]
    why: str

    @property
    def assignments(self) -> list[str]:
        """The choice as `override` takes it."""
        return [f"{field}={_text(value)}" for field, value in self.values.items()]

    def __str__(self) -> str:
        return f"{' '.join(self.assignments)}: {self.why}"


@dataclass(frozen=True)
class Clock:
    """The time of the whole command, and how fast the machine is."""

    minutes: float
    speed: Speed

    @property
    def seconds(self) -> float:
        """The same time in seconds."""
        return 60 * self.minutes


@dataclass(frozen=True)
class Situation:
    """All that decides: a preset, the split to train on, the images to evaluate on, the machine.

    Without a `clock` the training has a length of its own, and nothing is too slow. `given` are
    fields that the user has set.
    """

    config: AnyConfig
    data: Statistics
    val_images: int
    room: Room
    clock: Clock | None = None
    given: Collection[str] = ()

    def pixels(self, side: int) -> int:
        """Return the pixels of an image at a longer side."""
        height, width = _fitted(self.data, side)
        return height * width

    def object_pixels(self, side: int) -> float:
        """Return the side in pixels that a tenth of the objects does not reach; inf without any."""
        share = self.data.small_share
        return math.inf if share is None else share * math.sqrt(self.pixels(side))

    def cache_problem(self, side: int) -> str | None:
        """Return why features cannot be cached, None where they can."""
        data, pixels = self.config.data, self.pixels(side)
        if "data.cache_features" in self.given or data.feature_folder is not None:
            return None
        size = (self.data.images + self.val_images) * self.room.feature_bytes * pixels
        if size > SHARE * self.room.free_bytes:
            return f"features would take {size / 1e9:.1f} GB"
        if self.clock is None:
            return None
        seconds = self.data.images * self.clock.speed.view_seconds(pixels)
        if seconds > FIRST_VIEW_SHARE * self.clock.seconds:
            return f"computing features of each image would take {seconds / 60:.1f} minutes"
        return None

    def steps(self, side: int) -> float:
        """Return about how many optimizer steps there is time for; inf without a clock."""
        if self.clock is None:
            return math.inf
        config, pixels = self.config, self.pixels(side)
        available, speed = self.clock.seconds, self.clock.speed
        step, view = speed.step.seconds(pixels), speed.view_seconds(pixels)
        is_cached = config.data.cache_features and self.cache_problem(side) is None
        left = available - OVERHEAD_SECONDS
        left -= self.val_images * (view + EVALUATION_SHARE * step)
        if is_cached:
            left -= max(CACHE_SHARE * available, self.data.images * view)
        else:
            step += speed.load_seconds
        is_frozen = config.backbone.freeze == "all"
        if not (is_cached and is_frozen):
            step += (1.0 if is_frozen else TRAINED_FACTOR) * speed.backbone.seconds(pixels)
        images = config.data.batch_size * config.training.accumulate
        return max(left, 0.0) / (images * step)


def choose(situation: Situation) -> Iterator[Choice]:
    """Yield what should differ from the configuration; never a field that the user has set."""
    config, given = situation.config, situation.given
    side, why = config.data.augmentation.max_side, ""
    sides = [f"data.augmentation.{name}" for name in ("short_side", "max_side")]
    if isinstance(config.data.augmentation, LightAugmentation) and not {*sides} & {*given}:
        side, why = _side(situation)
        if side != config.data.augmentation.max_side:
            values = (round(SHORT_SHARE * side), side)
            yield Choice(dict(zip(sides, values, strict=True)), why)
    problem = situation.cache_problem(side) if config.data.cache_features else None
    if problem is not None:
        yield Choice({"data.cache_features": False}, problem)
    yield from _epochs(situation)


def choose_counts(
    config: AnyConfig, data: Statistics, given: Collection[str] = ()
) -> Iterator[Choice]:
    """Yield more queries or proposals, and more detections, where images are full.

    They come first: how long a step takes depends on them.
    """
    most = data.most_objects
    wanted = min(QUERY_STEP * math.ceil(QUERIES_AN_OBJECT * most / QUERY_STEP), MOST_QUERIES)
    field = "queries.count" if isinstance(config, Config) else "proposals.count"
    count = config.queries.count if isinstance(config, Config) else config.proposals.count
    counts = {field: count, "postprocess.top": config.postprocess.top}
    values: dict[str, object] = {
        name: wanted for name, now in counts.items() if wanted > now and name not in given
    }
    if values:
        yield Choice(values, f"{most} objects in the fullest image")


def _side(situation: Situation) -> tuple[int, str]:
    """Return the longer side of the images, and why.

    The preset's, or what small objects need; less where images are small themselves, or where
    time is short. What objects need is then undercut by half at most, unless there is hardly any
    time.
    """
    usual, data = situation.config.data.augmentation.max_side, situation.data
    needed = next((side for side in SIDES if _shows(situation, side, NEEDED_PIXELS)), SIDES[-1])
    side, why = max(needed, usual), "for small objects"
    largest = max((side for side in SIDES if _scale(data, side) <= LARGEST_SCALE), default=SIDES[0])
    if largest < side:
        side, why = largest, f"images have {data.size[1]}x{data.size[0]} pixels themselves"
    affordable = _largest_with(situation, STEPS_WANTED)
    if affordable < side:
        seen = (size for size in SIDES if _shows(situation, size, NEEDED_PIXELS / 2))
        lowest = min(next(seen, SIDES[-1]), _largest_with(situation, STEPS_NEEDED))
        side, why = min(max(affordable, lowest), side), "for enough steps in the time"
    pixels = situation.object_pixels(side)
    if pixels < NEEDED_PIXELS:
        why += f"; small objects have {pixels:.0f} pixels, which more minutes or tiles would raise"
    elif why == "for small objects":
        why += f", which have {pixels:.0f} pixels"
    return side, why


def _shows(situation: Situation, side: int, pixels: float) -> bool:
    return situation.object_pixels(side) >= pixels


def _largest_with(situation: Situation, steps: int) -> int:
    """Return the largest side at which there is time for so many steps.

    Where there is not, whatever the side, images are no smaller than brings steps: what a step
    takes may hardly depend on them.
    """
    most = situation.steps(SIDES[0])
    if most == 0:
        return SIDES[0]
    enough = min(steps, WORTHWHILE * most)
    return max(side for side in SIDES if situation.steps(side) >= enough)


def _epochs(situation: Situation) -> Iterator[Choice]:
    """Yield more epochs for a handful of images, where the length is counted in epochs."""
    config, images = situation.config, situation.data.images
    if situation.clock is None and "training.epochs" not in situation.given:
        batches = max(images // config.data.batch_size, 1)
        epochs = math.ceil(LEAST_STEPS * config.training.accumulate / batches)
        if epochs > config.training.epochs:
            values: dict[str, object] = {"training.epochs": epochs}
            if "training.evaluate_every" not in situation.given:  # as often in all as it would be
                every = config.training.evaluate_every * epochs // config.training.epochs
                values["training.evaluate_every"] = every
            yield Choice(values, f"at least {LEAST_STEPS} steps")


def _scale(data: Statistics, side: int) -> float:
    """Return by how much an image of the usual size grows."""
    return max(_fitted(data, side)) / max(data.size)


def _fitted(data: Statistics, side: int) -> tuple[int, int]:
    return fitted_size(data.size, round(SHORT_SHARE * side), side)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
