"""Reads YOLO folders: a YAML file with the class names, images, and one text file an image.

A line of a text file is `class centre_x centre_y width height`, relative to the image, or
`class x1 y1 x2 y2 x3 y3 ...`, a polygon, whose extent is taken; where the YAML file has a
`kpt_shape`, keypoints follow the box, and are left out. An image without a text file has no
objects. Class ids are the labels; images are numbered from 1, by path.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

from aligndetr.data.annotations import Annotations, ImageTable, IntArray, Names, ObjectTable
from aligndetr.data.files import read_text
from aligndetr.data.images import IMAGE_SUFFIXES, image_size
from aligndetr.errors import DatasetError
from aligndetr.types import Classes

Entries = dict[str, object]
"""What the YAML file says, by key; numbers and words such as `no` are text."""

NOTHING = ("", "~", "null", "Null", "NULL")
"""How YAML writes that a key has no value."""

Line = tuple[int, tuple[float, float, float, float]]
"""Label, and left, top, width, height relative to the image."""


def yolo_images(file: Path, split_names: Sequence[str]) -> tuple[Path, ...] | None:
    """Return the images of the split that goes by one of `split_names`, None where there is none.

    The YAML file may name a folder, a list of folders, or a text file of paths, from itself or
    from its `path`; else `images/SPLIT` and `SPLIT/images` beside it are taken.
    """
    entries = _entries(file)
    for name in split_names:
        places = _places(file, entries, name)
        found = [place for place in places if place.exists()]
        if found:
            _require_all(file, name, places, found)
            return tuple(sorted({image for place in found for image in _images_at(place)}))
    return None


def read_yolo(file: Path, images: Sequence[Path], *, layout: str = "YOLO") -> Annotations:
    """Return the annotations of `images`, with the class names of the YAML file `file`.

    Raises:
        DatasetError: The YAML file has no class names, or a text file has a wrong line.
    """
    classes, keypoints = _classes(file), _keypoints(file)
    sizes = np.array([image_size(image) for image in images], dtype=np.int64).reshape(-1, 2)
    names = Names(_name(image, file.parent) for image in images)
    return Annotations.of(
        file,
        layout,
        folders=(file.parent,),
        classes=classes,
        images=ImageTable(np.arange(1, len(images) + 1), sizes, names),
        objects=_objects([_lines(image, len(classes), keypoints) for image in images], sizes),
    )


def _entries(file: Path) -> Entries:
    try:
        # All scalars as text: PyYAML follows version 1.1, where a class `no` would become False.
        entries = yaml.load(read_text(file), yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError) as error:
        problem = " ".join(str(error).split())
        raise DatasetError(f"{file}: expected YAML, found: {problem}; correct the file") from None
    if not isinstance(entries, dict):
        raise DatasetError(f"{file}: expected keys such as names and train, found none; add them")
    return {key: value for key, value in entries.items() if value not in NOTHING}


def _places(file: Path, entries: Entries, split_name: str) -> list[Path]:
    """Return where the images of a split may be; several where the file lists several."""
    entry = entries.get(split_name)
    folder = file.parent
    if entry is None:
        choices = [folder / "images" / split_name, folder / split_name / "images"]
        return [choice for choice in choices if choice.is_dir()][:1]
    listed = entry if isinstance(entry, list) else [entry]
    root = folder / str(entries.get("path", ""))
    return [_resolved(str(item), root, folder) for item in listed]


def _resolved(item: str, root: Path, folder: Path) -> Path:
    """Return the first place that exists; Roboflow writes `../train/images` for `train/images`."""
    inside = Path(*(part for part in Path(item).parts if part != ".."))
    choices = (root / item, folder / item, folder / inside)
    return next((choice for choice in choices if choice.exists()), choices[0])


def _require_all(
    file: Path, split_name: str, places: Sequence[Path], found: Sequence[Path]
) -> None:
    missing = [str(place) for place in places if place not in found]
    if missing:
        raise DatasetError(
            f"{file}: expected every folder of {split_name!r} to exist, found no "
            f"{', '.join(missing)}; correct the paths"
        )


def _images_at(place: Path) -> list[Path]:
    """Return the images of a folder, without hidden ones, or those that a text file lists."""
    if place.is_dir():
        return [
            file
            for file in place.rglob("*")
            if file.suffix.lower() in IMAGE_SUFFIXES
            and not any(part.startswith(".") for part in file.relative_to(place).parts)
        ]
    lines = read_text(place).splitlines()
    return [place.parent / line.strip() for line in lines if line.strip()]


def _classes(file: Path) -> Classes:
    found = _entries(file).get("names")
    names = _by_label(found) if isinstance(found, dict) else found
    if not isinstance(names, list) or not names or any(not isinstance(name, str) for name in names):
        raise DatasetError(
            f"{file}: expected 'names' as a list, or as a mapping from 0, 1, ... to names, "
            f"found {repr(found)[:80]}; list the classes"
        )
    return Classes(tuple(map(str, names)), tuple(range(len(names))))


def _keypoints(file: Path) -> int:
    """Return how many numbers follow the box in a line of a data set of poses; 0 in others."""
    shape = _entries(file).get("kpt_shape")
    if shape is None:
        return 0
    sides = shape if isinstance(shape, list) else [shape]
    if len(sides) != 2 or not all(str(side).isdecimal() for side in sides):
        raise DatasetError(
            f"{file}: expected 'kpt_shape' as two numbers, the keypoints and what is said of each, "
            f"found {repr(shape)[:80]}; correct it, or leave it out where there are none"
        )
    return int(str(sides[0])) * int(str(sides[1]))


def _by_label(names: dict[str, object]) -> list[object] | None:
    """Return names in the order of their labels, None where those are not 0, 1, ..."""
    labels = [str(label) for label in range(len(names))]
    return [names[label] for label in labels] if names.keys() == set(labels) else None


def _name(image: Path, folder: Path) -> str:
    return str(image.relative_to(folder) if image.is_relative_to(folder) else image.absolute())


def _label_file(image: Path) -> Path:
    """Return the text file of an image: `labels` for the last `images` in its path."""
    parts = list(image.parts)
    for place in reversed(range(len(parts) - 1)):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _lines(image: Path, num_classes: int, keypoints: int) -> list[Line]:
    file = _label_file(image)
    if not file.is_file():
        return []
    return [
        _line(f"{file}:{number}", line, num_classes, keypoints)
        for number, line in enumerate(read_text(file).splitlines(), start=1)
        if line.strip()
    ]


def _line(where: str, line: str, num_classes: int, keypoints: int) -> Line:
    try:
        label, *numbers = (float(word) for word in line.split())
    except ValueError:
        label, numbers = math.nan, []
    is_box = len(numbers) == 4 + keypoints
    is_polygon = not keypoints and len(numbers) >= 6 and len(numbers) % 2 == 0
    if not (is_box or is_polygon) or not all(map(math.isfinite, (label, *numbers))):
        others = f"and {keypoints} numbers of keypoints" if keypoints else "or a polygon"
        raise DatasetError(
            f"{where}: expected 'class centre_x centre_y width height' {others}, "
            f"found {line.strip()[:60]!r}; correct the line"
        )
    if label not in range(num_classes):
        raise DatasetError(
            f"{where}: expected a class between 0 and {num_classes - 1}, found {label:g}; "
            "correct the line or list the class in the YAML file"
        )
    return int(label), _box(numbers[:4]) if is_box else _extent(numbers)


def _box(numbers: Sequence[float]) -> tuple[float, float, float, float]:
    centre_x, centre_y, width, height = numbers
    return centre_x - width / 2, centre_y - height / 2, width, height


def _extent(numbers: Sequence[float]) -> tuple[float, float, float, float]:
    xs, ys = numbers[::2], numbers[1::2]
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def _objects(lines: Sequence[Sequence[Line]], sizes: IntArray) -> ObjectTable:
    rows = [(row, label, box) for row, items in enumerate(lines) for label, box in items]
    images = np.array([row for row, _, _ in rows], dtype=np.int64)
    relative = np.array([box for _, _, box in rows], dtype=np.float64).reshape(-1, 4)
    bboxes = relative * sizes[images][:, [1, 0, 1, 0]]
    return ObjectTable(
        images=images,
        labels=np.array([label for _, label, _ in rows], dtype=np.int64),
        bboxes=bboxes,
        areas=bboxes[:, 2] * bboxes[:, 3],
        crowd=np.zeros(len(rows), dtype=np.bool_),
    )
