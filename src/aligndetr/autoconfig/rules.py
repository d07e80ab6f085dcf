"""The rules: what the statistics of the data and the speed of the machine say of each setting.

Nothing here measures or changes anything; docs/laptop.md says where the numbers come from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from aligndetr.autoconfig.speed import Speed
from aligndetr.config.schema import AnyConfig, Config
from aligndetr.data.statistics import Statistics
from aligndetr.data.transforms import LightAugmentation, fitted_size

SIDES = (192, 224, 256, 288, 320, 384, 448, 512, 640, 768, 896, 1024)
"""Longer sides of images to choose from; the shorter side is three quarters, at most."""
USUAL_SIDE = 384
"""Where objects are not small."""
SHORT_SHARE = 0.75
NEEDED_SIDE = 16.0
"""Pixels of the model's input that small objects should have: two cells of its finest level."""
LARGEST_SCALE = 2.0
"""Images are not blown up by more."""
STEPS_WANTED = 450
"""Below so many optimizer steps, smaller images are worth more than sharp ones."""
QUERIES_AN_OBJECT = 1.5
FEWEST_QUERIES, MOST_QUERIES, QUERY_STEP = 100, 900, 50
OVERHEAD_SECONDS, TRAINING_SHARE = 12.0, 0.75
"""What a command takes for everything else, and the share of the rest that is optimizer steps."""
CACHE_SHARE = 0.2
"""Of the time, which one view of each image may take to cache."""


@dataclass(frozen=True)
class Clock:
    """A budget in minutes on a machine of some speed."""

    minutes: float
    speed: Speed

    @property
    def step_seconds(self) -> float:
        """The time for optimizer steps."""
        return TRAINING_SHARE * max(60 * self.minutes - OVERHEAD_SECONDS, 0.0)


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


def choose(config: AnyConfig, data: Statistics, clock: Clock | None) -> Iterator[Choice]:
    """Yield what the data, and the clock where there is one, say that differs from `config`.

    A choice is made for the configuration with the earlier ones in it; who leaves one out, as a
    user who has set the field does, may still take the others.
    """
    if isinstance(config, Config):
        yield from _queries(config, data)
    side = config.data.augmentation.max_side
    if isinstance(config.data.augmentation, LightAugmentation):
        side, why = _side(config, data, clock)
        if side != config.data.augmentation.max_side:
            sides = {"short_side": round(SHORT_SHARE * side), "max_side": side}
            yield Choice({f"data.augmentation.{key}": value for key, value in sides.items()}, why)
    if config.data.cache_features and clock is not None:
        yield from _cache(data, clock, side)


def _queries(config: Config, data: Statistics) -> Iterator[Choice]:
    """Yield more queries where images are full."""
    wanted = QUERY_STEP * -(-int(QUERIES_AN_OBJECT * data.most_objects) // QUERY_STEP)
    count = min(max(wanted, FEWEST_QUERIES), MOST_QUERIES)
    if count > config.queries.count:
        yield Choice({"queries.count": count}, f"{data.most_objects} objects in the fullest image")


def _side(config: AnyConfig, data: Statistics, clock: Clock | None) -> tuple[int, str]:
    """Return the longer side of the images, and why."""
    needed = _needed_side(data)
    wanted, why = max(needed, USUAL_SIDE), "as usual"
    if needed > USUAL_SIDE:
        why = f"gives small objects {_scale(data, needed) * (data.small_side or 0):.0f} pixels"
    largest = max((side for side in SIDES if _scale(data, side) <= LARGEST_SCALE), default=SIDES[0])
    if largest < wanted:
        wanted, why = largest, f"images have {data.size[1]}x{data.size[0]} pixels themselves"
    if clock is not None:
        affordable = _affordable_side(config, data, clock)
        if affordable < wanted:
            wanted = affordable
            why = f"leaves {clock.minutes:g} minutes about {STEPS_WANTED} steps"
    return wanted, why


def _needed_side(data: Statistics) -> int:
    """Return the smallest side at which small objects have the pixels that they need."""
    if data.small_side is None:
        return SIDES[0]
    small = data.small_side
    return next((side for side in SIDES if _scale(data, side) * small >= NEEDED_SIDE), SIDES[-1])


def _affordable_side(config: AnyConfig, data: Statistics, clock: Clock) -> int:
    """Return the largest side at which there is time for the steps wanted."""
    images = STEPS_WANTED * config.data.batch_size
    cost = clock.speed.step
    if not config.data.cache_features:
        cost += clock.speed.backbone
    fitting = [side for side in SIDES if images * cost * _pixels(data, side) <= clock.step_seconds]
    return max(fitting, default=SIDES[0])


def _cache(data: Statistics, clock: Clock, side: int) -> Iterator[Choice]:
    """Yield that there is no cache, where one view of each image would take too long."""
    seconds = data.images * clock.speed.backbone * _pixels(data, side)
    if seconds > CACHE_SHARE * 60 * clock.minutes:
        yield Choice(
            {"data.cache_features": False},
            f"features of all {data.images} images would take about {seconds / 60:.1f} minutes",
        )


def _pixels(data: Statistics, side: int) -> int:
    height, width = _fitted(data, side)
    return height * width


def _scale(data: Statistics, side: int) -> float:
    """Return by how much an image of the median size grows."""
    return max(_fitted(data, side)) / max(data.size)


def _fitted(data: Statistics, side: int) -> tuple[int, int]:
    return fitted_size(data.size, round(SHORT_SHARE * side), side)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
