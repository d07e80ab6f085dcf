"""The figures of the report as PNG files, light and safe for colour-blind readers.

Drawn with matplotlib's figures alone: nothing here touches its global state.
"""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from aligndetr.report.charts import TOPS, top_name
from aligndetr.report.charts_errors import (
    LONGEST_NAME,
    MOST_NUMBERS,
    error_name,
    known_errors,
    mean_curve,
)
from aligndetr.report.content import AnalysisRecord, ByTop
from aligndetr.report.markup import legible
from aligndetr.report.png import write_png
from aligndetr.report.words import count, decimal, points

BEST, CONFIDENT, GREY = "#0072B2", "#D55E00", "#6B7682"
STYLES = ((BEST, "-", "o"), ("#CC79A7", "--", "s"))
"""Colour, line and marker of the analysis and of the one that it is compared with (Okabe, Ito)."""
DPI = 200
SIZE = (4.8, 3.6)
ENDS = ("", "_b")
"""Of the names of figures that show one detector: the analysed one, and the one compared with."""

Records = Sequence[tuple[str, AnalysisRecord]]
Draw = Callable[[Axes, Records], None]


def write_figures(
    record: AnalysisRecord, out: Path, *, other: AnalysisRecord | None = None
) -> list[Path]:
    """Write every figure that there are data for into a folder; return the files.

    Figures of an earlier analysis that has data for more are taken away.

    Raises:
        CheckpointError: A file cannot be written.
    """
    records: Records = [("", record)] if other is None else [("A", record), ("B", other)]
    drawn: list[tuple[str, Draw, bool]] = [
        ("recall", _recall, any(v is not None for v in record.br_recall.values())),
        ("oracle_ap", _order, record.ap.AP is not None and record.oracle_ap.AP is not None),
        ("errors", _errors, bool(known_errors(record.errors))),
        ("precision_recall", _precision, bool(mean_curve(record.curves, "0.5"))),
        ("calibration", _calibration, any(record.calibration.counts)),
    ]
    single: list[tuple[str, Draw, Callable[[AnalysisRecord], bool]]] = [
        ("iou_histograms", _iou, lambda r: sum(r.histogram.best_regressed) > 0),
        ("density", _density, lambda r: any(any(row) for row in r.density.counts)),
        ("confusion", _confusion, lambda r: any(any(row) for row in r.confusion.counts)),
    ]
    written = [_write(out / f"{name}.png", draw, records) for name, draw, has in drawn if has]
    for name, draw, has in single:
        for letter, one in records:
            if has(one):
                suffix = ENDS[letter == "B"]
                written.append(_write(out / f"{name}{suffix}.png", draw, [(letter, one)]))
    names = [*(name for name, *_ in drawn), *(f"{n}{end}" for n, *_ in single for end in ENDS)]
    for path in {out / f"{name}.png" for name in names} - {*written}:
        if path.is_file():  # of an earlier analysis
            path.unlink()
    return written


