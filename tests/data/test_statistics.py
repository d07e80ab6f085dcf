from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from aligndetr.data.annotations import Annotations, ImageTable, Names, ObjectTable
from aligndetr.data.statistics import Statistics
from aligndetr.types import Classes


def split(bboxes: Sequence[Sequence[float]], images: list[int], crowd: list[bool]) -> Annotations:
    return Annotations.of(
        Path("train.json"),
        "coco",
        folders=[],
        classes=Classes.numbered(2),
        images=ImageTable(
            np.array([1, 2, 3]),
            np.array([[100, 200], [100, 300], [50, 200]]),
            Names(["a.png", "b.png", "c.png"]),
        ),
        objects=ObjectTable(
            np.array(images, dtype=np.int64),
            np.zeros(len(images), dtype=np.int64),
            np.array(bboxes, dtype=np.float64).reshape(-1, 4),
            np.ones(len(images)),
            np.array(crowd, dtype=bool),
        ),
    )


def test_a_split_without_objects() -> None:
    found = Statistics.of(split([], [], []))
    assert found == Statistics(3, 2, (100, 200), 0, 0, None)
    assert str(found) == (
        "3 images, mostly 200x100; 0 objects of 2 classes; 0 in the fullest image"
    )


def test_counts_shares_and_the_fullest_image() -> None:
    # Of the roots of 400 / 20,000, 400 / 30,000 and 10,000 / 20,000; no crowd, nothing empty.
    bboxes = [[0.0, 0, 10, 40], [0, 0, 20, 20], [0, 0, 100, 100], [0, 0, 90, 90], [0, 0, 0, 5]]
    found = Statistics.of(split(bboxes, [1, 0, 0, 2, 2], [False, False, False, True, False]))
    assert (found.objects, found.most_objects) == (3, 2)
    shares = sorted(np.sqrt([400 / 20_000, 400 / 30_000, 10_000 / 20_000]))
    assert found.small_share == pytest.approx(shares[0] + 0.2 * (shares[1] - shares[0]))


def test_portraits_and_landscapes_have_one_usual_size() -> None:
    table = split([], [], [])
    turned = Annotations.of(
        table.annotation_file, "coco", folders=[], classes=table.classes,
        images=ImageTable(
            np.array([1, 2]), np.array([[480, 640], [640, 480]]), Names(["a.png", "b.png"])
        ),
        objects=table.objects,
    )  # fmt: skip
    assert Statistics.of(turned).size == (480, 640)
