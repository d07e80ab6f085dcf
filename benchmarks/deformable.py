"""Time deformable attention on the CPU against `grid_sample`, and transformers' whole module.

    python benchmarks/deformable.py [--repeats 7] [--threads N] [--json]

The operator forward, and forward + backward, on random locations; then the attention module with
its projections against that of transformers. The two take turns in one process.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from types import SimpleNamespace

import torch
from torch import Tensor

from aligndetr.kernels import deformable_attention, portable
from aligndetr.layers.deformable import DeformableAttention
from tools.report import Row, against, run

POINTS = 4
Call = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """Shapes of one call; without `queries`, every token of the memory asks, as in an encoder."""

    name: str
    images: int
    channels: int
    shapes: tuple[tuple[int, int], ...]
    queries: int | None = None
    heads: int = 8

    @property
    def tokens(self) -> int:
        """How many there are in the memory of an image."""
        return sum(prod(shape) for shape in self.shapes)


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
    generator = torch.Generator().manual_seed(0)
    points = (case.images, case.queries or case.tokens, case.heads, len(case.shapes), POINTS)
    value = torch.randn(case.images, case.tokens, case.heads, case.channels, generator=generator)
    locations = torch.rand(*points, 2, generator=generator)
    weights = torch.rand(points, generator=generator).flatten(3).softmax(-1).view(points)
    return value, locations, weights


def forward(case: Case) -> Call:
    value, locations, weights = tensors(case)

    def call() -> None:
        with torch.no_grad():
            deformable_attention(value, case.shapes, locations, weights)

    return call


def forward_and_backward(case: Case) -> Call:
    value, locations, weights = (tensor.requires_grad_() for tensor in tensors(case))
    with torch.no_grad():
        gradient = torch.randn_like(deformable_attention(value, case.shapes, locations, weights))

    def call() -> None:
        output = deformable_attention(value, case.shapes, locations, weights)
        torch.autograd.grad(output, (value, locations, weights), gradient)

    return call


def on_grid_sample(call: Call) -> Call:
    """Return the same call by way of `grid_sample`."""

    def portably() -> None:
        with portable():
            call()

    return portably


def modules(case: Case) -> tuple[Call, Call]:
    """Return forward calls of the whole module: ours, and that of transformers."""
    from transformers.models.deformable_detr import modeling_deformable_detr as theirs

    width = case.heads * case.channels
    warnings.filterwarnings("ignore", message="You'd better set embed_dim")
    config = SimpleNamespace(
        d_model=width, num_feature_levels=len(case.shapes), disable_custom_kernels=True
    )
    ours = DeformableAttention(width, case.heads, levels=len(case.shapes), points=POINTS)
    other = theirs.DeformableDetrMultiscaleDeformableAttention(config, case.heads, POINTS)
    memory = torch.randn(case.images, case.tokens, width)
    query = torch.randn(case.images, case.queries or case.tokens, width)
    reference = torch.rand(*query.shape[:2], len(case.shapes), 2)
    shapes = torch.tensor(case.shapes)
    starts = torch.cat((shapes.new_zeros(1), shapes.prod(1).cumsum(0)[:-1]))

    @torch.no_grad()
    def our_call() -> None:
        ours(query, reference, memory, case.shapes, None)

    @torch.no_grad()
    def their_call() -> None:
        other(
            hidden_states=query,
            encoder_hidden_states=memory,
            reference_points=reference,
            spatial_shapes=shapes,
            spatial_shapes_list=list(case.shapes),
            level_start_index=starts,
        )

    return our_call, their_call


def milliseconds(call: Call) -> float:
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)


def compared(case: str, measured: str, ours: Call, theirs: Call, repeats: int) -> Row:
    """Return the medians of `repeats` calls of each, after one that warms up."""
    times = [(milliseconds(ours), milliseconds(theirs)) for _ in range(repeats + 1)]
    medians = [statistics.median(column) for column in zip(*times[1:], strict=True)]
    return against(case, measured, *medians)


def measure(options: argparse.Namespace) -> list[Row]:
    rows: list[Row] = []
    for case in CASES:
        for measured, call in (
            ("forward", forward(case)),
            ("forward + backward", forward_and_backward(case)),
        ):
            rows.append(compared(case.name, measured, call, on_grid_sample(call), options.repeats))
    for case in CASES[:2]:
        measured = "module of transformers, forward"
        rows.append(compared(case.name, measured, *modules(case), options.repeats))
    return rows


if __name__ == "__main__":
    run(measure, __doc__ or "", peer="grid_sample", repeats=7)
