"""Classification losses: each is a pair of BCE weights and a quality t(s, u).

    positive entry (query, class):  w_pos * -log s + w_neg * -log(1 - s)
    every other entry:              background * s^gamma * -log(1 - s)

s is the score, u the IoU of the matched boxes; a positive entry is the class of its target at a
matched query. A loss is a row of the paper's Table 1 (arXiv:2304.07527): it says what its quality
is, what the weights of positives are, and how much background counts.
"""

from abc import ABC, abstractmethod
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat
from torch import Tensor

from aligndetr.losses.chunks import chunk_rows
from aligndetr.settings import Settings

Share = Annotated[float, Field(ge=0, le=1)]
Entries = tuple[Tensor, ...]
"""Index tensors, (P,) each, such that `logits[entries]` are the P positive entries."""


class WeightedBCE(Settings, ABC):
    """Binary cross-entropy with its own weights for positive entries."""

    gamma: NonNegativeFloat = 2.0
    """Focus on hard negatives: a background entry of score s weighs s^gamma."""

    @property
    def background(self) -> float:
        """How much background entries count, beside their weight s^gamma."""
        return 1.0

    def quality(self, logits: Tensor, iou: Tensor) -> Tensor:
        """Return the quality t (P,) in [0, 1] of matched predictions, which also ranks them.

        `logits` (P,) of the positive entries and `iou` (P,) must carry no gradient.
        """
        del logits
        return iou

    @abstractmethod
    def weights(self, logits: Tensor, quality: Tensor, prime: Tensor) -> tuple[Tensor, Tensor]:
        """Return w_pos and w_neg (P,) of the positive entries; gradient flows through logits."""

    def __call__(self, logits: Tensor, positive: Entries, quality: Tensor, prime: Tensor) -> Tensor:
        """Return the loss of each row, summed over its entries and not normalised.

        Args:
            logits: (R, Q, C); below float32 they are computed in float32.
            positive: Row, query and class of each of the P positive entries.
            quality: (P,) from `quality`.
            prime: (P,) prime weights in [0, 1]; 1 where there are none.

        Returns:
            (R,), finite for logits of any finite size.
        """
        logits = at_least_float32(logits)
        x = logits[positive]
        w_pos, w_neg = self.weights(x, quality, prime)
        pairs = -w_pos * F.logsigmoid(x) - w_neg * F.logsigmoid(-x)
        rows = self.background * _background(logits, positive, self.gamma)
        return rows.index_add(0, positive[0], pairs)


class Focal(WeightedBCE):
    """Focal loss (arXiv:1708.02002): the quality ranks, but does not enter the target."""

    type: Literal["focal"] = "focal"
    alpha: Share = 0.25
    """Weight of positive entries; background has 1 - alpha."""

    @property
    def background(self) -> float:
        """1 - alpha."""
        return 1 - self.alpha

    def weights(self, logits: Tensor, quality: Tensor, prime: Tensor) -> tuple[Tensor, Tensor]:
        """Return both focal weights; a secondary positive is background for the rest of it."""
        del quality
        w_pos = prime * self.alpha * score_power(-logits, self.gamma)
        return w_pos, (1 - prime) * (1 - self.alpha) * score_power(logits, self.gamma)


class IABCE(WeightedBCE):
    """IoU-aware BCE (arXiv:2304.07527, eqs. 4 to 6): w_pos = t, w_neg = 1 - t."""

    type: Literal["ia_bce"] = "ia_bce"
    alpha: Share = 0.25
    """Share of the score in the quality t = s^alpha * u^(1 - alpha)."""
    clamp: Share = 0.01
    """Smallest quality before prime weighting."""

    def quality(self, logits: Tensor, iou: Tensor) -> Tensor:
        """Return t = s^alpha * u^(1 - alpha), at least `clamp`."""
        # Paper: no clamp. It is the authors' code's, and ties far predictions in the ranking.
        return (score_power(logits, self.alpha) * iou.pow(1 - self.alpha)).clamp(min=self.clamp)

    def weights(self, logits: Tensor, quality: Tensor, prime: Tensor) -> tuple[Tensor, Tensor]:
        """Return t and 1 - t, with t weakened by the prime weight."""
        del logits
        target = prime * quality
        return target, 1 - target


