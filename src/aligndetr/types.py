"""The records that pass between the rooms.

Letters: B images, Q queries, C classes, D width, L levels, S memory tokens, N decoder layers,
T targets in the batch, P matched pairs. Boxes are cxcywh in [0, 1] of the unpadded image
unless a name says otherwise; padding masks are True where there is padding.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from aligndetr.boxes import cxcywh_to_xyxy
from aligndetr.drawing import draw_boxes

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Classes:
    """The names of the C classes and the ids that the data set's own file gives them.

    Label i is `names[i]`; a COCO file calls it `ids[i]`.
    """

    names: tuple[str, ...]
    ids: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.ids):
            raise ValueError(f"Classes: {len(self.names)} names but {len(self.ids)} ids")

    def __len__(self) -> int:
        return len(self.names)

    @staticmethod
    def numbered(count: int) -> Classes:
        """Return nameless classes 0..count-1, called "0", "1", ..."""
        return Classes(tuple(str(label) for label in range(count)), tuple(range(count)))


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device, without waiting where its numbers are needed there alone.

    What comes to the CPU may be read at once.
    """
    return tensor.to(device, non_blocking=device.type != "cpu")


@dataclass(frozen=True)
class ImageBatch:
    """Normalised images of one size, padded at the right and the bottom.

    `pixels` (B, 3, H, W) float; `padding` (B, H, W) bool, None when no image is padded;
    `sizes` (B, 2) int64 height and width of the original images, before any resize.
    """

    pixels: Tensor
    padding: Tensor | None
    sizes: Tensor

    def pin_memory(self) -> ImageBatch:
        """Return the batch in page-locked memory; torch's loaders call this."""
        padding = None if self.padding is None else self.padding.pin_memory()
        return ImageBatch(self.pixels.pin_memory(), padding, self.sizes.pin_memory())

    def to(self, device: torch.device) -> ImageBatch:
        """Return the batch on `device`."""
        padding = None if self.padding is None else moved(self.padding, device)
        return ImageBatch(moved(self.pixels, device), padding, moved(self.sizes, device))


