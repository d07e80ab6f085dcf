"""Functions of scores from their logits, exact and finite for logits of any finite size."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from aligndetr.kernels.chunks import chunk_rows

Entries = tuple[Tensor, ...]
"""Index tensors, (P,) each, such that `logits[entries]` are P entries."""


def at_least_float32(x: Tensor) -> Tensor:
    """Return `x` in float32 if it is narrower: losses are never computed in half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def score_power(x: Tensor, exponent: float) -> Tensor:
    """Return sigmoid(x)^exponent, with finite gradients however small the score."""
    return torch.exp(exponent * F.logsigmoid(x))


def residual(x: Tensor, t: Tensor, exponent: float) -> Tensor:
    """Return |t - s|^exponent, with gradient through the score s = sigmoid(x)."""
    return (t - x.sigmoid()).abs().clamp(min=1e-12).pow(exponent)


def background_loss(
    logits: Tensor, positive: Entries, gamma: float, *, is_weight_constant: bool = False
) -> tuple[Tensor, Tensor]:
    """Return what each row's entries without an object cost (R,), and the other logits (P,).

    The cost of an entry is s^gamma * -log(1 - s). It is finite, with a finite gradient, for
    logits of any finite size. There is no second derivative.

    Args:
        logits: (R, Q, C) of the scores s.
        positive: Row, query and class of the P entries that are not background.
        gamma: Exponent of the weight.
        is_weight_constant: Whether no gradient flows through the weight s^gamma.
    """
    return cast(
        "tuple[Tensor, Tensor]",
        _Background.apply(logits, positive, gamma, is_weight_constant),
    )


class _Background(torch.autograd.Function):
    """The gradient falls out of the forward pass, so one tensor is kept, not six.

    d/dx s^gamma softplus(x) = s^gamma (gamma (1 - s) softplus(x) + s). Both results are of one
    function, so that their gradients share a tensor.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, positive: Entries, gamma: float, is_constant: bool
    ) -> tuple[Tensor, Tensor]:
        # A logit of -inf has no loss and no gradient.
        gradient = logits.index_put(positive, logits.new_full((), -torch.inf))
        loss = logits.new_empty(len(logits))
        rows = chunk_rows(logits, logits[:1].numel())
        for x, total in zip(gradient.split(rows), loss.split(rows), strict=True):
            score, cost = x.sigmoid(), _softplus(x)
            weight = score.pow(gamma)
            slope = score if is_constant else score.addcmul(cost, 1 - score, value=gamma)
            torch.mul(slope, weight, out=x)
            total.copy_(weight.mul_(cost).flatten(1).sum(dim=1))
        ctx.save_for_backward(gradient, *positive)
        return loss, logits[positive]

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad: Tensor, positive_grad: Tensor
    ) -> tuple[Tensor, None, None, None]:
        if torch.is_grad_enabled():
            raise RuntimeError("classification losses: create_graph=True, no second derivative")
        gradient, *positive = ctx.saved_tensors
        gradient = gradient * grad.view(-1, *[1] * (gradient.ndim - 1))
        gradient.index_put_(tuple(positive), positive_grad, accumulate=True)
        return gradient, None, None, None


def _softplus(x: Tensor) -> Tensor:
    """Return log(1 + e^x); torch's own is up to ten times slower on CPU for want of a fast log1p.

    log(1 + e) = 2 atanh(e / (2 + e)) with e = exp(-|x|) keeps full precision for small e.
    """
    tail = x.abs().neg_().exp_()
    return tail.div_(tail + 2).atanh_().mul_(2).add_(x.clamp(min=0))
