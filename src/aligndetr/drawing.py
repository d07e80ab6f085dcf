"""Boxes with captions on a picture, legible at any size, and sheets of pictures.

It knows nothing of detectors: boxes are pixels, captions are text, a colour goes with a label.
"""

import colorsys
import math
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

Colour = tuple[int, int, int]

SMALLEST_SIDE = 400
"""Pictures whose longer side is below this are enlarged, or no caption would fit in them."""

PALETTE: tuple[Colour, ...] = (
    (230, 159, 0),  # orange
    (86, 180, 233),  # sky blue
    (0, 158, 115),  # bluish green
    (240, 228, 66),  # yellow
    (213, 94, 0),  # vermilion
    (204, 121, 167),  # reddish purple
    (0, 114, 178),  # blue
)
"""Seven colours that colour-blind readers tell apart (Okabe and Ito, 2008)."""

GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


def class_colour(label: int) -> Colour:
    """Return the RGB colour of a label, the same in every picture.

    Beyond the palette, hues a golden section apart on two levels of brightness.
    """
    if label < len(PALETTE):
        return PALETTE[label]
    hue = label * GOLDEN_RATIO % 1
    red, green, blue = colorsys.hls_to_rgb(hue, 0.6 if label % 2 else 0.42, 0.75)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw_boxes(
    picture: Image.Image, boxes: Tensor, labels: Sequence[int], captions: Sequence[str]
) -> Image.Image:
    """Return the picture with a coloured box and a caption for each row of `boxes`.

    The first row lies on top. Small pictures are enlarged by a whole factor.

    Args:
        picture: Of any mode; it is not changed.
        boxes: (M, 4) xyxy in pixels of `picture`.
        labels: M class indices, which choose the colours.
        captions: M texts; an empty one draws no caption.
    """
    factor = math.ceil(SMALLEST_SIDE / max(picture.size))
    canvas = picture.convert("RGB").resize(
        (picture.width * factor, picture.height * factor), Image.Resampling.BICUBIC
    )
    pen = ImageDraw.Draw(canvas)
    width = line_width(canvas.size)
    rows = list(zip((boxes * factor).tolist(), labels, captions, strict=True))
    for box, label, _ in reversed(rows):
        _draw_box(pen, box, class_colour(label), width)
    for box, label, caption in reversed(rows):
        if caption:
            _draw_caption(pen, box, class_colour(label), caption)
    return canvas


def line_width(size: tuple[int, int]) -> int:
    """Return the width in pixels of lines on a picture of this size: 3 at 640 x 480."""
    return max(2, round(math.sqrt(size[0] * size[1]) / 200))


def font_size(size: tuple[int, int]) -> int:
    """Return the height in pixels of captions on a picture of this size: 14 at 640 x 480."""
    return max(12, round(math.sqrt(size[0] * size[1]) / 40))


def contact_sheet(
    pictures: Sequence[Image.Image], columns: int, *, cell: int = 480, gap: int = 8
) -> Image.Image:
    """Return one picture with all `pictures` in rows of `columns`, each fitted into a square.

    Args:
        pictures: At least one.
        columns: Pictures a row.
        cell: Longest side of a picture on the sheet, in pixels.
        gap: White space around each, in pixels.

    Raises:
        ValueError: there is no picture or no column.
    """
    if not pictures or columns < 1:
        raise ValueError(f"contact_sheet: {len(pictures)} pictures in {columns} columns")
    fitted = [_fit(picture, cell) for picture in pictures]
    rows = [fitted[start : start + columns] for start in range(0, len(fitted), columns)]
    heights = [max(picture.height for picture in row) for row in rows]
    width = max(picture.width for picture in fitted)
    total = (
        gap + min(columns, len(fitted)) * (width + gap),
        gap + sum(height + gap for height in heights),
    )
    sheet = Image.new("RGB", total, "white")
    top = gap
    for row, height in zip(rows, heights, strict=True):
        for column, picture in enumerate(row):
            sheet.paste(picture, (gap + column * (width + gap), top))
        top += height + gap
    return sheet


def picture_from_pixels(pixels: Tensor) -> Image.Image:
    """Return (3, H, W) pixels, uint8 or float in [0, 1], as a picture."""
    if pixels.is_floating_point():
        pixels = (pixels.float() * 255).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())


def _fit(picture: Image.Image, cell: int) -> Image.Image:
    scale = cell / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _draw_box(pen: ImageDraw.ImageDraw, box: Sequence[float], colour: Colour, width: int) -> None:
    """Draw an outline with a dark rim, which shows on a ground of its own colour."""
    left, top, right, bottom = box
    right, bottom = max(left, right), max(top, bottom)
    pen.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline="black", width=width + 2)
    pen.rectangle((left, top, right, bottom), outline=colour, width=width)


def _draw_caption(
    pen: ImageDraw.ImageDraw, box: Sequence[float], colour: Colour, caption: str
) -> None:
    """Write on a filled plate above the box, or within it at the top, inside the picture."""
    picture_size = pen.im.size
    caption = " ".join(caption.split())  # a name may have a line break, which is not measured
    font = _fitting_font(pen, caption, picture_size)
    left, _, right, _ = pen.textbbox((0, 0), caption, font=font)
    _, top, _, bottom = pen.textbbox((0, 0), "Hg", font=font)  # all plates are equally high
    margin = max(2, (bottom - top) // 5)
    width, height = right - left + 2 * margin, bottom - top + 2 * margin
    x = max(0, min(box[0], picture_size[0] - width))
    y = box[1] - height if box[1] >= height else box[1]
    y = max(0, min(y, picture_size[1] - height))
    pen.rectangle((x, y, x + width, y + height), fill=colour)
    pen.text((x + margin - left, y + margin - top), caption, fill=_ink(colour), font=font)


def _fitting_font(
    pen: ImageDraw.ImageDraw, caption: str, picture_size: tuple[int, int]
) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the font of this picture, smaller if the caption would be wider than the picture."""
    size = font_size(picture_size)
    font = ImageFont.load_default(size)
    room = 0.95 * picture_size[0]
    length = pen.textlength(caption, font=font) + size / 2
    return font if length <= room else ImageFont.load_default(max(6, size * room / length))


def _ink(colour: Colour) -> str:
    """Return the text colour, black or white, that stands out on `colour` (Rec. 601 luma)."""
    red, green, blue = colour
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 128 else "white"
