from pathlib import Path

import numpy as np
from PIL import Image

from aligndetr.data.formats import open_split
from aligndetr.train.pictures import CELL, write_sheet

NOTHING = np.empty((0, 7))


def test_images_without_boxes_are_shown_too(shapes: Path, tmp_path: Path):
    write_sheet(tmp_path, 7, NOTHING, open_split(shapes, "val"))
    assert [path.name for path in (tmp_path / "predictions").iterdir()] == ["step-000007.jpg"]


def test_boxes_with_a_score_of_at_least_three_tenths_are_drawn(shapes: Path, tmp_path: Path):
    truth = open_split(shapes, "val")
    box = [truth.image_ids[0], 10.0, 10.0, 40.0, 40.0]
    sheets = []
    for step, score in enumerate((0.0, 0.29, 0.3)):
        results = np.array([[*box, score, truth.classes.ids[1]]])
        write_sheet(tmp_path, step, results, truth)
        with Image.open(tmp_path / "predictions" / f"step-{step:06d}.jpg") as sheet:
            sheets.append(np.asarray(sheet))
    assert np.array_equal(sheets[0], sheets[1])
    changed = np.abs(sheets[2].astype(int) - sheets[0]).max(axis=-1) > 60
    assert changed[:, :CELL].any()
    assert not changed[:, CELL + 16 :].any()  # the other images are as they were


def test_a_training_leaves_a_sheet_at_every_evaluation(small_run: Path):
    names = sorted(path.name for path in (small_run / "predictions").iterdir())
    assert names == ["step-000002.jpg", "step-000004.jpg"]
