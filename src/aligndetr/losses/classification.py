"""Classification losses: the rows of the paper's Tables 1, 4 and B, and what came after it.

Each says what its quality t is and what the two BCE weights of positive entries are (see bce.py);
s is the score, u the IoU of the matched boxes, and the paper is Align-DETR (arXiv:2304.07527).
"""

from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor
from typing_extensions import override

from aligndetr.kernels.grouped import max_within, sum_within
from aligndetr.kernels.scores import Entries, at_least_float32, residual, score_power
from aligndetr.losses.bce import BalancedBCE, Matched, Total, WeightedBCE
from aligndetr.settings import Settings

Share = Annotated[float, Field(ge=0, le=1)]
Pair = tuple[Tensor, Tensor]
"""w_pos and w_neg, (P,) each."""
TINY = 1e-12


class Focal(BalancedBCE):
    """Focal loss (arXiv:1708.02002): w_pos = alpha (1 - s)^gamma; the quality only ranks."""

    type: Literal["focal"] = "focal"

    @override
    def target(self, quality: Tensor, prime: Tensor) -> Tensor:
        return prime  # a secondary positive is background for the rest

    @override
    def weights(self, m: Matched, t: Tensor) -> Pair:
        w_pos = self.alpha * t * score_power(-m.x, self.gamma)
        return w_pos, (1 - self.alpha) * (1 - t) * score_power(m.x, self.gamma)


class QualityFocal(WeightedBCE):
    """Quality focal loss (GFL, arXiv:2006.04388; Table 1 with gamma = 2, Table 4 with 1 and 2).

    t = u; w_pos = |t - s|^gamma t; w_neg = |t - s|^gamma (1 - t).
    """

    type: Literal["qfl"] = "qfl"

    @override
    def weights(self, m: Matched, t: Tensor) -> Pair:
        return _focused(m, t, self.gamma)


class Varifocal(WeightedBCE):
    """Varifocal loss (arXiv:2008.13367; Tables 1 and 4): t = u; w_pos = t t; w_neg = t (1 - t).

    Where not `iou_weighted`: w_pos = t; w_neg = 1 - t. A positive of quality 0 is background.
    """

    type: Literal["vfl"] = "vfl"
    alpha: Share = 0.75
    """Weight of background."""
    iou_weighted: bool = True

    @property
    @override
    def background(self) -> float:
        return self.alpha

    @override
    def weights(self, m: Matched, t: Tensor) -> Pair:
        weight = t if self.iou_weighted else torch.ones_like(t)
        as_background = self.alpha * score_power(m.x, self.gamma)
        as_background = as_background.detach() if self.detach_background else as_background
        return weight * t, torch.where(t > 0, weight * (1 - t), as_background)


class TaskAligned(WeightedBCE):
    """Task-aligned loss (TOOD, arXiv:2108.07755; Table 1): the weights of QFL.

    t = s^score_power u^iou_power, scaled so that an object's largest t is its largest u.
    """

    type: Literal["tood"] = "tood"
    score_power: NonNegativeFloat = 1.0
    iou_power: NonNegativeFloat = 6.0

    @override
    def quality(self, m: Matched) -> Tensor:
        t = score_power(m.x, self.score_power) * m.iou.pow(self.iou_power)
        return t / max_within(m.bag, t).clamp(min=1e-30) * max_within(m.bag, m.iou)

    @override
    def weights(self, m: Matched, t: Tensor) -> Pair:
        return _focused(m, t, self.gamma)


class IABCE(WeightedBCE):
    """IoU-aware BCE (the paper, eqs. 4 to 6): w_pos = t; w_neg = 1 - t."""

    type: Literal["ia_bce"] = "ia_bce"
    alpha: Share = 0.25
    """Share of the score in the quality t = s^alpha u^(1 - alpha)."""
    clamp: Share = 0.01
    """Smallest quality before prime weighting."""

    @override
    def quality(self, m: Matched) -> Tensor:
        # Paper: no clamp. It is the authors' code's, and ties far predictions in the ranking.
        return _geometric(m, self.alpha).clamp(min=self.clamp)

    @override
    def weights(self, m: Matched, t: Tensor) -> Pair:
        return t, 1 - t


