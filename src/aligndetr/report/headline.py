"""The first screen: what was found, in four numbers with a sentence each."""

from dataclasses import dataclass

from aligndetr.report.charts import whisker
from aligndetr.report.content import AnalysisRecord, Interval
from aligndetr.report.markup import NOTHING, Markup, join, tag
from aligndetr.report.words import (
    CONFIDENCE,
    Format,
    between,
    count,
    decimal,
    minus,
    percent,
    points,
    signed,
)

NOT_MEASURED = "Nothing to measure it on."


@dataclass(frozen=True)
class Headline:
    """A number, its interval, what it means, and the other detector's; `low` ends its scale."""

    name: str
    value: float | None
    interval: Interval
    written: Format
    meaning: str
    other: float | None = None
    difference: Interval = None
    low: float = 0.0


def finding(record: AnalysisRecord, other: AnalysisRecord | None) -> str:
    """Return the report's one sentence."""
    if other is not None:
        return _compared_finding(record, other)
    if record.ap_cost is None:
        return "What this detector finds"
    if record.ap_cost < 0 or points(record.ap_cost) == "0.0":
        return "Misalignment costs this detector no AP"
    return f"Misalignment costs this detector {points(record.ap_cost)} AP"


def headlines(record: AnalysisRecord, other: AnalysisRecord | None) -> Markup:
    """Return the four numbers of the first screen."""
    return tag("div", {"class": "headlines"}, *(_stat(one, other) for one in _four(record, other)))


def _four(record: AnalysisRecord, other: AnalysisRecord | None) -> tuple[Headline, ...]:
    ranges, differences = record.intervals, record.differences
    cost = points(record.ap_cost)
    cost_range = between(ranges.ap_cost, points)
    cost_words = f"{cost} AP ({cost_range})" if cost_range else f"{cost} AP"
    recall = record.br_recall.get("1")
    objects = f"Of {count(record.objects)} objects" if record.objects else "Of all objects"
    return (
        Headline(
            "AP",
            record.ap.AP,
            ranges.AP,
            points,
            "Average precision as COCO defines it, over IoU thresholds from 0.50 to 0.95; "
            "100 is perfect.",
            None if other is None else other.ap.AP,
            differences.AP,
        ),
        Headline(
            "AP in the best order",
            record.oracle_ap.AP,
            ranges.oracle_ap,
            points,
            "The very same boxes, ranked by their true IoU. "
            + (
                NOT_MEASURED
                if record.ap_cost is None
                else f"The gap of {cost_words} is what misalignment costs."
            ),
            None if other is None else other.oracle_ap.AP,
            differences.oracle_ap,
        ),
        Headline(
            "BR recall at N",
            recall,
            ranges.br_recall.get("1"),
            percent,
            NOT_MEASURED
            if recall is None
            else f"{objects}, {percent(recall)} keep their best box among the N most confident of "
            "their image, where N is how many objects it has.",
            None if other is None else other.br_recall.get("1"),
            differences.br_recall,
        ),
        Headline(
            "Pearson",
            record.pearson,
            ranges.pearson,
            decimal,
            _pearson_words(record.pearson),
            None if other is None else other.pearson,
            differences.pearson,
            low=-1.0 if (record.pearson or 0) < 0 else 0.0,
        ),
    )


def _pearson_words(value: float | None) -> str:
    if value is None:
        return NOT_MEASURED
    strength = next(
        word
        for least, word in (
            (0.7, "closely"),
            (0.5, "fairly well"),
            (0.3, "loosely"),
            (0.1, "hardly"),
            (-1.1, "not at all"),
        )
        if value >= least
    )
    follows = (
        "runs against the IoU of matched boxes"
        if value < -0.1
        else f"follows the IoU of matched boxes {strength}"
    )
    return f"Confidence {follows}; 1 would be in step, 0 unrelated."


def _stat(one: Headline, other: AnalysisRecord | None) -> Markup:
    interval = between(one.interval, one.written)
    letter = NOTHING if other is None else join((tag("span", {"class": "mark a"}, "A"), " "))
    return tag(
        "section",
        {"class": "stat"},
        tag("h2", {}, one.name),
        tag("p", {"class": "number"}, letter, one.written(one.value)),
        whisker(one.value, one.interval, one.low),
        tag("p", {"class": "interval"}, f"{CONFIDENCE}: {interval}") if interval else NOTHING,
        NOTHING if other is None else _against(one),
        tag("p", {"class": "meaning"}, one.meaning),
    )


def _against(one: Headline) -> Markup:
    difference = signed(one.written)(minus(one.value, one.other))
    if one.difference is None:
        doubt = "its interval is not known"
    else:
        verdict = "clear" if _is_clear(one.difference) else "may be chance"
        doubt = f"{CONFIDENCE}: {between(one.difference, signed(one.written))}, {verdict}"
    return tag(
        "p",
        {"class": "against"},
        tag("span", {"class": "mark b"}, "B"),
        f" {one.written(one.other)}, ",
        tag("b", {}, f"A \N{MINUS SIGN} B = {difference}".replace(" ", "\N{NO-BREAK SPACE}")),
        tag("span", {"class": "interval"}, doubt),
    )


def _is_clear(difference: tuple[float, float]) -> bool:
    """Return whether a difference is of one sign over its whole interval."""
    return difference[0] > 0 or difference[1] < 0


def _compared_finding(record: AnalysisRecord, other: AnalysisRecord) -> str:
    difference = minus(record.ap.AP, other.ap.AP)
    if difference is None:
        return "Two detectors, side by side"
    if points(abs(difference)) == "0.0":
        return "A and B have the same AP"
    more = "above" if difference > 0 else "below"
    interval = record.differences.AP
    doubt = "" if interval is None or _is_clear(interval) else ", which may be chance"
    return f"A is {points(abs(difference))} AP {more} B{doubt}"
