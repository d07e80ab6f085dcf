"""What the command line prints: tables for people, JSON for programs."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from aligndetr.config.presets import PresetInfo
    from aligndetr.convert.convert import Converted
    from aligndetr.cost import Cost, Size

COCO_METRICS = {
    "AP": "precision, IoU 0.50:0.95",
    "AP50": "precision, IoU 0.50",
    "AP75": "precision, IoU 0.75",
    "APs": "precision, small objects",
    "APm": "precision, medium objects",
    "APl": "precision, large objects",
    "AR1": "recall, 1 detection an image",
    "AR10": "recall, 10 detections an image",
    "AR100": "recall, 100 detections an image",
    "ARs": "recall, small objects",
    "ARm": "recall, medium objects",
    "ARl": "recall, large objects",
}
"""The twelve COCO numbers in their usual order, and what each is the average of."""
CLASS_METRICS = ("AP", "AP50", "AR100")
LONGEST_LIST = 20
"""Images that `predict` lists one by one; the others are counted."""
WIDE_ENOUGH = 100
"""Columns of a terminal from which on the list of presets says what each is for."""
UNFOLDED = 200
"""Columns where the output is no terminal."""
ANALYSIS_ROWS = {
    "AP": (("ap", "AP"), ("AP",)),
    "AP if boxes were ranked by their IoU": (("oracle_ap", "AP"), ("oracle_AP",)),
    "AP that misalignment costs": (("ap_cost",), ("ap_cost",)),
    "recall of best boxes among the N most confident": (("br_recall", "1"), ("br_recall", "1")),
    "the same, boxes worse by .05 accepted": (("br_recall_within", "0.05", "1"),) * 2,
    "Pearson, confidence and IoU": (("pearson",), ("pearson",)),
    "mean IoU of the best boxes": (("mean_iou_br",), ("mean_iou_br",)),
    "mean IoU of the most confident boxes": (("mean_iou_hc",), ("mean_iou_hc",)),
}
"""What is printed of an analysis -> where it is in its file, and below the file's `intervals`.

Below `differences` it is under the first key of the latter, where it is."""


def print_json(value: object) -> None:
    """Print the value as JSON."""
    typer.echo(json.dumps(value, indent=2, default=str))


def print_run(folder: Path, metrics: Mapping[str, object], data: Path | None) -> None:
    """Print a finished training: its AP, and the commands that come next."""
    if metrics:
        names = [name for name in COCO_METRICS if name.startswith("AP")]  # narrow enough for any
        print_table(names, [[_number(metrics[name]) for name in names]])
    _print_next(folder, data)


def _print_next(folder: Path, data: Path | None) -> None:
    run = shlex.quote(str(folder))
    typer.echo(f"The run is in {folder}. Next:")
    typer.echo(f"  aligndetr eval --model {run} --data {shlex.quote(str(data or 'DIR'))}")
    out = shlex.quote(str(folder / "predictions"))
    typer.echo(f"  aligndetr predict --model {run} --source IMAGE --out {out}")


def print_metrics(metrics: Mapping[str, object]) -> None:
    """Print the twelve COCO numbers, and each class's AP."""
    rows = [(name, _number(metrics[name]), text) for name, text in COCO_METRICS.items()]
    print_table(("metric", "value", "average"), rows)
    classes = cast(Mapping[str, Mapping[str, object]], metrics["per_class"])
    class_rows = [
        (name, *(_number(values[metric]) for metric in CLASS_METRICS))
        for name, values in classes.items()
    ]
    print_table(("class", *CLASS_METRICS), class_rows)
    typer.echo(f"{metrics['images']} images in {metrics['seconds']:.1f} s")


def print_analysis(content: Mapping[str, object], out: Path) -> None:
    """Print the main numbers of an analysis with their intervals, and where its report is."""
    intervals = cast(Mapping[str, object], content["intervals"])
    rows = [
        (text, _number(_below(content, value)), _interval(_below(intervals, interval)))
        for text, (value, interval) in ANALYSIS_ROWS.items()
    ]
    print_table(("number", "value", "95 % interval"), rows)
    if "compared" in content:
        other = cast(Mapping[str, object], content["compared"])
        differences = cast(Mapping[str, object], content["differences"])
        compared = [
            (text, _number(_below(other, value)), _interval(differences.get(interval[0])))
            for text, (value, interval) in ANALYSIS_ROWS.items()
        ]
        print_table((str(other["title"]), "value", "difference, 95 %"), compared)
    typer.echo(f"The report is {out / 'report.html'}; open it in a browser.")


