"""How fast this machine trains a network: its first steps, on noise, timed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from aligndetr.config.schema import AnyConfig
from aligndetr.model.build import Network, build_model
from aligndetr.types import Features, ImageBatch, Targets

PROBE_SIZE = (240, 320)
"""Height and width of the images that are timed."""
TIMED = 2
"""Runs of which the faster counts, after one that compiles and warms up."""


@dataclass(frozen=True)
class Speed:
    """Seconds that one image of one pixel takes: times do not quite, but nearly, grow like that.

    `backbone` for its maps alone, `step` for an optimizer step on maps that are at hand, without
    loading anything.
    """

    backbone: float
    step: float


def measure_speed(config: AnyConfig, device: torch.device, *, objects: int) -> Speed:
    """Return how fast the network of a configuration is on a device.

    Takes a few seconds. A network with random weights of its own is timed and thrown away, and
    the state of torch's random generator stays as it was.

    Args:
        config: Of the network, its losses and its batches.
        device: Where training will run.
        objects: In an image.
    """
    batch = config.data.batch_size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, _ = build_model(config, device=device, pretrained=False)
        images = ImageBatch(
            torch.randn(batch, 3, *PROBE_SIZE, device=device),
            None,
            torch.tensor([PROBE_SIZE] * batch, device=device),
        )
        targets = _some_targets(batch, objects, config.num_classes).to(device)
        with torch.no_grad():
            model.eval()
            backbone = _best_seconds(lambda: model.features(images), device)
            features = model.features(images)
        model.train()
        step = _best_seconds(lambda: _train(model, config, features, targets), device)
    pixels = batch * PROBE_SIZE[0] * PROBE_SIZE[1]
    return Speed(backbone / pixels, step / pixels)


def _some_targets(images: int, objects: int, classes: int) -> Targets:
    boxes = torch.cat((0.2 + 0.6 * torch.rand(objects, 2), 0.05 + 0.2 * torch.rand(objects, 2)), 1)
    labels = torch.randint(0, classes, (objects,))
    return Targets.pack([boxes] * images, [labels] * images)


def _train(model: Network, config: AnyConfig, features: Features, targets: Targets) -> None:
    output = model(features, targets)
    terms = config.criterion(output, targets, num_targets=float(max(len(targets.labels), 1)))
    torch.stack(list(terms.values())).sum().backward()
    model.zero_grad()


def _best_seconds(run: Callable[[], object], device: torch.device) -> float:
    seconds: list[float] = []
    for _ in range(1 + TIMED):
        start = time.monotonic()
        run()
        if device.type != "cpu":
            torch.accelerator.synchronize()
        seconds.append(time.monotonic() - start)
    return min(seconds[1:])
