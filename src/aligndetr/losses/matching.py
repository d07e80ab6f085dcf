"""Matching: which queries answer for which targets, at the smallest total cost.

    cost = class_cost * cost of the score + l1 * |box - target| - giou * GIoU

An object that may have k positives enters the assignment problem k times. Every image (and block
of queries) is a problem of its own; their costs travel to the host together.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from aligndetr.devices import from_host
from aligndetr.kernels.assignment import Pairs, solve_all
from aligndetr.kernels.box_costs import add_box_costs
from aligndetr.kernels.chunks import chunk_rows
from aligndetr.losses.costs import AnyScoreCost, FocalCost
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

    def image(self, index: int) -> tuple[Tensor, Tensor]:
        """Return logits (N * blocks, Q / blocks, C) and boxes (.., 4) of one image."""
        logits, boxes = self.logits[:, index], self.boxes[:, index]
        shape = (len(self.positives) * self.blocks, self.block_queries)
        return logits.reshape(*shape, logits.shape[-1]), boxes.reshape(*shape, 4)

    def repeats(self, count: int) -> list[int]:
        """Return how often each of `count` objects of an image is matched: N * blocks numbers."""
        most = self.block_queries // (2 * count)
        layers = [self.copies * max(1, min(k, most)) for k in self.positives]
        return [repeat for repeat in layers for _ in range(self.blocks)]


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
        chunks = [chunk for stack in stacks for chunk in self._costs(stack, targets)]
        nothing = targets.boxes.new_empty(0)
        host = torch.cat([*(chunk.flatten() for chunk in chunks), nothing]).cpu()
        flat = host.split([chunk.numel() for chunk in chunks])
        problems = [
            problem
            for costs, chunk in zip(flat, chunks, strict=True)
            for problem in costs.view(chunk.shape).numpy()
        ]
        repeats = [
            repeat
            for stack in stacks
            for count in targets.counts
            if count
            for repeat in stack.repeats(count)
        ]
        solved = iter(solve_all(problems, repeats))
        return [_assignment(stack, targets, solved) for stack in stacks]

    @torch.no_grad()
    def cost(self, logits: Tensor, boxes: Tensor, targets: Tensor, labels: Tensor) -> Tensor:
        """Return the cost (R, M, Q) of each target of one image for each prediction.

        Given logits (R, Q, C), boxes (R, Q, 4), targets (M, 4) and labels (M,).
        """
        targets = targets.to(boxes.dtype)
        cost = self.class_cost * self.score(logits.transpose(1, 2), labels, boxes, targets)
        weights = (self.l1, self.giou)
        return add_box_costs(cost.to(boxes.dtype), boxes, targets, weights=weights, eps=self.eps)

    def _costs(self, stack: Stack, targets: Targets) -> Iterator[Tensor]:
        """Yield the costs of image after image, as chunks of whole (M, Q / blocks) problems."""
        labels = stack.labels(targets)
        for index, (start, count) in enumerate(zip(targets.offsets, targets.counts, strict=True)):
            if count == 0:
                continue
            logits, boxes = stack.image(index)
            own = slice(start, start + count)
            rows = chunk_rows(logits, stack.block_queries * count)
            for few_logits, few_boxes in zip(logits.split(rows), boxes.split(rows), strict=True):
                yield self.cost(few_logits, few_boxes, targets.boxes[own], labels[own])


def _assignment(stack: Stack, targets: Targets, solved: Iterator[Pairs]) -> Assignment:
    """Return the pairs of one stack, taking its problems from `solved` in the order of `_costs`."""
    layers, images, queries, _ = stack.logits.shape
    keys = [np.empty(0, np.int64)]  # of all three indices, so that one sort orders the pairs
    for index, (start, count) in enumerate(zip(targets.offsets, targets.counts, strict=True)):
        for layer in range(layers if count else 0):
            for block in range(stack.blocks):
                target, query = next(solved)
                row = (layer * images + index) * len(targets) + start + target
                keys.append(row * queries + block * stack.block_queries + query)
    ordered = from_host(torch.from_numpy(np.sort(np.concatenate(keys))), stack.logits.device)
    rows, query = ordered // max(queries, 1), ordered % max(queries, 1)
    return Assignment(rows // max(len(targets), 1), query, rows % max(len(targets), 1))