def _write(path: Path, draw: Draw, records: Records) -> Path:
    figure = Figure(figsize=SIZE, layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#E6EAEE")
    axes.set_axisbelow(True)
    draw(axes, records)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # names in any script
        write_png(path, figure, dpi=DPI)
    return path


def _recall(axes: Axes, records: Records) -> None:
    for (letter, record), (colour, line, marker) in zip(records, STYLES, strict=False):
        name = letter or "best-regressed"
        _by_top(axes, record.br_recall, colour, line, marker, name)
        bands = [(int(top), i) for top in TOPS if (i := record.intervals.br_recall.get(top))]
        if bands:
            xs, intervals = zip(*bands, strict=True)
            low, high = zip(*intervals, strict=True)
            axes.fill_between(xs, low, high, color=colour, alpha=0.15, linewidth=0)
    if len(records) == 1:
        near = sorted(records[0][1].br_recall_within.items())
        for (tolerance, values), line in zip(near, (":", "--", "-.", ":"), strict=False):
            if float(tolerance) > 0:
                _by_top(axes, values, GREY, line, ".", f"within {tolerance} IoU")
    axes.set_xticks([int(top) for top in TOPS], [top_name(top) for top in TOPS])
    axes.set(xlabel="most confident predictions", ylabel="recall of BR samples", ylim=(0, 1))
    axes.legend(frameon=False)


def _by_top(axes: Axes, values: ByTop, colour: str, line: str, marker: str, name: str) -> None:
    known = [(int(top), value) for top in TOPS if (value := values.get(top)) is not None]
    if known:
        axes.plot(*zip(*known, strict=True), line, color=colour, marker=marker, label=name)


def _iou(axes: Axes, records: Records) -> None:
    ((letter, record),) = records
    axes.set_title(letter, fontsize=10)
    histogram = record.histogram
    for numbers, mean, colour, name in (
        (histogram.highest_confidence, record.mean_iou_hc, CONFIDENT, "most confident"),
        (histogram.best_regressed, record.mean_iou_br, BEST, "best-regressed"),
    ):
        total = max(sum(numbers), 1)
        shares = [number / total for number in numbers]
        label = f"{name} (mean {decimal(mean)})"
        axes.stairs(shares, histogram.edges, fill=True, alpha=0.25, color=colour)
        axes.stairs(shares, histogram.edges, color=colour, linewidth=1.6, label=label)
    axes.set(xlabel="IoU with the object", ylabel="share of boxes", xlim=(0, 1))
    axes.legend(frameon=False, loc="upper left")


def _density(axes: Axes, records: Records) -> None:
    ((letter, record),) = records
    edges, counts = record.density.edges, np.array(record.density.counts)
    norm = LogNorm(1, max(2, counts.max()))
    mesh = axes.pcolormesh(
        edges, edges, np.ma.masked_equal(counts, 0), norm=norm, cmap="viridis", rasterized=True
    )
    axes.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1)
    axes.set(xlabel="IoU", ylabel="confidence", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set_title(f"{letter} Pearson {decimal(record.pearson)}".strip(), fontsize=10)
    ticks = sorted({1, int(counts.max())} | {10**n for n in range(9) if 10**n < counts.max()})
    bar = axes.figure.colorbar(mesh, ax=axes, label="pairs", ticks=ticks, format="{x:.0f}")
    bar.minorticks_off()


def _order(axes: Axes, records: Records) -> None:
    names = ("AP", "AP50", "AP75")
    width = 0.38 / len(records)
    for n, ((letter, record), (colour, _, _)) in enumerate(zip(records, STYLES, strict=False)):
        for m, (one, alpha, order) in enumerate(
            ((record.ap, 1.0, "as ranked"), (record.oracle_ap, 0.4, "best order"))
        ):
            places = np.arange(len(names)) + (2 * n + m - len(records) + 0.5) * width
            heights = [100 * (getattr(one, name) or 0.0) for name in names]
            bars = axes.bar(
                places, heights, width, color=colour, alpha=alpha, label=f"{letter} {order}".strip()
            )
            axes.bar_label(bars, [f"{height:.1f}" for height in heights], fontsize=7, padding=2)
    axes.set_xticks(range(len(names)), names)
    axes.grid(visible=False, axis="x")
    axes.set(ylabel="average precision", ylim=(0, 108))
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, 1.16))


def _errors(axes: Axes, records: Records) -> None:
    kinds = known_errors(records[0][1].errors)
    width = 0.8 / len(records)
    for n, ((letter, record), (colour, _, _)) in enumerate(zip(records, STYLES, strict=False)):
        values = [record.errors.get(kind) or 0.0 for kind in kinds]
        places = np.arange(len(kinds)) + (n + 0.5) * width - 0.4
        bars = axes.barh(places, [100 * v for v in values], width, color=colour, label=letter)
        axes.bar_label(bars, [points(value) for value in values], fontsize=8, padding=3)
    axes.set_yticks(range(len(kinds)), [error_name(kind) for kind in kinds])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.12)
    axes.set(xlabel="AP50 gained when only this is mended")
    if len(records) > 1:
        axes.legend(frameon=False)


def _precision(axes: Axes, records: Records) -> None:
    for (letter, record), (colour, _, _) in zip(records, STYLES, strict=False):
        for threshold, line in (("0.5", "-"), ("0.75", "--")):
            curve = mean_curve(record.curves, threshold)
            if curve:
                label = f"{letter} IoU {threshold}".strip()
                axes.plot(*zip(*curve, strict=True), line, color=colour, label=label)
    axes.set(xlabel="recall", ylabel="precision, mean of classes", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(frameon=False)


def _calibration(axes: Axes, records: Records) -> None:
    axes.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1)
    for (letter, record), (colour, line, marker) in zip(records, STYLES, strict=False):
        table = record.calibration
        known = [
            (sure, right)
            for sure, right in zip(table.confidence, table.precision, strict=False)
            if sure is not None and right is not None
        ]
        if known:
            label = f"{letter} error {decimal(table.ece)}".strip()
            axes.plot(*zip(*known, strict=True), line, color=colour, marker=marker, label=label)
    axes.set(xlabel="confidence", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1))
    axes.set_aspect("equal")
    axes.legend(frameon=False, loc="upper left")


def _confusion(axes: Axes, records: Records) -> None:
    ((letter, record),) = records
    axes.set_title(letter, fontsize=10)
    names, counts = record.confusion.classes, np.array(record.confusion.counts, dtype=float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.grid(visible=False)
    size = max(2.5, min(8.0, 150 / len(names)))
    short = [legible(name[:LONGEST_NAME]) for name in names]
    axes.set_xticks(range(len(names)), short, rotation=90, fontsize=size)
    axes.set_yticks(range(len(names)), short, fontsize=size)
    axes.set(xlabel="found as", ylabel="what it is")
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set_parse_math(False)  # a name may have dollar signs
    if len(names) > MOST_NUMBERS:
        return
    for (row, column), number in np.ndenumerate(counts):
        ink = "white" if shares[row, column] > 0.55 else "black"
        axes.text(column, row, count(number), ha="center", va="center", color=ink, fontsize=8)