def _below(content: Mapping[str, object], keys: Sequence[str]) -> object:
    """Return what is under some keys, one within the other."""
    *parents, last = keys
    for key in parents:
        content = cast(Mapping[str, object], content[key])
    return content[last]


def _interval(value: object) -> str:
    if value is None:
        return ""
    low, high = cast(Sequence[float], value)
    return f"{low:.3f} to {high:.3f}"


def print_found(found: Sequence[Mapping[str, object]], out: Path) -> None:
    """Print how many objects each image has."""
    rows = [(str(image["file"]), str(image["detections"])) for image in found[:LONGEST_LIST]]
    print_table(("image", "objects"), rows)
    if len(found) > LONGEST_LIST:
        typer.echo(f"and {len(found) - LONGEST_LIST} images more")
    typer.echo(f"Pictures and predictions.json are in {out}.")


def print_converted(converted: Converted, out: Path) -> None:
    """Print what was recognised, what it became, and the commands that come next."""
    config, found, names = converted.config, converted.fit, converted.classes.names
    entry = "" if converted.entry is None else f", entry {converted.entry!r} of the file"
    strides = ", ".join(map(str, config.backbone.strides))
    cut = "" if len(names) == converted.rows else f" of {converted.rows} rows"
    rows = {
        "weights": f"{converted.layout}{entry}",
        "system": (
            f"{config.name} with width {config.width}, {config.heads} heads, "
            f"{config.encoder.layers} + {config.decoder.layers} layers, {config.queries.count} "
            f"queries: {converted.num_parameters / 1e6:.1f} M parameters"
        ),
        "backbone": f"{config.backbone.name}, strides {strides}",
        "classes": f"{len(names)}{cut}: {', '.join(names[:4])}{', ...' * (len(names) > 4)}",
        "afresh": ", ".join(found.fresh) + ", which only training needs" if found.fresh else "",
        "left out": f"{len(found.left_out)} tensors, named in convert.json"
        if found.left_out
        else "",
    }
    for name, text in rows.items():
        if text:
            typer.echo(f"{name:<10}{text}")
    _print_next(out, None)
    typer.echo(f"  aligndetr train --model {shlex.quote(str(out))} --data DIR --out RUN")


def print_models(presets: Sequence[PresetInfo]) -> None:
    """Print the presets with what their papers report, and in a wide terminal what they are for."""
    rows = [
        (
            preset.name,
            _decimal(preset.ap),
            str(preset.epochs),
            _whole(preset.params_m),
            _whole(preset.gflops),
            preset.paper.partition("arXiv:")[2].rstrip(")"),
            preset.purpose,
        )
        for preset in presets
    ]
    names = ("model", "AP", "epochs", "M", "GFLOPS", "arXiv", "for")
    shown = len(names) if _console().width >= WIDE_ENOUGH else len(names) - 1
    print_table(names[:shown], [row[:shown] for row in rows])
    typer.echo("COCO AP, millions of parameters and GFLOPS are the papers'; --cost counts ours.")
    typer.echo("Train one: aligndetr train --model MODEL --data DIR --out RUN")


def print_costs(presets: Sequence[PresetInfo], costs: Sequence[Cost]) -> None:
    """Print what each network costs beside what its paper says."""
    rows = [
        (
            preset.name,
            f"{cost.params_m:.1f}",
            _whole(preset.params_m),
            f"{cost.gmacs:.1f}",
            _whole(preset.gflops),
            "-" if cost.equal_size_hw is None else spell_size(cost.equal_size_hw),
        )
        for preset, cost in zip(presets, costs, strict=True)
    ]
    print_table(("model", "M", "paper", "GMACs", "paper", "equal at"), rows)
    if costs:
        size = spell_size(costs[0].size_hw)
        typer.echo(f"M: millions of parameters. GMACs: 10^9 multiply-adds at {size}.")
        typer.echo("Papers' GFLOPS are multiply-adds too, mostly the average over COCO's images.")


def spell_size(size_hw: Size) -> str:
    """Return a size as it is given on the command line: height x width."""
    return f"{size_hw[0]}x{size_hw[1]}"


def print_table(names: Iterable[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows of cells under their names; the first column is never cut."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(*names, box=SIMPLE_HEAD, show_edge=False, collapse_padding=True)
    table.columns[0].no_wrap = True
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    _console().print(table)


def _console() -> Console:
    """Return the terminal; what goes to a file or a pipe is not folded."""
    from rich.console import Console

    is_given = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if is_given else UNFOLDED)


def _number(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "-"


def _decimal(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _whole(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"