ClassificationLoss = Annotated[Focal | IABCE, Field(discriminator="type")]


def ia_bce(
    logits: Tensor,
    positive: Entries,
    iou: Tensor,
    *,
    prime: Tensor | None = None,
    alpha: float = 0.25,
    gamma: float = 2.0,
    clamp: float = 0.01,
) -> Tensor:
    """Return the IoU-aware BCE loss of anyone's DETR, summed; divide it by the number of objects.

    With `image, query, target` the matched pairs, `pairs_iou` their IoU and `labels` the classes
    of all targets: `ia_bce(logits, (image, query, labels[target]), pairs_iou) / len(labels)`.

    Args:
        logits: (B, Q, C) before the sigmoid; float16 and bfloat16 are computed in float32.
        positive: Three (P,) index tensors: image, query and class of each matched prediction.
        iou: (P,) in [0, 1], IoU of each matched prediction with its target. No gradient flows
            into it: the quality t = s^alpha * u^(1 - alpha) is a constant target.
        prime: (P,) weights of t, for several positives per object; None is 1 for all.
        alpha: Share of the score in the quality.
        gamma: Background entries weigh s^gamma, with gradient.
        clamp: Smallest quality before `prime`; the authors' code has 0.01, the paper none.

    Returns:
        Scalar: sum of BCE(s, prime * t) over the positives and of s^gamma * BCE(s, 0) over all
        other entries (arXiv:2304.07527, eq. 6).
    """
    loss = IABCE(alpha=alpha, gamma=gamma, clamp=clamp)
    quality = loss.quality(at_least_float32(logits.detach()[positive]), iou.detach())
    return loss(logits, positive, quality, torch.ones_like(iou) if prime is None else prime).sum()


def at_least_float32(x: Tensor) -> Tensor:
    """Return `x` in float32 if it is narrower: the losses are never computed in half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def score_power(logits: Tensor, exponent: float) -> Tensor:
    """Return sigmoid(logits)^exponent, with finite gradients however small the score."""
    return torch.exp(exponent * F.logsigmoid(logits))


def _background(logits: Tensor, positive: Entries, gamma: float) -> Tensor:
    """Return sum of s^gamma * -log(1 - s) over each row's entries that are not positive: (R,)."""
    return _Background.apply(logits, positive, gamma)  # pyright: ignore[reportReturnType]


class _Background(torch.autograd.Function):
    """The dense part: its gradient falls out of the forward pass, so one tensor is kept, not six.

    d/dx s^gamma softplus(x) = s^gamma (gamma (1 - s) softplus(x) + s).
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, positive: Entries, gamma: float) -> Tensor:
        # A logit of -inf has no loss and no gradient.
        gradient = logits.index_put(positive, logits.new_tensor(-torch.inf))
        loss = logits.new_empty(len(logits))
        rows = chunk_rows(logits, logits[:1].numel())
        for x, total in zip(gradient.split(rows), loss.split(rows), strict=True):
            score, cost = x.sigmoid(), _softplus(x)
            weight = score.pow(gamma)
            total.copy_((weight * cost).flatten(1).sum(dim=1))
            torch.mul(score.addcmul(cost, 1 - score, value=gamma), weight, out=x)
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad: Tensor
    ) -> tuple[Tensor, None, None]:
        if torch.is_grad_enabled():
            raise RuntimeError("classification losses: create_graph=True, no second derivative")
        (gradient,) = ctx.saved_tensors
        return gradient * grad[:, None, None], None, None


def _softplus(x: Tensor) -> Tensor:
    """Return log(1 + e^x); torch's own is up to ten times slower on CPU for want of a fast log1p.

    log(1 + e) = 2 atanh(e / (2 + e)) with e = exp(-|x|) keeps full precision for small e.
    """
    tail = x.abs().neg_().exp_()
    return tail.div_(tail + 2).atanh_().mul_(2).add_(x.clamp(min=0))
