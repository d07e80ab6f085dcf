from pathlib import Path

import numpy as np
import pytest

from aligndetr.data.formats import open_split
from aligndetr.data.shapes import shapes_dataset
from aligndetr.errors import DatasetError
from aligndetr.runs import train
from aligndetr.train import loop
from aligndetr.train.pictures import draw_sheet, write_sheet
from small import SMALL

NOTHING = np.empty((0, 7))


def test_images_without_boxes_are_shown_too(shapes: Path, tmp_path: Path):
    write_sheet(draw_sheet(NOTHING, open_split(shapes, "val")), tmp_path, 7)
    assert [path.name for path in (tmp_path / "predictions").iterdir()] == ["step-000007.jpg"]


def test_boxes_with_a_score_of_at_least_three_tenths_are_drawn(tmp_path: Path):
    truth = open_split(shapes_dataset(tmp_path / "data", train=1, val=4, size=64), "val")
    box = [truth.image_ids[0], 10.0, 10.0, 40.0, 40.0]
    none, low, enough = (
        np.asarray(draw_sheet(np.array([[*box, score, truth.classes.ids[1]]]), truth)).astype(int)
        for score in (0.0, 0.29, 0.3)
    )
    assert np.array_equal(none, low)
    changed = np.abs(enough - none).max(axis=-1) > 0
    first = changed.shape[1] // len(truth)  # four images in one row
    assert changed[:, :first].any()
    assert not changed[:, first + 8 :].any()


def test_boxes_of_large_images_shrink_with_them(tmp_path: Path):
    data = shapes_dataset(tmp_path / "data", train=1, val=1, size=1200)
    truth = open_split(data, "val")
    row = [truth.image_ids[0], 600.0, 600.0, 600.0, 600.0, 0.9, truth.classes.ids[0]]
    plain, drawn = (
        np.asarray(draw_sheet(np.array(rows), truth)).astype(int) for rows in (NOTHING, [row])
    )
    assert max(plain.shape) < 600
    rows, columns = np.nonzero((plain != drawn).any(axis=-1))
    half = plain.shape[0] / 2
    assert rows.max() > 1.9 * half
    assert rows.min() > half - 40  # the caption stands above the box
    assert columns.min() > half - 8


def test_a_picture_that_cannot_be_read_does_not_end_a_training(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
):
    def fail(*_: object) -> None:
        raise DatasetError("gone")

    monkeypatch.setattr(loop, "draw_sheet", fail)
    train(model="align-dino-tiny", data=shapes, out=tmp_path / "run", steps=1, overrides=SMALL)
    assert "no picture of the predictions: gone" in capsys.readouterr().err


def test_a_training_leaves_a_sheet_at_every_evaluation(small_run: Path):
    names = sorted(path.name for path in (small_run / "predictions").iterdir())
    assert names == ["step-000002.jpg", "step-000004.jpg"]
