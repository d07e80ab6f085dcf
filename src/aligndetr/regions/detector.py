"""The region detector: boxes that may hold an object, then the class and box of each.

torchvision's parts do the work (Faster R-CNN, arXiv:1506.01497; FPN, arXiv:1612.03144). They get
images of one size at a time, cut to what is not padding: what shares a batch changes nothing.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import FeaturePyramidNetwork

from aligndetr.backbones.backbone import Backbone
from aligndetr.boxes import xyxy_to_cxcywh
from aligndetr.data.batch import Size, input_sizes, stack_padded
from aligndetr.data.transforms import size_of
from aligndetr.types import Features, ImageBatch, RegionOutput, Targets, boxes_in_pixels

Objects = list[dict[str, Tensor]]
"""`boxes` (n, 4) xyxy in pixels, `labels` (n,) from 1 and more of each image, for torchvision."""
Found = tuple[Tensor, Tensor, Tensor]
"""Boxes, scores and labels of one image, as in `RegionOutput`."""

LOSSES = {
    "loss_objectness": "proposals.objectness",
    "loss_rpn_box_reg": "proposals.box",
    "loss_classifier": "regions.class",
    "loss_box_reg": "regions.box",
}
"""What torchvision calls the losses, and what we do."""


class RegionDetector(nn.Module):
    """Backbone, feature pyramid, proposals, and the heads that look at each proposal.

    The pyramid runs in `precision`, as do those layers of the others that are `Reduced`.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        pyramid: FeaturePyramidNetwork,
        proposals: RegionProposalNetwork,
        heads: RoIHeads,
        precision: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pyramid = pyramid
        self.proposals = proposals
        self.heads = heads
        self.precision = precision

    def forward(
        self, images: ImageBatch | Features, targets: Targets | None = None
    ) -> RegionOutput:
        """Return the losses in training mode, and what is found in evaluation mode.

        Args:
            images: Normalised images, or their backbone maps where these are at hand.
            targets: The objects, for training mode.
        """
        features = self.features(images) if isinstance(images, ImageBatch) else images
        if not self.training:
            return self._detect(features)
        if targets is None:
            raise ValueError("RegionDetector: expected targets in training mode, found none")
        return self._train_on(features, targets)

    @property
    def can_renew(self) -> bool:
        """Whether maps that are at hand do, though upper stages of the backbone are trained."""
        return False

    def features(self, images: ImageBatch) -> Features:
        """Return the backbone maps of the images: in evaluation mode, what each gives alone."""
        if self.training or images.padding is None:  # together, as norms that are trained need
            return self.backbone(images, precision=self.precision)
        maps: dict[int, tuple[Tensor, ...]] = {}
        for (height, width), rows in _by_size(images).items():
            pixels = images.pixels[rows, :, :height, :width]
            alone = ImageBatch(pixels, None, images.sizes[rows])
            levels = self.backbone(alone, precision=self.precision).levels
            maps |= zip(rows, zip(*levels, strict=True), strict=True)
        levels = zip(*(maps[row] for row in sorted(maps)), strict=True)
        size = size_of(images.pixels)
        return Features(tuple(map(stack_padded, levels)), images.padding, images.sizes, size)

    def _train_on(self, features: Features, targets: Targets) -> RegionOutput:
        """Return the losses, of which each image has an equal share."""
        losses: dict[str, Tensor] = {}
        for size, rows in _by_size(features).items():
            objects = _objects(targets, rows, size)
            terms = self._run(self._levels(features, rows, size), size, objects)[1]
            for name, term in terms.items():
                part = term * (len(rows) / len(features.sizes))
                losses[LOSSES[name]] = losses.get(LOSSES[name], 0.0) + part
        return RegionOutput(losses)

    def _detect(self, features: Features) -> RegionOutput:
        found: dict[int, Found] = {}
        for size, rows in _by_size(features).items():
            results = self._run(self._levels(features, rows, size), size)[0]
            found |= zip(rows, (_relative(result, size) for result in results), strict=True)
        boxes, scores, labels = zip(*(found[row] for row in sorted(found)), strict=True)
        return RegionOutput({}, boxes, scores, labels)

    def _levels(self, features: Features, rows: list[int], size: Size) -> list[Tensor]:
        """Return the maps of images of one size, without padding."""
        height, width = size
        return [
            level[rows, :, : -(-height // stride), : -(-width // stride)]
            for level, stride in zip(features.levels, self.backbone.strides, strict=True)
        ]

    def _run(
        self, levels: Sequence[Tensor], size: Size, objects: Objects | None = None
    ) -> tuple[Objects, dict[str, Tensor]]:
        """Return what is found in images of one size, and the losses: one of the two is empty."""
        images = ImageList(levels[0], [size] * len(levels[0]))
        with torch.autocast(
            levels[0].device.type,
            dtype=torch.bfloat16,
            enabled=self.precision == torch.bfloat16,
        ):
            maps = self.pyramid({str(index): level for index, level in enumerate(levels)})
        maps = {name: level.float() for name, level in maps.items()}
        boxes, proposal_losses = self.proposals(images, maps, objects)
        results, losses = self.heads(maps, boxes, images.image_sizes, objects)
        return results, proposal_losses | losses


class Reduced(nn.Sequential):
    """Layers that run in a precision of their own and give fp32."""

    def __init__(self, *layers: nn.Module, precision: torch.dtype) -> None:
        super().__init__(*layers)
        self.precision = precision

    def forward(self, input: Tensor) -> Tensor:
        """Return the last layer's result."""
        is_low = self.precision == torch.bfloat16
        with torch.autocast(input.device.type, dtype=torch.bfloat16, enabled=is_low):
            return super().forward(input).float()


class AnchorGrid(AnchorGenerator):
    """Anchor boxes of one size and several shapes in every cell of every level.

    torchvision's generator takes the strides from the size of the batch: anchor boxes then move
    with what shares it, and where a side is no multiple of the stride.
    """

    def __init__(
        self, sizes: Sequence[int], ratios: Sequence[float], strides: Sequence[int]
    ) -> None:
        super().__init__(tuple((size,) for size in sizes), (tuple(ratios),) * len(sizes))
        self.strides = tuple(strides)

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """Return the boxes (cells of all levels x ratios, 4) of each image, xyxy in pixels."""
        device = feature_maps[0].device
        self.set_cell_anchors(torch.float32, device)
        boxes = self.grid_anchors(
            [list(size_of(level)) for level in feature_maps],
            [[torch.tensor(stride, device=device)] * 2 for stride in self.strides],
        )
        return [torch.cat(boxes)] * len(image_list.image_sizes)


def _by_size(images: ImageBatch | Features) -> dict[Size, list[int]]:
    """Return the rows of the images of each size."""
    rows: dict[Size, list[int]] = {}
    for row, size in enumerate(input_sizes(images)):
        rows.setdefault(size, []).append(row)
    return rows


def _objects(targets: Targets, rows: list[int], size: Size) -> Objects:
    """Return the objects of some images, all of one size."""
    counts = list(targets.counts)
    boxes = boxes_in_pixels(targets.boxes, targets.boxes.new_tensor(size)).split(counts)
    labels = targets.labels.split(counts)
    return [{"boxes": boxes[row], "labels": labels[row] + 1} for row in rows]


def _relative(result: dict[str, Tensor], size: Size) -> Found:
    height, width = size
    boxes_xyxy = result["boxes"] / result["boxes"].new_tensor([width, height, width, height])
    return xyxy_to_cxcywh(boxes_xyxy), result["scores"], result["labels"] - 1