@dataclass(frozen=True)
class Targets:
    """The objects of a batch, packed: those of image 0, then of image 1, ...

    `boxes` (T, 4) cxcywh in [0, 1] of the unpadded image; `labels` (T,) int64;
    `counts` the objects of each image (B ints, sum T).
    """

    boxes: Tensor
    labels: Tensor
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        total = sum(self.counts)
        if self.boxes.shape != (total, 4) or self.labels.shape != (total,):
            raise ValueError(
                f"Targets: counts add up to {total}, but boxes have shape "
                f"{tuple(self.boxes.shape)} and labels {tuple(self.labels.shape)}"
            )

    def __len__(self) -> int:
        return sum(self.counts)

    @staticmethod
    def pack(boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> Targets:
        """Return the targets of images given one by one: each (n, 4) boxes and (n,) labels."""
        counts = tuple(len(image_labels) for image_labels in labels)
        return Targets(torch.cat(list(boxes)), torch.cat(list(labels)), counts)

    @property
    def offsets(self) -> tuple[int, ...]:
        """The row at which each image's objects begin."""
        return tuple(sum(self.counts[:index]) for index in range(len(self.counts)))

    def pin_memory(self) -> Targets:
        """Return the targets in page-locked memory."""
        return Targets(self.boxes.pin_memory(), self.labels.pin_memory(), self.counts)

    def to(self, device: torch.device) -> Targets:
        """Return the targets on `device`."""
        return Targets(moved(self.boxes, device), moved(self.labels, device), self.counts)


@dataclass(frozen=True)
class Features:
    """Backbone maps of a batch of images, finest first: the detector takes them for images.

    `levels` of (B, C_l, H_l, W_l); `padding` (B, H, W) and `sizes` (B, 2) as in ImageBatch;
    `input_size` (H, W) of the pixels that they were computed from, where that is known; `is_kept`
    says that stages may have been trained since: a detector makes the maps of those anew.
    """

    levels: tuple[Tensor, ...]
    padding: Tensor | None
    sizes: Tensor
    input_size: tuple[int, int] | None = None
    is_kept: bool = False

    def pin_memory(self) -> Features:
        """Return the features in page-locked memory."""
        padding = None if self.padding is None else self.padding.pin_memory()
        levels = tuple(level.pin_memory() for level in self.levels)
        return replace(self, levels=levels, padding=padding, sizes=self.sizes.pin_memory())

    def to(self, device: torch.device) -> Features:
        """Return the features on `device`."""
        padding = None if self.padding is None else moved(self.padding, device)
        levels = tuple(moved(level, device) for level in self.levels)
        return replace(self, levels=levels, padding=padding, sizes=moved(self.sizes, device))


@dataclass(frozen=True)
class Batch:
    """What the data room hands to the training loop: images, their objects, and whose they are."""

    images: ImageBatch | Features
    targets: Targets
    image_ids: tuple[int, ...]

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory; torch's loaders call this."""
        return Batch(self.images.pin_memory(), self.targets.pin_memory(), self.image_ids)

    def to(self, device: torch.device) -> Batch:
        """Return the batch on `device`."""
        return Batch(self.images.to(device), self.targets.to(device), self.image_ids)


@dataclass(frozen=True)
class Memory:
    """Image tokens of all levels, finest first.

    `tokens` (B, S, D); `position` (B, S, D) their positional embedding, behind a row-column encoder
    (B, S, 2, D), of x and of y; `padding` (B, S) or None
    when nothing is padded; `shapes` the (height, width) of each of the L levels;
    `valid_ratios` (B, L, 2) the unpadded share of each level's (width, height), 1 without padding.
    """

    tokens: Tensor
    position: Tensor
    padding: Tensor | None
    shapes: tuple[tuple[int, int], ...]
    valid_ratios: Tensor

    def with_tokens(self, tokens: Tensor) -> Memory:
        """Return the same memory with other tokens."""
        return replace(self, tokens=tokens)


@dataclass(frozen=True)
class Assignment:
    """Matched pairs: query `query[p]` of image `image[p]` answers for row `target[p]` of Targets.

    Each (P,) int64.
    """

    image: Tensor
    query: Tensor
    target: Tensor

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True)
class QueryGroup:
    """A run of queries that is matched and supervised on its own.

    `span` first and last + 1 of its rows among the Q queries; `copies` how often each target
    counts in it (H-DETR repeats 6 times, denoising once a block): losses are divided by
    T * copies; `weight` of its losses; `blocks` equal parts of the span that do not see
    each other; `sees_main` whether it attends to the main group (no group sees another, and
    the main group sees only itself); `known` the pairs, if they need no matching, with
    `query` counted from the start of the span.
    """

    name: str
    span: tuple[int, int]
    copies: int = 1
    weight: float = 1.0
    blocks: int = 1
    sees_main: bool = False
    known: Assignment | None = None


@dataclass(frozen=True)
class Queries:
    """What the decoder starts from.

    `content` (B, Q, D); `reference` (B, Q, 2 or 4) in (0, 1), None where a system has none;
    `position` (B, Q, D), None where it follows from the reference; `groups` in the order of
    their spans; `proposals` the encoder's own predictions for the selected queries, for the
    criterion.
    """

    content: Tensor
    reference: Tensor | None
    position: Tensor | None
    groups: tuple[QueryGroup, ...]
    proposals: LayerOutput | None


@dataclass(frozen=True)
class LayerOutput:
    """Predictions of one layer: `logits` (B, Q, C), `boxes` (B, Q, 4), `iou_logits` (B, Q)."""

    logits: Tensor
    boxes: Tensor
    iou_logits: Tensor | None = None

    def span(self, start: int, stop: int) -> LayerOutput:
        """Return the predictions of queries start..stop-1."""
        iou_logits = None if self.iou_logits is None else self.iou_logits[:, start:stop]
        return LayerOutput(self.logits[:, start:stop], self.boxes[:, start:stop], iou_logits)


