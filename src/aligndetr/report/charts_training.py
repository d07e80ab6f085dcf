"""The charts of a training: metrics over epochs (Fig. A), loss terms by layer, learning rate."""

from collections.abc import Sequence
from dataclasses import dataclass

from aligndetr.report.history import History, Moment
from aligndetr.report.markup import Markup
from aligndetr.report.plot import Axis, Plot, Point, round_axis, unit_axis
from aligndetr.report.words import decimal, points

MOST_POINTS = 160
"""Points of a line; of longer series the means of runs are drawn."""
LAYER_STYLES = 6
"""Shades in which the layers of a decoder are drawn, from first to last."""
AVERAGE_PRECISIONS = (("AP50", "AP50", "near"), ("AP75", "AP75", "iou"), ("AP", "AP", "a"))
ALIGNMENTS = (("br_recall_1", "BR recall", "br"), ("pearson", "Pearson", "hc"))

KIND_NAMES = {"class": "class loss", "l1": "L1 loss of boxes", "giou": "GIoU loss of boxes"}


@dataclass(frozen=True)
class Term:
    """A loss term's name in parts: "main.0.class" -> main, 0, class."""

    name: str
    group: str
    layer: int | None
    kind: str


def to_term(name: str) -> Term:
    """Return the parts of a loss term's name."""
    group, _, kind = name.rpartition(".")
    head, _, depth = group.rpartition(".")
    if depth.isdigit() and head:
        return Term(name, head, int(depth), kind)
    return Term(name, group, None, kind)


def panels(history: History) -> dict[tuple[str, str], list[Term]]:
    """Return the terms by (group, kind): a chart each; proposals share those of the main group."""
    terms = [to_term(name) for name in history.terms]
    has_main = {term.kind for term in terms if term.group == "main"}
    grouped: dict[tuple[str, str], list[Term]] = {}
    for term in sorted(terms, key=lambda term: term.group != "main"):
        is_main = term.group == "proposals" and term.kind in has_main
        grouped.setdefault(("main" if is_main else term.group, term.kind), []).append(term)
    return grouped


def precision_over_time(history: History) -> Markup | None:
    """Return AP, AP50 and AP75 of every evaluation (Fig. A)."""
    return _metrics(history, AVERAGE_PRECISIONS, "Average precision over the training")


def alignment_over_time(history: History) -> Markup | None:
    """Return BR recall and Pearson coefficient of every evaluation."""
    return _metrics(history, ALIGNMENTS, "Alignment over the training")


def loss_chart(history: History, group: str, kind: str, terms: Sequence[Term]) -> Markup | None:
    """Return one kind of loss over time, a line a layer."""
    lines = [
        (term, _series(history, history.train, term.name))
        for term in sorted(terms, key=lambda term: -1 if term.layer is None else term.layer)
    ]
    known = [(term, series) for term, series in lines if series]
    if not known:
        return None
    deepest = max([term.layer for term, _ in known if term.layer is not None], default=0)
    heights = sorted(y for _, series in known for _, y in series)
    top = heights[min(len(heights) - 1, int(0.99 * len(heights)))]  # not a first spike
    title = KIND_NAMES.get(kind, f"{kind} loss")
    title = title if group in ("main", "") else f"{group}: {title}"
    plot = Plot(_time_axis(history), round_axis(max(top, 1e-3), title), height=210, right=68)
    clipped = [(term, [(x, min(y, plot.y.high)) for x, y in series]) for term, series in known]
    ends = [
        (series[-1][1], _layer_name(term), _layer_style(term, deepest)) for term, series in clipped
    ]
    return plot.svg(
        title,
        ", ".join(f"{_layer_name(term)} at the end {series[-1][1]:.3g}" for term, series in known),
        *(
            plot.line(
                series,
                _layer_style(term, deepest) if len(clipped) > 1 else "a",
                f"{title}, {_layer_name(term)}",
            )
            for term, series in clipped
        ),
        plot.end_labels(ends, plot.x.high) if len(ends) > 1 else "",
    )


def total_chart(history: History, name: str, label: str) -> Markup | None:
    """Return one number of the train lines over time."""
    series = _series(history, history.train, name)
    if not series:
        return None
    heights = sorted(y for _, y in series)
    high = heights[min(len(heights) - 1, int(0.99 * len(heights)))]
    plot = Plot(_time_axis(history), round_axis(max(high, 1e-7), label), height=210, left=52)
    clipped = [(x, min(y, plot.y.high)) for x, y in series]
    return plot.svg(label, f"At the end {series[-1][1]:.3g}.", plot.line(clipped, "a", label))


def _metrics(
    history: History, metrics: Sequence[tuple[str, str, str]], title: str
) -> Markup | None:
    lines = [
        (label, style, series)
        for name, label, style in metrics
        if (series := _series(history, history.evaluations, name, most=10**6))
    ]
    if not lines:
        return None
    top = max(y for *_, series in lines for _, y in series)
    low = min(0.0, *(y for *_, series in lines for _, y in series))
    is_precision = metrics is AVERAGE_PRECISIONS
    axis = (
        round_axis(max(100 * top, 1.0), "AP of the validation images")
        if is_precision
        else unit_axis("recall at N, Pearson coefficient")
    )
    scale = 100.0 if is_precision else 1.0
    if low < 0:
        axis = Axis(-1, 1, [(n / 2, f"{n / 2:g}") for n in range(-2, 3)], axis.label)
    plot = Plot(_time_axis(history), axis, right=72)
    written = points if is_precision else decimal
    scaled = [(label, style, [(x, scale * y) for x, y in s]) for label, style, s in lines]
    dots = [
        plot.dot(at, style, f"{label} at {plot.x.label} {at[0]:.3g}: {written(at[1] / scale)}", 3)
        for label, style, series in scaled
        for at in series
        if len(series) <= MOST_POINTS
    ]
    return plot.svg(
        title,
        ", ".join(f"{label} at the end {written(s[-1][1] / scale)}" for label, _, s in scaled),
        *(plot.line(series, style) for _, style, series in scaled),
        *dots,
        plot.end_labels([(s[-1][1], label, style) for label, style, s in scaled], plot.x.high),
    )


def _time_axis(history: History) -> Axis:
    """Return the axis of epochs (steps while the first lasts), which ends where the training does.

    Labels then stand beside the ends of their lines.
    """
    last = max([moment.step for moment in (*history.train, *history.evaluations)], default=1)
    unit = history.steps_per_epoch
    end = max(last, 1) / (unit or 1.0)
    axis = round_axis(end, "step" if unit is None else "epoch")
    return Axis(0, end, [tick for tick in axis.ticks if tick[0] <= end * 1.001], axis.label)


def _series(
    history: History, moments: Sequence[Moment], name: str, most: int = MOST_POINTS
) -> list[Point]:
    """Return (time, value) of one name; the means of runs where there are too many."""
    unit = history.steps_per_epoch or 1.0
    series = [
        (moment.step / unit, moment.values[name]) for moment in moments if name in moment.values
    ]
    run = -(-len(series) // most) if series else 1
    chunks = [series[start : start + run] for start in range(0, len(series), run)]
    return [
        (sum(x for x, _ in chunk) / len(chunk), sum(y for _, y in chunk) / len(chunk))
        for chunk in chunks
    ]


def _layer_name(term: Term) -> str:
    if term.layer is None:
        return term.group or term.kind
    return f"layer {term.layer + 1}"


def _layer_style(term: Term, deepest: int) -> str:
    if term.layer is None:
        return "proposals"
    share = term.layer / deepest if deepest else 1.0
    return f"layer-{round(share * (LAYER_STYLES - 1))}"
