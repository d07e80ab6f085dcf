"""Augmentations: uint8 image and pixel boxes in, normalised pixels and relative boxes out.

Everything random draws from torch's global generator, as torchvision's transforms do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
from PIL.Image import Image
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from aligndetr.boxes import xyxy_to_cxcywh
from aligndetr.settings import Settings

Share = Annotated[float, Field(ge=0, le=1)]
Triple = tuple[float, float, float]

SMALLEST_SIDE = 1.0
"""Pixels of the model's input below which what a crop leaves of a box is dropped."""


@dataclass(frozen=True)
class Sample:
    """One image as the model takes it.

    `pixels` (3, h, w) float32 normalised; `boxes` (n, 4) cxcywh in [0, 1] of these pixels;
    `labels` (n,) int64; `size` height and width of the image in its file.
    """

    pixels: Tensor
    boxes: Tensor
    labels: Tensor
    image_id: int
    size: tuple[int, int]


class View(NamedTuple):
    """What an augmentation makes of an image; the fields are those of `Sample`."""

    pixels: Tensor
    boxes: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Pipeline:
    """Transforms of uint8 pixels, then normalisation; it can be sent to other processes."""

    steps: v2.Compose
    mean: Triple
    std: Triple

    def __call__(
        self, image: Tensor | Image, boxes: Tensor | None = None, labels: Tensor | None = None
    ) -> View:
        """Return the model input for an image and, if it has any, its objects.

        Args:
            image: (3, h, w), uint8 or float in [0, 1], or a PIL image in RGB.
            boxes: (n, 4) xyxy in pixels of the image.
            labels: (n,) int64.
        """
        picture = functional.to_image(image)
        objects = {
            "image": picture,
            "boxes": tv_tensors.BoundingBoxes(  # pyright: ignore[reportCallIssue]
                torch.zeros(0, 4) if boxes is None else boxes,
                format=tv_tensors.BoundingBoxFormat.XYXY,
                canvas_size=size_of(picture),
            ),
            "labels": torch.zeros(0, dtype=torch.int64) if labels is None else labels,
        }
        result = self.steps(objects)
        pixels = _normalised(result["image"].as_subclass(Tensor), self.mean, self.std)
        height, width = size_of(pixels)
        scale = torch.tensor([width, height, width, height], dtype=torch.float32)
        boxes_xyxy = result["boxes"].as_subclass(Tensor) / scale
        return View(pixels, xyxy_to_cxcywh(boxes_xyxy), result["labels"])


class DetrAugmentation(Settings):
    """Flip, and one of two resizes: alone, or after a crop (DETR, arXiv:2005.12872, section 4)."""

    type: Literal["detr"] = "detr"
    flip: Share = 0.5
    """Probability of a horizontal flip."""
    short_sides: tuple[PositiveInt, ...] = tuple(range(480, 801, 32))
    """Training sizes of the shorter side."""
    max_side: PositiveInt = 1333
    """No side becomes longer than this."""
    crop: Share = 0.5
    """Probability of a crop."""
    crop_short_sides: tuple[PositiveInt, ...] = (400, 500, 600)
    """Sizes of the shorter side before a crop."""
    crop_range: tuple[PositiveInt, PositiveInt] = (384, 600)
    """Smallest and largest side of a crop."""
    evaluation_short_side: PositiveInt = 800

    def training(self, mean: Triple, std: Triple) -> Pipeline:
        """Return the random transform of training."""
        resize = FitSides(self.short_sides, self.max_side)
        crop = [FitSides(self.crop_short_sides), CropSides(*self.crop_range)]
        steps = [
            v2.RandomHorizontalFlip(self.flip),
            v2.RandomApply(crop, p=self.crop),
            resize,
            v2.ClampBoundingBoxes(),
            v2.SanitizeBoundingBoxes(min_size=SMALLEST_SIDE),
        ]
        return Pipeline(v2.Compose(steps), mean, std)

    def evaluation(self, mean: Triple, std: Triple) -> Pipeline:
        """Return the fixed transform of evaluation and prediction."""
        resize = FitSides((self.evaluation_short_side,), self.max_side)
        return Pipeline(v2.Compose([resize]), mean, std)


class LightAugmentation(Settings):
    """Flips, zoom and colour at one small size: for small data and machines.

    Training and evaluation give images of one aspect ratio the same size, so batches are rarely
    padded.
    """

    type: Literal["light"] = "light"
    short_side: PositiveInt = 240
    """Size of the shorter side, unless the longer one then exceeds `max_side`."""
    max_side: PositiveInt = 320
    flip: Share = 0.5
    """Probability of a horizontal flip."""
    vertical_flip: Share = 0.0
    """Probability of a vertical flip; for pictures that have no up and down."""
    zoom: tuple[PositiveFloat, PositiveFloat] = (0.7, 1.4)
    """Range of the random scale: below 1 pads with the mean, above 1 crops; (1, 1) has none."""
    color: Share = 0.2
    """Largest relative change of brightness, contrast and saturation."""

    def training(self, mean: Triple, std: Triple) -> Pipeline:
        """Return the random transform of training."""
        steps = [
            Zoom(self.short_side, self.max_side, self.zoom, mean),
            v2.RandomHorizontalFlip(self.flip),
            v2.RandomVerticalFlip(self.vertical_flip),
            v2.ColorJitter(self.color, self.color, self.color),
            v2.ClampBoundingBoxes(),
            v2.SanitizeBoundingBoxes(min_size=SMALLEST_SIDE),
        ]
        return Pipeline(v2.Compose(steps), mean, std)

    def evaluation(self, mean: Triple, std: Triple) -> Pipeline:
        """Return the fixed transform of evaluation and prediction."""
        resize = FitSides((self.short_side,), self.max_side)
        return Pipeline(v2.Compose([resize]), mean, std)


