"""Predictions and objects of a split as flat arrays, image by image: what all analysis starts from.

Left out, as in COCO's evaluation: objects and predictions of classes that the ground truth does
not list, and objects of images that it does not list. Predictions of such images are an error.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from aligndetr.data.annotations import CocoAnnotation, CocoDict
from aligndetr.evaluate.evaluator import Results, check_image_ids, class_names

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Predictions:
    """D predictions, by image and there most confident first; ties keep their order.

    `images` (D,) row of the image; `boxes` (D, 4) left, top, width, height in pixels; `scores`
    (D,); `labels` (D,); `starts` (I + 1,) the first of each image, and the end of the last.
    """

    images: Ints
    boxes: Floats
    scores: Floats
    labels: Ints
    starts: Ints

    def __len__(self) -> int:
        return len(self.scores)

    @cached_property
    def ranks(self) -> Ints:
        """(D,) Place in the image by confidence, 0 for the most confident."""
        return np.arange(len(self)) - self.starts[self.images]


@dataclass(frozen=True, eq=False)
class Objects:
    """O objects, by image, those of one image in the order of the file.

    `areas` (O,) as annotated; `crowd` (O,) is a region of many objects, not one; the rest is as in
    `Predictions`.
    """

    images: Ints
    boxes: Floats
    labels: Ints
    areas: Floats
    crowd: Bools
    starts: Ints

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def counts(self) -> Ints:
        """(I,) Objects of each image."""
        return np.diff(self.starts)

    def where(self, keep: Bools) -> "Objects":
        """Return some of the objects."""
        images = self.images[keep]
        return Objects(
            images,
            self.boxes[keep],
            self.labels[keep],
            self.areas[keep],
            self.crowd[keep],
            _starts(images, len(self.starts) - 1),
        )


@dataclass(frozen=True, eq=False)
class Record:
    """A split and what was found in it; images are sorted by id, labels follow the class ids.

    `regions` are all annotations, `objects` those that are no crowd.
    """

    image_ids: Ints
    file_names: tuple[str, ...]
    classes: tuple[str, ...]
    predictions: Predictions
    regions: Objects

    @cached_property
    def short_labels(self) -> NDArray[np.unsignedinteger]:
        """(D,) The labels of the predictions in a small type, which sorts quickly."""
        return self.predictions.labels.astype(np.min_scalar_type(len(self.classes)))

    @cached_property
    def objects(self) -> Objects:
        """The regions that are single objects."""
        return self.regions.where(~self.regions.crowd)


def gather(results: Results, ground_truth: CocoDict) -> Record:
    """Return the record of what was found in a split.

    Args:
        results: See `evaluate.evaluator`.
        ground_truth: A COCO file's content, of all images of the split.

    Raises:
        DatasetError: Results are of images that the ground truth does not have.
    """
    images = {image["id"]: image.get("file_name", "") for image in ground_truth["images"]}
    image_ids = np.array(sorted(images), dtype=np.int64)
    check_image_ids(results, image_ids.tolist())
    categories = sorted(ground_truth["categories"], key=lambda category: category["id"])
    class_ids = np.array([category["id"] for category in categories], dtype=np.int64)
    return Record(
        image_ids,
        tuple(images[number] for number in image_ids.tolist()),
        tuple(class_names(categories)),
        _predictions(results, image_ids, class_ids),
        _regions(ground_truth["annotations"], image_ids, class_ids),
    )


def _predictions(results: Results, image_ids: Ints, class_ids: Ints) -> Predictions:
    results = results[np.isin(results[:, 6], class_ids)]
    images = np.searchsorted(image_ids, results[:, 0]).astype(np.int64)
    order = np.lexsort((-results[:, 5], images))
    images = images[order]
    return Predictions(
        images,
        np.ascontiguousarray(results[order, 1:5]),
        results[order, 5],
        np.searchsorted(class_ids, results[order, 6]).astype(np.int64),
        _starts(images, len(image_ids)),
    )


def _regions(annotations: Sequence[CocoAnnotation], image_ids: Ints, class_ids: Ints) -> Objects:
    images = np.array([entry["image_id"] for entry in annotations], dtype=np.int64)
    labels = np.array([entry["category_id"] for entry in annotations], dtype=np.int64)
    boxes = np.array([entry["bbox"] for entry in annotations], dtype=np.float64).reshape(-1, 4)
    areas = [entry.get("area", entry["bbox"][2] * entry["bbox"][3]) for entry in annotations]
    crowd = np.array([entry.get("iscrowd", 0) for entry in annotations], dtype=np.bool_)
    known = np.flatnonzero(np.isin(images, image_ids) & np.isin(labels, class_ids))
    order = known[np.argsort(images[known], kind="stable")]
    rows = np.searchsorted(image_ids, images[order]).astype(np.int64)
    return Objects(
        rows,
        boxes[order],
        np.searchsorted(class_ids, labels[order]).astype(np.int64),
        np.array(areas, dtype=np.float64)[order],
        crowd[order],
        _starts(rows, len(image_ids)),
    )


def _starts(images: Ints, count: int) -> Ints:
    return np.searchsorted(images, np.arange(count + 1)).astype(np.int64)
