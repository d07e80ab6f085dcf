"""The sections of the report about one analysis, or about two side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

from aligndetr.report import charts, charts_errors, tables
from aligndetr.report.content import AnalysisRecord
from aligndetr.report.gallery import MOST_SHOWN, Pictures, gallery
from aligndetr.report.markup import NOTHING, Markup, join, tag
from aligndetr.report.words import CONFIDENCE, between, count, decimal

THRESHOLDS = ("0.5", "0.75")
ENOUGH_TO_CHOOSE = 2
"""Classes from which on one can be picked out of the precision curves."""


@dataclass(frozen=True)
class Section:
    """A part of the page; `anchor` is its place in links, `name` what the links say.

    A broad one has its words above what it shows, others beside where there is room.
    """

    anchor: str
    name: str
    heading: str
    words: str
    body: Markup
    is_broad: bool = False


def analysis_sections(
    record: AnalysisRecord, other: AnalysisRecord | None, pictures: Pictures | None
) -> list[Section]:
    """Return the sections that there are data for."""
    sections = [
        _recall(record, other),
        _iou(record, other),
        _density(record, other),
        _order(record, other),
        _errors(record, other),
        _slices(record, other),
        _precision(record, other),
        _confusion(record, other),
        _calibration(record, other),
        _worst(record, pictures),
    ]
    return [section for section in sections if section is not None]


def figure(chart: Markup, caption: str | Markup, *legend: tuple[str, str]) -> Markup:
    """Return a chart with its legend of (style, name) and its caption."""
    keys = [
        tag("span", {"class": "key"}, tag("i", {"class": f"mark {style}"}), name)
        for style, name in legend
    ]
    above = tag("p", {"class": "legend"}, *keys) if keys else NOTHING
    below = tag("figcaption", {}, caption) if caption else NOTHING
    return tag("figure", {"class": "figure"}, above, chart, below)


def row(*figures: Markup) -> Markup:
    """Return figures beside each other where there is room."""
    return tag("div", {"class": "figures"}, *figures)


def numbers(*shown: Markup) -> Markup:
    """Return tables that open on request."""
    known = [one for one in shown if one]
    if not known:
        return NOTHING
    return tag("details", {}, tag("summary", {}, "Exact numbers"), *known)


def _recall(record: AnalysisRecord, other: AnalysisRecord | None) -> Section | None:
    chart = charts.recall_chart(record, other)
    if chart is None:
        return None
    words = (
        "For each object the best-regressed box is the prediction with the highest IoU. It is kept "
        "when it is among the most confident of its image: as many as there are objects (N), twice "
        "as many, and so on."
    )
    if other is None and len(record.br_recall_within) > 1:
        words += (
            " Where several boxes are almost equally good this count is harsh, so a box that comes "
            "within a small IoU of the best counts in the paler lines."
        )
    caption = f"Bands are {CONFIDENCE} intervals." if record.intervals.br_recall else ""
    body = row(figure(chart, caption, *_letters(other))) + numbers(
        tables.recall_table(record, other)
    )
    return Section("recall", "Recall", "How often the best box is kept", words, Markup(body))


def _iou(record: AnalysisRecord, other: AnalysisRecord | None) -> Section | None:
    shown = [
        (letter, one, chart)
        for letter, one in _lettered(record, other)
        if (chart := charts.iou_chart(one.histogram, (one.mean_iou_br, one.mean_iou_hc)))
    ]
    if not shown:
        return None
    figures = [
        figure(chart, _iou_caption(letter, one), ("br", "best-regressed"), ("hc", "most confident"))
        for letter, one, chart in shown
    ]
    words = (
        "Were confidence a good guide, both outlines would be the same. The further the most "
        "confident boxes lie to the left of the best ones, the more is given away. Dashed lines "
        "mark the means."
    )
    body = row(*figures) + numbers(*(tables.iou_table(one) for _, one, _ in shown))
    return Section("iou", "IoU", "The boxes it trusts, and the boxes it has", words, Markup(body))


def _density(record: AnalysisRecord, other: AnalysisRecord | None) -> Section | None:
    shown = [
        (letter, one, chart)
        for letter, one in _lettered(record, other)
        if (chart := charts.density_chart(one.density, one.pearson))
    ]
    if not shown:
        return None
    figures = [figure(chart, _pearson_caption(letter, one)) for letter, one, chart in shown]
    words = (
        "Each object is matched with one prediction. A detector in line has its pairs along the "
        "dashed diagonal; pairs below it are good boxes that it does not trust, pairs above it "
        "are poor boxes that it does."
    )
    body = row(*figures) + numbers(*(tables.density_table(one.density) for _, one, _ in shown))
    return Section("density", "Confidence", "Confidence against IoU", words, Markup(body))


def _order(record: AnalysisRecord, other: AnalysisRecord | None) -> Section | None:
    chart = charts.order_chart(record, other)
    if chart is None:
        return None
    words = (
        "AP looks at boxes in the order of their confidence. The open dot is the AP that the same "
        "boxes would have in the order of their true IoU; the way between the dots is lost to "
        "misalignment and to nothing else."
    )
    legend = (("dot-key", "as ranked"), ("ring-key", "in the best order"))
    body = row(figure(chart, "", *legend)) + numbers(tables.order_table(record))
    return Section("order", "Order", "What the order costs", words, Markup(body))


def _errors(record: AnalysisRecord, other: AnalysisRecord | None) -> Section | None:
    chart = charts_errors.error_chart(record, other)
    if chart is None:
        return None
    words = (
        "How much AP50 would rise if one type of error were mended and all others stayed (TIDE). "
        "The types overlap, so they do not add up to what is missing."
    )
    body = row(figure(chart, "", *_letters(other))) + numbers(tables.error_table(record, other))
    return Section("errors", "Errors", "Where AP50 is lost", words, Markup(body))


def _slices(record: AnalysisRecord, other: AnalysisRecord | None) -> Section | None:
    sizes, classes = record.by_size, record.by_class
    other_sizes = None if other is None else other.by_size
    other_classes = None if other is None else other.by_class
    body = join(
        (
            tables.slice_table("By size of the objects", "size", sizes, other_sizes),
            tables.slice_table("By class", "class", classes, other_classes),
        )
    )
    words = (
        "The cost is what AP would gain in the best order; BR recall is at N. Second lines are "
        f"{CONFIDENCE} intervals. A click on a heading sorts."
    )
    if not body:
        return None
    return Section("classes", "Classes", "By size and by class", words, body, is_broad=True)


def _precision(record: AnalysisRecord, other: AnalysisRecord | None) -> Section | None:
    others = None if other is None else other.curves
    shown = [
        figure(chart, "", *_letters(other))
        for threshold in THRESHOLDS
        if (chart := charts_errors.precision_chart(record.curves, others, threshold))
    ]
    if not shown:
        return None
    names = [curve.name for curve in record.curves]
    picker = _picker(names) if other is None and len(names) >= ENOUGH_TO_CHOOSE else NOTHING
    lines = (
        "Thin lines are classes, the strong line is their mean."
        if picker
        else "Lines are the means of all classes."
    )
    words = f"{lines} The area under a line is its average precision."
    body = Markup(picker + row(*shown))
    return Section("precision", "Precision", "Precision over recall", words, body)


def _confusion(record: AnalysisRecord, other: AnalysisRecord | None) -> Section | None:
    parts: list[Markup] = []
    for letter, one in _lettered(record, other):
        if (chart := charts_errors.confusion_chart(one.confusion)) is not None:
            frame = {
                "class": "scroll wide",
                "tabindex": "0",
                "role": "region",
                "aria-label": f"Confusion matrix {letter}".strip(),
            }
            shown = (tag("div", frame, chart), tables.confusion_table(one.confusion))
            is_broad = len(one.confusion.classes) > charts_errors.MOST_NUMBERS
            parts += [
                tag("h3", {}, f"{letter} {one.title}") if letter else NOTHING,
                join(shown) if is_broad else tag("div", {"class": "beside"}, *shown),
            ]
    if not parts:
        return None
    confidence = decimal(record.confusion.threshold)
    words = (
        f"Rows are what it is, columns what was found, for predictions of confidence {confidence} "
        f"and more that overlap with IoU {decimal(record.confusion.iou)} or more. The last column "
        "holds missed objects, the last row predictions where nothing is. The darker, "
        "the larger the share of its row."
    )
    is_broad = len(record.confusion.classes) > charts_errors.MOST_NUMBERS
    return Section("confusion", "Confusion", "What is taken for what", words, join(parts), is_broad)


def _calibration(record: AnalysisRecord, other: AnalysisRecord | None) -> Section | None:
    chart = charts_errors.calibration_chart(
        record.calibration, None if other is None else other.calibration
    )
    if chart is None:
        return None
    errors = [f"{a} {decimal(one.calibration.ece)}" for a, one in _lettered(record, other)]
    words = (
        "Of predictions with a confidence of 0.8, eight in ten should be right (IoU 0.50 or more "
        "with an object of their class): on the diagonal. Above it the detector is too modest, "
        f"below it too sure. Expected calibration error: {', '.join(errors).strip()}."
    )
    names = [("a", "A, right" if other else "right"), *([("b", "B, right")] if other else [])]
    legend = (*names, ("iou", "A, mean IoU" if other else "mean IoU"))
    body = row(figure(chart, "Large dots stand for many predictions.", *legend)) + numbers(
        tables.calibration_table(record.calibration)
    )
    return Section(
        "calibration", "Calibration", "Is it as right as it is sure", words, Markup(body)
    )


def _worst(record: AnalysisRecord, pictures: Pictures | None) -> Section | None:
    if not record.worst:
        return None
    shown = min(MOST_SHOWN, len(record.worst))
    words = (
        f"The {shown} worst cases, the worst first. Left is the box that the detector trusts most, "
        "right the best one that it made and ranked low. The dashed box is the object."
    )
    body = gallery(record.worst, pictures)
    return Section(
        "gallery", "Gallery", "Good boxes that were not trusted", words, body, is_broad=True
    )


def _lettered(
    record: AnalysisRecord, other: AnalysisRecord | None
) -> list[tuple[str, AnalysisRecord]]:
    return [("", record)] if other is None else [("A", record), ("B", other)]


def _letters(other: AnalysisRecord | None) -> tuple[tuple[str, str], ...]:
    return () if other is None else (("a", "A"), ("b", "B"))


def _iou_caption(letter: str, record: AnalysisRecord) -> str:
    best, confident = decimal(record.mean_iou_br), decimal(record.mean_iou_hc)
    prefix = f"{letter}: mean" if letter else "Mean"
    return f"{prefix} IoU: best-regressed {best}, most confident {confident}."


def _pearson_caption(letter: str, record: AnalysisRecord) -> str:
    interval = between(record.intervals.pearson, decimal)
    shown = f" ({interval})" if interval else ""
    pairs = f", {count(record.matched_pairs)} pairs" if record.matched_pairs is not None else ""
    prefix = f"{letter}: " if letter else ""
    return (
        f"{prefix}Pearson {decimal(record.pearson)}{shown}, "
        f"Spearman {decimal(record.spearman)}{pairs}."
    )


def _picker(names: Sequence[str]) -> Markup:
    """Return a choice of class, which the page's script shows and obeys."""
    options = [tag("option", {"value": ""}, "all classes")]
    options += [tag("option", {"value": name}, name) for name in sorted(names)]
    choice = tag("select", {"id": "curve-class"}, *options)
    return tag("p", {"class": "picker", "hidden": ""}, tag("label", {}, "Show ", choice))


def definitions(record: AnalysisRecord) -> Section:
    """Return what the words of this report mean, and what was measured on."""
    measured = ", ".join(
        f"{count(number)} {what}"
        for number, what in (
            (record.images, "images"),
            (record.objects, "objects"),
            (record.crowd, "crowd regions left out"),
            (record.predictions, "predictions"),
        )
        if number is not None
    )
    rows = [
        ("Best-regressed (BR)", "the prediction with the highest IoU with an object, of any class"),
        (
            "Most confident (HC)",
            "the N predictions of an image that the detector ranks highest, each by its IoU with "
            "the object that it overlaps most",
        ),
        ("N", "how many objects an image has"),
        (
            "BR recall at mN",
            "share of objects whose BR box is among the image's m N most confident",
        ),
        ("Best order", "the same boxes, ranked by their true IoU"),
        ("Pearson", "correlation of confidence and IoU over Hungarian-matched pairs"),
        ("Intervals", f"{CONFIDENCE}, by bootstrap over images"),
        *([("Measured on", measured)] if measured else []),
    ]
    return Section("words", "Words", "What the words mean", "", tables.definitions(rows))
