"""A synthetic data set: circles, squares and triangles on noisy backgrounds, as COCO files.

Small enough to be written in seconds and learned in minutes on a CPU, yet real files in a real
layout. Shapes are drawn from their signed distance, so edges are smooth and boxes exact. All
follows from the seed: image by image, and so bit for bit.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from aligndetr.data.annotations import FloatArray, IntArray
from aligndetr.errors import DatasetError

Pixels = NDArray[np.float32]
"""(H, W, 3) colours in 0..255."""

NAMES = ("circle", "square", "triangle")
MARKER = "shapes.json"
VERSION = 1
"""Goes up whenever the same parameters give other images."""

MOST_OBJECTS = 8
SIDES = (10.0, 60.0)
"""Smallest and largest side of a shape in pixels; log-uniform."""
MOST_HIDDEN = 0.3
"""Largest share of a shape that later ones may cover."""
LEAST_CONTRAST = 90.0
"""Least distance of a shape's colour from the background's under it, in RGB units of 0..255."""
TRIES = 10
"""Places that are tried for an object before it is left out."""


@dataclass(frozen=True)
class _Recipe:
    """All that decides what is written; the marker file holds it."""

    train: int
    val: int
    size: int
    seed: int
    version: int = VERSION


@dataclass(frozen=True)
class _Shape:
    label: int
    left: float
    top: float
    side: float


def shapes_dataset(
    folder: Path | None = None,
    *,
    train: int = 2000,
    val: int = 200,
    size: int = 128,
    seed: int = 0,
) -> Path:
    """Write the data set, unless it is there already, and return its folder.

    Args:
        folder: Where to; by default a folder of its own in the user's cache.
        train: Images of the training split.
        val: Images of the validation split.
        size: Height and width of the images in pixels.
        seed: Decides on everything that is drawn.

    Raises:
        DatasetError: The folder has something else in it.
    """
    recipe = _Recipe(train, val, size, seed)
    target = _cached(recipe) if folder is None else folder
    if _is_written(target, recipe):
        return target
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DatasetError(
            f"{target}: expected an empty folder or the shapes of {asdict(recipe)}, "
            "found something else; remove it or choose another folder"
        )
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    _write(partial, recipe)
    _publish(partial, target, recipe)
    return target


def _cached(recipe: _Recipe) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = "-".join(str(value) for value in asdict(recipe).values())
    return cache / "aligndetr" / f"shapes-{name}"


def _is_written(folder: Path, recipe: _Recipe) -> bool:
    marker = folder / MARKER
    return marker.is_file() and json.loads(marker.read_text()) == asdict(recipe)


def _publish(partial: Path, target: Path, recipe: _Recipe) -> None:
    """Move the finished folder into place, or drop it if another process was first."""
    try:
        partial.rename(target)
    except OSError:
        shutil.rmtree(partial)
        if not _is_written(target, recipe):
            raise


def _write(folder: Path, recipe: _Recipe) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "images").mkdir(parents=True)
    for split, count in (("train", recipe.train), ("val", recipe.val)):
        _write_split(folder, split, count, recipe)
    (folder / MARKER).write_text(json.dumps(asdict(recipe)))


def _write_split(folder: Path, split: str, count: int, recipe: _Recipe) -> None:
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    is_val = int(split == "val")
    for number in range(1, count + 1):
        random = np.random.default_rng((recipe.seed, is_val, number))
        pixels, shapes = draw_shapes(random, recipe.size)
        name = f"{split}_{number:05d}.png"
        Image.fromarray(pixels).save(folder / "images" / name, compress_level=1)
        images.append(
            {"id": number, "file_name": name, "width": recipe.size, "height": recipe.size}
        )
        annotations += [
            {"id": len(annotations) + place, "image_id": number, **_coco_fields(shape)}
            for place, shape in enumerate(shapes, start=1)
        ]
    categories = [{"id": number, "name": name} for number, name in enumerate(NAMES, start=1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / f"{split}.json").write_text(json.dumps(content))


def _coco_fields(shape: _Shape) -> dict[str, object]:
    side = round(shape.side, 3)
    return {
        "category_id": shape.label + 1,
        "bbox": [round(shape.left, 3), round(shape.top, 3), side, side],
        "area": round(side * side, 3),
        "iscrowd": 0,
    }


def draw_shapes(random: Generator, size: int) -> tuple[NDArray[np.uint8], list[_Shape]]:
    """Return a (size, size, 3) image with 1 to 8 shapes, and the shapes."""
    canvas = _Canvas(_background(random, size))
    shapes: list[_Shape] = []
    for _ in range(int(random.integers(1, MOST_OBJECTS + 1))):
        for _ in range(TRIES):
            shape = _random_shape(random, size)
            if canvas.put(shape, random):
                shapes.append(shape)
                break
    noise = random.normal(0, 5, (size, size, 1))
    return (canvas.pixels + noise).clip(0, 255).round().astype(np.uint8), shapes


def _random_shape(random: Generator, size: int) -> _Shape:
    smallest, largest = SIDES[0], min(SIDES[1], size / 2)
    side = float(np.exp(random.uniform(np.log(smallest), np.log(largest))))
    left, top = random.uniform(0, size - side, 2).tolist()
    return _Shape(int(random.integers(len(NAMES))), left, top, side)


def _background(random: Generator, size: int) -> Pixels:
    """Return smooth colours with a fine-grained texture of brightness."""
    colours = random.integers(40, 216, (3, 3, 3), dtype=np.uint8)
    texture = random.integers(100, 156, (16, 16), dtype=np.uint8)
    return _enlarged(colours, size) + _enlarged(texture, size)[..., None] - 128


def _enlarged(pixels: NDArray[np.uint8], size: int) -> Pixels:
    image = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.float32)


class _Canvas:
    """An image that grows shape by shape, and knows whose each pixel is."""

    def __init__(self, pixels: Pixels) -> None:
        self.pixels = pixels
        self._owner: IntArray = np.zeros(pixels.shape[:2], dtype=np.int64)
        self._areas: FloatArray = np.array([np.inf])
        """Pixels of each shape when it was drawn; the background, 0, may be hidden."""

    def put(self, shape: _Shape, random: Generator) -> bool:
        """Draw a shape on top, unless it would hide too much of an earlier one."""
        window = _window(shape, len(self.pixels))
        coverage = _coverage(shape, window)
        owner = np.where(coverage >= 0.5, len(self._areas), self._owner[window])
        if not self._leaves_enough(window, owner):
            return False
        self._owner[window] = owner
        self._areas = np.append(self._areas, (owner == len(self._areas)).sum())
        under = self.pixels[window]
        colour = _contrasting(random, under.mean(axis=(0, 1)))
        self.pixels[window] = under + coverage[..., None] * (colour - under)
        return True

    def _leaves_enough(self, window: tuple[slice, slice], owner: IntArray) -> bool:
        count = len(self._areas)
        visible = np.bincount(self._owner.ravel(), minlength=count)
        before = np.bincount(self._owner[window].ravel(), minlength=count)
        after = np.bincount(owner.ravel(), minlength=count + 1)[:count]
        left = visible - before + after
        return bool((left[1:] >= (1 - MOST_HIDDEN) * self._areas[1:]).all())


def _window(shape: _Shape, size: int) -> tuple[slice, slice]:
    """Return the rows and columns that the smooth edge of a shape can reach."""
    reach = [
        slice(max(0, int(start) - 1), min(size, int(start + shape.side) + 2))
        for start in (shape.top, shape.left)
    ]
    return reach[0], reach[1]


def _coverage(shape: _Shape, window: tuple[slice, slice]) -> Pixels:
    """Return the share of each pixel that the shape covers, from its signed distance."""
    rows, columns = window
    y = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] + 0.5 - shape.top
    x = np.arange(columns.start, columns.stop, dtype=np.float32) + 0.5 - shape.left
    half = shape.side / 2
    match NAMES[shape.label]:
        case "circle":
            distance = np.hypot(x - half, y - half) - half
        case "square":
            distance = np.maximum(abs(x - half), abs(y - half)) - half
        case _:
            flanks = (2 * abs(x - half) - y) / np.sqrt(5)
            distance = np.maximum(flanks, y - shape.side)
    return (0.5 - distance).clip(0, 1).astype(np.float32)


def _contrasting(random: Generator, background: Pixels) -> FloatArray:
    """Return the first of some random colours that stands out, else the one that does most."""
    colours = random.uniform(0, 255, (TRIES, 3))
    distance = np.linalg.norm(colours - background, axis=1)
    return colours[np.minimum(distance, LEAST_CONTRAST).argmax()]
