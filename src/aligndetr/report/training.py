"""The sections of the report about a training: metrics, losses, learning rate, pictures."""

from collections.abc import Sequence

from PIL import Image

from aligndetr.data.images import UNREADABLE, to_rgb
from aligndetr.report import charts_training as charts
from aligndetr.report.gallery import Thumbnail, thumbnail
from aligndetr.report.history import History, Picture
from aligndetr.report.markup import NOTHING, Attribute, Markup, join, tag
from aligndetr.report.sections import Section, figure, numbers, row
from aligndetr.report.tables import Cell, table
from aligndetr.report.words import count, decimal, percent, points

MOST_PICTURES = 8
PICTURE_SIDE = 720
COLUMNS = (
    ("AP", points),
    ("AP50", points),
    ("AP75", points),
    ("AR100", points),
    ("br_recall_1", percent),
    ("pearson", decimal),
)
HEADS = {"br_recall_1": "BR recall", "pearson": "Pearson"}


def training_sections(history: History) -> list[Section]:
    """Return the sections that the run has data for."""
    sections = [_metrics(history), _losses(history), _pictures(history.pictures)]
    return [section for section in sections if section is not None]


def _metrics(history: History) -> Section | None:
    shown = [
        figure(chart, "")
        for chart in (charts.precision_over_time(history), charts.alignment_over_time(history))
        if chart is not None
    ]
    if not shown:
        return None
    words = "Measured on the validation images on the way; the best weights were kept."
    body = Markup(row(*shown) + numbers(_evaluation_table(history)))
    return Section("training", "Training", "The training", words, body)


def _losses(history: History) -> Section | None:
    grouped = charts.panels(history)
    shown = {
        key: figure(chart, "")
        for key, terms in grouped.items()
        if (chart := charts.loss_chart(history, *key, terms)) is not None
    }
    total = [
        figure(chart, "")
        for name, label in (("loss", "sum of all losses"), ("learning_rate", "learning rate"))
        if (chart := charts.total_chart(history, name, label)) is not None
    ]
    if not shown and not total:
        return None
    has_main = any(group == "main" for group, _ in shown)
    main = [chart for (group, _), chart in shown.items() if group == "main" or not has_main]
    extra = [chart for (group, _), chart in shown.items() if group != "main" and has_main]
    words = "Points are means of some steps."
    if any(len(terms) > 1 for terms in grouped.values()):
        words = (
            "Each line is a decoder layer, the last one strongest; what the encoder proposes is "
            f"dashed. A loss that falls with depth says that the layers refine. {words}"
        )
    body = join((row(*main), row(*total), _folded("Groups that only training has", extra)))
    return Section("losses", "Losses", "Losses by layer", words, body, is_broad=True)


def _folded(name: str, figures: Sequence[Markup]) -> Markup:
    return tag("details", {}, tag("summary", {}, name), row(*figures)) if figures else NOTHING


def _evaluation_table(history: History) -> Markup:
    columns = [
        (name, written)
        for name, written in COLUMNS
        if any(name in moment.values for moment in history.evaluations)
    ]
    rows = [
        [
            Cell(count(moment.step), float(moment.step)),
            Cell(count(moment.epoch), float(moment.epoch)),
            *(
                Cell(written(value := moment.values.get(name)), "" if value is None else value)
                for name, written in columns
            ),
        ]
        for moment in history.evaluations
    ]
    heads = ["step", "epoch", *(HEADS.get(name, name) for name, _ in columns)]
    return table("Evaluations", heads, rows)


def _pictures(pictures: Sequence[Picture]) -> Section | None:
    shown = [
        (picture, small)
        for picture in _some(pictures)
        if (small := _thumbnail(picture)) is not None
    ]
    if not shown:
        return None
    cards = [
        tag(
            "figure",
            {"class": "step"},
            _image(small, f"Predictions at step {picture.step}"),
            tag("figcaption", {}, f"Step {count(picture.step)}"),
        )
        for picture, small in shown
    ]
    words = "What the weights of some steps found in the same images."
    body = tag("div", {"class": "steps"}, *cards)
    return Section("steps", "Pictures", "Predictions on the way", words, body)


def _image(small: Thumbnail, alt: str) -> Markup:
    size: dict[str, Attribute] = {"width": small.width, "height": small.height}
    return tag("img", {"src": small.uri, "alt": alt, "loading": "lazy", **size})


def _some(pictures: Sequence[Picture]) -> list[Picture]:
    """Return at most so many pictures, evenly spaced, with the first and the last."""
    if len(pictures) <= MOST_PICTURES:
        return list(pictures)
    last = len(pictures) - 1
    return [pictures[round(n * last / (MOST_PICTURES - 1))] for n in range(MOST_PICTURES)]


def _thumbnail(picture: Picture) -> Thumbnail | None:
    try:
        with Image.open(picture.path) as opened:
            return thumbnail(to_rgb(opened), PICTURE_SIDE)
    except UNREADABLE:
        return None
