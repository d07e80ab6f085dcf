"""What this machine can do: its first steps on noise, timed, and its room for features."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from aligndetr.config.codec import override
from aligndetr.config.schema import AnyConfig, Config
from aligndetr.data.annotations import Annotations
from aligndetr.data.images import read_image
from aligndetr.data.noise import noise_images, noise_targets
from aligndetr.errors import DatasetError
from aligndetr.losses.criterion import total_loss
from aligndetr.model.build import Network, build_backbone, build_model
from aligndetr.precision import resolve_precision
from aligndetr.train.memory import keep_heap
from aligndetr.train.views import free_memory
from aligndetr.types import Features, Targets

Result = TypeVar("Result")

PROBE_SIZES = ((192, 256), (288, 384))
"""Heights and widths of the images that are timed."""
TIMED = 2
"""Runs of which the faster counts, after one that compiles and warms up."""
LOADED = 4
"""Images of the data that are read, to see how long that takes."""


@dataclass(frozen=True)
class Line:
    """A time in seconds that grows with the pixels of an image."""

    fixed_seconds: float
    pixel_seconds: float

    @staticmethod
    def through(small: tuple[int, float], large: tuple[int, float]) -> Line:
        """Return the line through two pairs of pixels and seconds, without negative parts."""
        slope = max((large[1] - small[1]) / (large[0] - small[0]), 0.0)
        fixed = large[1] - slope * large[0]
        return Line(fixed, slope) if fixed >= 0 else Line(0.0, large[1] / large[0])

    def seconds(self, pixels: int) -> float:
        """Return the time that an image of so many pixels takes."""
        return self.fixed_seconds + self.pixel_seconds * pixels


@dataclass(frozen=True)
class Speed:
    """The time of one image: `backbone` its maps, `step` forward and backward on maps at hand.

    `load_seconds` is what reading its file takes, with all processes at it.
    """

    backbone: Line
    step: Line
    load_seconds: float

    def view_seconds(self, pixels: int) -> float:
        """Return the time that the features of an image of so many pixels take, from its file."""
        return self.load_seconds + self.backbone.seconds(pixels)


@dataclass(frozen=True)
class Room:
    """What the features of an image take, for each of its pixels, and what they have."""

    feature_bytes: float
    free_bytes: float


def measure_room(config: AnyConfig, device: torch.device) -> Room:
    """Return how much room features take and have here; nothing is timed."""
    backbone, _ = build_backbone(config, pretrained=False)
    levels = zip(backbone.channels, backbone.strides, strict=True)
    values = sum(channels / stride**2 for channels, stride in levels)
    size = 2 if resolve_precision(config.precision, device) == torch.bfloat16 else 4
    return Room(size * values, free_memory())


def measure_speed(
    config: AnyConfig, split: Annotations, device: torch.device, *, objects: int
) -> Speed:
    """Return how fast the network of a configuration is on a device, in some seconds.

    A network with random weights of its own is timed and thrown away, and the random generators
    stay as they were.

    Args:
        config: Of the network, its losses and its batches.
        split: Images of which a few are read.
        device: Where training will run.
        objects: In an image.
    """
    if device.type == "cpu":
        keep_heap()  # training will, and its steps take less time for it
    generators = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=generators):
        torch.manual_seed(0)
        plain = override(config, ["compile=false"]) if isinstance(config, Config) else config
        model, _ = build_model(plain, device=device, pretrained=False)
        times = [_timed(model, plain, size, device, objects) for size in PROBE_SIZES]
    pixels = [height * width for height, width in PROBE_SIZES]
    backbone, step = (
        Line.through((pixels[0], times[0][part]), (pixels[1], times[1][part])) for part in (0, 1)
    )
    return Speed(backbone, step, _load_seconds(split))


def _timed(
    model: Network, config: AnyConfig, size: tuple[int, int], device: torch.device, objects: int
) -> tuple[float, float]:
    """Return the seconds of an image in the backbone, and in a step behind it."""
    batch = config.data.batch_size
    images = noise_images(batch, size).to(device)
    targets = noise_targets(batch, objects, config.num_classes).to(device)
    with torch.no_grad():
        model.eval()
        backbone, features = _best_seconds(lambda: model.features(images), device)
    model.train()
    step, _ = _best_seconds(lambda: _train(model, config, features, targets), device)
    return backbone / batch, step / batch


def _train(model: Network, config: AnyConfig, features: Features, targets: Targets) -> None:
    output = model(features, targets)
    terms = config.criterion(output, targets, num_targets=float(max(len(targets.labels), 1)))
    total_loss(terms).backward()
    model.zero_grad()


def _best_seconds(run: Callable[[], Result], device: torch.device) -> tuple[float, Result]:
    """Return the time of the fastest run after the first, and what the first returned."""
    first, _ = _timed_run(run, device)
    return min(_timed_run(run, device)[1] for _ in range(TIMED)), first


def _timed_run(run: Callable[[], Result], device: torch.device) -> tuple[Result, float]:
    start = time.monotonic()
    result = run()
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return result, time.monotonic() - start


def _load_seconds(split: Annotations) -> float:
    """Return the time of reading an image, shared by the processors; training tells of bad ones."""
    count = min(LOADED, len(split))
    start = time.monotonic()
    for index in range(count):
        try:
            read_image(split.path(index), split.size(index))
        except DatasetError:
            continue
    return (time.monotonic() - start) / count / (os.cpu_count() or 1)
