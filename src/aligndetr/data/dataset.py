"""A torch data set: annotations, their images and an augmentation, one sample at a time."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset

from aligndetr.data.annotations import Annotations
from aligndetr.data.images import read_image
from aligndetr.data.transforms import Sample, View
from aligndetr.errors import DatasetError

Transform = Callable[[Tensor, Tensor, Tensor], View]
"""(3, h, w) uint8 image, (n, 4) xyxy boxes in pixels, (n,) labels -> model input."""


@dataclass(frozen=True)
class Draw:
    """Image `index`, to be augmented with the random numbers that follow from `seed`."""

    index: int
    seed: int


@dataclass(frozen=True)
class DetectionDataset(Dataset[Sample]):
    """The samples of one split, in the order of its annotation file.

    An item is asked for by its index, and then augmented from torch's global random state, or by
    a `Draw`: the same draw is the same sample in every process, and leaves that state alone.
    """

    annotations: Annotations
    transform: Transform

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, key: int | Draw) -> Sample:
        """Return a sample.

        Raises:
            DatasetError: The image is missing, damaged or of another size than annotated.
        """
        if not isinstance(key, Draw):
            return self._sample(key, self._image(key))
        image = self._image(key.index)
        with _seeded(key.seed):
            return self._sample(key.index, image)

    def _image(self, index: int) -> Tensor:
        path, size = self.annotations.path(index), self.annotations.size(index)
        try:
            return read_image(path, size)
        except DatasetError as error:
            raise DatasetError(f"{self.annotations.annotation_file}: {error}") from None

    def _sample(self, index: int, image: Tensor) -> Sample:
        pixels, boxes, labels = self.transform(image, *self.annotations.targets(index))
        return Sample(
            pixels,
            boxes,
            labels,
            image_id=int(self.annotations.images.ids[index]),
            size=self.annotations.size(index),
        )


@contextmanager
def _seeded(seed: int) -> Generator[None]:
    """Let torch's CPU generator start from `seed`, and put its state back at the end."""
    # Not torch.manual_seed, which also seeds the accelerators.
    generator = torch.default_generator
    state = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(state)
