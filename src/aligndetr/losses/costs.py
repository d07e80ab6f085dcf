"""What matching pays for the score of a target's class, in the ways that the field has."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat
from torch import Tensor
from typing_extensions import override

from aligndetr.boxes import giou, iou, pair_corners
from aligndetr.settings import Settings

LOG_EPS = 1e-8
"""Added to scores inside the logarithms of the focal cost, as published."""


@dataclass(frozen=True)
class Wanted:
    """The targets of B images: cxcywh `boxes` (T, 4), `labels` (T,) and `image` (T,)."""

    boxes: Tensor
    labels: Tensor
    image: Tensor


class ScoreCost(Settings, ABC):
    """A cost for each of T targets and each of the Q predictions for its image, in R rows."""

    @abstractmethod
    def __call__(self, logits: Tensor, boxes: Tensor, wanted: Wanted) -> Tensor:
        """Return a new tensor (R, T, Q), from logits (R, B, C, Q) and boxes (R, B, Q, 4)."""


class FocalCost(ScoreCost):
    """What a positive would add to the focal loss (Deformable DETR, arXiv:2010.04159)."""

    type: Literal["focal"] = "focal"
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Weight of the positive part; 1 - alpha is the negative part's."""
    gamma: NonNegativeFloat = 2.0
    beta: NonNegativeFloat = 0.0
    """Scores count times v^beta, v = (GIoU + 1) / 2 scaled to the image's largest; 0.5 in
    Stable-DINO (arXiv:2304.04742, where targets of one class overwrite each other's v)."""

    @override
    def __call__(self, logits: Tensor, boxes: Tensor, wanted: Wanted) -> Tensor:
        images, classes = logits.shape[1:3]
        by_object = len(wanted.labels) <= images * classes or self.beta > 0
        entries = logits[:, wanted.image, wanted.labels] if by_object else logits
        s, rest = entries.sigmoid(), entries.neg().sigmoid()
        if self.beta > 0 and s.numel() > 0:
            s = s * self._quality(boxes, wanted).pow(self.beta)
            rest = 1 - s
        positive = rest.pow(self.gamma).mul_(s.add(LOG_EPS).log_()).mul_(-self.alpha)
        negative = s.pow_(self.gamma).mul_(rest.add_(LOG_EPS).log_()).mul_(1 - self.alpha)
        cost = positive.add_(negative)
        return cost if by_object else cost[:, wanted.image, wanted.labels]

    def _quality(self, boxes: Tensor, wanted: Wanted) -> Tensor:
        """Return v / max v (R, T, Q), the largest of each image and row."""
        v = (giou(*pair_corners(wanted.boxes, boxes, wanted.image)) + 1) / 2
        of_target = v.amax(dim=-1)
        images = wanted.image.expand_as(of_target)
        largest = v.new_zeros(boxes.shape[:2]).scatter_reduce(1, images, of_target, "amax")
        return v / largest[:, wanted.image].unsqueeze(-1).clamp(min=LOG_EPS)


class SoftmaxCost(ScoreCost):
    """Minus the probability of the class; the last class is "no object" (arXiv:2005.12872)."""

    type: Literal["softmax"] = "softmax"

    @override
    def __call__(self, logits: Tensor, boxes: Tensor, wanted: Wanted) -> Tensor:
        return -logits.softmax(dim=2)[:, wanted.image, wanted.labels]


class ScoreIoUCost(ScoreCost):
    """-s u^power (Rank-DETR, arXiv:2310.08854); it is the whole cost there: l1 = giou = 0."""

    type: Literal["score_iou"] = "score_iou"
    power: NonNegativeFloat = 4.0

    @override
    def __call__(self, logits: Tensor, boxes: Tensor, wanted: Wanted) -> Tensor:
        s = logits[:, wanted.image, wanted.labels].sigmoid()
        return -s * iou(*pair_corners(wanted.boxes, boxes, wanted.image)).pow(self.power)


AnyScoreCost = Annotated[FocalCost | SoftmaxCost | ScoreIoUCost, Field(discriminator="type")]
