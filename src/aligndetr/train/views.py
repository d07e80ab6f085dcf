"""Views of images that are kept: the maps that a frozen backbone makes of them, in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import psutil
import torch
from torch import Tensor
from torch.utils.data import Dataset

from aligndetr.data.batch import largest, padding_of, stack_padded
from aligndetr.data.dataset import Draw
from aligndetr.devices import local_processes
from aligndetr.types import Batch, Features, Targets

SHARE = 0.4
"""Share of the free memory, or of a disk, that a cache may take."""


@dataclass(frozen=True)
class CachedView:
    """One augmented view of one image.

    `levels` of (C_l, H_l, W_l), without padding; `input_size` (height, width) of the pixels
    that they were computed from; `boxes` (n, 4) and `labels` (n,) as in Targets; `size` of the
    image in its file.
    """

    levels: tuple[Tensor, ...]
    input_size: tuple[int, int]
    boxes: Tensor
    labels: Tensor
    image_id: int
    size: Tensor


def free_memory() -> float:
    """Return the free bytes of memory that are this process's, if all of a run take as many."""
    return psutil.virtual_memory().available / local_processes()


class ViewKeeper(Protocol):
    """Takes views one by one."""

    place: str
    """Where they are kept, for messages."""

    def free_bytes(self) -> float:
        """Return how much more it may keep."""
        ...

    def add(self, index: int, view: CachedView) -> None:
        """Keep one more view of the image at `index`."""
        ...

    def finish(self, *, is_complete: bool) -> Dataset[CachedView]:
        """Return all views, by `Draw`; fewer than asked for are of use to this run alone."""
        ...


class FeatureCache(Dataset[CachedView]):
    """The views of each image in memory, by its index; a `Draw` takes one of them at random."""

    place = "the free memory"

    def __init__(self, images: Mapping[int, Sequence[CachedView]] | None = None) -> None:
        self._images = {index: list(views) for index, views in (images or {}).items()}

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, draw: Draw) -> CachedView:
        views = self._images[draw.index]
        return views[draw.seed % len(views)]

    def free_bytes(self) -> float:
        """Return how much more it may keep."""
        return SHARE * free_memory()

    def add(self, index: int, view: CachedView) -> None:
        """Keep one more view of the image at `index`."""
        self._images.setdefault(index, []).append(view)

    def clear(self) -> None:
        """Let all views go."""
        self._images.clear()

    def finish(self, *, is_complete: bool) -> FeatureCache:
        """Return the cache itself."""
        del is_complete
        return self


def collate_views(views: Sequence[CachedView]) -> Batch:
    """Return views as one batch, padded with zeros at the right and the bottom of each level.

    `padding` is that of the images; None where all have one size.
    """
    levels = tuple(
        stack_padded(maps) for maps in zip(*(view.levels for view in views), strict=True)
    )
    sizes = [view.input_size for view in views]
    features = Features(
        levels,
        padding_of(sizes),
        torch.stack([view.size for view in views]),
        largest(sizes),
        is_kept=True,
    )
    targets = Targets.pack([view.boxes for view in views], [view.labels for view in views])
    return Batch(features, targets, tuple(view.image_id for view in views))


def bytes_of(levels: Sequence[Tensor]) -> int:
    """Return what maps take."""
    return sum(level.numel() * level.element_size() for level in levels)
