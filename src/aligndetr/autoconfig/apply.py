"""From a preset to the configuration for some data, some minutes and this machine."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

import torch
from accelerate.utils import broadcast_object_list

from aligndetr.autoconfig.machine import measure_room, measure_speed
from aligndetr.autoconfig.rules import Choice, Clock, Situation, choose, choose_counts
from aligndetr.config.codec import override
from aligndetr.config.schema import AnyConfig
from aligndetr.data.annotations import Annotations
from aligndetr.data.statistics import Statistics


def configure(
    config: AnyConfig,
    train_split: Annotations,
    val_split: Annotations,
    *,
    minutes: float | None,
    device: torch.device,
    given: Collection[str],
    say: Callable[[str], None],
) -> AnyConfig:
    """Return the configuration with what the data and the time decide on, and tell of each choice.

    The processes of a distributed run take the choices of the first, which may have measured
    another speed.

    Args:
        config: With `training.autoconfig`, which the result has not: it is settled.
        train_split: The images to train on.
        val_split: Those to evaluate on.
        minutes: Of the whole command; without them nothing is timed.
        device: Where training will run.
        given: Fields that the user has set, which stay as they are.
        say: Told in one line each.
    """
    data = Statistics.of(train_split)
    say(f"autoconfig: {data}")
    counts = list(choose_counts(config, data, given))
    settled = override(config, _assignments(counts))
    room, clock = measure_room(settled, device), None
    if minutes is not None:
        objects = max(1, round(data.objects / data.images))
        clock = Clock(minutes, measure_speed(settled, train_split, device, objects=objects))
    situation = Situation(settled, data, len(val_split), room, clock, given)
    choices: list[Choice] = broadcast_object_list([[*counts, *choose(situation)]])[0]
    for choice in choices:
        say(f"autoconfig: {choice}")
    return override(config, ["training.autoconfig=false", *_assignments(choices)])


def _assignments(choices: Iterable[Choice]) -> list[str]:
    return [assignment for choice in choices for assignment in choice.assignments]
