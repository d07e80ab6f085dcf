"""The charts of misalignment: recall of the best boxes, IoU, confidence, and what order costs.

Each returns None where the analysis has nothing to draw.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

from aligndetr.report.content import AnalysisRecord, ByTop, Density, Histogram, Interval
from aligndetr.report.markup import NOTHING, Attribute, Markup, join, tag
from aligndetr.report.plot import Axis, Plot, text, unit_axis
from aligndetr.report.words import count, decimal, percent, points

TOPS = ("1", "2", "3", "4", "5")
HEAT_LEVELS = 7
PER_CENT = "{:.0%}".format


def top_name(top: str) -> str:
    """Return how many predictions are looked at: "1" -> N, "2" -> 2N."""
    return "N" if top == "1" else f"{top}N"


def recall_chart(record: AnalysisRecord, other: AnalysisRecord | None) -> Markup | None:
    """Return the recall of best-regressed boxes by how many predictions count (Fig. 1a)."""
    plot = Plot(_top_axis(), unit_axis("objects whose best box is kept", PER_CENT), right=98)
    if not _by_top(record.br_recall):
        return None
    if other is None:
        near = sorted(tol for tol in record.br_recall_within if float(tol) > 0)
        lines = [(record.br_recall_within[tol], f"within {tol}", "near") for tol in reversed(near)]
        lines.append((record.br_recall, "the best itself", "a"))
    else:
        lines = [(other.br_recall, "B", "b"), (record.br_recall, "A", "a")]
    bands = [(record, "a"), *([(other, "b")] if other is not None else [])]
    return plot.svg(
        "Recall of best-regressed boxes",
        _said(record.br_recall),
        *(_recall_band(plot, shown, style) for shown, style in bands),
        *(_recall_line(plot, values, name, style) for values, name, style in lines),
        plot.end_labels([(v[-1][1], n, s) for w, n, s in lines if (v := _by_top(w))], 5),
    )


def iou_chart(histogram: Histogram, means: tuple[float | None, float | None]) -> Markup | None:
    """Return the IoU of best-regressed and of most confident boxes (Fig. 1b); `means` so."""
    best, confident = _shares(histogram.best_regressed), _shares(histogram.highest_confidence)
    if not best and not confident:
        return None
    highest = max([*best, *confident])
    top = math.ceil(highest * 10) / 10
    parts = 5 if round(top * 10) % 2 else 4
    ticks = [(n * top / parts, f"{n * top / parts:.0%}") for n in range(parts + 1)]
    plot = Plot(unit_axis("IoU with the object"), Axis(0, top, ticks, "share of boxes"))
    series = ((confident, means[1], "hc"), (best, means[0], "br"))
    return plot.svg(
        "IoU of best-regressed and most confident boxes",
        f"Mean IoU: best-regressed {decimal(means[0])}, most confident {decimal(means[1])}.",
        *(plot.area(_steps(histogram.edges, shares), style) for shares, _, style in series),
        *(plot.line(_steps(histogram.edges, shares), style) for shares, _, style in series),
        *(
            plot.line([(mean, 0), (mean, top)], f"mean {style}")
            for _, mean, style in series
            if mean is not None
        ),
        *_bin_titles(plot, histogram, best, confident),
    )


def density_chart(density: Density, pearson: float | None) -> Markup | None:
    """Return how many matched pairs have which confidence and IoU (Fig. 4)."""
    most = max((n for row in density.counts for n in row), default=0)
    if most == 0:
        return None
    plot = Plot(unit_axis("IoU"), unit_axis("confidence"), height=372)
    cells: list[list[str]] = [[] for _ in range(HEAT_LEVELS)]
    for row, numbers in zip(pairwise(density.edges), density.counts, strict=False):
        for column, number in zip(pairwise(density.edges), numbers, strict=False):
            if number:
                cells[_heat(number, most)].append(_cell(plot, column, row))
    return plot.svg(
        "Confidence and IoU of matched boxes",
        f"Pearson coefficient {decimal(pearson)}.",
        *(
            tag("path", {"class": f"heat heat-{level}", "d": "".join(paths)})
            for level, paths in enumerate(cells)
            if paths
        ),
        plot.line([(0, 0), (1, 1)], "diagonal"),
        _heat_key(plot, most),
    )


def order_chart(record: AnalysisRecord, other: AnalysisRecord | None) -> Markup | None:
    """Return AP as it is and with the best order, at the usual IoU thresholds."""
    rows = [
        (f"{letter} {name}".strip(), getattr(shown.ap, name), getattr(shown.oracle_ap, name), style)
        for name in ("AP", "AP50", "AP75")
        for shown, letter, style in (
            (record, "A" if other else "", "a"),
            *([(other, "B", "b")] if other is not None else []),
        )
    ]
    if all(ap is None or oracle is None for _, ap, oracle, _ in rows):
        return None
    ticks = [(n / 5, f"{20 * n}") for n in range(6)]
    size = len(rows)
    lanes = Axis(size, 0, [(n + 0.5, row[0]) for n, row in enumerate(rows)])
    plot = Plot(
        Axis(0, 1, ticks, "AP"), lanes, height=62 + 34 * size, left=54, right=26, top=8, rules="x"
    )
    return plot.svg(
        "AP as ranked, and in the best order",
        "; ".join(f"{name}: {points(ap)}, {points(best)}" for name, ap, best, _ in rows),
        *(_dumbbell(plot, n + 0.5, row) for n, row in enumerate(rows)),
    )


def whisker(value: float | None, interval: Interval, low: float = 0.0) -> Markup:
    """Return a number and its interval on the line from `low` to 1, as a small picture."""
    axis, y = Axis(low, 1.0, ()), 7.0
    start, length = 2.0, 156.0
    marks: list[Markup] = []
    if interval is not None:
        left, right = (start + axis.share(max(end, low)) * length for end in interval)
        place: dict[str, Attribute] = {"x": left, "width": max(right - left, 1.0)}
        marks.append(tag("rect", {"class": "whisker", **place, "y": y - 5, "height": 10}))
    if value is not None:
        x = start + axis.share(value) * length
        marks.append(tag("path", {"class": "needle", "d": f"M{x:.1f} {y - 6:g}V{y + 6:g}"}))
    ends = f"M{start:g} {y:g}h{length:g}M{start:g} {y - 4:g}v8M{start + length:g} {y - 4:g}v8"
    ground = tag("path", {"class": "axis", "d": ends})
    attributes = {"class": "whisker-chart", "viewBox": "0 0 160 14", "aria-hidden": "true"}
    return tag("svg", attributes, ground, *marks)


def _top_axis() -> Axis:
    return Axis(1, 5, [(int(top), top_name(top)) for top in TOPS], "most confident predictions")


def _by_top(values: ByTop) -> list[tuple[float, float]]:
    known = [(float(top), values.get(top)) for top in TOPS]
    return [(top, value) for top, value in known if value is not None]


def _said(values: ByTop) -> str:
    return ", ".join(f"top {top_name(f'{top:.0f}')}: {percent(v)}" for top, v in _by_top(values))


def _recall_band(plot: Plot, record: AnalysisRecord, style: str) -> Markup:
    intervals = [(float(top), record.intervals.br_recall.get(top)) for top in TOPS]
    return plot.band([(top, *interval) for top, interval in intervals if interval], style)


def _recall_line(plot: Plot, values: ByTop, name: str, style: str) -> Markup:
    known = _by_top(values)
    dots = [
        plot.dot(at, style, f"{name}, top {top_name(f'{at[0]:.0f}')}: {percent(at[1])}")
        for at in known
    ]
    return join((plot.line(known, style), *dots))


def _shares(numbers: Sequence[int]) -> list[float]:
    total = sum(numbers)
    return [number / total for number in numbers] if total else []


def _steps(edges: Sequence[float], shares: Sequence[float]) -> list[tuple[float, float]]:
    """Return the outline of a histogram, from the ground to the ground."""
    bins = list(zip(pairwise(edges), shares, strict=False))
    if not bins:
        return []
    walls = [(edge, share) for (low, high), share in bins for edge in (low, high)]
    return [(edges[0], 0.0), *walls, (bins[-1][0][1], 0.0)]


def _bin_titles(
    plot: Plot, histogram: Histogram, best: Sequence[float], confident: Sequence[float]
) -> list[Markup]:
    """Return a pane over each bin that tells its numbers."""
    return [
        plot.bar(
            (low, 0),
            (high, plot.y.high),
            "bin",
            f"IoU {low:.2f} to {high:.2f}: best-regressed {percent(best[n] if best else None)}, "
            f"most confident {percent(confident[n] if confident else None)}",
        )
        for n, (low, high) in enumerate(pairwise(histogram.edges))
        if n < max(len(best), len(confident))
    ]


def _heat(number: int, most: int) -> int:
    """Return the level of a cell; levels are even on a logarithmic scale."""
    if most == 1:
        return HEAT_LEVELS - 1
    return min(HEAT_LEVELS - 1, int(HEAT_LEVELS * math.log(number) / math.log(most)))


def _cell(plot: Plot, column: tuple[float, float], row: tuple[float, float]) -> str:
    x, width = plot.px(column[0]), plot.px(column[1]) - plot.px(column[0])
    y, height = plot.py(row[1]), plot.py(row[0]) - plot.py(row[1])
    return f"M{x:.1f} {y:.1f}h{width:.2f}v{height:.2f}h-{width:.2f}z"


def _heat_key(plot: Plot, most: int) -> Markup:
    """Return what the shades stand for, at the top right of a chart."""
    size, right = 12.0, plot.width - plot.right
    label = count(most)
    start = right - 7.2 * len(label) - 4 - HEAT_LEVELS * size
    squares = [
        tag(
            "rect",
            {
                "class": f"heat heat-{level}",
                "x": start + level * size,
                "y": 3,
                "width": size,
                "height": 9,
            },
        )
        for level in range(HEAT_LEVELS)
    ]
    ends = (text(start - 5, 11, "pairs: 1", "tick end"), text(right, 11, label, "tick end"))
    return join((*squares, *ends))


def _dumbbell(plot: Plot, lane: float, row: tuple[str, float | None, float | None, str]) -> Markup:
    name, ap, oracle, style = row
    if ap is None or oracle is None:
        return NOTHING
    title = f"{name}: {points(ap)} as ranked, {points(oracle)} in the best order"
    y = plot.py(lane)
    return join(
        (
            plot.line([(ap, lane), (oracle, lane)], f"cost {style}"),
            plot.dot((ap, lane), style, title, 5),
            plot.dot((oracle, lane), f"ring {style}", title, 5),
            text(plot.px(min(ap, oracle)) - 9, y + 4, points(min(ap, oracle)), "value end"),
            text(plot.px(max(ap, oracle)) + 9, y + 4, points(max(ap, oracle)), "value"),
        )
    )
