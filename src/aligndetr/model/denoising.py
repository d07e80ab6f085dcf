"""Denoising: noised targets as extra queries in training (DN-DETR; DINO, section 3.3).

Each block holds, for every image, its targets slightly moved, which are to be restored; DINO's
also strongly moved ones, which are to be called background. All images get the slots of the
fullest one; slots without an object are zeros at the image centre, attended to and supervised as
background, as in DINO's code.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aligndetr.boxes import cxcywh_to_xyxy, inverse_sigmoid, xyxy_to_cxcywh
from aligndetr.devices import from_host
from aligndetr.types import Assignment, Queries, QueryGroup, Targets


@dataclass(frozen=True)
class Noise:
    """Random draws for R noised targets: T positives, T negatives (if any), T positives, ...

    `label_chance` (R,) in [0, 1); `label` (R,) int64 a random class; `sign` (R, 4) of -1 and 1;
    `part` (R, 4) in [0, 1).
    """

    label_chance: Tensor
    label: Tensor
    sign: Tensor
    part: Tensor

    @staticmethod
    def draw(rows: int, num_classes: int, device: torch.device) -> "Noise":
        """Return fresh draws from torch's global generator."""
        return Noise(
            label_chance=torch.rand(rows, device=device),
            label=torch.randint(num_classes, (rows,), device=device),
            sign=torch.randint(2, (rows, 4), device=device) * 2.0 - 1.0,
            part=torch.rand(rows, 4, device=device),
        )


class Denoising(nn.Module):
    """Adds a denoising group in front of the main queries.

    With negatives it is DINO's, without them that of DN-DETR (arXiv:2203.01305, section 4), where
    the last feature of a query's content tells that it is noised.
    """

    def __init__(
        self,
        width: int,
        num_classes: int,
        *,
        has_negatives: bool,
        blocks: Callable[[int], int],
        label_noise: float,
        box_noise: float,
        eps: float,
    ) -> None:
        """Take the number of blocks as a function of the objects of the fullest image.

        `label_noise` is the share of labels that are drawn anew.
        """
        super().__init__()
        self.has_negatives, self.num_blocks = has_negatives, blocks
        self.num_classes, self.eps = num_classes, eps
        self.label_noise, self.box_noise = label_noise, box_noise
        self.label = nn.Embedding(num_classes, width if has_negatives else width - 1)

    @property
    def _halves(self) -> int:
        """How often a block has each target."""
        return 2 if self.has_negatives else 1

    def forward(self, queries: Queries, targets: Targets, noise: Noise | None = None) -> Queries:
        """Return the queries with the denoising group first; as they are without any target.

        `noise` pins the random draws, for tests.
        """
        slots = max(targets.counts, default=0)
        if slots == 0:
            return queries
        blocks = self.num_blocks(slots)
        repeats = self._halves * blocks
        if noise is None:
            rows = repeats * len(targets)
            noise = Noise.draw(rows, self.num_classes, targets.boxes.device)
        image, slot = _places(targets, repeats, slots)
        size = repeats * slots
        content = queries.content.new_zeros(len(targets.counts), size, queries.content.shape[-1])
        content[image, slot] = self._contents(targets, noise, repeats).to(content.dtype)
        boxes = targets.boxes.new_full((len(targets.counts), size, 4), 0.5)
        boxes[image, slot] = self._noised_boxes(targets, noise, repeats)
        group = self._group(targets, blocks, slots, size)
        return _join(queries, content, boxes, group)

    def _contents(self, targets: Targets, noise: Noise, repeats: int) -> Tensor:
        labels = targets.labels.repeat(repeats)
        labels = torch.where(noise.label_chance < self.label_noise, noise.label, labels)
        content = self.label(labels)
        return content if self.has_negatives else F.pad(content, (0, 1), value=1.0)

    def _noised_boxes(self, targets: Targets, noise: Noise, repeats: int) -> Tensor:
        boxes = targets.boxes.repeat(repeats, 1)
        if self.has_negatives:
            noised = self._with_moved_corners(boxes, noise, repeats)
        else:
            reach = torch.cat((boxes[:, 2:] / 2, boxes[:, 2:]), dim=1)
            noised = (boxes + noise.sign * noise.part * reach * self.box_noise).clamp(0, 1)
        return inverse_sigmoid(noised, eps=self.eps).sigmoid()

    def _with_moved_corners(self, boxes: Tensor, noise: Noise, repeats: int) -> Tensor:
        """Move every corner by up to `box_noise` half sizes, negatives by one more.

        Opposite corners may pass each other, which leaves a negative size, as published.
        """
        half_size = (boxes[:, 2:] / 2).repeat(1, 2)
        is_negative = torch.arange(repeats, device=boxes.device) % 2
        reach = noise.part + is_negative.repeat_interleave(len(boxes) // repeats)[:, None]
        corners = cxcywh_to_xyxy(boxes) + noise.sign * reach * half_size * self.box_noise
        return xyxy_to_cxcywh(corners.clamp(0, 1))

    def _group(self, targets: Targets, blocks: int, slots: int, size: int) -> QueryGroup:
        image, within = _image_and_rank(targets)
        starts = torch.arange(blocks, device=image.device) * self._halves * slots
        rows = torch.arange(len(targets), device=image.device)
        known = Assignment(
            image=image.repeat(blocks),
            query=(starts[:, None] + within).flatten(),
            target=rows.repeat(blocks),
        )
        return QueryGroup(
            "denoising", (0, size), copies=blocks, blocks=blocks, sees_main=True, known=known
        )


def blocks_for(queries: int, *, below: int = 0) -> Callable[[int], int]:
    """Return how often targets are repeated, so that there are about `queries` positives.

    Where 2 * queries is less than `below`, it is the number of blocks (IDEA's code, with 100).
    """
    return partial(_about, queries, below)


def always(blocks: int) -> Callable[[int], int]:
    """Return the function that repeats targets so often, however many there are (DN-DETR)."""
    return partial(_fixed, blocks)


def _about(queries: int, below: int, slots: int) -> int:
    return 2 * queries if 2 * queries < below else max(queries // slots, 1)


def _fixed(blocks: int, slots: int) -> int:
    del slots
    return blocks


def _places(targets: Targets, repeats: int, slots: int) -> tuple[Tensor, Tensor]:
    """Return image and slot of every noised target, in the order of the draws."""
    image, within = _image_and_rank(targets)
    starts = torch.arange(repeats, device=image.device) * slots
    return image.repeat(repeats), (starts[:, None] + within).flatten()


def _join(queries: Queries, content: Tensor, boxes: Tensor, group: QueryGroup) -> Queries:
    assert queries.reference is not None, "denoising needs reference boxes"
    size = content.shape[1]
    shifted = tuple(
        replace(other, span=(other.span[0] + size, other.span[1] + size))
        for other in queries.groups
    )
    return replace(
        queries,
        content=torch.cat((content, queries.content), dim=1),
        reference=torch.cat((boxes, queries.reference), dim=1),
        groups=(group, *shifted),
    )


def _image_and_rank(targets: Targets) -> tuple[Tensor, Tensor]:
    """Return, for every target, its image and its place among the image's targets."""
    device = targets.boxes.device
    numbers = torch.tensor((targets.counts, targets.offsets), dtype=torch.int64)
    counts, offsets = from_host(numbers, device)
    image = torch.repeat_interleave(counts, output_size=len(targets))
    return image, torch.arange(len(targets), device=device) - offsets[image]
