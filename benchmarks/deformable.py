"""Time deformable attention on this machine's CPU against the `grid_sample` path, in one process.

Prints the median seconds of both and their ratio, forward and forward + backward. The two take
turns, so that a busy machine disturbs them alike.

    python benchmarks/deformable.py [--repeats 7] [--threads N] [--json]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import prod

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from aligndetr.kernels import deformable_attention, portable

POINTS = 4


@dataclass(frozen=True)
class Case:
    """Shapes of one call; without `queries`, every token of the memory asks, as in an encoder."""

    name: str
    images: int
    channels: int
    shapes: tuple[tuple[int, int], ...]
    queries: int | None = None
    heads: int = 8


@dataclass(frozen=True)
class Timing:
    """Median seconds of one case and pass."""

    case: str
    timed: str
    ours_seconds: float
    grid_sample_seconds: float
    ratio: float


LARGE = ((100, 167), (50, 84), (25, 42), (13, 21))
SMALL = ((30, 40), (15, 20), (8, 10))
CASES = (
    Case("encoder 800x1333", images=1, channels=32, shapes=LARGE),
    Case("decoder 800x1333", images=1, channels=32, shapes=LARGE, queries=900),
    Case("encoder 240x320, 8 images", images=8, channels=16, shapes=SMALL),
    Case("the same with 4 levels", images=8, channels=16, shapes=(*SMALL, (4, 5))),
)


def tensors(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Return value, locations and weights; locations anywhere, the hardest case for caches."""
    tokens = sum(prod(shape) for shape in case.shapes)
    generator = torch.Generator().manual_seed(0)
    points = (case.images, case.queries or tokens, case.heads, len(case.shapes), POINTS)
    value = torch.randn(case.images, tokens, case.heads, case.channels, generator=generator)
    locations = torch.rand(*points, 2, generator=generator)
    weights = torch.rand(points, generator=generator).flatten(3).softmax(-1).view(points)
    return value, locations, weights


def forward(case: Case) -> Callable[[], None]:
    value, locations, weights = tensors(case)

    def call() -> None:
        with torch.no_grad():
            deformable_attention(value, case.shapes, locations, weights)

    return call


def forward_and_backward(case: Case) -> Callable[[], None]:
    value, locations, weights = (tensor.requires_grad_() for tensor in tensors(case))
    with torch.no_grad():
        gradient = torch.randn_like(deformable_attention(value, case.shapes, locations, weights))

    def call() -> None:
        output = deformable_attention(value, case.shapes, locations, weights)
        torch.autograd.grad(output, (value, locations, weights), gradient)

    return call


def seconds(call: Callable[[], None]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(case: Case, timed: str, call: Callable[[], None], repeats: int) -> Timing:
    """Return the medians of `repeats` calls of each, after one that warms up."""
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(repeats + 1):
        ours.append(seconds(call))
        with portable():
            theirs.append(seconds(call))
    ours_seconds, their_seconds = statistics.median(ours[1:]), statistics.median(theirs[1:])
    return Timing(case.name, timed, ours_seconds, their_seconds, their_seconds / ours_seconds)


def show(timings: list[Timing]) -> None:
    table = Table("case", "pass", "ours, ms", "grid_sample, ms", "ratio")
    for timing in timings:
        times = (timing.ours_seconds * 1e3, timing.grid_sample_seconds * 1e3)
        table.add_row(
            timing.case, timing.timed, *(f"{time:.2f}" for time in times), f"{timing.ratio:.1f}"
        )
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time deformable attention on the CPU.")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    timings: list[Timing] = []
    for case in CASES:
        timings.append(measure(case, "forward", forward(case), options.repeats))
        both = forward_and_backward(case)
        timings.append(measure(case, "forward + backward", both, options.repeats))
    if options.json:
        print(json.dumps([asdict(timing) for timing in timings], indent=2))
    else:
        show(timings)


if __name__ == "__main__":
    main()
