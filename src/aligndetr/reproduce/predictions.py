"""Figure B: what a trained arm finds, beside the targets."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from aligndetr.data.formats import open_split
from aligndetr.data.images import read_image
from aligndetr.drawing import contact_sheet, draw_boxes, picture_from_pixels
from aligndetr.predict import prepare
from aligndetr.reproduce.outcome import ArmOutcome
from aligndetr.reproduce.small import DataSet
from aligndetr.reproduce.trials import opened

THRESHOLD = 0.2
"""Lowest score of a prediction that is drawn."""
IMAGES = 12
COLUMNS = 4
TARGET, PREDICTION = 6, 4
"""Labels whose colours targets and predictions have: blue, as in the paper, and vermilion."""


def draw_predictions(arm: ArmOutcome, data: DataSet, file: Path) -> None:
    """Write a sheet of the first images of `val`, with what the arm's first measured seed finds."""
    assert arm.first is not None, "an arm that was measured"
    detect, config = opened(arm.first.weights, arm.config)
    transform = config.data.augmentation.evaluation(config.backbone.mean, config.backbone.std)
    split = open_split(data.folder, "val")
    pictures: list[Image.Image] = []
    for index in range(min(IMAGES, len(split))):
        height, width = split.images.sizes[index].tolist()
        pixels = read_image(split.path(index), (height, width))
        found = detect(prepare(pixels, transform))[0].above(THRESHOLD)
        boxes, labels = split.targets(index)
        kinds = [PREDICTION] * len(found.boxes) + [TARGET] * len(labels)
        captions = [f"{score:.2f}" for score in found.scores.tolist()] + [""] * len(labels)
        both = torch.cat((found.boxes.cpu().float(), boxes))
        pictures.append(draw_boxes(picture_from_pixels(pixels), both, kinds, captions))
    file.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(pictures, COLUMNS).save(file)
