"""Reads COCO annotation files: any ids, with gaps and in any order.

Labels 0..C-1 follow the ascending category ids. `area` and `iscrowd` are filled in where they
are missing (width x height, and 0). The category 0 that Roboflow adds to name the project is
no class.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import numpy as np

from aligndetr.data.annotations import (
    Annotations,
    BoolArray,
    FloatArray,
    ImageTable,
    IntArray,
    Names,
    ObjectTable,
)
from aligndetr.data.files import read_bytes
from aligndetr.errors import DatasetError
from aligndetr.types import Classes

Row = dict[str, object]

LARGEST_INTEGER = 2**63 - 1
"""Of those that an int64 holds."""

LARGEST_ID = 2**53
"""Results have ids as float64, which tells all integers up to here apart."""

LARGEST_NUMBER = 1e100
"""Beyond it areas would overflow."""


@dataclass(frozen=True)
class _Table:
    """One list of the file, with the names that its error messages need."""

    file: Path
    name: str
    rows: list[Row]

    def column(self, key: str) -> list[object]:
        """Return the values of one key, which every row must have."""
        try:
            return [row[key] for row in self.rows]
        except KeyError:
            number = next(number for number, row in enumerate(self.rows) if key not in row)
            raise self.error(number, f"the key {key!r}", self.rows[number]) from None

    def integers(self, key: str) -> IntArray:
        """Return one key of every row as (rows,) integers."""
        values = self.column(key)
        for number, value in enumerate(values):
            if not isinstance(value, int):
                raise self.error(number, f"an integer as {key!r}", value)
            if abs(value) > LARGEST_INTEGER:
                raise self.error(number, f"an integer below 2**63 as {key!r}", value)
        return np.array(values, dtype=np.int64)

    def unique_ids(self) -> IntArray:
        """Return the ids (rows,), no two of which may be equal."""
        ids = self.integers("id")
        values, counts = np.unique(ids, return_counts=True)
        if (counts > 1).any():
            raise DatasetError(
                f"{self.file}: {self.name}: expected every id once, found {values[counts > 1][0]} "
                f"{counts.max()} times; number the {self.name} anew"
            )
        return ids

    def result_ids(self) -> IntArray:
        """Return the unique ids (rows,), which results must be able to hold."""
        ids = self.unique_ids()
        beyond = (ids > LARGEST_ID) | (ids < -LARGEST_ID)
        if beyond.any():
            number = int(beyond.argmax())
            raise DatasetError(
                f"{self.file}: {self.name}[{number}]: expected an id of at most 2**53, which "
                f"results can hold, found {ids[number]}; renumber the {self.name}"
            )
        return ids

    def texts(self, key: str) -> list[str]:
        """Return one key of every row as strings."""
        values = self.column(key)
        for number, value in enumerate(values):
            if not isinstance(value, str):
                raise self.error(number, f"a string as {key!r}", value)
        return [str(value) for value in values]

    def boxes(self) -> FloatArray:
        """Return the `bbox` of every row, (rows, 4) finite numbers."""
        values = self.column("bbox")
        for number, value in enumerate(values):
            if not _is_box(value):
                expected = "4 finite numbers (left, top, width, height) as 'bbox'"
                raise self.error(number, expected, value)
        return np.array(values, dtype=np.float64).reshape(-1, 4)

    def rows_of(self, key: str, ids: IntArray, owner: str) -> IntArray:
        """Return for every row which of `ids` its `key` names."""
        wanted = self.integers(key)
        order = np.argsort(ids)
        places = np.searchsorted(ids, wanted, sorter=order).clip(max=len(ids) - 1)
        rows = order[places] if len(ids) else np.zeros_like(wanted)
        unknown = ids[rows] != wanted if len(ids) else np.ones(len(wanted), dtype=np.bool_)
        if unknown.any():
            number = int(unknown.argmax())
            found = f"{wanted[number]}, which is not there"
            raise DatasetError(
                f"{self.file}: {self.name}[{number}]: expected the id of one of the {len(ids)} "
                f"{owner} as {key!r}, found {found}; correct it or take the row out"
            )
        return rows.astype(np.int64)

    def error(self, number: int, expected: str, found: object) -> DatasetError:
        """Return the error of row `number`."""
        return DatasetError(
            f"{self.file}: {self.name}[{number}]: expected {expected}, "
            f"found {_shortened(found)}; correct the file"
        )


def read_coco(file: Path, *, folders: Sequence[Path], layout: str = "COCO") -> Annotations:
    """Return the annotations of a COCO file whose images are in one of `folders`.

    Raises:
        DatasetError: The file is not JSON, lacks a key, repeats an id or names one that is not
            there, or has no categories.
    """
    images, objects, categories = _tables(file)
    category_ids, classes = _classes(_without_dummy(categories, objects))
    image_ids = images.result_ids()
    return Annotations.of(
        file,
        layout,
        folders=folders,
        classes=classes,
        images=ImageTable(image_ids, _sizes(images), Names(images.texts("file_name"))),
        objects=_objects(objects, image_ids, category_ids),
    )


def _tables(file: Path) -> tuple[_Table, _Table, _Table]:
    content = _load(file)
    if not isinstance(content, dict):
        raise DatasetError(
            f"{file}: expected a JSON object with images, annotations and categories, "
            f"found {_shortened(content)}; give a COCO detection file"
        )
    return (
        _table(file, content, "images"),
        _table(file, content, "annotations"),
        _table(file, content, "categories"),
    )


def _load(file: Path) -> object:
    content = read_bytes(file)
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        raise DatasetError(
            f"{file}:{error.lineno}:{error.colno}: expected JSON, found: {error.msg}; "
            "correct the file there or export it again"
        ) from None
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{file}: expected JSON in UTF-8, found other bytes at {error.start}; "
            "export the file again"
        ) from None
    except (RecursionError, ValueError) as error:
        is_deep = isinstance(error, RecursionError)
        problem = "lists in lists, too deep to read" if is_deep else "a number of too many digits"
        raise DatasetError(
            f"{file}: expected JSON, found: {problem}; correct the file or export it again"
        ) from None


def _table(file: Path, content: dict[str, object], name: str) -> _Table:
    rows = content.get(name)
    if not isinstance(rows, list):
        found = ", ".join(sorted(content)) if name not in content else _shortened(rows)
        raise DatasetError(
            f"{file}: expected a list {name!r}, found {found or 'nothing'}; "
            "give a COCO detection file"
        )
    table = _Table(file, name, rows)
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise table.error(number, "an object", row)
    return table


def _classes(table: _Table) -> tuple[IntArray, Classes]:
    if not table.rows:
        raise DatasetError(
            f"{table.file}: expected at least one category, found none; "
            "list the classes under 'categories'"
        )
    ids, names = table.result_ids(), table.texts("name")
    order = np.argsort(ids)
    ids = ids[order]
    return ids, Classes(tuple(names[row] for row in order), tuple(ids.tolist()))


def _without_dummy(categories: _Table, objects: _Table) -> _Table:
    """Return the categories without a category 0 that only heads the others and has no objects."""
    dummy = next((row for row in categories.rows if row.get("id") == 0), None)
    others = [row for row in categories.rows if row is not dummy]
    heads_others = dummy is not None and all(
        row.get("supercategory") == dummy.get("name") for row in others
    )
    if not others or not heads_others or 0 in objects.column("category_id"):
        return categories
    return _Table(categories.file, categories.name, others)


def _sizes(images: _Table) -> IntArray:
    sizes = np.stack((images.integers("height"), images.integers("width")), axis=1)
    wrong = (sizes <= 0).any(axis=1)
    if wrong.any():
        number = int(wrong.argmax())
        raise images.error(number, "a positive height and width", images.rows[number])
    return sizes


def _objects(table: _Table, image_ids: IntArray, category_ids: IntArray) -> ObjectTable:
    if any("id" in row for row in table.rows):
        table.unique_ids()
    bboxes = table.boxes()
    return ObjectTable(
        images=table.rows_of("image_id", image_ids, "images"),
        labels=table.rows_of("category_id", category_ids, "categories"),
        bboxes=bboxes,
        areas=_areas(table, bboxes),
        crowd=_crowd(table),
    )


def _areas(table: _Table, bboxes: FloatArray) -> FloatArray:
    areas = bboxes[:, 2] * bboxes[:, 3]
    for number, row in enumerate(table.rows):
        area = row.get("area", areas[number])
        if not _is_number(area):
            raise table.error(number, "a finite number as 'area'", area)
        areas[number] = area
    return areas


def _crowd(table: _Table) -> BoolArray:
    values = [row.get("iscrowd") for row in table.rows]
    for number, value in enumerate(values):
        if value not in (0, 1, None):  # false and true are equal to 0 and 1
            raise table.error(number, "0, 1, true, false or null as 'iscrowd'", value)
    return np.array(values, dtype=np.bool_)


def _is_box(value: object) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and abs(value) <= LARGEST_NUMBER


def _shortened(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
