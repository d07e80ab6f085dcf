"""Decodes image files to RGB, upright unless their annotations were made on stored pixels.

PIL decodes here: torchvision's own decoders are deprecated from 0.29 on, and a tensor that keeps
PIL's order of bytes (a view of (H, W, 3)) is resized about three times as fast as a planar one.
"""

import struct
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from aligndetr.errors import DatasetError

ORIENTATION_TAG = 0x0112
"""EXIF tag whose values 2 to 8 ask viewers to turn or mirror the stored pixels."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What each asks for; PIL's `exif_transpose` also writes all other tags, and fails on odd ones."""

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""Files with these endings, in lower case, count as images where a layout lists none."""

UNREADABLE = (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)
"""What PIL raises on files that are no image, damaged, or absurdly large."""


def read_image(path: Path, size_hw: tuple[int, int]) -> Tensor:
    """Return an image as (3, height, width) uint8 RGB of the size that its annotations give.

    It is upright, as annotation tools and viewers show it and as prediction takes it. It stays as
    stored only where turning would swap height and width, and the stored size is the annotated one.

    Raises:
        DatasetError: The file cannot be decoded, or has another size.
    """
    try:
        with Image.open(path) as image:
            image.load()
            found = (image.height, image.width)
            is_stored = found == size_hw != _upright_size(image)
            pixels = np.array(to_rgb(image if is_stored else upright(image)))
    except UNREADABLE as error:
        raise _unreadable(path, error) from None
    if pixels.shape[:2] != size_hw:
        raise DatasetError(
            f"{path}: expected {size_hw[1]} x {size_hw[0]} pixels (width x height) as annotated, "
            f"found {found[1]} x {found[0]}; correct the size and boxes, or restore the image"
        )
    return torch.as_tensor(pixels).permute(2, 0, 1)


def image_size(path: Path) -> tuple[int, int]:
    """Return the height and width of the upright image, from the file's header alone.

    Raises:
        DatasetError: The file is no image.
    """
    try:
        with Image.open(path) as image:
            if image.format == "TIFF" and _orientation(image) > 1:
                image.load()  # PIL turns TIFF upright itself, at the latest here.
            return _upright_size(image)
    except UNREADABLE as error:
        raise _unreadable(path, error) from None


def upright(image: Image.Image) -> Image.Image:
    """Return an image turned as its EXIF orientation asks; without one, the same image.

    Its EXIF data stay as they were.
    """
    image.load()
    turn = TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image of any mode as 8-bit RGB: 16 bits lose the lower 8, transparency goes."""
    if image.mode.startswith("I"):
        shifted = np.asarray(image).astype(np.int64) >> 8
        return Image.fromarray(shifted.clip(0, 255).astype(np.uint8)).convert("RGB")
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _upright_size(image: Image.Image) -> tuple[int, int]:
    swaps = _orientation(image) >= 5
    return (image.width, image.height) if swaps else (image.height, image.width)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 (as stored) where there is none or none that makes sense."""
    try:
        found = image.getexif().get(ORIENTATION_TAG, 1)
    except UNREADABLE:
        return 1
    return found if found in range(1, 9) else 1


def _unreadable(path: Path, error: Exception) -> DatasetError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return DatasetError(
        f"{path}: expected an image, found one that cannot be read ({reason}); replace the file"
    )
