"""The picture of an outcome: dots by arm, or what the figure of the paper shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import mean

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from aligndetr.report.png import write_png
from aligndetr.reproduce.misalignment import Kept
from aligndetr.reproduce.outcome import ArmOutcome, Outcome
from aligndetr.reproduce.predictions import draw_predictions
from aligndetr.reproduce.statistics import difference, summary

PICTURE = "picture.png"
DOTS = ("AP", "AP75", "br_recall_1", "pearson")
MULTIPLES = ("1", "2", "3", "4", "5")


def draw(outcome: Outcome, folder: Path) -> None:
    """Write the picture that the experiment has; dots where there is nothing for its own."""
    if outcome.experiment.picture == "boxes":
        measured = [arm for arm in outcome.arms if arm.first is not None]
        if measured:
            draw_predictions(measured[0], outcome.data, folder / PICTURE)
            return
    drawers: dict[str, Callable[[Outcome], Figure | None]] = {
        "recall": _recall,
        "density": _density,
        "curves": _curves,
    }
    drawer = drawers.get(outcome.experiment.picture)
    figure = (drawer and drawer(outcome)) or _dots(outcome)
    FigureCanvasAgg(figure)
    write_png(folder / PICTURE, figure, dpi=150)


def _dots(outcome: Outcome) -> Figure:
    """Return a panel a metric: a dot a seed, the mean, and the interval of the paired difference.

    The bar stands on the baseline's mean plus the difference, so that one that does not touch the
    baseline's line is a difference that can be told.
    """
    metrics = [name for name in DOTS if name in outcome.metrics]
    height = 1.2 + 0.4 * len(outcome.arms)
    figure = Figure(figsize=(3.2 * max(len(metrics), 1) + 2, height), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, max(len(metrics), 1), sharey=True))
    for axes, metric in zip(panels, metrics, strict=False):
        for row, arm in enumerate(outcome.arms):
            _dot_row(axes, row, arm, outcome, metric)
        axes.set_xlabel(metric)
        axes.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(outcome.arms)), [arm.arm.label for arm in outcome.arms])
    panels[0].invert_yaxis()
    figure.suptitle(f"{outcome.experiment.heading}, {outcome.data.name}")
    return figure


def _dot_row(axes: Axes, row: int, arm: ArmOutcome, outcome: Outcome, metric: str) -> None:
    values, baseline = arm.values(metric), outcome.arm(outcome.experiment.baseline)
    found = summary(values)
    if found is None:
        return
    axes.plot(list(values.values()), [row] * len(values), "o", color="0.6", markersize=4)
    axes.plot([found.mean], [row], "D", color="C0", markersize=6)
    if baseline is None or not (reference := summary(baseline.values(metric))):
        return
    if arm is baseline:
        axes.axvline(reference.mean, color="C3", linewidth=1)
        return
    change = difference(values, baseline.values(metric))
    if change is not None and change.low is not None and change.high is not None:
        ends = [reference.mean + change.low, reference.mean + change.high]
        axes.plot(ends, [row, row], "-", color="C0", linewidth=2)


def _recall(outcome: Outcome) -> Figure | None:
    """Return Figure 1: recall of best-regressed samples by multiples of N, and IoU histograms."""
    if "br_recall_1" not in outcome.metrics:
        return None
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    measured = [arm for arm in outcome.arms if arm.values("br_recall_1")]
    for arm in measured:
        shares = [mean(arm.values(f"br_recall_{m}").values()) for m in MULTIPLES]
        left.plot([f"{m}N" for m in MULTIPLES], shares, "o-", label=arm.arm.label)
    left.set_ylabel("recall of best-regressed samples, %")
    left.legend()
    _histogram(right, measured[0])
    return figure


def _histogram(axes: Axes, arm: ArmOutcome) -> None:
    found = analysis_of(arm)
    if found is None:
        return
    named = {
        "best regressed": found.best_regressed,
        "highest confidence": found.highest_confidence,
    }
    for name, counts in named.items():
        edges = np.linspace(0, 1, len(counts) + 1)
        axes.stairs(counts, edges, label=name, fill=True, alpha=0.5)
    axes.set_xlabel(f"IoU, {arm.arm.label}")
    axes.legend()


def _density(outcome: Outcome) -> Figure | None:
    """Return Figure 4: how often matched predictions have a confidence and an IoU."""
    maps = [(arm, analysis_of(arm)) for arm in outcome.arms]
    known = [(arm, np.asarray(found.density)) for arm, found in maps if found is not None]
    if not known:
        return None
    figure = Figure(figsize=(5 * len(known), 4.4), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(known)))
    for axes, (arm, counts) in zip(panels, known, strict=True):
        axes.imshow(counts, origin="lower", extent=(0, 1, 0, 1), cmap="magma")
        pearson = summary(arm.values("pearson"))
        told = "" if pearson is None else f", Pearson {pearson.mean / 100:.2f}"
        axes.set(title=arm.arm.label + told, xlabel="IoU", ylabel="confidence")
    return figure


def analysis_of(arm: ArmOutcome) -> Kept | None:
    """Return the analysis of an arm's first measured seed; None where there is none."""
    measured = None if arm.first is None else arm.first.measured(arm.config)
    return None if measured is None else measured.analysis


def _curves(outcome: Outcome) -> Figure | None:
    """Return Figure A: AP over steps, a line a seed."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for number, arm in enumerate(outcome.arms):
        curves = [curve for place in arm.places.values() if (curve := place.curve())]
        for row, curve in enumerate(curves):
            label = None if row else arm.arm.label
            axes.plot(*zip(*curve, strict=True), "o-", color=f"C{number}", alpha=0.7,
                      markersize=3, label=label)  # fmt: skip
    if not axes.lines:
        return None
    axes.set(xlabel="step", ylabel="AP, %")
    axes.legend()
    return figure
