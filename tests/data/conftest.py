"""Tiny data sets in every layout, written where a test wants them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aligndetr.data.images import ORIENTATION_TAG

Content = dict[str, Any]
WriteCoco = Callable[[Path, Content], Path]


def write_image(path: Path, width: int = 40, height: int = 30, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(name="write_image")
def _write_image() -> Callable[..., Path]:
    return write_image


@pytest.fixture
def turn_image() -> Callable[[Path, int], None]:
    """Give an image file a tag by which viewers turn it."""

    def turn(path: Path, orientation: int) -> None:
        with Image.open(path) as image:
            exif = image.getexif()
            exif[ORIENTATION_TAG] = orientation
            image.save(path, exif=exif)

    return turn


@pytest.fixture
def content() -> Content:
    """Three images: two objects, a crowd region and an object, none; ids with gaps, unordered."""
    return {
        "images": [
            {"id": 7, "file_name": "b.png", "width": 40, "height": 30},
            {"id": 3, "file_name": "sub/a.png", "width": 20, "height": 30},
            {"id": 90, "file_name": "empty.png", "width": 40, "height": 30},
        ],
        "categories": [{"id": 44, "name": "dog"}, {"id": 5, "name": "cat"}],
        "annotations": [
            {"id": 0, "image_id": 3, "category_id": 44, "bbox": [1, 2, 3, 4], "iscrowd": 1},
            {"id": 8, "image_id": 7, "category_id": 5, "bbox": [0, 0, 10, 20], "area": 150.5},
            {"id": 2, "image_id": 3, "category_id": 5, "bbox": [5.5, 6, 7, 8]},
            {"id": 4, "image_id": 7, "category_id": 44, "bbox": [30, 20, 10, 10]},
        ],
    }


@pytest.fixture
def write_coco() -> WriteCoco:
    """Write `content` to a file and its images to `images/` beside it."""

    def write(file: Path, content: Content) -> Path:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
        for seed, image in enumerate(content["images"]):
            path = file.parent / "images" / image["file_name"]
            write_image(path, image["width"], image["height"], seed)
        return file

    return write
