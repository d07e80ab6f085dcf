"""Tables of the report: plain HTML, which the page's script makes sortable."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aligndetr.report.charts import TOPS, top_name
from aligndetr.report.charts_errors import bins, confusions, error_name, known_errors
from aligndetr.report.content import (
    AnalysisRecord,
    Calibration,
    Confusion,
    Density,
    Interval,
    Slice,
)
from aligndetr.report.markup import NOTHING, Markup, join, tag
from aligndetr.report.words import (
    Format,
    between,
    count,
    decimal,
    minus,
    percent,
    points,
    signed,
)

LONG = 20
"""Rows beyond which a table scrolls within its frame."""
CONFUSIONS = 20


@dataclass(frozen=True)
class Cell:
    """What a cell says, what it is sorted by, and a second line in small type."""

    text: str
    order: float | str | None = None
    note: str = ""


@dataclass(frozen=True)
class Column:
    """One measure of slices: its heading, value, how it is written, and its interval."""

    name: str
    value: Callable[[Slice], float | None]
    written: Format
    interval: Callable[[Slice], Interval] = lambda _: None


COLUMNS = (
    Column("AP", lambda s: s.AP, points, lambda s: s.intervals.AP),
    Column("best order", lambda s: s.oracle_ap, points),
    Column("cost", lambda s: s.ap_cost, points, lambda s: s.intervals.ap_cost),
    Column("BR recall", lambda s: s.br_recall.get("1"), percent, lambda s: s.intervals.br_recall),
    Column("at 2N", lambda s: s.br_recall.get("2"), percent),
    Column("Pearson", lambda s: s.pearson, decimal, lambda s: s.intervals.pearson),
    Column("BR IoU", lambda s: s.mean_iou_br, decimal),
    Column("HC IoU", lambda s: s.mean_iou_hc, decimal),
    Column("AP50", lambda s: s.AP50, points),
    Column("AP75", lambda s: s.AP75, points),
)
COMPARED = ("AP", "cost", "BR recall", "Pearson", "BR IoU")


def table(
    caption: str, heads: Sequence[str], rows: Sequence[Sequence[Cell]], *, style: str = "sortable"
) -> Markup:
    """Return a table in a frame that scrolls when it is too wide or long; column 1 names rows."""
    if not rows:
        return NOTHING
    styles = ["text" if cell.order is None else None for cell in rows[0]]
    titles = [
        tag("th", {"scope": "col", "class": style}, name)
        for name, style in zip(heads, styles, strict=True)
    ]
    body = [
        tag("tr", {}, *(_cell(cell, is_first=not n) for n, cell in enumerate(row))) for row in rows
    ]
    content = tag(
        "table",
        {"class": style},
        tag("caption", {}, caption),
        tag("thead", {}, tag("tr", {}, *titles)),
        tag("tbody", {}, *body),
    )
    frame = {
        "class": "scroll long" if len(rows) > LONG else "scroll",
        "tabindex": "0",
        "role": "region",
        "aria-label": caption,
    }
    return tag("div", frame, content)


def slice_table(
    caption: str, kind: str, slices: Sequence[Slice], others: Sequence[Slice] | None
) -> Markup:
    """Return the measures of classes or sizes; with `others`, B's and the differences A - B."""
    if others is not None:
        return _compared_table(caption, kind, slices, others)
    columns = [c for c in COLUMNS if any(c.value(one) is not None for one in slices)]
    rows = [
        [_name(one), _number(one.objects, count), *(_slice_cell(c, one) for c in columns)]
        for one in slices
    ]
    return table(caption, [kind, "objects", *(c.name for c in columns)], rows)


def recall_table(record: AnalysisRecord, other: AnalysisRecord | None) -> Markup:
    """Return the recalls that the chart shows, and those with tolerances."""
    rows = _recall_rows(record, "A: " if other else "")
    if other is not None:
        rows += _recall_rows(other, "B: ")
    heads = ["recall among the top", *(top_name(top) for top in TOPS)]
    return table("Recall of best-regressed boxes", heads, rows, style="")


def iou_table(record: AnalysisRecord) -> Markup:
    """Return the bins of the IoU histograms."""
    histogram = record.histogram
    rows = [
        [Cell(name), _number(best, count), _number(confident, count)]
        for name, best, confident in zip(
            bins(histogram.edges),
            histogram.best_regressed,
            histogram.highest_confidence,
            strict=False,
        )
    ]
    return table("Boxes by IoU", ["IoU", "best-regressed", "most confident"], rows, style="")


