"""The page: template, style sheet and script around the sections, all in one file."""

from collections.abc import Sequence
from importlib.resources import files
from string import Template

from aligndetr import __version__
from aligndetr.report.content import AnalysisRecord
from aligndetr.report.gallery import Pictures
from aligndetr.report.headline import finding, headlines
from aligndetr.report.history import History
from aligndetr.report.markup import NOTHING, Markup, join, tag
from aligndetr.report.sections import Section, analysis_sections, definitions
from aligndetr.report.training import training_sections
from aligndetr.report.words import count, decimal, percent, points

ASSETS = files("aligndetr.report") / "assets"


def page(
    record: AnalysisRecord,
    *,
    pictures: Pictures | None = None,
    other: AnalysisRecord | None = None,
    history: History | None = None,
) -> str:
    """Return the whole report as one HTML document."""
    has_analysis = bool(record.model_fields_set - {"title"})
    sections = analysis_sections(record, other, pictures)
    words = [definitions(record)] if sections else []
    sections += [] if history is None else training_sections(history)
    sections += words
    found = finding(record, other) if has_analysis or history is None else "What this training did"
    links = [tag("a", {"href": f"#{one.anchor}"}, one.name) for one in sections]
    return Template(_asset("report.html")).substitute(
        title=join([f"{record.title}: {found}"]),
        summary=join([_summary(record)]),
        style=_asset("report.css"),
        script=_asset("report.js"),
        about=_about(record, other),
        finding=join([found]),
        headlines=headlines(record, other) if has_analysis else NOTHING,
        links=tag("nav", {"aria-label": "Sections"}, *links) if links else NOTHING,
        sections=_written(sections),
        version=join([__version__]),
    )


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _about(record: AnalysisRecord, other: AnalysisRecord | None) -> Markup:
    """Return whose numbers these are."""
    if other is None:
        return tag("p", {"class": "about"}, tag("b", {}, record.title), *_measured(record))
    return join(
        tag(
            "p",
            {"class": "about"},
            tag("span", {"class": f"mark {letter.lower()}"}, letter),
            " ",
            tag("b", {}, one.title),
            *_measured(one),
        )
        for letter, one in (("A", record), ("B", other))
    )


def _measured(record: AnalysisRecord) -> list[Markup]:
    parts = [
        " ".join(part for part in (record.data, record.split) if part),
        f"{count(record.images)} images" if record.images is not None else "",
        f"{count(record.objects)} objects" if record.objects is not None else "",
    ]
    return [tag("span", {}, part) for part in parts if part]


def _written(sections: Sequence[Section]) -> Markup:
    if not sections:
        return tag("p", {"class": "note"}, "There is nothing to show yet.")
    return join(_section(one) for one in sections)


def _section(one: Section) -> Markup:
    words = (tag("h2", {}, one.heading), tag("p", {}, one.words) if one.words else NOTHING)
    return tag(
        "section",
        {"id": one.anchor, "class": "part broad" if one.is_broad else "part"},
        tag("div", {"class": "words"}, *words),
        tag("div", {"class": "shown"}, one.body),
    )


def _summary(record: AnalysisRecord) -> str:
    """Return the main numbers in one line, for previews."""
    recall = percent(record.br_recall.get("1"))
    return f"AP {points(record.ap.AP)}, BR recall at N {recall}, Pearson {decimal(record.pearson)}"
