"""Whether an operation may take a way of its own: where numbers are computed at once, on a CPU."""

import torch
from torch import Tensor, nn


def is_eager(x: Tensor, weight: Tensor) -> bool:
    """Whether x and a weight are plain tensors of a CPU, and oneDNN computes at once.

    Not where operations are recorded, transformed or differentiated forward: what looks at them
    knows torch's own alone. `torch.backends.mkldnn.enabled = False` makes all torch's own.
    """
    return (
        not torch.compiler.is_compiling()
        and x.device.type == "cpu"
        and type(x) is Tensor  # fake tensors and others with a meaning of their own are not
        and type(weight) in (Tensor, nn.Parameter)
        and not torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
        and not torch._C._are_functorch_transforms_active()  # pyright: ignore[reportPrivateUsage]
        and torch.autograd.forward_ad._current_level < 0  # pyright: ignore[reportPrivateUsage]
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
    )
