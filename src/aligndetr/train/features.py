"""Training on the maps of a frozen backbone: computed once, kept in memory, drawn from at random.

Each image is kept in several augmented views with the objects of that view. Maps stay in the
precision in which the backbone runs, so that they are what it would have given.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import psutil
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from aligndetr.config.schema import AnyConfig, Data
from aligndetr.data.annotations import Annotations
from aligndetr.data.batch import (
    EpochSampler,
    collate,
    input_sizes,
    largest,
    padding_of,
    stack_padded,
)
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


class FeatureCache(Dataset[CachedView]):
    """The views of each image, by its index; a `Draw` takes one of them at random."""

    def __init__(self, images: Mapping[int, Sequence[CachedView]]) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, draw: Draw) -> CachedView:
        views = self._images[draw.index]
        return views[draw.seed % len(views)]


def check_cacheable(config: AnyConfig) -> None:
    """Check that the backbone's maps cannot change.

    Raises:
        ConfigError: Some of the backbone is trained.
    """
    if config.backbone.freeze != "all":
        raise ConfigError(
            "data.cache_features: expected backbone.freeze=all, found "
            f"{config.backbone.freeze}; set backbone.freeze=all or data.cache_features=false"
        )


def cache_training(
    compute: Compute,
    loader: DataLoader[Any],
    data: Data,
    *,
    strides: Sequence[int],
    device: torch.device,
    deadline: float | None,
    report: Report,
    say: Callable[[str], None],
) -> DataLoader[Any]:
    """Return a training loader of cached features for one of images.

    The views are what the images would be in the first `data.cached_views` epochs, or in as
    many of them as fit the memory and are done by the deadline, but at least one.

    Args:
        compute: The backbone, in evaluation mode.
        loader: Made by `training_loader`.
        data: How to load, and how much to keep.
        strides: Of the levels.
        device: Where the backbone is; the cache is on the CPU.
        deadline: The `time.monotonic()` after which one view of each image must do.
        report: Told of the views done.
        say: Told once, where fewer views fit than were asked for.

    Raises:
        ConfigError: One view of each image would take too much of the free memory.
    """
    dataset: DetectionDataset = cast(Any, loader.dataset)
    draws = _draws(cast(EpochSampler, loader.sampler), dataset.annotations, data.cached_views)
    images: dict[int, list[CachedView]] = {draw.index: [] for draw in draws}
    owners = (images[draw.index] for draw in draws)
    batches = DataLoader(
        dataset,
        batch_size=data.eval_batch_size,
        sampler=draws,
        num_workers=data.workers,
        collate_fn=collate,
    )
    done, wanted = 0, len(draws)
    for batch in batches:
        views = _split(batch, _compute(compute, batch, device), strides)
        if done == 0:
            check_memory(views[0].levels, len(images))
            wanted = min(wanted, _fitting(views[0].levels) // len(images) * len(images))
            if wanted < len(draws):
                say(
                    f"{wanted // len(images)} of {data.cached_views} views of each image fit "
                    f"{MEMORY_SHARE:.0%} of the free memory; smaller images make room for more"
                )
        for view in views:
            next(owners).append(view)
        done += len(views)
        report(len(views))
        is_late = deadline is not None and time.monotonic() > deadline
        if done >= wanted or (is_late and all(images.values())):
            break
    return DataLoader(
        FeatureCache(images),
        batch_size=loader.batch_size,
        sampler=loader.sampler,
        collate_fn=collate_views,
        drop_last=loader.drop_last,
        generator=torch.Generator(),
    )


def cache_evaluation(
    compute: Compute, loader: DataLoader[Any], *, device: torch.device, report: Report
) -> list[Batch]:
    """Return the batches of an evaluation loader with features in place of images.

    Takes as long as the backbone in one evaluation, which it saves in each.

    Raises:
        ConfigError: The cache would take too much of the free memory.
    """
    batches: list[Batch] = []
    for batch in loader:
        features = _compute(compute, batch, device).to(CPU)
        if not batches:
            check_memory(features.levels, len(loader))
        batches.append(Batch(features, batch.targets.to(CPU), batch.image_ids))
        report(len(batch.image_ids))
    return batches


def check_memory(levels: Sequence[Tensor], count: int) -> None:
    """Check that so many of these fit.

    Raises:
        ConfigError: They take more than `MEMORY_SHARE` of the free memory.
    """
    if count > _fitting(levels):
        limit = MEMORY_SHARE * psutil.virtual_memory().available
        needed = count * _size(levels)
        raise ConfigError(
            f"data.cache_features: expected at most {limit / 1e9:.1f} GB ({MEMORY_SHARE:.0%} of "
            f"the free memory), but one view of each image takes {needed / 1e9:.1f} GB; use "
            "smaller images, or set data.cache_features=false"
        )


def _fitting(levels: Sequence[Tensor]) -> int:
    """Return how many of these fit."""
    return int(MEMORY_SHARE * psutil.virtual_memory().available // _size(levels))


def _size(levels: Sequence[Tensor]) -> int:
    return sum(level.numel() * level.element_size() for level in levels)


def collate_views(views: Sequence[CachedView]) -> Batch:
    """Return views as one batch, padded with zeros at the right and the bottom of each level.

    `padding` is that of the images; None where all have one size.
    """
    levels = tuple(
        stack_padded(maps) for maps in zip(*(view.levels for view in views), strict=True)
    )
    sizes = [view.input_size for view in views]
    features = Features(
        levels, padding_of(sizes), torch.stack([view.size for view in views]), largest(sizes)
    )
    targets = Targets.pack([view.boxes for view in views], [view.labels for view in views])
    return Batch(features, targets, tuple(view.image_id for view in views))


def _draws(sampler: EpochSampler, annotations: Annotations, epochs: int) -> list[Draw]:
    """Return the draws of some epochs, images of one shape together, so that little is padded."""
    heights, widths = annotations.images.sizes.T
    ratios = (heights / widths).tolist()
    draws: list[Draw] = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        draws += sorted(sampler, key=lambda draw: ratios[draw.index])
    return draws


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
            zip(batch.image_ids, input_sizes(batch.images), strict=True)
        )
    ]
