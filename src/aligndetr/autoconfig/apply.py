"""From a preset to the configuration for some data, some minutes and this machine."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from accelerate.utils import broadcast_object_list

from aligndetr.autoconfig.rules import Clock, choose
from aligndetr.autoconfig.speed import measure_speed
from aligndetr.config.codec import override
from aligndetr.config.schema import AnyConfig
from aligndetr.data.annotations import Annotations
from aligndetr.data.statistics import Statistics


def configure(
    config: AnyConfig,
    split: Annotations,
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
        split: The images to train on.
        minutes: Of the whole command; without them nothing is timed.
        device: Where training will run.
        given: Fields that the user has set, which stay as they are.
        say: Told in one line each.
    """
    data = Statistics.of(split)
    say(f"autoconfig: {data}")
    clock = None
    if minutes is not None:
        objects = max(1, round(data.objects / data.images))
        clock = Clock(minutes, measure_speed(config, device, objects=objects))
        clock = broadcast_object_list([clock])[0]
    settled = override(config, ["training.autoconfig=false"])
    for choice in choose(config, data, clock):
        if not choice.values.keys() & given:
            say(f"autoconfig: {choice}")
            settled = override(settled, choice.assignments)
    return settled
