"""All annotations of one split as flat arrays, whatever the layout they were read from.

Python objects grow the memory of every forked worker (reading one touches its reference count),
arrays do not: names are packed into one array of bytes, objects into one row each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aligndetr.errors import DatasetError
from aligndetr.types import Classes

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

CLIP_TOLERANCE = 1.0
"""Pixels by which a box may reach beyond its image before the issue is reported."""


class CocoImage(TypedDict):
    """An image of a COCO file."""

    id: int
    file_name: str
    height: int
    width: int


class CocoAnnotation(TypedDict):
    """An object of a COCO file; `bbox` is left, top, width, height in pixels."""

    id: int
    image_id: int
    category_id: int
    bbox: list[float]
    area: float
    iscrowd: int


class CocoCategory(TypedDict):
    """A class of a COCO file."""

    id: int
    name: str


class CocoDict(TypedDict):
    """The ground truth of a split as a COCO file has it."""

    info: dict[str, str]
    images: list[CocoImage]
    annotations: list[CocoAnnotation]
    categories: list[CocoCategory]


class Names(Sequence[str]):
    """A read-only sequence of strings, packed into one array of UTF-8 bytes."""

    def __init__(self, names: Iterable[str]) -> None:
        # Names of files that are not UTF-8 have surrogates.
        encoded = [name.encode(errors="surrogatepass") for name in names]
        self._bytes = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        lengths = np.array([len(name) for name in encoded], dtype=np.int64)
        self._ends = np.cumsum(lengths)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        end = int(self._ends[index])
        start = int(self._ends[index - 1]) if index % len(self) else 0
        return self._bytes[start:end].tobytes().decode(errors="surrogatepass")


@dataclass(frozen=True, eq=False)
class ImageTable:
    """One row an image: `ids` (I,) of the file, `sizes` (I, 2) height and width, `names`."""

    ids: IntArray
    sizes: IntArray
    names: Names


@dataclass(frozen=True, eq=False)
class ObjectTable:
    """One row an object, in any order.

    `images` (N,) row of its image; `labels` (N,); `bboxes` (N, 4) left, top, width, height in
    pixels, as the file has them; `areas` (N,) in pixels; `crowd` (N,) is evaluated around, not
    trained on.
    """

    images: IntArray
    labels: IntArray
    bboxes: FloatArray
    areas: FloatArray
    crowd: BoolArray

    def sorted(self) -> ObjectTable:
        """Return the same objects by image, those of one image in their old order."""
        order = np.argsort(self.images, kind="stable")
        return ObjectTable(
            self.images[order],
            self.labels[order],
            self.bboxes[order],
            self.areas[order],
            self.crowd[order],
        )


@dataclass(frozen=True, eq=False)
class Annotations:
    """The images, objects and classes of one split; make it with `Annotations.of`.

    `annotation_file` is where they were read; `layout` names the kind of data folder;
    `folders` are those in which a file name is looked for; `objects` are sorted by image.
    """

    annotation_file: Path
    layout: str
    folders: tuple[Path, ...]
    classes: Classes
    images: ImageTable
    objects: ObjectTable

    @staticmethod
    def of(
        annotation_file: Path,
        layout: str,
        *,
        folders: Sequence[Path],
        classes: Classes,
        images: ImageTable,
        objects: ObjectTable,
    ) -> Annotations:
        """Return the annotations with the objects of each image brought together.

        Raises:
            DatasetError: There are no images.
        """
        if len(images.ids) == 0:
            raise DatasetError(
                f"{annotation_file}: expected at least one image, found none; add images"
            )
        return Annotations(
            annotation_file, layout, tuple(folders), classes, images, objects.sorted()
        )

    def __len__(self) -> int:
        return len(self.images.ids)

    @property
    def image_ids(self) -> tuple[int, ...]:
        """The id of each image in the data set's own file."""
        return tuple(self.images.ids.tolist())

    @property
    def issues(self) -> tuple[str, ...]:
        """What training leaves out or changes, one line each; empty when all is well."""
        lost = int((~self._has_area).sum())
        overflow = self._corners - self._clipped
        beyond = int((self._has_area & (np.abs(overflow) > CLIP_TOLERANCE).any(axis=1)).sum())
        where = self.annotation_file
        issues: list[str] = []
        if lost:
            issues.append(
                f"{where}: boxes of no width or height, or outside their image: {lost}; "
                "not trained on, but counted in evaluation"
            )
        if beyond:
            issues.append(
                f"{where}: boxes that reach beyond their image: {beyond}; clipped for training"
            )
        return tuple(issues)

    @property
    def images_with_targets(self) -> IntArray:
        """The rows of the images that have at least one object to train on."""
        return np.unique(self.objects.images[self._is_target])

    @property
    def target_boxes(self) -> tuple[IntArray, FloatArray]:
        """All that is trained on: rows of the images (n,), and boxes (n, 4) as in `targets`."""
        return self.objects.images[self._is_target], self._clipped[self._is_target]

    def size(self, index: int) -> tuple[int, int]:
        """Return the height and width that the file gives image `index`."""
        height, width = self.images.sizes[index].tolist()
        return height, width

    def targets(self, index: int) -> tuple[Tensor, Tensor]:
        """Return what image `index` trains on: no crowd regions, no empty boxes.

        Returns:
            Boxes (n, 4) float32 xyxy in pixels, clipped to the image, and labels (n,) int64.
        """
        rows = slice(*self._starts[index : index + 2].tolist())
        keep = self._is_target[rows]
        boxes = self._clipped[rows][keep].astype(np.float32)
        return torch.as_tensor(boxes), torch.as_tensor(self.objects.labels[rows][keep])

    def path(self, index: int) -> Path:
        """Return where image `index` is.

        Raises:
            DatasetError: It is in none of the folders.
        """
        name = self.images.names[index]
        for folder in self.folders:
            with suppress(OSError):  # a name that is too long is no file
                if (folder / name).is_file():
                    return folder / name
        tried = ", ".join(str(folder) for folder in self.folders)
        raise DatasetError(
            f"{self.annotation_file}: expected the image {name!r} in one of {tried}; "
            "found no such file; add it or take it out of the annotations"
        )

    def coco_dict(self) -> CocoDict:
        """Return the ground truth in COCO's own form and the file's own ids, for evaluation.

        Boxes and areas are as read: crowd regions, empty and overhanging boxes included. Objects
        are numbered from 1: COCO's evaluation takes the id 0, which some tools write, for "none".
        """
        sizes = zip(self.images.ids.tolist(), self.images.names, self.images.sizes, strict=True)
        return {
            "info": {"description": str(self.annotation_file)},
            "images": [
                {"id": number, "file_name": name, "height": int(height), "width": int(width)}
                for number, name, (height, width) in sizes
            ],
            "annotations": self._coco_annotations(),
            "categories": [
                {"id": number, "name": name}
                for number, name in zip(self.classes.ids, self.classes.names, strict=True)
            ],
        }

    def _coco_annotations(self) -> list[CocoAnnotation]:
        table = self.objects
        category_ids = np.array(self.classes.ids, dtype=np.int64)[table.labels]
        columns = zip(
            self.images.ids[table.images].tolist(),
            category_ids.tolist(),
            table.bboxes.tolist(),
            table.areas.tolist(),
            table.crowd.tolist(),
            strict=True,
        )
        return [
            {
                "id": number,
                "image_id": image_id,
                "category_id": category_id,
                "bbox": bbox,
                "area": area,
                "iscrowd": int(crowd),
            }
            for number, (image_id, category_id, bbox, area, crowd) in enumerate(columns, start=1)
        ]

    @cached_property
    def _starts(self) -> IntArray:
        """(I + 1,) The first object of each image, and the end of the last."""
        return np.searchsorted(self.objects.images, np.arange(len(self) + 1)).astype(np.int64)

    @cached_property
    def _corners(self) -> FloatArray:
        """(N, 4) The boxes as xyxy in pixels."""
        bboxes = self.objects.bboxes
        return np.concatenate((bboxes[:, :2], bboxes[:, :2] + bboxes[:, 2:]), axis=1)

    @cached_property
    def _clipped(self) -> FloatArray:
        """(N, 4) The boxes as xyxy in pixels, clipped to their image."""
        limits = self.images.sizes[self.objects.images][:, [1, 0, 1, 0]]
        return np.clip(self._corners, 0, limits)

    @cached_property
    def _has_area(self) -> BoolArray:
        """(N,) Whether something of the box is inside the image."""
        left, top, right, bottom = self._clipped.T
        return (right > left) & (bottom > top)

    @cached_property
    def _is_target(self) -> BoolArray:
        """(N,) Whether the object is trained on."""
        return self._has_area & ~self.objects.crowd


def check_same_classes(train: Annotations, val: Annotations) -> None:
    """Check that two splits agree on the names, ids and order of their classes.

    Raises:
        DatasetError: They do not; says what each has that the other has not.
    """
    if train.classes == val.classes:
        return
    ours = dict(zip(train.classes.ids, train.classes.names, strict=True))
    theirs = dict(zip(val.classes.ids, val.classes.names, strict=True))
    only_ours = {number: name for number, name in ours.items() if theirs.get(number) != name}
    only_theirs = {number: name for number, name in theirs.items() if ours.get(number) != name}
    raise DatasetError(
        f"{val.annotation_file}: expected the classes of {train.annotation_file}, found others: "
        f"train alone has {_listed(only_ours)}; val alone has {_listed(only_theirs)}; "
        "give both the same categories with the same ids"
    )


def _listed(classes: dict[int, str]) -> str:
    return ", ".join(f"{number} {name!r}" for number, name in classes.items()) or "none"
