"""The gallery of misaligned objects: the confident bad box beside the good one ranked low."""

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from aligndetr.report.content import Box, Found, Misaligned
from aligndetr.report.markup import NOTHING, Attribute, Markup, tag
from aligndetr.report.words import UNKNOWN, decimal

Pictures = Callable[[int], Image.Image | None]
"""From an image's id to its picture; None where there is none to be had."""

MOST_SHOWN = 24
THUMBNAIL = 360
"""Longest side of a thumbnail in pixels."""
QUALITY = 78
MARGIN = 0.25
"""What a crop shows around the boxes, as a share of their extent on each side."""


@dataclass(frozen=True)
class Crop:
    """A piece of a picture: its place in it, and a JPEG as data URI."""

    box: Box
    uri: str


def gallery(worst: tuple[Misaligned, ...], pictures: Pictures | None) -> Markup:
    """Return the worst objects, each as two panes on the same piece of its picture.

    Pictures that are not there are replaced by empty ground; the boxes are shown all the same.
    """
    shown = worst[:MOST_SHOWN]
    crops = [_crop(one, pictures) for one in shown]
    missing = sum(crop is None for crop in crops)
    cards = [
        _card(number, one, crop)
        for number, (one, crop) in enumerate(zip(shown, crops, strict=True))
    ]
    return Markup(_note(missing, len(shown), pictures) + tag("div", {"class": "gallery"}, *cards))


@dataclass(frozen=True)
class Thumbnail:
    """A JPEG as data URI, and its size in pixels."""

    uri: str
    width: int
    height: int


def thumbnail(picture: Image.Image, side: int) -> Thumbnail:
    """Return a picture as JPEG, its longer side at most `side` pixels."""
    small = picture.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=QUALITY, optimize=True)
    uri = "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
    return Thumbnail(uri, *small.size)


def window(boxes: list[Box]) -> Box:
    """Return the square around boxes, with a margin."""
    left, top = min(box[0] for box in boxes), min(box[1] for box in boxes)
    right = max(box[0] + box[2] for box in boxes)
    bottom = max(box[1] + box[3] for box in boxes)
    side = max(right - left, bottom - top, 4.0) * (1 + 2 * MARGIN)
    return ((left + right - side) / 2, (top + bottom - side) / 2, side, side)


def _window(one: Misaligned) -> Box:
    return window([one.object, one.confident.bbox, one.best.bbox])


def _crop(one: Misaligned, pictures: Pictures | None) -> Crop | None:
    """Return what of the window is within the picture; None where there is no picture."""
    picture = None if pictures is None else pictures(one.image_id)
    if picture is None:
        return None
    left, top, width, height = _window(one)
    ends = (
        max(0, round(left)),
        max(0, round(top)),
        min(picture.width, round(left + width)),
        min(picture.height, round(top + height)),
    )
    if ends[0] >= ends[2] or ends[1] >= ends[3]:
        return None
    place = (float(ends[0]), float(ends[1]), float(ends[2] - ends[0]), float(ends[3] - ends[1]))
    return Crop(place, thumbnail(picture.crop(ends), THUMBNAIL).uri)


def _note(missing: int, total: int, pictures: Pictures | None) -> Markup:
    if not missing:
        return NOTHING
    why = "No pictures were given" if pictures is None else "They were not found"
    text = (
        f"The pictures of {missing} of these {total} objects are missing, so only their boxes are "
        f"drawn. {why}."
    )
    return tag("p", {"class": "note"}, text)


def _card(number: int, one: Misaligned, crop: Crop | None) -> Markup:
    name = f"photo-{number}"
    title = (
        f"{one.object_class}: the most confident box has IoU {decimal(one.confident.iou)}, "
        f"the best {decimal(one.best.iou)}"
    )
    picture = one.file_name or f"image {one.image_id}"
    return tag(
        "figure",
        {"class": "card"},
        tag(
            "div",
            {"class": "panes"},
            _pane(one, one.confident, crop, name, "hc"),
            _pane(one, one.best, crop, name, "br"),
        ),
        tag("figcaption", {"title": title}, tag("b", {}, one.object_class), f" in {picture}"),
    )


def _pane(one: Misaligned, found: Found, crop: Crop | None, name: str, style: str) -> Markup:
    """Return one box and the object; the second pane of a picture reuses the first one's bytes."""
    left, top, width, height = _window(one)
    is_first = style == "hc"
    what = "Most confident" if is_first else "Best box"
    rank = UNKNOWN if found.rank is None else str(found.rank)
    label = (
        f"{what}: confidence {decimal(found.score)}, rank {rank}, IoU {decimal(found.iou)}, "
        f"found as {found.label}"
    )
    svg = tag(
        "svg",
        {
            "class": "photo",
            "viewBox": f"{left:.1f} {top:.1f} {width:.1f} {height:.1f}",
            "role": "img",
            "aria-label": label,
        },
        _photo(crop, name, is_first=is_first),
        _rect(one.object, "halo"),
        _rect(one.object, "object"),
        _rect(found.bbox, "halo"),
        _rect(found.bbox, style),
    )
    wrong = "" if found.label == one.object_class else f" as {found.label}"
    return tag(
        "div",
        {"class": f"pane {style}"},
        svg,
        tag("p", {"class": "what"}, what + wrong),
        tag(
            "p",
            {"class": "facts"},
            _fact("IoU", decimal(found.iou)),
            _fact("conf.", decimal(found.score)),
            _fact("rank", rank),
        ),
    )


def _fact(name: str, value: str) -> Markup:
    return tag("span", {}, f"{name} ", tag("b", {}, value))


def _photo(crop: Crop | None, name: str, *, is_first: bool) -> Markup:
    if crop is None:
        return NOTHING
    if not is_first:
        return tag("use", {"href": f"#{name}"})
    place = dict(zip(("x", "y", "width", "height"), crop.box, strict=True))
    attributes: dict[str, Attribute] = {
        "id": name,
        "href": crop.uri,
        "preserveAspectRatio": "none",
        "decoding": "async",
    }
    return tag("image", attributes | place)


def _rect(box: Box, style: str) -> Markup:
    place = dict(zip(("x", "y", "width", "height"), box, strict=True))
    return tag("rect", {"class": style, **place})