@dataclass(frozen=True)
class DetectorOutput:
    """All that the criterion needs: N layers first to last, the groups, the proposals."""

    layers: tuple[LayerOutput, ...]
    groups: tuple[QueryGroup, ...]
    proposals: LayerOutput | None = None

    @property
    def main(self) -> LayerOutput:
        """The last layer's predictions of the main group: what inference uses."""
        group = next(group for group in self.groups if group.name == "main")
        return self.layers[-1].span(*group.span)


@dataclass(frozen=True)
class RegionOutput:
    """What a region detector gives: its `losses` by name in training, else what it found.

    That is, for each image, `boxes` (n, 4), `scores` (n,) and `labels` (n,), best first.
    """

    losses: Mapping[str, Tensor]
    boxes: tuple[Tensor, ...] = ()
    scores: tuple[Tensor, ...] = ()
    labels: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Detections:
    """The objects found in one image, most confident first.

    `boxes` (M, 4) xyxy in pixels of the original image; `scores` (M,) in [0, 1]; `labels` (M,)
    int64; `classes` what the labels mean; `image_size` (height, width).
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    classes: Classes
    image_size: tuple[int, int]
    image: Image | None = None
    """The picture itself, where prediction kept it, so that `plot` can draw on it."""

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def names(self) -> tuple[str, ...]:
        """The class name of each detection."""
        return tuple(self.classes.names[label] for label in self.labels.tolist())

    def above(self, threshold: float) -> Detections:
        """Return the detections whose score is at least `threshold`."""
        keep = self.scores >= threshold
        return replace(
            self, boxes=self.boxes[keep], scores=self.scores[keep], labels=self.labels[keep]
        )

    def to_coco(self, image_id: int = 0) -> list[dict[str, Any]]:
        """Return COCO results: `bbox` is left, top, width, height in pixels, ids are the data's."""
        sizes = self.boxes[:, 2:] - self.boxes[:, :2]
        bboxes = torch.cat((self.boxes[:, :2], sizes), dim=1).tolist()
        return [
            {
                "image_id": image_id,
                "category_id": self.classes.ids[label],
                "bbox": [round(value, 3) for value in bbox],
                "score": score,
            }
            for bbox, score, label in zip(
                bboxes, self.scores.tolist(), self.labels.tolist(), strict=True
            )
        ]

    def plot(self, picture: Image | None = None) -> Image:
        """Return the picture with boxes, names and scores; small pictures are enlarged.

        Args:
            picture: Of size `image_size`; None takes the one that prediction kept.

        Raises:
            ValueError: there is no picture.
        """
        picture = picture or self.image
        if picture is None:
            raise ValueError("Detections.plot: no picture was kept; give one: plot(picture)")
        captions = [
            f"{name} {score:.2f}"
            for name, score in zip(self.names, self.scores.tolist(), strict=True)
        ]
        return draw_boxes(picture, self.boxes, self.labels.tolist(), captions)

    def to_supervision(self) -> Any:
        """Return a `supervision.Detections`, for its annotators, trackers and counters.

        Raises:
            ImportError: the extra `supervision` is not installed.
        """
        try:
            supervision = importlib.import_module("supervision")
        except ImportError as error:
            raise ImportError(
                "to_supervision: expected the package supervision, found none; "
                "pip install 'aligndetr[supervision]'"
            ) from error
        return supervision.Detections(
            xyxy=self.boxes.float().cpu().numpy(),
            confidence=self.scores.float().cpu().numpy(),
            class_id=self.labels.cpu().numpy(),
            data={"class_name": np.array(self.names, dtype=str)},
        )


Detect = Callable[[ImageBatch | Features], list[Detections]]
"""A detector in evaluation mode: one Detections an image; it moves the images to its device."""


def boxes_in_pixels(boxes: Tensor, size_hw: Tensor) -> Tensor:
    """Return (..., M, 4) cxcywh boxes in [0, 1] as xyxy in pixels of images of (..., 2) size."""
    height, width = size_hw.unbind(-1)
    scale = torch.stack((width, height, width, height), dim=-1)
    return cxcywh_to_xyxy(boxes) * scale.unsqueeze(-2)
