"""Matching: which queries answer for which targets, at the smallest total cost.

    cost = class_cost * cost of the score + l1 * |box - target| - giou * GIoU

An object that may have k positives enters the assignment problem k times. Every image (and block
of queries) is a problem of its own; their costs travel to the host together.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import NonNegativeFloat
from torch import Tensor

from aligndetr.devices import from_host
from aligndetr.kernels.assignment import Pairs, solve_all
from aligndetr.kernels.box_costs import add_box_costs
from aligndetr.kernels.chunks import chunk_rows, chunk_spans
from aligndetr.losses.costs import AnyScoreCost, FocalCost, Wanted
from aligndetr.settings import Settings
from aligndetr.types import Assignment, Targets


@dataclass(frozen=True)
class Stack:
    """Predictions of N layers for one run of queries, and how often each target may be matched.

    `logits` (N, B, Q, C); `boxes` (N, B, Q, 4); `positives` the queries that an object may have
    in each layer, which is lowered image by image where they would take more than half of the
    queries; `copies` multiplies that, come what may; `blocks` equal parts of the Q queries, each
    matched on its own; `is_binary` makes all targets one class, the first.
    """

    logits: Tensor
    boxes: Tensor
    positives: tuple[int, ...]
    copies: int = 1
    blocks: int = 1
    is_binary: bool = False

    def labels(self, targets: Targets) -> Tensor:
        """Return the classes (T,) that count here."""
        return torch.zeros_like(targets.labels) if self.is_binary else targets.labels

    @property
    def block_queries(self) -> int:
        """Queries of one block."""
        return self.logits.shape[2] // self.blocks

    def rows(self) -> tuple[Tensor, Tensor]:
        """Return logits (N * blocks, B, Q / blocks, C) and boxes (.., 4)."""
        logits, boxes = (
            values.unflatten(2, (self.blocks, self.block_queries)).transpose(1, 2).flatten(0, 1)
            for values in (self.logits, self.boxes)
        )
        return logits, boxes

    def repeats(self, count: int) -> list[int]:
        """Return how often each of `count` objects of an image is matched: N * blocks numbers."""
        most = self.block_queries // (2 * count)
        layers = [self.copies * max(1, min(k, most)) for k in self.positives]
        return [repeat for repeat in layers for _ in range(self.blocks)]


@dataclass(frozen=True)
class Problem:
    """One assignment problem: which image and row of a stack, and its costs (M, Q / blocks)."""

    image: int
    row: int
    costs: NDArray[np.floating]


@dataclass(frozen=True)
class Costs:
    """Costs (r, T, Q / blocks) of some rows and images of a stack, of which the first are given.

    `counts` are the targets of each of these images.
    """

    values: Tensor
    row: int
    image: int
    counts: tuple[int, ...]

    def split(self, flat: Tensor) -> Iterator[Problem]:
        """Yield the problems, given the values on the CPU, flat."""
        array, start = flat.view(self.values.shape).numpy(), 0
        for image, count in enumerate(self.counts, self.image):
            for row, costs in enumerate(array[:, start : start + count] if count else (), self.row):
                yield Problem(image, row, costs)
            start += count


class Matcher(Settings):
    """Hungarian matching on a cost of the score, L1 and GIoU (DETR, section 3.1)."""

    score: AnyScoreCost = FocalCost()
    """How the score of the target's class costs."""
    class_cost: NonNegativeFloat = 2.0
    """Weight of that cost."""
    l1: NonNegativeFloat = 5.0
    giou: NonNegativeFloat = 2.0
    eps: NonNegativeFloat = 0.0
    """Added to areas in the GIoU: 0 is exact; DINO, DAB-DETR and detrex use 1e-6."""

    @torch.no_grad()
    def __call__(self, stacks: Sequence[Stack], targets: Targets) -> list[Assignment]:
        """Return the cheapest assignment of each stack.

        `image` counts layer * B + image, as the rows of `stack.logits.flatten(0, 1)` do, and
        pairs are ordered by image, target and query. There is one device-to-host copy for all.
        """
        parts = [list(self._parts(stack, targets)) for stack in stacks]
        problems = _problems(parts)
        repeats = [
            repeats[len(problem.costs)][problem.row]
            for stack, own in zip(stacks, problems, strict=True)
            for repeats in [{count: stack.repeats(count) for count in {*targets.counts} - {0}}]
            for problem in own
        ]
        solved = iter(solve_all([problem.costs for own in problems for problem in own], repeats))
        return [
            _assignment(stack, targets, [(problem, next(solved)) for problem in own])
            for stack, own in zip(stacks, problems, strict=True)
        ]

    @torch.no_grad()
    def cost(self, logits: Tensor, boxes: Tensor, targets: Targets) -> Tensor:
        """Return the cost (R, T, Q) of each target for each prediction for its image.

        Given logits (R, B, Q, C) and boxes (R, B, Q, 4) of R rows, and the targets of B images.
        """
        images = torch.arange(len(targets.counts))
        image = images.repeat_interleave(torch.tensor(targets.counts, dtype=torch.int64))
        image = from_host(image, boxes.device)
        wanted = Wanted(targets.boxes.to(boxes.dtype), targets.labels, image)
        cost = self.class_cost * self.score(logits.transpose(2, 3), boxes, wanted)
        return add_box_costs(
            cost.to(boxes.dtype),
            boxes,
            wanted.boxes,
            image=image,
            counts=targets.counts,
            weights=(self.l1, self.giou),
            eps=self.eps,
        )

    def _parts(self, stack: Stack, targets: Targets) -> Iterator[Costs]:
        """Yield the costs of few images and rows at a time, image after image."""
        logits, boxes = stack.rows()
        labels, queries = stack.labels(targets), stack.block_queries
        for images in chunk_spans(targets.counts, len(logits) * queries, logits.device):
            counts, start = targets.counts[images], targets.offsets[images.start]
            own = slice(start, start + sum(counts))
            wanted = Targets(targets.boxes[own], labels[own], counts)
            rows = chunk_rows(logits, queries * len(wanted))
            for row in range(0, len(logits), rows):
                few = slice(row, row + rows)
                values = self.cost(logits[few, images], boxes[few, images], wanted)
                yield Costs(values, row, images.start, counts)


def _problems(parts: Sequence[Sequence[Costs]]) -> list[list[Problem]]:
    """Return the problems of each stack, whose costs travel to the host together."""
    values = [costs.values for part in parts for costs in part]
    if not values:
        return [[] for _ in parts]
    flat = torch.cat([value.flatten() for value in values]).cpu()
    host = iter(flat.split([value.numel() for value in values]))
    return [[problem for costs in part for problem in costs.split(next(host))] for part in parts]


def _assignment(
    stack: Stack, targets: Targets, solved: Sequence[tuple[Problem, Pairs]]
) -> Assignment:
    """Return the pairs of one stack, given those of its problems."""
    _, images, queries, _ = stack.logits.shape
    offsets = targets.offsets
    keys = [np.empty(0, np.int64)]  # of all three indices, so that one sort orders the pairs
    for problem, (target, query) in solved:
        layer, block = divmod(problem.row, stack.blocks)
        row = (layer * images + problem.image) * len(targets) + offsets[problem.image] + target
        keys.append(row * queries + block * stack.block_queries + query)
    ordered = from_host(torch.from_numpy(np.sort(np.concatenate(keys))), stack.logits.device)
    rows, query = ordered // max(queries, 1), ordered % max(queries, 1)
    return Assignment(rows // max(len(targets), 1), query, rows % max(len(targets), 1))
