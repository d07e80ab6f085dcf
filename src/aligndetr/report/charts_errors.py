"""The charts of errors: by type, precision over recall, calibration, and who is taken for whom."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from aligndetr.report.content import AnalysisRecord, Calibration, Confusion, Curve, Number
from aligndetr.report.markup import NOTHING, Markup, join, tag
from aligndetr.report.plot import Axis, Plot, drawing, round_axis, text, unit_axis
from aligndetr.report.words import count, decimal, percent, points

MAIN_ERRORS = ("classification", "localisation", "both", "duplicate", "background", "missed")
SUMS = ("false_positive", "false_negative")
ERROR_NAMES = {
    "both": "class and place",
    "false_positive": "all false positives",
    "false_negative": "all false negatives",
}
MOST_NUMBERS = 12
"""Classes up to which the cells of a confusion matrix show their numbers."""
LONGEST_NAME = 14
"""Letters of a class name that a matrix shows."""


def error_name(kind: str) -> str:
    """Return an error type in words."""
    return ERROR_NAMES.get(kind, kind)


def error_chart(record: AnalysisRecord, other: AnalysisRecord | None) -> Markup | None:
    """Return the AP50 that mending one type of error would gain (TIDE)."""
    records = [(record, "a"), *([(other, "b")] if other is not None else [])]
    kinds = [
        kind
        for kind in (*MAIN_ERRORS, *SUMS)
        if any(shown.errors.get(kind) is not None for shown, _ in records)
    ]
    if not kinds:
        return None
    values = [shown.errors.get(kind) or 0.0 for shown, _ in records for kind in kinds]
    axis = round_axis(max(100 * max(values), 1.0), "AP50 gained when only this is mended")
    lanes = Axis(len(kinds), 0, [(n + 0.5, error_name(kind)) for n, kind in enumerate(kinds)])
    height = 48 + len(kinds) * (26 if other is None else 42)
    plot = Plot(axis, lanes, height=height, left=122, right=38, top=4, rules="x")
    return plot.svg(
        "AP50 lost to each type of error",
        ", ".join(f"{error_name(kind)} {points(record.errors.get(kind))}" for kind in kinds),
        *(
            _error_bar(plot, lane, kind, place, len(records), shown, style)
            for lane, kind in enumerate(kinds)
            for place, (shown, style) in enumerate(records)
        ),
    )


def precision_chart(
    curves: Sequence[Curve], others: Sequence[Curve] | None, threshold: str
) -> Markup | None:
    """Return precision over recall at one IoU threshold: the mean, and each class as a thin line.

    With `others`, their mean instead of the classes.
    """
    shown = [curve for curve in curves if _known(curve, threshold)]
    if not shown:
        return None
    plot = Plot(unit_axis("recall"), unit_axis(f"precision at IoU {threshold}"))
    known = [curve for curve in others or () if _known(curve, threshold)]
    thin = [
        tag(
            "g",
            {"class": "curve", "data-class": curve.name},
            plot.line(_corners(_known(curve, threshold)), "thin", curve.name),
        )
        for curve in (shown if others is None and len(shown) > 1 else ())
    ]
    bold = [(shown, "a"), *([(known, "b")] if known else [])]
    return plot.svg(
        f"Precision over recall at IoU {threshold}",
        f"The mean of {len(shown)} classes.",
        *thin,
        *(
            plot.line(_corners(mean_curve(group, threshold)), style, "mean of the classes")
            for group, style in reversed(bold)
        ),
    )


def calibration_chart(calibration: Calibration, other: Calibration | None) -> Markup | None:
    """Return how often predictions of a confidence are right, dots as large as they are many."""
    if not any(calibration.counts):
        return None
    plot = Plot(unit_axis("confidence"), unit_axis("share that is right, mean IoU"), height=330)
    lines = [
        _calibration_line(plot, calibration, calibration.mean_iou, "iou", "mean IoU"),
        *(
            [_calibration_line(plot, other, other.precision, "b", "B, right")]
            if other is not None
            else []
        ),
        _calibration_line(plot, calibration, calibration.precision, "a", "right"),
    ]
    return plot.svg(
        "Calibration",
        f"Expected calibration error {decimal(calibration.ece)}.",
        plot.line([(0, 0), (1, 1)], "diagonal"),
        *lines,
    )


def confusion_chart(confusion: Confusion) -> Markup | None:
    """Return what objects were found as: shades by the share of each row."""
    names = confusion.classes
    if not names or not any(any(row) for row in confusion.counts):
        return None
    shows_numbers = len(names) <= MOST_NUMBERS
    size = 34.0 if shows_numbers else 11.0
    room = 12 + (6.4 if shows_numbers else 5.4) * min(LONGEST_NAME, max(map(len, names)))
    cells = [
        _confusion_cell(confusion, row, column, (room + column * size, room + row * size), size)
        for row, numbers in enumerate(confusion.counts)
        for column, number in enumerate(numbers)
        if number
    ]
    side = room + size * len(names) + 4
    attributes = "chart matrix" + ("" if shows_numbers else " large")
    ground = {
        "class": "ground",
        "x": room,
        "y": room,
        "width": side - room - 4,
        "height": side - room - 4,
    }
    return drawing(
        side,
        side,
        "Confusion matrix",
        "Rows: what it is. Columns: what was found.",
        tag("rect", ground),
        *(_confusion_names(name, n, room, size) for n, name in enumerate(names)),
        *cells,
        style=attributes,
        scale=1.15 if shows_numbers else 1.0,
    )


def confusions(confusion: Confusion, most: int) -> list[tuple[str, str, int, float]]:
    """Return the most frequent mistakes: what it is, what was found, how often, share of the row.

    The background is left out on both sides: it stands for missed objects and for nothing.
    """
    pairs = [
        (confusion.classes[row], confusion.classes[column], number, number / sum(numbers))
        for row, numbers in enumerate(confusion.counts[:-1])
        for column, number in enumerate(numbers[:-1])
        if number and row != column
    ]
    return sorted(pairs, key=lambda pair: -pair[2])[:most]


def mean_curve(curves: Sequence[Curve], threshold: str) -> list[tuple[float, float]]:
    """Return the mean precision of the classes at each recall."""
    sums: dict[float, list[float]] = {}
    for curve in curves:
        for x, y in _known(curve, threshold):
            sums.setdefault(x, []).append(y)
    return [(x, sum(ys) / len(ys)) for x, ys in sorted(sums.items())]


def _error_bar(
    plot: Plot,
    lane: int,
    kind: str,
    place: int,
    places: int,
    record: AnalysisRecord,
    style: str,
) -> Markup:
    value, number = record.errors.get(kind), record.error_counts.get(kind)
    if value is None:
        return NOTHING
    thick = 0.6 if places == 1 else 0.4
    start = lane + 0.5 + (place - places / 2) * thick
    title = f"{error_name(kind)}: {points(value)} AP50" + (
        f", {count(number)} predictions or objects" if number is not None else ""
    )
    fill = f"bar {style}" + (" sum" if kind in SUMS else "")
    end = 100 * max(value, 0.0)
    y = plot.py(start + thick / 2) + 4
    return join(
        (
            plot.bar((0, start), (end, start + thick), fill, title),
            text(plot.px(end) + 5, y, points(value), "value"),
        )
    )


def _known(curve: Curve, threshold: str) -> list[tuple[float, float]]:
    values = curve.precision.get(threshold) or ()
    return [(x, y) for x, y in zip(curve.recall, values, strict=False) if y is not None and y >= 0]


def _corners(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Leave out points within a level run, which draw nothing."""
    if len(points) < 3:
        return list(points)
    kept = [
        here
        for before, here, after in zip(points, points[1:], points[2:], strict=False)
        if not math.isclose(before[1], here[1], abs_tol=5e-4)
        or not math.isclose(here[1], after[1], abs_tol=5e-4)
    ]
    return [points[0], *kept, points[-1]]


