"""The verb `reproduce`: the paper's tables and figures, in full or on a laptop."""

import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from aligndetr.errors import ConfigError
from aligndetr.tables import print_json, print_table

if TYPE_CHECKING:
    from aligndetr.reproduce.full import FullArm

DEFAULT_OUT = Path("runs/reproduce")


class Scale(StrEnum):
    """How much of the paper's experiment is run."""

    full = "full"
    laptop = "laptop"


def reproduce(
    tables: Annotated[
        list[str],
        typer.Argument(
            metavar="TABLE ...",
            help="2, 3, 4, 5, 6 or 6a, 6b, 6c, 7, 8, B, fig1, fig4, figA, figB, all",
        ),
    ],
    scale: Annotated[
        Scale, typer.Option(help="full: commands for COCO and GPUs; laptop: small, here and now.")
    ] = Scale.laptop,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="laptop: data to train on; else the synthetic set."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help=f"Where results go; laptop: {DEFAULT_OUT} by default."),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="laptop: paired seeds of every arm (3).")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="laptop: steps of an arm (600).")
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            "--minutes-an-arm", metavar="N", min=0.01, help="laptop: the steps that fit N minutes."
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(metavar="N,N,...", help="laptop: class weights to choose from (1,2,4,8)."),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=C ...", help="laptop: change all arms alike."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="full: take one step of every arm, on the CPU.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Run the paper's tables and figures: in full on COCO, or small on any data.

    Laptop scale continues where it was stopped, and writes table.md, table.json and picture.png.
    """
    if scale is Scale.full:
        _refuse({"--data": data, "--seeds": seeds, "--steps": steps, "--minutes-an-arm": minutes,
                 "--weights": weights, "--set": assignments}, "laptop")  # fmt: skip
        _full(tables, out, check=check, as_json=as_json)
        return
    _refuse({"--check": check}, "full")
    if minutes is not None and not math.isfinite(minutes):
        raise ConfigError(f"--minutes-an-arm: expected a number of minutes, found {minutes:g}")
    if steps is not None and minutes is not None:
        raise ConfigError(
            "aligndetr reproduce: expected at most one of --steps, --minutes-an-arm, found both; "
            "leave one out"
        )
    from aligndetr.reproduce.command import (
        SEEDS,
        WEIGHTS,
        Length,
        Small,
        parse_weights,
        reproduce_small,
    )

    options = Small(
        data,
        seeds or SEEDS,
        Length(steps, minutes),
        WEIGHTS if weights is None else parse_weights(weights),
        tuple(assignments or ()),
    )
    folder = out or DEFAULT_OUT
    with redirect_stdout(sys.stderr):
        found = reproduce_small(tables, folder, options, say=_say)
    if as_json:
        print_json(found)
    else:
        _print_claims(found)


def _full(tables: Sequence[str], out: Path | None, *, check: bool, as_json: bool) -> None:
    from aligndetr.reproduce.command import reproduce_full
    from aligndetr.reproduce.full import GPUS

    with redirect_stdout(sys.stderr):
        arms = reproduce_full(tables, out, check=check, say=_say)
    if as_json:
        print_json([arm.as_json() for arm in arms])
        return
    names = ("table", "arm", "paper AP", "epochs", "batch", "V100 hours")
    print_table(names, [_full_row(arm) for arm in arms])
    hours = sum(arm.gpu_hours for arm in arms)
    typer.echo(
        f"About {hours:.0f} V100 hours in all, {hours / GPUS / 24:.1f} days on {GPUS} GPUs: an "
        "estimate from published times, within a factor of two; equal arms are trained once."
    )
    typer.echo("Commands: --json, or --out DIR for a shell script.")


def _full_row(arm: "FullArm") -> tuple[str, ...]:
    ap = arm.arm.paper.get("AP")
    return (
        arm.experiment,
        arm.arm.label,
        "-" if ap is None else f"{ap:.1f}",
        str(arm.epochs),
        str(arm.batch_size),
        f"{arm.gpu_hours:.0f}" if arm.shares is None else f"as {arm.shares}",
    )


def _print_claims(found: Sequence[Mapping[str, object]]) -> None:
    rows = [
        (str(table["experiment"]), str(claim["text"]), str(claim["verdict"]))
        for table in found
        for claim in cast(Sequence[Mapping[str, object]], table["claims"])
    ]
    print_table(("table", "the paper's order", "here"), rows)


def _refuse(options: Mapping[str, object], scale: str) -> None:
    given = [name for name, value in options.items() if value not in (None, False, [])]
    if given:
        raise ConfigError(
            f"aligndetr reproduce: expected {given[0]} with --scale {scale} only, found it with "
            "the other; leave it out, or choose the other scale"
        )


def _say(text: str) -> None:
    typer.echo(text, err=True)