class IABCEVariant(WeightedBCE):
    """The rows of Table B, each a choice of its two columns; t as in IA-BCE, without a clamp."""

    type: Literal["ia_bce_variant"] = "ia_bce_variant"
    alpha: Share = 0.25
    w_pos: Literal["(1-s)^2", "1", "t", "(t-s)^2"] = "t"
    w_neg: Literal["0", "(t-s)^2", "(1-t)s^2", "1-t"] = "1-t"

    @override
    def quality(self, m: Matched) -> Tensor:
        return _geometric(m, self.alpha)

    @override
    def weights(self, m: Matched, t: Tensor) -> Pair:
        one, far, score = torch.ones_like(t), residual(m.x, t, 2), score_power(m.x, 2)
        w_pos = {"(1-s)^2": score_power(-m.x, 2), "1": one, "t": t, "(t-s)^2": far}
        w_neg = {"0": 0 * one, "(t-s)^2": far, "(1-t)s^2": (1 - t) * score, "1-t": 1 - t}
        return w_pos[self.w_pos], w_neg[self.w_neg]


class MutualSupervision(WeightedBCE):
    """Mutual supervision (MuSu, arXiv:2109.05986) as in Table 1, with t as in IA-BCE.

    w_pos = (s - t)^2 t; w_neg = s^2 (1 - t)^4.
    """

    type: Literal["musu"] = "musu"
    alpha: Share = 0.25

    @override
    def quality(self, m: Matched) -> Tensor:
        return _geometric(m, self.alpha)

    @override
    def weights(self, m: Matched, t: Tensor) -> Pair:
        return residual(m.x, t, 2) * t, score_power(m.x, 2) * (1 - t).pow(4)


class DualWeighting(WeightedBCE):
    """Dual weighting (DW, arXiv:2203.16496; Table 1): t = s u^iou_power; w_neg = P s^gamma.

    w_pos = e^(mu t) t, divided by its sum over the object's candidates. P = 1 where u < 1/2; above,
    it falls with u^2 to 0 at u = 1, stretched to [0, 1] over the candidates if they are several.
    """

    type: Literal["dw"] = "dw"
    mu: NonNegativeFloat = 5.0
    iou_power: NonNegativeFloat = 5.0

    @override
    def quality(self, m: Matched) -> Tensor:
        return m.x.sigmoid() * m.iou.pow(self.iou_power)

    @override
    def weights(self, m: Matched, t: Tensor) -> Pair:
        w_pos = torch.exp(self.mu * t) * t
        chance = ((1 - m.iou.square()) / 0.75).clamp(max=1)
        low, high = -max_within(m.bag, -chance), max_within(m.bag, chance)
        ranked = torch.where(high > low, (chance - low) / (high - low).clamp(min=TINY), chance)
        p = torch.where(m.iou < 0.5, 1.0, ranked)
        return w_pos / sum_within(m.bag, w_pos).clamp(min=TINY), p * score_power(m.x, self.gamma)


class MatchabilityAware(WeightedBCE):
    """Matchability-aware loss (DEIM, arXiv:2412.04234): t = u^gamma; w_pos = t; w_neg = 1 - t."""

    type: Literal["mal"] = "mal"
    gamma: NonNegativeFloat = 1.5
    detach_background: bool = True

    @override
    def quality(self, m: Matched) -> Tensor:
        return m.iou.pow(self.gamma)

    @override
    def weights(self, m: Matched, t: Tensor) -> Pair:
        return t, 1 - t


class PositionSupervised(BalancedBCE):
    """Position-supervised loss (Stable-DINO, arXiv:2304.04742): alpha times the weights of QFL.

    t = u^iou_power, scaled so that the largest of an image is 1.
    """

    type: Literal["position_supervised"] = "position_supervised"
    iou_power: NonNegativeFloat = 2.0

    @override
    def quality(self, m: Matched) -> Tensor:
        t = m.iou.pow(self.iou_power)
        return t / max_within(m.entries[0], t).clamp(min=TINY)

    @override
    def weights(self, m: Matched, t: Tensor) -> Pair:
        return _focused(m, t, self.gamma, self.alpha)


