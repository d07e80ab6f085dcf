"""Images and objects of noise, for steps of which only the cost or the success counts."""

import torch

from aligndetr.types import ImageBatch, Targets


def noise_images(count: int, size_hw: tuple[int, int]) -> ImageBatch:
    """Return normal noise in the shape of a batch without padding."""
    return ImageBatch(torch.randn(count, 3, *size_hw), None, torch.tensor([size_hw] * count))


def noise_targets(count: int, objects: int, num_classes: int) -> Targets:
    """Return as many objects in each image, centre and size between .3 and .6."""
    boxes = torch.rand(count, objects, 4) * 0.3 + 0.3
    labels = torch.randint(num_classes, (count, objects))
    return Targets.pack(list(boxes), list(labels))
