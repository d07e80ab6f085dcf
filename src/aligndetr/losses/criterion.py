"""The criterion: matching and all losses of a detector's output.

For each query group and layer: match -> IoU -> quality -> prime weight -> class, L1 and GIoU loss.
All layers of a group are computed together: (layer, image) are the rows of one larger batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from aligndetr.boxes import cxcywh_to_xyxy, giou, iou
from aligndetr.kernels.scores import at_least_float32
from aligndetr.losses.bce import Matched, Total
from aligndetr.losses.box import BoxLoss
from aligndetr.losses.classification import ClassificationLoss, Focal
from aligndetr.losses.matching import Matcher, Stack
from aligndetr.losses.prime import prime_weight
from aligndetr.settings import Settings
from aligndetr.types import Assignment, DetectorOutput, LayerOutput, QueryGroup, Targets

Row = tuple[str, LayerOutput, int]
"""Name in the keys of the losses, predictions, and queries that an object may have among them."""


@dataclass(frozen=True)
class Supervised:
    """Rows of one group and shape, which are supervised together.

    `names` one a layer; `iou_logits` (N, B, Q) of the IoU branch, if there is one.
    """

    names: tuple[str, ...]
    stack: Stack
    group: QueryGroup
    iou_logits: Tensor | None


class Criterion(Settings):
    """Matching and losses of a whole output; the default is DINO's one-to-one with focal loss."""

    classification: ClassificationLoss = Focal()
    class_weight: NonNegativeFloat = 1.0
    """Weight of the classification loss; those of the box losses are in `box`."""
    box: BoxLoss = BoxLoss()
    matcher: Matcher = Matcher()
    iou_weight: NonNegativeFloat = 1.0
    """Weight of the IoU branch's loss, where the model has that branch."""
    k: PositiveInt | tuple[PositiveInt, ...] = 1
    """Positives per object in the main group: in every layer below the last (eq. 8), or a list
    with a number for each decoder layer. In each image they take at most half of the queries, as in
    the authors' code, but never fewer than one an object."""
    proposal_k: PositiveInt = 1
    """Positives per object among the encoder's proposals."""
    proposal_labels: Literal["own", "one"] = "own"
    """Whether proposals learn the objects' own classes (DINO), or all objects are of the first
    class, which then tells them from background (Deformable DETR, H-Deformable-DETR)."""
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

        Names are `{group}.{layer}.{term}` and `proposals.{term}`; terms are class, l1, giou and,
        where the model predicts it, iou. Without objects those of boxes are 0, with gradient 0.

        Args:
            output: Predictions of all layers and groups.
            targets: The objects of the batch.
            num_targets: Objects per process, averaged over all processes; None takes this
                batch's. Below 1 it counts as 1.
        """
        losses: dict[str, Tensor] = {}
        with torch.autocast(output.layers[0].logits.device.type, enabled=False):
            supervised = self._supervised(output)
            count = len(targets) if num_targets is None else num_targets
            total = count.clamp(min=1) if isinstance(count, Tensor) else max(count, 1)
            for part, assignment in zip(supervised, self._match(supervised, targets), strict=True):
                terms = self._losses(part, assignment, targets, total * part.group.copies)
                for term, values in terms.items():
                    scaled = values * part.group.weight
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
        parts: list[Supervised] = []
        for group in output.groups:
            layers = [layer.span(*group.span) for layer in output.layers]
            k = self.layer_k(len(layers)) if group.name == "main" else (1,) * len(layers)
            names = [f"{group.name}.{depth}" for depth in range(len(layers))]
            rows = list(zip(names, layers, k, strict=True))
            if group.name == "main" and output.proposals is not None:
                rows.append(("proposals", output.proposals, self.proposal_k))
            parts += [
                _stacked(list(part), group, is_binary=alike[0])
                for alike, part in groupby(rows, key=self._likeness)
            ]
        return parts

    def _likeness(self, row: Row) -> tuple[bool, torch.Size, bool]:
        """Return what rows share that are supervised together; first, whether classes are one."""
        name, layer, _ = row
        is_binary = name == "proposals" and self.proposal_labels == "one"
        return is_binary, layer.logits.shape, layer.iou_logits is None

    def layer_k(self, layers: int) -> tuple[int, ...]:
        """Return the positives per object of each layer, or raise ValueError: `k` has others."""
        if isinstance(self.k, int):
            return (self.k,) * (layers - 1) + (1,)
        if len(self.k) != layers:
            raise ValueError(
                f"criterion.k: expected one number or {layers}, one for each decoder layer, "
                f"found {len(self.k)}; give as many"
            )
        return self.k

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

    def _losses(
        self, part: Supervised, pairs: Assignment, targets: Targets, total: Total
    ) -> dict[str, Tensor]:
        """Return the weighted losses (N,) of each layer by term, for `total` objects."""
        layers, images, queries = part.stack.logits.shape[:3]
        logits, boxes = part.stack.logits.flatten(0, 1), part.stack.boxes.flatten(0, 1)
        pair_boxes = boxes[pairs.image, pairs.query]
        target_boxes = targets.boxes[pairs.target].to(boxes.dtype)
        with torch.no_grad():
            corners = cxcywh_to_xyxy(pair_boxes), cxcywh_to_xyxy(target_boxes)
            matched = self._matched(part, pairs, targets, corners)
            quality = self.classification.quality(matched)
            is_ranked = part.group.name == "main" or self.prime == "matched"
            if self.tau is None or part.group.known is not None or not is_ranked:
                prime = torch.ones_like(quality)
            else:
                prime = prime_weight(matched.bag, quality, self.tau)
        class_rows = self.classification(logits, matched, quality, prime)
        layer = pairs.image // max(images, 1)
        zeros = class_rows.new_zeros(layers)
        class_total = self.classification.normaliser(
            zeros.index_add(0, layer, torch.ones_like(matched.iou)), images * queries, total
        )
        l1, giou = self.box(pair_boxes, target_boxes, prime)
        losses = {
            "class": self.class_weight * class_rows.view(layers, images).sum(dim=1) / class_total,
            "l1": zeros.index_add(0, layer, l1) / total,
            "giou": zeros.index_add(0, layer, giou) / total,
        }
        if part.iou_logits is not None:
            x = part.iou_logits.flatten(0, 1)[pairs.image, pairs.query]
            bce = F.binary_cross_entropy_with_logits(x, matched.iou, reduction="none")
            losses["iou"] = self.iou_weight * zeros.index_add(0, layer, bce * prime) / total
        return losses

    def _matched(
        self,
        part: Supervised,
        pairs: Assignment,
        targets: Targets,
        corners: tuple[Tensor, Tensor],
    ) -> Matched:
        entries = (pairs.image, pairs.query, part.stack.labels(targets)[pairs.target])
        block = pairs.query // max(part.stack.block_queries, 1)
        return Matched(
            entries,
            part.stack.logits.flatten(0, 1)[entries],
            iou=iou(*corners, eps=self.iou_eps),
            giou=giou(*corners, eps=self.box.eps),
            bag=(pairs.image * len(targets) + pairs.target) * part.stack.blocks + block,
        )


def _stacked(rows: list[Row], group: QueryGroup, *, is_binary: bool) -> Supervised:
    names, layers, positives = zip(*rows, strict=True)
    logits = at_least_float32(torch.stack([layer.logits for layer in layers]))
    boxes = at_least_float32(torch.stack([layer.boxes for layer in layers]))
    dtype = torch.promote_types(logits.dtype, boxes.dtype)
    stack = Stack(
        logits.to(dtype),
        boxes.to(dtype),
        positives,
        copies=max(1, group.copies // group.blocks),
        blocks=group.blocks,
        is_binary=is_binary,
    )
    branch = [layer.iou_logits for layer in layers if layer.iou_logits is not None]
    return Supervised(
        names, stack, group, at_least_float32(torch.stack(branch)) if branch else None
    )


def _for_all_layers(pairs: Assignment, layers: int, images: int) -> Assignment:
    """Return known pairs of one layer as pairs of each, with layer * B + image as `image`."""
    offset = torch.arange(layers, device=pairs.image.device).unsqueeze(1) * images
    return Assignment(
        (pairs.image + offset).flatten(), pairs.query.repeat(layers), pairs.target.repeat(layers)
    )


def total_loss(terms: Mapping[str, Tensor]) -> Tensor:
    """Return what is minimised: the sum of the terms, whose weights are in them."""
    return torch.stack(list(terms.values())).sum()