class GIoUAware(BalancedBCE):
    """GIoU-aware loss (Rank-DETR, arXiv:2310.08854): t = (GIoU + 1) / 2; alpha times QFL's."""

    type: Literal["giou_aware"] = "giou_aware"

    @override
    def quality(self, m: Matched) -> Tensor:
        return (m.giou + 1) / 2

    @override
    def weights(self, m: Matched, t: Tensor) -> Pair:
        return _focused(m, t, self.gamma, self.alpha)


class SoftmaxCE(Settings):
    """DETR's cross-entropy over C classes and, last, "no object" (arXiv:2005.12872, section 3.1).

    The mean over all queries, in which those without an object weigh `no_object`.
    """

    type: Literal["softmax"] = "softmax"
    no_object: Annotated[float, Field(gt=0)] = 0.1

    def quality(self, m: Matched) -> Tensor:
        """Return the IoU, by which several positives of an object are ranked."""
        return m.iou

    def normaliser(self, positives: Tensor, queries: int, total: Total) -> Total:
        """Return the sum (N,) of the weights of a layer's queries."""
        del total
        return (positives + self.no_object * (queries - positives)).clamp(min=TINY)

    def __call__(self, logits: Tensor, m: Matched, quality: Tensor, prime: Tensor) -> Tensor:
        """Return the sum over each row's queries (R,), from logits (R, Q, C + 1)."""
        del quality
        log_probability = torch.log_softmax(at_least_float32(logits), dim=-1)
        nothing = -self.no_object * log_probability[..., -1]
        row, query, _ = m.entries
        pairs = -prime * log_probability[m.entries] - nothing[row, query]
        return nothing.sum(dim=1).index_add(0, row, pairs)


_Table1 = Focal | QualityFocal | Varifocal | TaskAligned | MutualSupervision | DualWeighting
_Others = IABCEVariant | MatchabilityAware | PositionSupervised | GIoUAware | SoftmaxCE
ClassificationLoss = Annotated[IABCE | _Table1 | _Others, Field(discriminator="type")]


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
        logits: (B, Q, C) before the sigmoid, or (Q, C) of one image; float16 and bfloat16 are
            computed in float32.
        positive: An index tensor (P,) for each dimension of `logits`: image, query and class of
            each matched prediction.
        iou: (P,) IoU of each matched prediction with its target, clamped to [0, 1]. No gradient
            flows into it: the quality t = s^alpha * u^(1 - alpha) is a constant target.
        prime: (P,) weights of t, for several positives per object; None is 1 for all.
        alpha: As in `IABCE`.
        gamma: Background entries weigh s^gamma.
        clamp: Smallest quality before `prime`; 0 is the paper's.

    Returns:
        Scalar: sum of BCE(s, prime * t) over the positives and of s^gamma * BCE(s, 0) over all
        other entries (arXiv:2304.07527, eq. 6).

    Raises:
        ValueError: Shapes do not fit each other.
    """
    if len(positive) != logits.ndim:
        raise ValueError(
            f"ia_bce: expected positive with an index for each dimension of logits, "
            f"{logits.ndim}, found {len(positive)}"
        )
    loss = IABCE(alpha=alpha, gamma=gamma, clamp=clamp)
    x = at_least_float32(logits.detach()[positive])
    if iou.shape != x.shape or (prime is not None and prime.shape != x.shape):
        raise ValueError(f"ia_bce: expected iou and prime of shape {tuple(x.shape)}, one a pair")
    u = iou.detach().to(x.dtype).clamp(0, 1)
    matched = Matched(positive, x, u, giou=u, bag=positive[0])  # IA-BCE asks for x and u alone
    weakened = torch.ones_like(u) if prime is None else prime.to(x.dtype)
    return loss(logits, matched, loss.quality(matched), weakened).sum()


def _geometric(m: Matched, alpha: float) -> Tensor:
    """Return s^alpha u^(1 - alpha), the paper's eq. 4."""
    return score_power(m.x, alpha) * m.iou.pow(1 - alpha)


def _focused(m: Matched, t: Tensor, gamma: float, alpha: float = 1.0) -> Pair:
    """Return alpha |t - s|^gamma t and alpha |t - s|^gamma (1 - t)."""
    focus = alpha * residual(m.x, t, gamma)
    return focus * t, focus * (1 - t)
