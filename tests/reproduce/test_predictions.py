"""Figure B: which pixels the detector sees and the sheet shows."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from aligndetr.data.images import ORIENTATION_TAG
from aligndetr.reproduce import predictions
from aligndetr.reproduce.catalogue import EXPERIMENTS
from aligndetr.reproduce.outcome import ArmOutcome
from aligndetr.reproduce.places import Place
from aligndetr.reproduce.small import DataSet, small_config
from aligndetr.types import Classes, Detections, ImageBatch


def lying(folder: Path) -> None:
    """Store the first image of `val` lying, with a tag by which its annotations are upright."""
    file = folder / "val.json"
    content = json.loads(file.read_text())
    first = content["images"][0]
    first |= {"width": 40, "height": 64}
    stored = Image.new("RGB", (64, 40), "red")
    exif = stored.getexif()
    exif[ORIENTATION_TAG] = 6
    stored.save(folder / "images" / first["file_name"], exif=exif)
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != first["id"]]
    file.write_text(json.dumps(content))


def test_pictures_are_as_upright_as_their_boxes(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(shapes, tmp_path / "data")
    lying(folder)
    data = DataSet.open(folder)
    config = small_config(EXPERIMENTS["figB"].arms[0], data)
    seen: list[tuple[int, int]] = []

    def detect(images: ImageBatch) -> list[Detections]:
        height, width = images.sizes[0].tolist()
        seen.append((height, width))
        empty = torch.zeros(0)
        nothing = torch.zeros(0, 4), empty, empty.long()
        return [Detections(*nothing, Classes.numbered(3), seen[-1])]

    monkeypatch.setattr(predictions, "opened", lambda *_: (detect, config))
    arm = ArmOutcome(
        EXPERIMENTS["figB"].arms[0], config, None, {1: {"AP": 1.0}}, {1: Place(tmp_path)}, {}, 1
    )
    predictions.draw_predictions(arm, data, tmp_path / "sheet.png")
    assert seen == [(64, 40), (64, 64), (64, 64), (64, 64)]
    assert (tmp_path / "sheet.png").is_file()