def _calibration_line(
    plot: Plot, calibration: Calibration, values: Sequence[Number], style: str, name: str
) -> Markup:
    most = max(calibration.counts, default=0)
    rows = [
        (sure, value, number)
        for sure, value, number in zip(
            calibration.confidence, values, calibration.counts, strict=False
        )
        if sure is not None and value is not None
    ]
    places = [(_shown(sure), value) for sure, value, _ in rows]
    dots = [
        plot.dot(
            place,
            style,
            f"confidence {decimal(sure)}: {name} {decimal(value)} ({count(number)} predictions)",
            2.5 + 5 * math.sqrt(number / most),
        )
        for place, (sure, value, number) in zip(places, rows, strict=True)
    ]
    return join((plot.line(places, style), *dots))


def _shown(confidence: float) -> float:
    """Return the place of a confidence on an axis from 0 to 1, for some detectors go beyond."""
    return min(max(confidence, 0.0), 1.0)


def _confusion_names(name: str, n: int, room: float, size: float) -> Markup:
    short = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
    place = room + (n + 0.5) * size
    turned = {
        "class": "tick",
        "transform": f"translate({place + 3:.1f} {room - 5:.1f}) rotate(-90)",
    }
    return join((text(room - 5, place + 4, short, "tick end"), tag("text", turned, short)))


def _confusion_cell(
    confusion: Confusion, row: int, column: int, at: tuple[float, float], size: float
) -> Markup:
    numbers = confusion.counts[row]
    number = numbers[column]
    share = number / sum(numbers)
    names = confusion.classes
    title = (
        f"{names[row]} found as {names[column]}: {count(number)} ({percent(share)} of {names[row]})"
    )
    level = min(6, int(7 * math.sqrt(share)))  # few confusions are to be seen, too
    right = "right" if row == column else "wrong"
    square = {
        "class": f"cell {right} heat-{level}",
        "x": at[0],
        "y": at[1],
        "width": size - 1,
        "height": size - 1,
    }
    if size < 20:
        return tag("rect", square, tag("title", {}, title))
    at_middle = (at[0] + size / 2 - 0.5, at[1] + size / 2 + 4)
    label = text(*at_middle, count(number), f"cell-number on-{level}")
    return tag("g", {}, tag("rect", square), label, tag("title", {}, title))


def bins(edges: Sequence[float]) -> list[str]:
    """Return the names of bins between edges."""
    return [f"{low:.2g} to {high:.2g}" for low, high in pairwise(edges)]


def known_errors(errors: Mapping[str, Number]) -> list[str]:
    """Return the error types that were measured, in the order in which they are shown."""
    return [kind for kind in (*MAIN_ERRORS, *SUMS) if errors.get(kind) is not None]
