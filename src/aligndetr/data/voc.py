"""Reads Pascal VOC folders: `Annotations/*.xml`, `ImageSets/Main/SPLIT.txt`, `JPEGImages/`.

Classes are those of all XML files of the folder, sorted by name, so that all splits agree; their
ids are 1..C. Boxes are xmin, ymin, xmax - xmin, ymax - ymin, without a shift by one pixel.
`difficult` objects are treated as crowd regions: neither trained on nor counted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np

from aligndetr.data.annotations import Annotations, ImageTable, Names, ObjectTable
from aligndetr.data.files import read_bytes, read_text
from aligndetr.data.images import IMAGE_SUFFIXES, image_size
from aligndetr.errors import DatasetError
from aligndetr.types import Classes

FLAG = re.compile(r"\s+(-1|0|1)$")
"""What lists by class have after a name: whether the image has the class."""

MOST_DIGITS = 9
"""Digits of the height or width of an image at most."""


@dataclass(frozen=True)
class _Object:
    name: str
    bbox: tuple[float, float, float, float]
    difficult: bool


def read_voc(root: Path, split_file: Path, *, layout: str = "Pascal VOC") -> Annotations:
    """Return the images that `split_file` lists, of the VOC folder `root`.

    Raises:
        DatasetError: An XML file is missing or wrong, or no file has an object.
    """
    folder = root / "JPEGImages"
    stems = _listed(split_file, root / "Annotations")
    roots = {stem: _parse(root / "Annotations" / f"{stem}.xml", split_file) for stem in stems}
    objects = [_objects(root / "Annotations" / f"{stem}.xml", roots[stem]) for stem in stems]
    classes = _classes(root / "Annotations")
    names = _image_names(folder, stems)
    sizes = [
        _size(roots[stem]) or image_size(folder / name)
        for stem, name in zip(stems, names, strict=True)
    ]
    return Annotations.of(
        split_file,
        layout,
        folders=(folder,),
        classes=classes,
        images=ImageTable(
            np.arange(1, len(stems) + 1), np.array(sizes, dtype=np.int64).reshape(-1, 2), names
        ),
        objects=_table(objects, classes),
    )


def _listed(split_file: Path, folder: Path) -> list[str]:
    """Return the image names of a split, without the flag of lists by class.

    A line that as a whole has an XML file in `folder`, as `photo 1` may, has no flag.
    """
    lines = [line.strip() for line in read_text(split_file).splitlines()]
    return [
        line if (folder / f"{line}.xml").is_file() else FLAG.sub("", line) for line in lines if line
    ]


def _parse(file: Path, listed_in: Path) -> Element:
    if not file.exists():
        raise DatasetError(
            f"{listed_in}: expected {file} for the listed image {file.stem!r}, found no such "
            "file; add it or take the name off the list"
        )
    try:
        return ElementTree.fromstring(read_bytes(file))
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # or its encoding is unknown
        raise DatasetError(f"{file}: expected XML, found: {error}; correct the file") from None


def _objects(file: Path, root: Element) -> list[_Object]:
    return [_object(file, element) for element in root.findall("object")]


def _object(file: Path, element: Element) -> _Object:
    left, top, right, bottom = (
        _number(file, element, f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")
    )
    difficult = element.findtext("difficult", "0").strip() == "1"
    return _Object(_name(file, element), (left, top, right - left, bottom - top), difficult)


def _name(file: Path, element: Element) -> str:
    name = element.findtext("name", "").strip()
    if not name:
        raise DatasetError(f"{file}: expected a <name> in every <object>, found none; add it")
    return name


def _number(file: Path, element: Element, path: str) -> float:
    text = element.findtext(path, "")
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise DatasetError(
            f"{file}: object/{path}: expected a finite number, found {text!r}; correct the file"
        )
    return number


def _classes(folder: Path) -> Classes:
    names: set[str] = set()
    for file in sorted(folder.glob("*.xml")):
        root = _parse(file, folder)
        names.update(_name(file, element) for element in root.findall("object"))
    if not names:
        raise DatasetError(
            f"{folder}: expected XML files with objects, found no object; annotate some"
        )
    return Classes(tuple(sorted(names)), tuple(range(1, len(names) + 1)))


def _image_names(folder: Path, stems: Sequence[str]) -> Names:
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    found = {file.stem: file.name for file in files if file.suffix.lower() in IMAGE_SUFFIXES}
    return Names(found.get(stem, f"{stem}.jpg") for stem in stems)


def _size(root: Element) -> tuple[int, int] | None:
    """Return the <size>, None where a tool left it out or wrote zeros."""
    height, width = _side(root, "height"), _side(root, "width")
    return (height, width) if height and width else None


def _side(root: Element, name: str) -> int:
    text = root.findtext(f"size/{name}", "").strip()
    return int(text) if text.isdecimal() and len(text) <= MOST_DIGITS else 0


def _table(objects: Sequence[Sequence[_Object]], classes: Classes) -> ObjectTable:
    labels = {name: label for label, name in enumerate(classes.names)}
    rows = [(row, item) for row, items in enumerate(objects) for item in items]
    bboxes = np.array([item.bbox for _, item in rows], dtype=np.float64).reshape(-1, 4)
    return ObjectTable(
        images=np.array([row for row, _ in rows], dtype=np.int64),
        labels=np.array([labels[item.name] for _, item in rows], dtype=np.int64),
        bboxes=bboxes,
        areas=bboxes[:, 2] * bboxes[:, 3],
        crowd=np.array([item.difficult for _, item in rows], dtype=np.bool_),
    )
