"""What the weights of an evaluation find in a few validation images, as one picture."""

import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from aligndetr.checkpoint import SHEETS
from aligndetr.data.annotations import Annotations
from aligndetr.data.images import read_image
from aligndetr.drawing import contact_sheet, draw_boxes, picture_from_pixels
from aligndetr.errors import DatasetError
from aligndetr.evaluate.evaluator import Results

SHOWN, COLUMNS, CELL = 8, 4, 480
"""Images on a sheet, in a row of it, and the pixels of each one's longer side at most."""
THRESHOLD = 0.3
"""The score that a box must have to be drawn."""


def draw_sheet(results: Results, truth: Annotations) -> Image.Image:
    """Return the first images of a split with the boxes found in them, as one picture.

    Raises:
        DatasetError: An image cannot be read.
    """
    count = min(SHOWN, len(truth))
    return contact_sheet([_drawn(index, results, truth) for index in range(count)], COLUMNS)


def drawing_seconds(truth: Annotations) -> float:
    """Return how long a sheet takes, by drawing one; 0 where an image cannot be read."""
    start = time.monotonic()
    try:
        draw_sheet(np.empty((0, 7)), truth)
    except DatasetError:
        return 0.0
    return time.monotonic() - start


def write_sheet(sheet: Image.Image, run: Path, step: int) -> None:
    """Write a sheet to `predictions/step-N.jpg` of a run folder."""
    path = run / SHEETS.format(f"{step:06d}")
    path.parent.mkdir(exist_ok=True)
    sheet.save(path, quality=85)


def _drawn(index: int, results: Results, truth: Annotations) -> Image.Image:
    """Return an image, shrunk, with the boxes that the results have for it."""
    images, classes = truth.images, truth.classes
    height, width = images.sizes[index].tolist()
    picture = picture_from_pixels(read_image(truth.path(index), (height, width)))
    picture.thumbnail((CELL, CELL))
    rows = results[(results[:, 0] == images.ids[index]) & (results[:, 5] >= THRESHOLD)]
    corners = np.hstack((rows[:, 1:3], rows[:, 1:3] + rows[:, 3:5]))
    scale = np.array([picture.width / width, picture.height / height] * 2)
    labels = [classes.ids.index(category) for category in rows[:, 6].astype(int).tolist()]
    captions = [
        f"{classes.names[label]} {score:.2f}"
        for label, score in zip(labels, rows[:, 5].tolist(), strict=True)
    ]
    return draw_boxes(picture, torch.from_numpy(corners * scale), labels, captions)