Augmentation = Annotated[DetrAugmentation | LightAugmentation, Field(discriminator="type")]


class FitSides(v2.Transform):
    """Resizes so that the shorter side is one of `short_sides`, at random, within `max_side`."""

    def __init__(self, short_sides: Sequence[int], max_side: int | None = None) -> None:
        super().__init__()
        self.short_sides = tuple(short_sides)
        self.max_side = max_side

    def make_params(self, flat_inputs: list[object]) -> dict[str, object]:
        """Draw the size of one image."""
        short_side = self.short_sides[_random_int(0, len(self.short_sides) - 1)]
        return {"size": fitted_size(_canvas(flat_inputs), short_side, self.max_side)}

    def transform(self, inpt: Tensor, params: dict[str, list[int]]) -> Tensor:
        """Resize an image or its boxes."""
        return functional.resize(inpt, params["size"], antialias=True)


class CropSides(v2.Transform):
    """Crops a window at random whose height and width are between `low` and `high`."""

    def __init__(self, low: int, high: int) -> None:
        super().__init__()
        self.low, self.high = low, high

    def make_params(self, flat_inputs: list[object]) -> dict[str, object]:
        """Draw the window of one image: top, left, height, width."""
        height, width = _canvas(flat_inputs)
        window_height = _random_int(min(height, self.low), min(height, self.high))
        window_width = _random_int(min(width, self.low), min(width, self.high))
        top, left = _random_int(0, height - window_height), _random_int(0, width - window_width)
        return {"window": (top, left, window_height, window_width)}

    def transform(self, inpt: Tensor, params: dict[str, list[int]]) -> Tensor:
        """Crop an image or its boxes."""
        return functional.crop(inpt, *params["window"])


class Zoom(v2.Transform):
    """Scales the content of a canvas of fixed size at random, about a random place.

    The canvas is the image fitted to the sides. The scale is log-uniform in `zoom`.
    """

    def __init__(
        self, short_side: int, max_side: int, zoom: tuple[float, float], mean: Triple
    ) -> None:
        super().__init__()
        self.short_side, self.max_side = short_side, max_side
        self.log_low, self.log_high = math.log(zoom[0]), math.log(zoom[1])
        self.fill = [255 * value for value in mean]

    def make_params(self, flat_inputs: list[object]) -> dict[str, object]:
        """Draw the window that is cropped, the size that it gets, and the padding around."""
        height, width = _canvas(flat_inputs)
        canvas = fitted_size((height, width), self.short_side, self.max_side)
        drawn = self.log_low + (self.log_high - self.log_low) * float(torch.rand(()))
        zoom = math.exp(drawn)
        window = scaled_size((height, width), min(1.0, 1 / zoom))
        content = scaled_size(canvas, min(1.0, zoom))
        top = _random_int(0, height - window[0])
        left = _random_int(0, width - window[1])
        above = _random_int(0, canvas[0] - content[0])
        before = _random_int(0, canvas[1] - content[1])
        below, after = canvas[0] - content[0] - above, canvas[1] - content[1] - before
        return {
            "window": (top, left, *window),
            "content": content,
            "padding": [before, above, after, below],
        }

    def transform(self, inpt: Tensor, params: dict[str, list[int]]) -> Tensor:
        """Crop, resize and pad an image or its boxes."""
        content = functional.resized_crop(
            inpt, *params["window"], size=params["content"], antialias=True
        )
        return functional.pad(content, params["padding"], fill=self.fill)


def fitted_size(
    size_hw: tuple[int, int], short_side: int, max_side: int | None = None
) -> tuple[int, int]:
    """Return the height and width at which the shorter side is `short_side`.

    Where the longer one would then exceed `max_side`, it becomes `max_side` instead.
    """
    scale = short_side / min(size_hw)
    if max_side is not None:
        scale = min(scale, max_side / max(size_hw))
    return scaled_size(size_hw, scale)


def scaled_size(size_hw: tuple[int, int], scale: float) -> tuple[int, int]:
    """Return a height and width times `scale`, rounded, at least 1."""
    height, width = size_hw
    return max(1, math.floor(height * scale + 0.5)), max(1, math.floor(width * scale + 0.5))


def size_of(image: Tensor) -> tuple[int, int]:
    """Return the height and width of a (..., h, w) image."""
    height, width = image.shape[-2:]
    return height, width


def _canvas(flat_inputs: list[object]) -> tuple[int, int]:
    image = next(item for item in flat_inputs if isinstance(item, tv_tensors.Image))
    return size_of(image)


def _normalised(pixels: Tensor, mean: Triple, std: Triple) -> Tensor:
    # Planar first: on PIL's order of bytes the arithmetic takes ten times as long.
    scaled = functional.to_dtype(pixels.contiguous(), torch.float32, scale=True)
    return functional.normalize(scaled, list(mean), list(std))


def _random_int(low: int, high: int) -> int:
    """Draw an integer between `low` and `high`, both included."""
    return int(torch.randint(low, high + 1, ()))
