"""What the weights of an evaluation find in a few validation images, as one picture."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from aligndetr.data.annotations import Annotations
from aligndetr.data.images import read_image
from aligndetr.drawing import contact_sheet, draw_boxes, picture_from_pixels
from aligndetr.evaluate.evaluator import Results

SHOWN, COLUMNS, CELL = 8, 4, 320
"""Images on a sheet, in a row of it, and the pixels of each one's longer side."""
THRESHOLD = 0.3
"""The score that a box must have to be drawn."""
FOLDER = "predictions"


def write_sheet(run: Path, step: int, results: Results, truth: Annotations) -> None:
    """Write `predictions/step-N.jpg`: the first images of a split with the boxes found in them.

    The same images at every step, so that one sees the training go on.
    """
    pictures = [_drawn(index, results, truth) for index in range(min(SHOWN, len(truth)))]
    if pictures:
        sheet = contact_sheet(pictures, COLUMNS, cell=CELL)
        path = run / FOLDER / f"step-{step:06d}.jpg"
        path.parent.mkdir(exist_ok=True)
        sheet.save(path, quality=85)


def _drawn(index: int, results: Results, truth: Annotations) -> Image.Image:
    """Return an image with the boxes that the results have for it."""
    images, classes = truth.images, truth.classes
    height, width = images.sizes[index].tolist()
    picture = picture_from_pixels(read_image(truth.path(index), (height, width)))
    rows = results[(results[:, 0] == images.ids[index]) & (results[:, 5] >= THRESHOLD)]
    corners = np.hstack((rows[:, 1:3], rows[:, 1:3] + rows[:, 3:5]))
    labels = [classes.ids.index(category) for category in rows[:, 6].astype(int).tolist()]
    captions = [
        f"{classes.names[label]} {score:.2f}"
        for label, score in zip(labels, rows[:, 5].tolist(), strict=True)
    ]
    return draw_boxes(picture, torch.from_numpy(corners), labels, captions)
