"""Prediction heads: class logits, box corrections and, if asked for, the IoU of one layer."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aligndetr.boxes import inverse_sigmoid
from aligndetr.layers.basic import MLP
from aligndetr.layers.linear import Linear


class Head(nn.Module):
    """Class logits, a correction of the reference box, and an optional IoU branch.

    All are computed in the precision of the weights, whatever the autocast around them.
    """

    def __init__(
        self, width: int, num_classes: int, *, prior: float | None, has_iou_branch: bool = False
    ) -> None:
        """Take the score of every class before training; None leaves biases as torch draws them.

        With a softmax `num_classes` counts "no object" too.
        """
        super().__init__()
        self.classes = Linear(width, num_classes)
        self.box = MLP(width, width, width, 4)
        self.iou = Linear(width, 1) if has_iou_branch else None
        if prior is not None:
            nn.init.constant_(self.classes.bias, -math.log((1 - prior) / prior))

    def start_at_reference(self, size_bias: float) -> None:
        """Let first boxes be their references; `size_bias` is added to width and height's logits.

        Deformable DETR starts points with -2: a box of an eighth of the image's size.
        """
        last = self.box.layers[-1]
        assert isinstance(last, Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        nn.init.constant_(last.bias[2:], size_bias)

    def logits(self, states: Tensor) -> Tensor:
        """Return (B, Q, C) logits of (B, Q, D) states."""
        return self._in_own_precision(self.classes, states)

    def iou_logits(self, states: Tensor) -> Tensor | None:
        """Return (B, Q) logits of the predicted IoU of each box with its object, if asked for."""
        if self.iou is None:
            return None
        return self._in_own_precision(self.iou, states).squeeze(-1)

    def correction(self, states: Tensor) -> Tensor:
        """Return (B, Q, 4) corrections, in logit space, of (B, Q, D) states."""
        return self._in_own_precision(self.box, states)

    def boxes(self, states: Tensor, reference: Tensor | None, *, eps: float) -> Tensor:
        """Return the (B, Q, 4) boxes in (0, 1) that the states make of their references.

        References are boxes (B, Q, 4), points (B, Q, 2) that are corrected to centres, or None.
        """
        correction = self.correction(states)
        if reference is None:
            return correction.sigmoid()
        start = inverse_sigmoid(reference, eps=eps)
        return (correction + F.pad(start, (0, 4 - start.shape[-1]))).sigmoid()

    def _in_own_precision(self, part: nn.Module, states: Tensor) -> Tensor:
        with torch.autocast(states.device.type, enabled=False):
            return part(states.to(self.classes.weight.dtype))
