"""The slots of a region detector: where objects may be, and what is there."""

from pydantic import PositiveFloat, PositiveInt

from aligndetr.settings import Settings


class Proposals(Settings):
    """Boxes that may hold an object, chosen among anchor boxes (Faster R-CNN, section 3)."""

    sizes: tuple[PositiveInt, ...] = (32, 64, 128, 256, 512)
    """Side of the anchor boxes of each level, in pixels of the model's input, finest first: one
    for each of the backbone's strides, and one for a level of twice the last."""
    ratios: tuple[PositiveFloat, ...] = (0.5, 1.0, 2.0)
    """Heights of the anchor boxes of a cell, as multiples of their width."""
    count: PositiveInt = 1000
    """Proposals of an image, and how many of each level are compared to find them."""
    training_count: PositiveInt = 2000
    """The same in training."""


class RegionHead(Settings):
    """Class and box of every proposal, from the maps inside it (Fast R-CNN)."""

    hidden: PositiveInt = 1024
    """Width of its two hidden layers."""
    samples: PositiveInt = 512
    """Proposals of an image that are trained on, at most a quarter of them with an object."""
