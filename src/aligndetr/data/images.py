"""Decodes image files to RGB, upright where their annotations were made on the upright image.

PIL decodes here: torchvision's own decoders are deprecated from 0.29 on, and a tensor that keeps
PIL's order of bytes (a view of (H, W, 3)) is resized about three times as fast as a planar one.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from aligndetr.errors import DatasetError

ORIENTATION_TAG = 0x0112
"""EXIF tag whose values 5 to 8 swap height and width."""

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""Files with these endings, in lower case, count as images where a layout lists none."""

UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What PIL raises on files that are no image, damaged, or absurdly large."""


def read_image(path: Path, size_hw: tuple[int, int]) -> Tensor:
    """Return an image as (3, height, width) uint8 RGB of the size that its annotations give.

    The EXIF orientation is applied only if this makes the size right, so that boxes made on
    stored pixels (as COCO's) and boxes made on the upright image both fit.

    Raises:
        DatasetError: The file cannot be decoded, or has another size.
    """
    try:
        with Image.open(path) as image:
            found = (image.height, image.width)
            upright = image if found == size_hw else ImageOps.exif_transpose(image)
            pixels = np.array(to_rgb(upright))
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
            swapped = image.getexif().get(ORIENTATION_TAG, 1) >= 5
            return (image.width, image.height) if swapped else (image.height, image.width)
    except UNREADABLE as error:
        raise _unreadable(path, error) from None


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image of any mode as 8-bit RGB: 16 bits lose the lower 8, transparency goes."""
    if image.mode.startswith("I"):
        shifted = np.asarray(image).astype(np.int64) >> 8
        return Image.fromarray(shifted.clip(0, 255).astype(np.uint8)).convert("RGB")
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _unreadable(path: Path, error: Exception) -> DatasetError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return DatasetError(
        f"{path}: expected an image, found one that cannot be read ({reason}); replace the file"
    )
