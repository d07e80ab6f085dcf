"""Softmax over a short last axis: on a CPU PyTorch's own may be slower than its parts."""

from typing import Any

import torch
from torch import Tensor

VECTOR = 16
"""Numbers of the widest vectors of CPUs."""


def short_softmax(logits: Tensor) -> Tensor:
    """Return the softmax over the last axis, at best where that has few dozen entries.

    PyTorch vectorises along the axis. Where that does not fill whole vectors it takes four times as
    long as here, where each step runs over all entries. Half precision gives float32. Devices other
    than a CPU take PyTorch's own, as compiled code does.

    Args:
        logits: (..., n) of any floating dtype.

    Returns:
        (..., n), at least float32.
    """
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    is_whole = logits.shape[-1] % VECTOR == 0
    if is_whole or logits.device.type != "cpu" or torch.compiler.is_compiling():
        return logits.softmax(dim=-1)
    return _Softmax.apply(logits.contiguous())  # pyright: ignore[reportUnknownMemberType, reportReturnType]


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
