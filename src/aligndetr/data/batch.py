"""Loaders: samples become padded batches, in an order that follows from the seed alone.

Order and augmentation of an epoch depend on seed, epoch and image only: not on the number of
workers, nor on what ran before. That makes an interrupted run continue exactly.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from aligndetr.data.annotations import Annotations, IntArray
from aligndetr.data.dataset import DetectionDataset, Draw
from aligndetr.data.transforms import Sample, size_of
from aligndetr.errors import DatasetError
from aligndetr.types import Batch, Features, ImageBatch, Targets

Size = tuple[int, int]
"""Height and width."""


def collate(samples: Sequence[Sample], *, size: Size | None = None) -> Batch:
    """Return samples as one batch, padded with zeros at the right and the bottom.

    To `size`, or to what the largest image needs; then `padding` is None where all have one size.
    Boxes stay relative to their own image.

    Raises:
        DatasetError: An image is larger than `size`.
    """
    pixels = [sample.pixels for sample in samples]
    sizes = [size_of(image) for image in pixels]
    needed = largest(sizes)
    if size is not None and (needed[0] > size[0] or needed[1] > size[1]):
        raise DatasetError(
            f"data.pad_to: expected at least {list(needed)}, the height and width of the images of "
            f"a batch, found {list(size)}; raise it, or make images smaller by data.augmentation"
        )
    images = ImageBatch(
        stack_padded(pixels, size),
        padding_of(sizes, size),
        torch.tensor([sample.size for sample in samples], dtype=torch.int64),
    )
    targets = Targets.pack(
        [sample.boxes for sample in samples], [sample.labels for sample in samples]
    )
    return Batch(images, targets, tuple(sample.image_id for sample in samples))


def stack_padded(maps: Sequence[Tensor], size: Size | None = None) -> Tensor:
    """Return (C, h, w) maps as one (B, C, H, W), with zeros where a map is smaller.

    `size` is (H, W), that of the largest map if None.
    """
    height, width = size or largest([size_of(level) for level in maps])
    if all(size_of(level) == (height, width) for level in maps):
        return torch.stack(list(maps))
    batch = maps[0].new_zeros(len(maps), len(maps[0]), height, width)
    for row, level in enumerate(maps):
        batch[row, :, : level.shape[1], : level.shape[2]] = level
    return batch


def padding_of(sizes: Sequence[Size], size: Size | None = None) -> Tensor | None:
    """Return where images of these sizes are padded in a batch (B, H, W); None if nowhere.

    Where the batch has a fixed `size` there always is a mask, so that all batches are alike.
    """
    if size is None and len(set(sizes)) == 1:
        return None
    padding = torch.ones(len(sizes), *(size or largest(sizes)), dtype=torch.bool)
    for row, (height, width) in zip(padding, sizes, strict=True):
        row[:height, :width] = False
    return padding


def largest(sizes: Sequence[Size]) -> Size:
    """Return the height and width that hold all of these."""
    heights, widths = zip(*sizes, strict=True)
    return max(heights), max(widths)


def input_sizes(images: ImageBatch | Features) -> list[Size]:
    """Return the height and width of each image as the model takes it, without its padding."""
    if images.padding is None:
        size = size_of(images.pixels) if isinstance(images, ImageBatch) else images.input_size
        if size is None:
            raise ValueError("input_sizes: expected Features that know their input_size")
        return [size] * len(images.sizes)
    is_image = ~images.padding
    heights = is_image.any(dim=2).sum(dim=1).tolist()
    widths = is_image.any(dim=1).sum(dim=1).tolist()
    return list(zip(heights, widths, strict=True))


class EpochSampler(Sampler[Draw]):
    """Draws all of `rows` once an epoch, in an order and with seeds of that epoch's own."""

    def __init__(self, rows: IntArray, *, seed: int) -> None:
        self._rows = rows
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration gives; accelerate's loaders call this."""
        self._epoch = epoch

    def seeded(self, seed: int) -> EpochSampler:
        """Return a sampler of the same rows with another seed."""
        return EpochSampler(self._rows, seed=seed)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Draw]:
        random = np.random.default_rng((self._seed, self._epoch))
        order = random.permutation(self._rows).tolist()
        seeds = random.integers(2**31, size=len(order)).tolist()
        return map(Draw, order, seeds)


def training_loader(
    dataset: DetectionDataset,
    *,
    batch_size: int,
    workers: int,
    seed: int,
    keep_empty: bool = True,
    pad_to: Size | None = None,
    processes: int = 1,
) -> DataLoader[Sample]:
    """Return a loader of shuffled `Batch`es; give `set_epoch` the epoch before each.

    An incomplete last batch is dropped, unless there are too few for all processes without it.

    Args:
        dataset: What to load.
        batch_size: Images of one process in one batch.
        workers: Processes that load; 0 loads in this one.
        seed: Decides on the order and the augmentation.
        keep_empty: Whether images that have no objects to train on are used.
        pad_to: Height and width of every batch; None makes them as large as they must be.
        processes: How many share the batches; accelerate fills up where they do not come out even.

    Raises:
        DatasetError: No image is left.
    """
    annotations = dataset.annotations
    rows = np.arange(len(annotations)) if keep_empty else annotations.images_with_targets
    if len(rows) == 0:
        raise DatasetError(
            f"{annotations.annotation_file}: expected an image with objects to train on, "
            "found none; annotate some, or set data.keep_empty=true"
        )
    sampler = EpochSampler(rows, seed=seed)
    return _loader(
        dataset,
        sampler,
        batch_size=batch_size,
        workers=workers,
        drop_last=len(sampler) >= batch_size * processes,
        pad_to=pad_to,
    )


def evaluation_loader(
    dataset: DetectionDataset, *, batch_size: int, workers: int
) -> DataLoader[Sample]:
    """Return a loader of all images once, by aspect ratio, so that little is padded."""
    order = _by_aspect_ratio(dataset.annotations)
    return _loader(dataset, order, batch_size=batch_size, workers=workers, drop_last=False)


def set_epoch(loader: DataLoader[Sample], epoch: int) -> None:
    """Let the next iteration of a training loader, plain or prepared by accelerate, be `epoch`."""
    target = loader if hasattr(loader, "set_epoch") else loader.sampler
    cast("_HasEpoch", target).set_epoch(epoch)


class _HasEpoch(Protocol):
    def set_epoch(self, epoch: int) -> None: ...


def _loader(
    dataset: DetectionDataset,
    sampler: Sampler[Draw] | Sequence[int],
    *,
    batch_size: int,
    workers: int,
    drop_last: bool,
    pad_to: Size | None = None,
) -> DataLoader[Sample]:
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        collate_fn=partial(collate, size=pad_to),
        drop_last=drop_last,
        persistent_workers=workers > 0,
        worker_init_fn=begin_worker,
        pin_memory=accelerator is not None and accelerator.type != "mps",
        # Its own: else every epoch takes a number from torch's global one.
        generator=torch.Generator(),
    )


def begin_worker(_: int) -> None:
    """Let a worker's garbage collection leave alone what it shares with its parent.

    A full collection writes to every object that it looks at, and so makes a copy of them all:
    120 MiB in every worker of a training.
    """
    gc.freeze()


def _by_aspect_ratio(annotations: Annotations) -> list[int]:
    sizes = annotations.images.sizes
    return np.argsort(sizes[:, 0] / sizes[:, 1], kind="stable").tolist()
