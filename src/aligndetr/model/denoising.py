"""Contrastive denoising: noised targets as extra queries in training (DINO, section 3.3).

Each block holds, for every image, its targets twice: slightly moved ones, which are to be
restored, and strongly moved ones, which are to be called background. All images get the slots
of the fullest one; slots without an object are zeros at the image centre, attended to and
supervised as background, as in the published code.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from aligndetr.boxes import cxcywh_to_xyxy, inverse_sigmoid, xyxy_to_cxcywh
from aligndetr.types import Assignment, Queries, QueryGroup, Targets


@dataclass(frozen=True)
class Noise:
    """Random draws for R = 2 * blocks * T noised targets: positives, negatives, positives ...

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


class ContrastiveDenoising(nn.Module):
    """Adds a denoising group in front of the main queries."""

    def __init__(
        self,
        width: int,
        num_classes: int,
        *,
        queries: int,
        label_noise: float,
        box_noise: float,
        eps: float,
    ) -> None:
        super().__init__()
        self.queries, self.num_classes, self.eps = queries, num_classes, eps
        self.label_noise, self.box_noise = label_noise, box_noise
        self.label = nn.Embedding(num_classes, width)

    def forward(self, queries: Queries, targets: Targets, noise: Noise | None = None) -> Queries:
        """Return the queries with the denoising group first; as they are without any target.

        `noise` pins the random draws, for tests.
        """
        slots = max(targets.counts, default=0)
        if slots == 0:
            return queries
        blocks = self.num_blocks(slots)
        device = targets.boxes.device
        if noise is None:
            noise = Noise.draw(2 * blocks * len(targets), self.num_classes, device)
        image, slot = self._places(targets, blocks, slots)
        size = 2 * blocks * slots
        content = queries.content.new_zeros(len(targets.counts), size, queries.content.shape[-1])
        content[image, slot] = self.label(self._noised_labels(targets, noise, blocks)).to(
            content.dtype
        )
        boxes = targets.boxes.new_full((len(targets.counts), size, 4), 0.5)
        boxes[image, slot] = self._noised_boxes(targets, noise, blocks)
        return self._join(queries, content, boxes, self._group(targets, blocks, slots, size))

    def num_blocks(self, slots: int) -> int:
        """Return how often the targets are repeated, from those of the fullest image."""
        return max(self.queries // slots, 1)

    def _noised_labels(self, targets: Targets, noise: Noise, blocks: int) -> Tensor:
        labels = targets.labels.repeat(2 * blocks)
        return torch.where(noise.label_chance < self.label_noise * 0.5, noise.label, labels)

    def _noised_boxes(self, targets: Targets, noise: Noise, blocks: int) -> Tensor:
        """Move every corner by up to `box_noise` half sizes, negatives by one more.

        Opposite corners may pass each other, which leaves a negative size, as published.
        """
        boxes = targets.boxes.repeat(2 * blocks, 1)
        half_size = (boxes[:, 2:] / 2).repeat(1, 2)
        is_negative = torch.arange(2 * blocks, device=boxes.device) % 2
        reach = noise.part + is_negative.repeat_interleave(len(targets))[:, None]
        corners = cxcywh_to_xyxy(boxes) + noise.sign * reach * half_size * self.box_noise
        noised = xyxy_to_cxcywh(corners.clamp(0, 1))
        return inverse_sigmoid(noised, eps=self.eps).sigmoid()

    def _places(self, targets: Targets, blocks: int, slots: int) -> tuple[Tensor, Tensor]:
        """Return image and slot of every noised target, in the order of the draws."""
        image, within = _image_and_rank(targets)
        halves = torch.arange(2 * blocks, device=image.device)
        slot = (halves[:, None] * slots + within).flatten()
        return image.repeat(2 * blocks), slot

    def _group(self, targets: Targets, blocks: int, slots: int, size: int) -> QueryGroup:
        image, within = _image_and_rank(targets)
        starts = torch.arange(blocks, device=image.device) * 2 * slots
        rows = torch.arange(len(targets), device=image.device)
        known = Assignment(
            image=image.repeat(blocks),
            query=(starts[:, None] + within).flatten(),
            target=rows.repeat(blocks),
        )
        return QueryGroup(
            "denoising", (0, size), copies=blocks, blocks=blocks, sees_main=True, known=known
        )

    def _join(self, queries: Queries, content: Tensor, boxes: Tensor, group: QueryGroup) -> Queries:
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
    counts = torch.tensor(targets.counts, device=device)
    image = torch.repeat_interleave(counts, output_size=len(targets))
    offsets = torch.tensor(targets.offsets, device=device)
    return image, torch.arange(len(targets), device=device) - offsets[image]
