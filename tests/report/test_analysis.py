import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aligndetr.data.formats import open_split
from aligndetr.report.analysis import pictures_of

ROTATED = 6
"""The EXIF orientation of a camera held upright: width and height change places."""


def data_with_one_image(folder: Path, size: tuple[int, int]) -> Path:
    """Write a picture of 40 x 20 stored pixels that says it is turned, annotated with a size."""
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, 30:] = 255
    exif = Image.Exif()
    exif[0x0112] = ROTATED
    (folder / "images").mkdir(parents=True)
    Image.fromarray(pixels).save(folder / "images" / "a.png", exif=exif)
    width, height = size
    content = {
        "images": [{"id": 7, "file_name": "a.png", "width": width, "height": height}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 7,
                "category_id": 1,
                "bbox": [1, 1, 9, 9],
                "area": 81,
                "iscrowd": 0,
            }
        ],
    }
    for split in ("train", "val"):
        (folder / f"{split}.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("size", [(40, 20), (20, 40)])
def test_pictures_are_turned_as_their_annotations_expect(size, tmp_path: Path):
    annotations = open_split(data_with_one_image(tmp_path / "data", size), "val")
    picture = pictures_of(annotations)(7)
    assert picture is not None
    assert picture.size == size
    white = np.asarray(picture).min(axis=-1) > 128
    assert white.sum() == 200
    assert white[:, 30:].all() if size == (40, 20) else white[30:].all()


def test_a_name_too_long_for_a_file_is_a_picture_that_is_gone(tmp_path: Path):
    folder = data_with_one_image(tmp_path / "data", (40, 20))
    content = json.loads((folder / "val.json").read_text())
    content["images"][0]["file_name"] = "a" * 300 + ".png"
    (folder / "val.json").write_text(json.dumps(content))
    assert pictures_of(open_split(folder, "val"))(7) is None


def test_a_picture_that_is_gone_is_none(tmp_path: Path):
    annotations = open_split(data_with_one_image(tmp_path / "data", (40, 20)), "val")
    (tmp_path / "data" / "images" / "a.png").unlink()
    assert pictures_of(annotations)(7) is None
