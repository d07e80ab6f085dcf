"""The criterion: matching and all losses of a detector's output.

For each query group and layer: match -> IoU -> quality -> prime weight -> class, L1 and GIoU loss.
All layers of a group are computed together: (layer, image) are the rows of one larger batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from aligndetr.boxes import cxcywh_to_xyxy, iou
from aligndetr.losses.box import BoxLoss
from aligndetr.losses.classification import ClassificationLoss, Focal, at_least_float32
from aligndetr.losses.matching import Matcher, Stack
from aligndetr.losses.prime import prime_weight
from aligndetr.settings import Settings
from aligndetr.types import Assignment, DetectorOutput, LayerOutput, QueryGroup, Targets


@dataclass(frozen=True)
class Row:
    """One layer's predictions of a group, or the proposals, which are one more of the main group.

    `name` in the keys of the losses; `positives` queries that an object may have.
    """

    name: str
    predictions: LayerOutput
    positives: int
    group: QueryGroup


@dataclass(frozen=True)
class Supervised:
    """Rows of one group and shape, which are supervised together; `names` one a layer."""

    names: tuple[str, ...]
    stack: Stack
    group: QueryGroup


class Criterion(Settings):
    """Matching and losses of a whole output; the default is DINO's one-to-one with focal loss."""

    classification: ClassificationLoss = Focal()
    class_weight: NonNegativeFloat = 1.0
    """Weight of the classification loss; those of the box losses are in `box`."""
    box: BoxLoss = BoxLoss()
    matcher: Matcher = Matcher()
    k: PositiveInt = 1
    """Positives per object in the main group, in every layer below the last (eq. 8)."""
    proposal_k: PositiveInt = 1
    """Positives per object among the encoder's proposals."""
    tau: PositiveFloat | None = 1.5
    """Temperature of the prime weights w = exp(-rank / tau) of several positives; None: all 1."""
    prime: Literal["main", "matched"] = "main"
    """Prime weights where `k` makes positives, or also in matched groups with copies (H-DETR)."""
    iou_eps: NonNegativeFloat = 0.0
    """Added to the union in the quality's IoU: 0 is exact; the authors' code has 1e-6."""

    def __call__(
        self,
        output: DetectorOutput,
        targets: Targets,
        *,
        num_targets: float | Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return weighted scalar losses by name; their sum is what is minimised.

        Names are `{group}.{layer}.{term}` and `proposals.{term}`; terms are class, l1 and giou.
        Losses without objects are 0 for boxes, still with a gradient of 0.

        Args:
            output: Predictions of all layers and groups.
            targets: The objects of the batch.
            num_targets: Objects per process, averaged over all processes; None takes this
                batch's. Below 1 it counts as 1.
        """
        losses: dict[str, Tensor] = {}
        with torch.autocast(output.layers[0].logits.device.type, enabled=False):
            supervised = self._supervised(output)
            normaliser = self._normaliser(num_targets, targets)
            for part, assignment in zip(supervised, self._match(supervised, targets), strict=True):
                terms = self._losses(part, assignment, targets)
                for term, values in terms.items():
                    scaled = values * part.group.weight / (normaliser * part.group.copies)
                    losses |= {
                        f"{name}.{term}": value
                        for name, value in zip(part.names, scaled.unbind(), strict=True)
                    }
        return losses

    def assign(self, output: DetectorOutput, targets: Targets) -> dict[str, Assignment]:
        """Return the pairs of every group and layer by name: "main.0", "proposals", ...

        `query` counts from the start of the group's span.
        """
        supervised = self._supervised(output)
        images = len(targets.counts)
        assignments: dict[str, Assignment] = {}
        for part, pairs in zip(supervised, self._match(supervised, targets), strict=True):
            for layer, name in enumerate(part.names):
                own = pairs.image // images == layer
                assignments[name] = Assignment(
                    pairs.image[own] % images, pairs.query[own], pairs.target[own]
                )
        return assignments

    def _supervised(self, output: DetectorOutput) -> list[Supervised]:
        rows = groupby(
            self._rows(output), key=lambda row: (row.group.name, row.predictions.logits.shape)
        )
        return [_stacked(list(alike)) for _, alike in rows]

    def _rows(self, output: DetectorOutput) -> Iterator[Row]:
        last = len(output.layers) - 1
        for group in output.groups:
            is_main = group.name == "main"
            for depth, layer in enumerate(output.layers):
                positives = self.k if is_main and depth < last else 1
                yield Row(f"{group.name}.{depth}", layer.span(*group.span), positives, group)
            if is_main and output.proposals is not None:
                yield Row("proposals", output.proposals, self.proposal_k, group)

    def _match(self, supervised: list[Supervised], targets: Targets) -> list[Assignment]:
        """Return the pairs of each part, with layer * B + image as `image`."""
        unknown = [part.stack for part in supervised if part.group.known is None]
        matched = iter(self.matcher(unknown, targets))
        return [
            next(matched)
            if part.group.known is None
            else _for_all_layers(part.group.known, len(part.names), len(targets.counts))
            for part in supervised
        ]

    def _losses(self, part: Supervised, pairs: Assignment, targets: Targets) -> dict[str, Tensor]:
        """Return the weighted losses (N,) of each layer by term, not yet normalised."""
        layers, images = part.stack.logits.shape[:2]
        logits, boxes = part.stack.logits.flatten(0, 1), part.stack.boxes.flatten(0, 1)
        positive = (pairs.image, pairs.query, targets.labels[pairs.target])
        pair_boxes = boxes[pairs.image, pairs.query]
        target_boxes = targets.boxes[pairs.target].to(boxes.dtype)
        with torch.no_grad():
            overlap = iou(
                cxcywh_to_xyxy(pair_boxes), cxcywh_to_xyxy(target_boxes), eps=self.iou_eps
            )
            quality = self.classification.quality(logits[positive], overlap)
            prime = self._prime(part, pairs, quality, len(targets))
        class_rows = self.classification(logits, positive, quality, prime)
        layer = pairs.image // max(images, 1)
        l1, giou = self.box(pair_boxes, target_boxes, prime)
        return {
            "class": self.class_weight * class_rows.view(layers, images).sum(dim=1),
            "l1": l1.new_zeros(layers).index_add(0, layer, l1),
            "giou": giou.new_zeros(layers).index_add(0, layer, giou),
        }

    def _prime(
        self, part: Supervised, pairs: Assignment, quality: Tensor, num_targets: int
    ) -> Tensor:
        """Return the weight (P,) of each pair among those of its object, layer and block."""
        by_k = part.group.name == "main"
        ranked = part.group.known is None and (by_k or self.prime == "matched")
        if self.tau is None or not ranked:
            return torch.ones_like(quality)
        block = pairs.query // max(part.stack.block_queries, 1)
        bag = (pairs.image * num_targets + pairs.target) * part.stack.blocks + block
        return prime_weight(bag, quality, self.tau)

    @staticmethod
    def _normaliser(num_targets: float | Tensor | None, targets: Targets) -> float | Tensor:
        if isinstance(num_targets, Tensor):
            return num_targets.clamp(min=1)
        return max(len(targets) if num_targets is None else num_targets, 1)


def _stacked(rows: list[Row]) -> Supervised:
    group = rows[0].group
    stack = Stack(
        at_least_float32(torch.stack([row.predictions.logits for row in rows])),
        at_least_float32(torch.stack([row.predictions.boxes for row in rows])),
        tuple(row.positives for row in rows),
        copies=max(1, group.copies // group.blocks),
        blocks=group.blocks,
    )
    return Supervised(tuple(row.name for row in rows), stack, group)


def _for_all_layers(pairs: Assignment, layers: int, images: int) -> Assignment:
    """Return known pairs of one layer as pairs of each, with layer * B + image as `image`."""
    offset = torch.arange(layers, device=pairs.image.device).unsqueeze(1) * images
    return Assignment(
        (pairs.image + offset).flatten(), pairs.query.repeat(layers), pairs.target.repeat(layers)
    )
