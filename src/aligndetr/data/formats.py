"""Finds out how a data folder is laid out, and reads a split of it.

Tried in this order, for `train` and for `val` (also called `valid` or `validation`):

| layout | annotations | images |
|---|---|---|
| COCO | `train.json`, or `annotations/instances_train*.json` | `images/`, `train/`, beside ... |
| Roboflow COCO | `train/_annotations.coco.json` | beside |
| Pascal VOC | `ImageSets/Main/train.txt` and `Annotations/*.xml` | `JPEGImages/` |
| YOLO | `data.yaml` and `labels/train/*.txt` | `images/train/` |

A VOC tree may also be in `voc/`, `VOC20xx/` or `VOCdevkit/VOC20xx/`.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from aligndetr.data.annotations import Annotations
from aligndetr.data.coco import read_coco
from aligndetr.data.voc import read_voc
from aligndetr.data.yolo import read_yolo, yolo_images
from aligndetr.errors import DatasetError

SPLIT_NAMES = {"val": ("val", "valid", "validation")}
"""What a split may be called besides its own name."""

NO_NAME = re.compile(r"[/\\*?\[\]\0]|^\.*$")
"""What fits a split that would be looked for elsewhere, or be taken for a pattern of names."""

VOC_ROOTS = (".", "voc", "VOC20*", "VOCdevkit/VOC20*")


def open_split(data: Path, split: str) -> Annotations:
    """Return one split of a data folder; `layout` says how the folder was understood.

    Args:
        data: The folder.
        split: "train", "val", or another name that its files use.

    Raises:
        DatasetError: The folder or the split is not there, or its annotations are wrong.
    """
    if NO_NAME.search(split):
        raise DatasetError(
            f"{data}: expected the name of a split, such as train or val, found {split!r}; "
            "give a name without slashes and wildcards"
        )
    if not data.is_dir():
        found = "a file" if data.exists() else "nothing"
        raise DatasetError(f"{data}: expected a data folder, found {found}; check the path")
    names = SPLIT_NAMES.get(split, (split,))
    for read in (_coco, _roboflow, _voc, _yolo):
        annotations = read(data, names)
        if annotations is not None:
            return annotations
    raise DatasetError(
        f"{data}: expected the split {split!r} as one of {', '.join(_looked_for(names))}; found "
        f"{_contents(data)}; name the files like that, or give another folder"
    )


def _coco(data: Path, names: Sequence[str]) -> Annotations | None:
    for name in names:
        patterns = (
            f"{name}.json",
            f"annotations/{name}.json",
            f"annotations/instances_{name}*.json",
        )
        file = _first(data, patterns)
        if file is not None:
            stem = file.stem.removeprefix("instances_")
            folders = ("images", stem, f"images/{stem}", name, f"images/{name}", ".")
            return read_coco(
                file,
                folders=_existing(data, folders),
                layout=f"COCO ({file.relative_to(data).as_posix()})",
            )
    return None


def _roboflow(data: Path, names: Sequence[str]) -> Annotations | None:
    file = _first(data, [f"{name}/_annotations.coco.json" for name in names])
    if file is None:
        return None
    layout = f"Roboflow COCO ({file.relative_to(data).as_posix()})"
    return read_coco(file, folders=(file.parent,), layout=layout)


def _voc(data: Path, names: Sequence[str]) -> Annotations | None:
    patterns = [f"{root}/ImageSets/Main/{name}.txt" for root in VOC_ROOTS for name in names]
    file = _first(data, patterns)
    if file is None:
        return None
    layout = f"Pascal VOC ({file.relative_to(data).as_posix()})"
    return read_voc(file.parents[2], file, layout=layout)


def _yolo(data: Path, names: Sequence[str]) -> Annotations | None:
    file = _first(data, ("data.yaml", "data.yml", "*.yaml", "*.yml"))
    images = None if file is None else yolo_images(file, names)
    if file is None or images is None:
        return None
    return read_yolo(file, images, layout=f"YOLO ({file.name})")


def _first(data: Path, patterns: Sequence[str]) -> Path | None:
    """Return the first file that fits the first pattern that any file fits."""
    for pattern in patterns:
        files = sorted(file for file in data.glob(pattern) if file.is_file())
        if files:
            return files[0]
    return None


def _existing(data: Path, folders: Sequence[str]) -> list[Path]:
    """Return those of `folders` that are there, each once; `.` always is."""
    return [data / folder for folder in dict.fromkeys(folders) if (data / folder).is_dir()]


def _looked_for(names: Sequence[str]) -> list[str]:
    places = (
        "{}.json",
        "annotations/instances_{}*.json",
        "{}/_annotations.coco.json",
        "ImageSets/Main/{}.txt",
        "data.yaml with {}",
    )
    return [place.format(name) for name in names for place in places]


def _contents(data: Path) -> str:
    entries = sorted(entry.name + "/" * entry.is_dir() for entry in data.iterdir())
    shown = ", ".join(entries[:10]) or "nothing"
    return shown + (f" and {len(entries) - 10} more" if len(entries) > 10 else "")
