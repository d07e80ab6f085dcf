"""`aligndetr models`."""

import re
from typing import TYPE_CHECKING, Annotated

import typer

from aligndetr.errors import ConfigError
from aligndetr.tables import print_costs, print_json, print_models
from aligndetr.verbs.options import AsJson, counting

if TYPE_CHECKING:
    from aligndetr.config.presets import PresetInfo
    from aligndetr.cost import Cost, Size

SMALLEST_SIDE = 64
"""Pixels of an image whose cost can be asked for."""


def models(
    model: Annotated[
        str | None, typer.Option(metavar="PRESET", help="Show this one alone.")
    ] = None,
    cost: Annotated[
        bool,
        typer.Option("--cost", help="Count parameters and multiply-adds; a minute for all."),
    ] = False,
    size: Annotated[
        str, typer.Option(metavar="HxW", help="Size of the image whose multiply-adds are counted.")
    ] = "800x1333",
    as_json: AsJson = False,
) -> None:
    """List the presets that `train --model` knows, and what they cost."""
    from dataclasses import asdict

    from aligndetr.config.presets import describe, list_presets

    presets = list_presets() if model is None else [describe(model)]
    if cost:
        _print_costs(presets, _size(size), as_json=as_json)
    elif as_json:
        print_json([asdict(preset) for preset in presets])
    else:
        print_models(presets)


def _print_costs(presets: "list[PresetInfo]", size_hw: "Size", *, as_json: bool) -> None:
    from dataclasses import asdict

    from aligndetr.config.presets import get_preset
    from aligndetr.cost import costs

    counted: list[Cost] = []
    with counting("networks counted") as progress:
        wanted = ((get_preset(preset.name), preset.gflops) for preset in presets)
        for cost in costs(wanted, size_hw):
            counted.append(cost)
            progress(1)
    if as_json:
        print_json(
            [
                {**asdict(preset), "cost": asdict(cost)}
                for preset, cost in zip(presets, counted, strict=True)
            ]
        )
    else:
        print_costs(presets, counted)


def _size(text: str) -> "Size":
    sides = re.fullmatch(r"(\d+)x(\d+)", text)
    if sides is None or min(int(side) for side in sides.groups()) < SMALLEST_SIDE:
        raise ConfigError(
            f"aligndetr models: expected --size HxW, each at least {SMALLEST_SIDE} pixels, "
            f"found {text!r}; write it like 800x1333"
        )
    return int(sides[1]), int(sides[2])
