"""Training on the maps of a frozen backbone: computed once, kept, drawn from at random.

Each image is kept in several augmented views with the objects of that view. Maps stay in the
precision in which the backbone runs, so that they are what it would have given.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from aligndetr.config.schema import AnyConfig, Data
from aligndetr.data.annotations import Annotations
from aligndetr.data.batch import EpochSampler, begin_worker, collate, input_sizes
from aligndetr.data.dataset import DetectionDataset, Draw
from aligndetr.errors import ConfigError
from aligndetr.model.build import Network
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

TRIAL_SECONDS = 5.0
"""After so long it is clear how long the features of all images would take."""
UNLIKE_SHARE = 1.5
"""The maps of the first images may be so much larger than those of all, on average."""

RENEWABLE = (
    "only a DETR makes their maps anew, where a frozen stage gives one of backbone.strides, norms "
    "are frozen, and the network can be cut there"
)

Compute = Callable[[ImageBatch], Features]
"""The backbone: it gives maps on the device of the images."""
Report = Callable[[int], None]
"""Told how many images were done."""


def check_cacheable(config: AnyConfig, model: Network) -> None:
    """Check that the backbone's maps cannot change, or that a model can renew those that do.

    Raises:
        ConfigError: Some of the backbone is trained where maps cannot be renewed.
    """
    if config.backbone.freeze != "all" and not model.can_renew:
        raise ConfigError(
            f"data.cache_features: expected backbone.freeze=all, found {config.backbone.freeze}, "
            f"which leaves trained stages; {RENEWABLE}; set backbone.freeze=all or "
            "data.cache_features=false"
        )


def check_renewable(model: Network) -> None:
    """Check that a model can go on with kept features when its backbone is unfrozen.

    Raises:
        ConfigError: It cannot.
    """
    if not model.can_renew:
        raise ConfigError(
            "training.unfreeze.keep_features: expected a model that makes maps of trained stages "
            f"anew, found another; {RENEWABLE}; set it to false"
        )


def cache_training(
    compute: Compute,
    loader: DataLoader[Any],
    data: Data,
    keeper: ViewKeeper,
    *,
    strides: Sequence[int],
    device: torch.device,
    deadline: Deadline | None,
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
        deadline: Until when to compute; None knows no hurry.
        report: Told of the views done.
        say: Told once, where fewer views fit than were asked for.

    Raises:
        ConfigError: There is no room or no time for one view of each image.
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
        worker_init_fn=begin_worker,
    )
    room = Room(keeper, images)
    done, wanted = 0, len(draws)
    begun: tuple[float, int] | None = None  # after the first batch, which waits for the workers
    for batch in batches:
        views = _split(batch, _compute(compute, batch, device), strides)
        for draw, view in zip(draws[done : done + len(views)], views, strict=True):
            room.take(view.levels)
            keeper.add(draw.index, view)
        is_first_round, done = done < images, done + len(views)
        report(len(views))
        if done < images:
            if deadline is not None and begun is not None:
                deadline.require_time(*begun, done, images)
            begun = begun or (time.monotonic(), done)
            continue
        if is_first_round and (fitting := room.views) < data.cached_views:
            wanted = fitting * images
            say(
                f"{fitting} of {data.cached_views} views of each image fit "
                f"{SHARE:.0%} of {keeper.place}; smaller images make room for more"
            )
        if done >= wanted or (deadline is not None and time.monotonic() > deadline.views):
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
        pin_memory=loader.pin_memory,
        generator=torch.Generator(),
    )


def features_to_evaluate(
    compute: Compute, loader: DataLoader[Any], *, device: torch.device, report: Report
) -> Iterator[Batch]:
    """Yield the batches of an evaluation loader with features, on the CPU, in place of images.

    Takes as long as the backbone in one evaluation, which whoever keeps them saves in each.
    """
    for batch in loader:
        features = replace(_compute(compute, batch, device).to(CPU), is_kept=True)
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
    room = Room(FeatureCache(), len(loader))
    for batch in features_to_evaluate(compute, loader, device=device, report=report):
        assert isinstance(batch.images, Features)
        room.take(batch.images.levels)
        batches.append(batch)
    return batches


@dataclass(frozen=True)
class Deadline:
    """Times by `time.monotonic()`: from `views` on, one view of each image must do; the `end`."""

    views: float
    end: float

    @staticmethod
    def of(started: float, seconds: float, *, views_share: float, is_resumed: bool) -> Deadline:
        """Return that of a budget, of which views may take a share.

        A resumed training ends with what it has, however late its features are: without an end.
        """
        return Deadline(
            started + views_share * seconds, math.inf if is_resumed else started + seconds
        )

    def require_time(self, begun: float, before: int, done: int, wanted: int) -> None:
        """Check that all can be done before the end: `before` were at `begun`, `done` are now.

        Raises:
            ConfigError: The rest would take longer.
        """
        now = time.monotonic()
        needed = (now - begun) * (wanted - done) / (done - before)
        if now - begun > TRIAL_SECONDS and now + needed > self.end:
            raise ConfigError(
                f"--minutes: expected time for the features of each of {wanted} images, whose "
                f"last {wanted - done} need {needed:.0f} seconds, found {self.end - now:.0f} "
                "seconds; give more minutes, use smaller images, or set data.cache_features=false"
            )


class Room:
    """What is free for maps, and what those that were taken need of it."""

    def __init__(self, keeper: ViewKeeper, count: int) -> None:
        """Make room for `count` sets of maps at least."""
        self._limit, self._place = keeper.free_bytes(), keeper.place
        self._count = count
        self._taken, self._bytes = 0, 0

    def take(self, levels: Sequence[Tensor]) -> None:
        """Count one more.

        Raises:
            ConfigError: There is no room for `count` in all, or clearly none if the others are
                like those so far.
        """
        self._taken += 1
        self._bytes += bytes_of(levels)
        needed = self._bytes * self._count / self._taken
        # Images come sorted by their shape, so that the others may be smaller.
        limit = self._limit * (1 if self._taken == self._count else UNLIKE_SHARE)
        if self._taken <= self._count and (needed > limit or self._bytes > self._limit):
            raise ConfigError(
                f"data.cache_features: expected at most {self._limit / 1e9:.1f} GB ({SHARE:.0%} of "
                f"{self._place}), but one view of each image takes {needed / 1e9:.1f} GB; use "
                "smaller images, keep them in files with data.feature_folder=DIR, or set "
                "data.cache_features=false"
            )

    @property
    def views(self) -> int:
        """How many times `count` of them there is room for."""
        return max(1, int(self._limit * self._taken // (self._bytes * self._count)))


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
