"""Cached features in files: for sets larger than memory, and for the next run on the same ones.

Files are mapped, not read: the system keeps in memory what is used and the memory bears. A folder
is named after all that decides on its features; it exists as soon as it is complete. Until then,
and for ever where a run had no time or room for all views, it is the run's own, named after its
machine and process, and goes with it.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import platform
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import Dataset

from aligndetr.config.schema import AnyConfig
from aligndetr.data.annotations import Annotations
from aligndetr.data.dataset import Draw
from aligndetr.train.views import SHARE, CachedView
from aligndetr.types import Batch, Features, Targets

INDEX = "index.json"
VIEWS_PER_FILE = 64
OPEN_FILES = 256
"""Mapped at a time."""


class ViewFiles(Dataset[CachedView]):
    """The views in a folder, by the index of their image; a `Draw` takes one at random."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._views: list[dict[str, Any]] = json.loads((folder / INDEX).read_text())
        self._rows: dict[int, list[int]] = {}
        for row, about in enumerate(self._views):
            self._rows.setdefault(about["index"], []).append(row)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, draw: Draw) -> CachedView:
        rows = self._rows[draw.index]
        row = rows[draw.seed % len(rows)]
        file = _opened(_file(self.folder, row // VIEWS_PER_FILE))
        about = self._views[row]
        return CachedView(
            tuple(file.get_tensor(f"{row}.level{level}") for level in range(about["levels"])),
            (about["height"], about["width"]),
            file.get_tensor(f"{row}.boxes"),
            file.get_tensor(f"{row}.labels"),
            about["image_id"],
            file.get_tensor(f"{row}.size"),
        )


class ViewWriter:
    """Writes views to a folder, which takes its name when it is finished."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._partial = folder, _partial(folder)
        self.place = f"the free space of {folder.parent}"
        self._views: list[dict[str, Any]] = []
        self._tensors: dict[str, Tensor] = {}

    def free_bytes(self) -> float:
        """Return how much more may be written."""
        return SHARE * shutil.disk_usage(self._partial).free

    def add(self, index: int, view: CachedView) -> None:
        """Take one more view of the image at `index`."""
        row = len(self._views)
        height, width = view.input_size
        self._views.append(
            {
                "index": index,
                "image_id": view.image_id,
                "height": height,
                "width": width,
                "levels": len(view.levels),
            }
        )
        self._tensors |= {
            f"{row}.level{level}": maps.contiguous() for level, maps in enumerate(view.levels)
        }
        self._tensors |= {
            f"{row}.boxes": view.boxes.clone(),
            f"{row}.labels": view.labels.clone(),
            f"{row}.size": view.size.clone(),
        }
        if len(self._views) % VIEWS_PER_FILE == 0:
            self._flush()

    def finish(self, *, is_complete: bool) -> ViewFiles:
        """Return what was written, ready for use; only what is complete is for other runs, too."""
        if self._tensors:
            self._flush()
        _write_index(self._partial, self._views)
        return ViewFiles(_publish(self._partial, self._folder) if is_complete else self._partial)

    def _flush(self) -> None:
        save_file(self._tensors, _file(self._partial, (len(self._views) - 1) // VIEWS_PER_FILE))
        self._tensors = {}


class BatchFiles:
    """Batches of an evaluation in a folder, in their order."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._batches: list[dict[str, Any]] = json.loads((folder / INDEX).read_text())

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        for row, about in enumerate(self._batches):
            with safe_open(_file(self._folder, row), framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            features = Features(
                tuple(tensors[f"level{level}"] for level in range(about["levels"])),
                tensors.get("padding"),
                tensors["sizes"],
                about["input_size"] and tuple(about["input_size"]),
                is_kept=True,
            )
            targets = Targets(tensors["boxes"], tensors["labels"], tuple(about["counts"]))
            yield Batch(features, targets, tuple(about["image_ids"]))


class BatchWriter:
    """Writes batches of an evaluation to a folder, which takes its name when it is finished."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._partial = folder, _partial(folder)
        self._batches: list[dict[str, Any]] = []

    def add(self, batch: Batch) -> None:
        """Take the next batch, of features on the CPU."""
        features, targets = batch.images, batch.targets
        assert isinstance(features, Features)
        tensors = {f"level{level}": maps.contiguous() for level, maps in enumerate(features.levels)}
        tensors |= {"sizes": features.sizes, "boxes": targets.boxes, "labels": targets.labels}
        if features.padding is not None:
            tensors["padding"] = features.padding
        save_file(tensors, _file(self._partial, len(self._batches)))
        self._batches.append(
            {
                "levels": len(features.levels),
                "input_size": features.input_size,
                "counts": targets.counts,
                "image_ids": batch.image_ids,
            }
        )

    def finish(self) -> BatchFiles:
        """Return what was written, ready for use."""
        _write_index(self._partial, self._batches)
        return BatchFiles(_publish(self._partial, self._folder))


def is_complete(folder: Path) -> bool:
    """Return whether a folder of features was finished."""
    return (folder / INDEX).is_file()


def feature_key(
    weights: Mapping[str, Tensor],
    precision: torch.dtype,
    config: AnyConfig,
    annotations: Annotations,
    *,
    training: bool,
) -> str:
    """Return a name for the features of a split: a digest of all that decides on them.

    That is the kind of detector (they pad differently), the backbone's weights and precision, how
    images reach it, which images there are (by id, path, size and time of change) and their
    objects, and in training the seed of the views and their number.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(_bytes(tensor))
    data = config.data
    told: list[object] = [
        config.type,
        config.backbone.model_dump(exclude={"weights"}),
        str(precision),
        data.augmentation.model_dump(),
        data.eval_batch_size,
    ]
    if training:
        seed = config.training.seed if data.cache_seed is None else data.cache_seed
        told += [seed, data.cached_views, data.keep_empty]
    digest.update(json.dumps(told, default=str).encode())
    digest.update(annotations.images.ids.tobytes())
    for index in range(len(annotations)):
        path = annotations.path(index)
        state = path.stat()
        digest.update(f"{path.resolve()} {state.st_size} {state.st_mtime_ns}".encode())
        for tensor in annotations.targets(index):
            digest.update(_bytes(tensor))
    return digest.hexdigest()[:16]


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def _write_index(folder: Path, index: Sequence[object]) -> None:
    (folder / INDEX).write_text(json.dumps(index))


def _publish(partial: Path, folder: Path) -> Path:
    """Give a finished folder its name and return that: another run may have been first."""
    try:
        partial.rename(folder)
    except OSError:
        if not is_complete(folder):
            raise
        shutil.rmtree(partial)
    return folder


def _partial(folder: Path) -> Path:
    """Return an empty folder of this process, gone at its end; those of dead ones go now."""
    host = re.sub(r"\W", "_", platform.node())  # processes of others cannot be asked for
    for left in folder.parent.glob(f"*.{host}.*.partial"):
        process = left.name.split(".")[-2]
        if process.isdecimal() and not psutil.pid_exists(int(process)):
            shutil.rmtree(left, ignore_errors=True)
    partial = folder.with_name(f"{folder.name}.{host}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    atexit.register(shutil.rmtree, partial, ignore_errors=True)
    return partial


def _file(folder: Path, number: int) -> Path:
    return folder / f"{number:06}.safetensors"


@lru_cache(OPEN_FILES)
def _opened(path: Path) -> Any:
    return safe_open(path, framework="pt")
