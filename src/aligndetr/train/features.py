"""Training on the maps of a frozen backbone: computed once, kept in memory, drawn from at random.

Each image is kept in several augmented views with the objects of that view. Maps stay in the
precision in which the backbone runs, so that they are what it would have given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from aligndetr.config.schema import Config, Data
from aligndetr.data.annotations import IntArray
from aligndetr.data.batch import EpochSampler, collate
from aligndetr.data.dataset import DetectionDataset, Draw
from aligndetr.errors import ConfigError
from aligndetr.types import Batch, Features, ImageBatch, Targets

MEMORY_SHARE = 0.4
"""Share of the free memory that a cache may take."""
CPU = torch.device("cpu")

Compute = Callable[[ImageBatch], Features]
"""The backbone: it gives maps on the device of the images."""
Report = Callable[[int], None]
"""Told how many images were done."""


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

    @property
    def num_bytes(self) -> int:
        """Memory of the levels."""
        return sum(level.numel() * level.element_size() for level in self.levels)


class FeatureCache(Dataset[CachedView]):
    """The views of each image; a `Draw` takes one of them at random."""

    def __init__(self, images: Sequence[Sequence[CachedView]]) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, draw: Draw) -> CachedView:
        views = self._images[draw.index]
        return views[draw.seed % len(views)]

    def loader(self, *, batch_size: int, seed: int) -> DataLoader[CachedView]:
        """Return a loader of shuffled `Batch`es of features, as `training_loader` is of images."""
        return DataLoader(
            self,
            batch_size=batch_size,
            sampler=EpochSampler(np.arange(len(self)), seed=seed),
            collate_fn=collate_views,
            drop_last=len(self) >= batch_size,
            generator=torch.Generator(),
        )


def check_cacheable(config: Config) -> None:
    """Check that the backbone's maps cannot change.

    Raises:
        ConfigError: some of the backbone is trained.
    """
    if config.backbone.freeze != "all":
        raise ConfigError(
            "data.cache_features: expected backbone.freeze=all, found "
            f"{config.backbone.freeze}; set backbone.freeze=all or data.cache_features=false"
        )


def cache_training(
    compute: Compute,
    dataset: DetectionDataset,
    data: Data,
    *,
    strides: Sequence[int],
    device: torch.device,
    seed: int,
    report: Report,
) -> FeatureCache:
    """Return `data.cached_views` views of every image that is trained on.

    Args:
        compute: The backbone, in evaluation mode.
        dataset: With the transform of training.
        data: How to load, and how much to keep.
        strides: Of the levels.
        device: Where the backbone is; the cache is on the CPU.
        seed: Decides on the augmentation.
        report: Told of the images done.

    Raises:
        ConfigError: the cache would take too much of the free memory.
    """
    annotations = dataset.annotations
    rows = np.arange(len(annotations)) if data.keep_empty else annotations.images_with_targets
    draws = list(_draws(_by_aspect_ratio(dataset, rows), views=data.cached_views, seed=seed))
    place = {int(row): index for index, row in enumerate(rows)}
    images: list[list[CachedView]] = [[] for _ in rows]
    owners = (images[place[draw.index]] for draw in draws)
    loader = DataLoader(
        dataset,
        batch_size=data.eval_batch_size,
        sampler=draws,
        num_workers=data.workers,
        collate_fn=collate,
    )
    for number, batch in enumerate(loader):
        views = _split(batch, _compute(compute, batch, device), strides)
        if number == 0:
            check_memory(views[0].num_bytes, len(draws), psutil.virtual_memory().available)
        for view, owner in zip(views, owners, strict=False):
            owner.append(view)
        report(len(views))
    return FeatureCache(images)


def cache_evaluation(
    compute: Compute, loader: Iterable[Batch], *, device: torch.device, report: Report
) -> list[Batch]:
    """Return the batches of an evaluation loader with features in place of images.

    That takes as long as the evaluation that it saves, so it pays from the second one on.
    """
    batches: list[Batch] = []
    for batch in loader:
        features = _compute(compute, batch, device).to(CPU)
        batches.append(Batch(features, batch.targets.to(CPU), batch.image_ids))
        report(len(batch.image_ids))
    return batches


def check_memory(view_bytes: int, views: int, available_bytes: int) -> None:
    """Check that so many views fit.

    Raises:
        ConfigError: they take more than `MEMORY_SHARE` of the available memory.
    """
    needed = view_bytes * views
    if needed > MEMORY_SHARE * available_bytes:
        raise ConfigError(
            f"data.cache_features: expected at most {MEMORY_SHARE:.0%} of the free memory "
            f"({MEMORY_SHARE * available_bytes / 1e9:.1f} GB), but {views} views of "
            f"{view_bytes / 1e6:.1f} MB take {needed / 1e9:.1f} GB; lower data.cached_views or the "
            "image size, or set data.cache_features=false"
        )


def collate_views(views: Sequence[CachedView]) -> Batch:
    """Return views as one batch, padded with zeros at the right and the bottom of each level.

    `padding` is that of the images; None where all have one size.
    """
    levels = tuple(_padded(maps) for maps in zip(*(view.levels for view in views), strict=True))
    features = Features(
        levels,
        _padding([view.input_size for view in views]),
        torch.stack([view.size for view in views]),
    )
    targets = Targets.pack([view.boxes for view in views], [view.labels for view in views])
    return Batch(features, targets, tuple(view.image_id for view in views))


def _draws(rows: IntArray, *, views: int, seed: int) -> Iterator[Draw]:
    for view in range(views):
        seeds = np.random.default_rng((seed, view)).integers(2**31, size=len(rows))
        yield from map(Draw, rows.tolist(), seeds.tolist())


def _by_aspect_ratio(dataset: DetectionDataset, rows: IntArray) -> IntArray:
    """Return the rows so that images of one shape meet in a batch, and little is padded."""
    heights, widths = dataset.annotations.images.sizes[rows].T
    return rows[np.argsort(heights / widths, kind="stable")]


@torch.no_grad()
def _compute(compute: Compute, batch: Batch, device: torch.device) -> Features:
    assert isinstance(batch.images, ImageBatch)
    return compute(batch.images.to(device))


def _split(batch: Batch, features: Features, strides: Sequence[int]) -> list[CachedView]:
    """Return the images of a batch one by one, each level cut to what is not padding."""
    targets, sizes = batch.targets.to(CPU), features.sizes.to(CPU)
    counts = list(targets.counts)
    levels = [level.to(CPU) for level in features.levels]
    boxes, labels = targets.boxes.split(counts), targets.labels.split(counts)
    return [
        CachedView(
            tuple(
                level[index, :, : -(-height // stride), : -(-width // stride)].clone()
                for level, stride in zip(levels, strides, strict=True)
            ),
            (height, width),
            boxes[index],
            labels[index],
            image_id,
            sizes[index],
        )
        for index, (image_id, (height, width)) in enumerate(
            zip(batch.image_ids, _input_sizes(batch.images), strict=True)
        )
    ]


def _input_sizes(images: ImageBatch | Features) -> list[tuple[int, int]]:
    assert isinstance(images, ImageBatch)
    if images.padding is None:
        height, width = images.pixels.shape[-2:]
        return [(height, width)] * len(images.pixels)
    is_image = ~images.padding
    heights = is_image.any(dim=2).sum(dim=1).tolist()
    widths = is_image.any(dim=1).sum(dim=1).tolist()
    return list(zip(heights, widths, strict=True))


def _padded(maps: Sequence[Tensor]) -> Tensor:
    """Return (C, h, w) maps as one (B, C, H, W), with zeros where a map is smaller."""
    if len({level.shape for level in maps}) == 1:
        return torch.stack(list(maps))
    height, width = (
        max(sides) for sides in zip(*(level.shape[-2:] for level in maps), strict=True)
    )
    batch = maps[0].new_zeros(len(maps), len(maps[0]), height, width)
    for row, level in zip(batch, maps, strict=True):
        row[:, : level.shape[1], : level.shape[2]] = level
    return batch


def _padding(sizes: Sequence[tuple[int, int]]) -> Tensor | None:
    if len(set(sizes)) == 1:
        return None
    height, width = (max(sides) for sides in zip(*sizes, strict=True))
    padding = torch.ones(len(sizes), height, width, dtype=torch.bool)
    for row, (image_height, image_width) in zip(padding, sizes, strict=True):
        row[:image_height, :image_width] = False
    return padding
