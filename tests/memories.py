"""Random memories, alone and padded, for the tests of those who read them."""

import torch
from torch import Tensor

from aligndetr.types import Memory

Shapes = tuple[tuple[int, int], ...]

WIDTH = 16
SINGLE: Shapes = ((3, 4),)
LEVELS: Shapes = ((4, 6), (2, 3))


def random_memory(shapes: Shapes = LEVELS, *, images: int = 2, seed: int = 0) -> Memory:
    """Return a memory of images without padding, each with a position of its own."""
    generator = torch.Generator().manual_seed(seed)
    count = sum(height * width for height, width in shapes)
    tokens = torch.randn(images, count, WIDTH, generator=generator)
    position = torch.randn(images, count, WIDTH, generator=generator)
    return Memory(tokens, position, None, shapes, torch.ones(images, len(shapes), 2))


def padded(memory: Memory, *, factor: int = 2) -> Memory:
    """Return the same images in maps so many times as high and wide, with rubbish around them."""
    shapes = tuple((height * factor, width * factor) for height, width in memory.shapes)
    around = random_memory(shapes, images=len(memory.tokens), seed=99)
    kept = is_image(memory.shapes, shapes)
    tokens, position = around.tokens.clone(), around.position.clone()
    tokens[:, kept], position[:, kept] = memory.tokens, memory.position
    hidden = ~kept.expand(len(tokens), -1)
    return Memory(tokens, position, hidden, shapes, memory.valid_ratios / factor)


def is_image(shapes: Shapes, padded_shapes: Shapes) -> Tensor:
    """Return (S,) bool: which tokens of the larger maps those of the smaller ones are."""
    marks: list[Tensor] = []
    for (height, width), padded_shape in zip(shapes, padded_shapes, strict=True):
        mark = torch.zeros(padded_shape, dtype=torch.bool)
        mark[:height, :width] = True
        marks.append(mark.flatten())
    return torch.cat(marks)