def density_table(density: Density, groups: int = 10) -> Markup:
    """Return the matched pairs and their mean IoU by confidence."""
    middles = [
        (low + high) / 2 for low, high in zip(density.edges, density.edges[1:], strict=False)
    ]
    size = max(1, len(density.counts) // groups)
    rows: list[list[Cell]] = []
    for start in range(0, len(density.counts), size):
        columns = [sum(c) for c in zip(*density.counts[start : start + size], strict=False)]
        total = sum(columns)
        weighted = sum(n * middle for n, middle in zip(columns, middles, strict=False))
        name = bins(density.edges[start : start + size + 1 : size])
        mean = weighted / total if total else None
        rows.append([Cell("".join(name)), _number(total, count), _number(mean, decimal)])
    return table("Matched pairs by confidence", ["confidence", "pairs", "mean IoU"], rows, style="")


def order_table(record: AnalysisRecord) -> Markup:
    """Return AP as ranked and in the best order."""
    rows = [
        [
            Cell(name),
            _number(ap := getattr(record.ap, name), points),
            _number(best := getattr(record.oracle_ap, name), points),
            _number(minus(best, ap), points),
        ]
        for name in ("AP", "AP50", "AP75")
    ]
    return table(
        "AP as ranked and in the best order",
        ["", "as ranked", "best order", "cost"],
        rows,
        style="",
    )


def error_table(record: AnalysisRecord, other: AnalysisRecord | None) -> Markup:
    """Return error types with the AP50 that each costs and how many there are."""
    shown = [record, *([other] if other is not None else [])]
    rows = [
        [
            Cell(error_name(kind)),
            *(
                cell
                for one in shown
                for cell in (
                    _number(one.errors.get(kind), points),
                    _number(one.error_counts.get(kind), count),
                )
            ),
        ]
        for kind in known_errors(record.errors)
    ]
    heads = ["A: AP50", "A: count", "B: AP50", "B: count"] if other else ["AP50", "count"]
    return table("Errors", ["error", *heads], rows)


def calibration_table(calibration: Calibration) -> Markup:
    """Return the bins of the calibration."""
    rows = [
        [Cell(name), _number(number, count), *(_number(v, decimal) for v in values)]
        for name, number, *values in zip(
            bins(calibration.edges),
            calibration.counts,
            calibration.confidence,
            calibration.precision,
            calibration.mean_iou,
            strict=False,
        )
    ]
    heads = ["confidence", "predictions", "mean confidence", "share right", "mean IoU"]
    return table("Calibration", heads, rows, style="")


def confusion_table(confusion: Confusion) -> Markup:
    """Return the most frequent confusions of two classes."""
    rows = [
        [Cell(truth), Cell(found), _number(number, count), _number(share, percent)]
        for truth, found, number, share in confusions(confusion, CONFUSIONS)
    ]
    heads = ["what it is", "found as", "times", "of all such"]
    return table("Most frequent confusions", heads, rows)


def _cell(cell: Cell, *, is_first: bool) -> Markup:
    note = tag("small", {}, cell.note) if cell.note else NOTHING
    order = f"{cell.order:.6g}" if isinstance(cell.order, float | int) else cell.order
    about = {
        "scope": "row" if is_first else None,
        "class": "text" if cell.order is None else None,
        "data-order": cell.text if order is None else order,
    }
    return tag("th" if is_first else "td", about, cell.text, note)


def _name(one: Slice) -> Cell:
    return Cell(one.name)


def _number(value: float | None, written: Format, note: str = "") -> Cell:
    """Return a cell that sorts by its number; one that is not known comes last."""
    return Cell(written(value), "" if value is None else value, note)


def _slice_cell(column: Column, one: Slice) -> Cell:
    note = between(column.interval(one), column.written)
    return _number(column.value(one), column.written, note)


def _compared_table(
    caption: str, kind: str, slices: Sequence[Slice], others: Sequence[Slice]
) -> Markup:
    known = {one.name: one for one in others}
    columns = [c for c in COLUMNS if c.name in COMPARED]
    heads = [f"{part}{c.name}" for c in columns for part in ("A: ", "B: ", "A \N{MINUS SIGN} B: ")]
    rows = [
        [
            _name(one),
            _number(one.objects, count),
            *(cell for c in columns for cell in _pair(c, one, known.get(one.name))),
        ]
        for one in slices
    ]
    return table(caption, [kind, "objects", *heads], rows)


def _pair(column: Column, one: Slice, other: Slice | None) -> tuple[Cell, Cell, Cell]:
    mine, theirs = column.value(one), None if other is None else column.value(other)
    return (
        _number(mine, column.written),
        _number(theirs, column.written),
        _number(minus(mine, theirs), signed(column.written)),
    )


def _recall_rows(record: AnalysisRecord, prefix: str) -> list[list[Cell]]:
    named = [
        ("the best itself", record.br_recall, record.intervals.br_recall),
        *(
            (f"within {tol} IoU", values, record.intervals.br_recall_within.get(tol, {}))
            for tol, values in sorted(record.br_recall_within.items())
            if float(tol) > 0
        ),
        ("best IoU in reach", record.best_iou_share, {}),
    ]
    return [
        [
            Cell(prefix + name),
            *(
                _number(values.get(top), percent, between(intervals.get(top), percent))
                for top in TOPS
            ),
        ]
        for name, values, intervals in named
        if values
    ]


def definitions(rows: Sequence[tuple[str, str]]) -> Markup:
    """Return terms with what they mean."""
    return tag("dl", {}, join(tag("div", {}, tag("dt", {}, a), tag("dd", {}, b)) for a, b in rows))
