"""Training on the maps of a frozen backbone: computed once, kept, drawn from at random.

Each image is kept in several augmented views with the objects of that view. Maps stay in the
precision in which the backbone runs, so that they are what it would have given.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from aligndetr.config.schema import AnyConfig, Data
from aligndetr.data.annotations import Annotations
from aligndetr.data.batch import EpochSampler, collate, input_sizes
from aligndetr.data.dataset import DetectionDataset, Draw
from aligndetr.errors import ConfigError
from aligndetr.train.views import (
    SHARE,
    CachedView,
    FeatureCache,
    ViewKeeper,
    bytes_of,
    collate_views,
)
from aligndetr.types import Batch, Features, ImageBatch

CPU = torch.device("cpu")

Compute = Callable[[ImageBatch], Features]
"""The backbone: it gives maps on the device of the images."""
Report = Callable[[int], None]
"""Told how many images were done."""


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
    keeper: ViewKeeper,
    *,
    strides: Sequence[int],
    device: torch.device,
    deadline: float | None,
    report: Report,
    say: Callable[[str], None],
) -> Dataset[CachedView]:
    """Return the features of the images of a training loader.

    The views are what the images would be in the first `data.cached_views` epochs (of a training
    with the seed `data.cache_seed`, if that is given), or in as many of them as there is room for
    and are done by the deadline, but at least one.

    Args:
        compute: The backbone, in evaluation mode.
        loader: Made by `training_loader`.
        data: How to load, and how much to keep.
        keeper: Takes the views.
        strides: Of the levels.
        device: Where the backbone is; the cache is on the CPU.
        deadline: The `time.monotonic()` after which one view of each image must do.
        report: Told of the views done.
        say: Told once, where fewer views fit than were asked for.

    Raises:
        ConfigError: There is no room for one view of each image.
    """
    dataset: DetectionDataset = cast(Any, loader.dataset)
    sampler = cast(EpochSampler, loader.sampler)
    if data.cache_seed is not None:
        sampler = sampler.seeded(data.cache_seed)
    draws = _draws(sampler, dataset.annotations, data.cached_views)
    images = len(draws) // data.cached_views
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
            room = check_room(keeper, views[0].levels, images)
            wanted = min(wanted, room // images * images)
            if wanted < len(draws):
                say(
                    f"{wanted // images} of {data.cached_views} views of each image fit "
                    f"{SHARE:.0%} of {keeper.place}; smaller images make room for more"
                )
        for draw, view in zip(draws[done : done + len(views)], views, strict=True):
            keeper.add(draw.index, view)
        done += len(views)
        report(len(views))
        is_late = deadline is not None and time.monotonic() > deadline
        if done >= wanted or (is_late and done >= images):
            break
    return keeper.finish(is_complete=done >= len(draws))


def loader_of(features: Dataset[CachedView], loader: DataLoader[Any]) -> DataLoader[Any]:
    """Return a training loader of features in place of one of images, in the same order."""
    return DataLoader(
        features,
        batch_size=loader.batch_size,
        sampler=loader.sampler,
        collate_fn=collate_views,
        drop_last=loader.drop_last,
        generator=torch.Generator(),
    )


def features_to_evaluate(
    compute: Compute, loader: DataLoader[Any], *, device: torch.device, report: Report
) -> Iterator[Batch]:
    """Yield the batches of an evaluation loader with features, on the CPU, in place of images.

    Takes as long as the backbone in one evaluation, which whoever keeps them saves in each.
    """
    for batch in loader:
        features = _compute(compute, batch, device).to(CPU)
        yield Batch(features, batch.targets.to(CPU), batch.image_ids)
        report(len(batch.image_ids))


def cache_evaluation(
    compute: Compute, loader: DataLoader[Any], *, device: torch.device, report: Report
) -> list[Batch]:
    """Return `features_to_evaluate`, kept in memory.

    Raises:
        ConfigError: The cache would take too much of the free memory.
    """
    batches: list[Batch] = []
    for batch in features_to_evaluate(compute, loader, device=device, report=report):
        if not batches:
            assert isinstance(batch.images, Features)
            check_room(FeatureCache(), batch.images.levels, len(loader))
        batches.append(batch)
    return batches


def check_room(keeper: ViewKeeper, levels: Sequence[Tensor], count: int) -> int:
    """Return how many maps like these there is room for; at least `count`.

    Raises:
        ConfigError: There is room for fewer.
    """
    limit, size = keeper.free_bytes(), bytes_of(levels)
    if count * size > limit:
        raise ConfigError(
            f"data.cache_features: expected at most {limit / 1e9:.1f} GB ({SHARE:.0%} of "
            f"{keeper.place}), but one view of each image takes {count * size / 1e9:.1f} GB; use "
            "smaller images, keep them in files with data.feature_folder=DIR, or set "
            "data.cache_features=false"
        )
    return int(limit // size)


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
