"""Softmax over a short last axis: PyTorch's own is several times slower than its parts on a CPU."""

from typing import Any

import torch
from torch import Tensor


def short_softmax(logits: Tensor) -> Tensor:
    """Return the softmax over the last axis, at best where that has few dozen entries.

    PyTorch vectorises along the axis, so that vectors stay half empty; here each step runs over all
    entries. Half precision gives float32. Devices other than a CPU take PyTorch's own, as compiled
    code does.

    Args:
        logits: (..., n) of any floating dtype.

    Returns:
        (..., n), at least float32.
    """
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    if logits.device.type != "cpu" or torch.compiler.is_compiling():
        return logits.softmax(dim=-1)
    return _Softmax.apply(logits)  # pyright: ignore[reportUnknownMemberType, reportReturnType]


class _Softmax(torch.autograd.Function):
    """Keeps its result alone for the backward pass."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        """Return the softmax."""
        shares = (logits - logits.amax(dim=-1, keepdim=True)).exp_()
        shares = shares.div_(shares.sum(dim=-1, keepdim=True))
        ctx.save_for_backward(shares)
        return shares

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """Return shares * (gradient - sum of shares * gradient)."""
        (shares,), (grad,) = ctx.saved_tensors, grads
        weighted = shares * grad
        return weighted - shares * weighted.sum(dim=-1, keepdim=True)
