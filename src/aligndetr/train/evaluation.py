"""Evaluation as a part of training: how to detect, and how long that will take."""

import time
from collections.abc import Iterable, Iterator
from itertools import islice, pairwise

import torch
from torch import nn

from aligndetr.evaluate.evaluator import collect
from aligndetr.model.postprocess import postprocess
from aligndetr.types import Batch, Classes, Detect, Detections, Features, ImageBatch

TRIAL_BATCHES = 3
"""Batches from which the time of an evaluation is estimated."""
SCORING_SECONDS = 0.005
"""Of computing the metrics, an image: 10 s for the 5,000 images of COCO, with a margin."""


def detect_with(network: nn.Module, classes: Classes, *, top: int, device: torch.device) -> Detect:
    """Return a function from images to detections; it puts the network into evaluation mode."""
    network.eval()

    def detect(images: ImageBatch | Features) -> list[Detections]:
        here = images.to(device)
        return postprocess(network(here), here.sizes, classes, top=top)

    return detect


def trial_seconds(detect: Detect, loader: Iterable[Batch], *, batches: int, images: int) -> float:
    """Return about how long an evaluation of so many batches and images takes.

    Runs the first few batches; the very first, which waits for workers and compilers, counts
    only where it is alone.
    """
    moments: list[float] = []

    def watched() -> Iterator[Batch]:
        for batch in islice(loader, TRIAL_BATCHES):
            moments.append(time.monotonic())
            yield batch

    collect(detect, watched())
    moments.append(time.monotonic())
    intervals = [end - start for start, end in pairwise(moments)]
    slowest = max(intervals[1:] or intervals, default=0.0)
    return slowest * batches + SCORING_SECONDS * images
