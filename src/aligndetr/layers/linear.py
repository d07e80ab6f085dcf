"""Linear layers; in inference on a CPU they are oneDNN's, with the ReLU that follows them."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SMALL = 1 << 14
"""Numbers of an input below which finding the way takes longer than oneDNN saves."""


class Linear(nn.Linear):
    """torch's linear layer, by `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
        return linear(input, self.weight, self.bias)


def with_relu(layer: nn.Module, x: Tensor) -> Tensor:
    """Return the ReLU of what a layer makes of x, in one operation if it is a `Linear`."""
    if type(layer) is Linear:
        return linear(x, layer.weight, layer.bias, relu=True)
    return F.relu(layer(x))


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, *, relu: bool = False) -> Tensor:
    """Return x weight^T + bias, or its ReLU.

    torch's own product copies the bias first, adds the product, and reads both again for the ReLU.
    oneDNN's applies both to a result that is still in the cache; torch has that operation for its
    compiler, without a gradient, and it needs none. It is taken where it was measured: in float32
    on CPUs with AVX-512. With `torch.backends.mkldnn.enabled = False` all is torch's own.

    Args:
        x: (..., K).
        weight: (N, K).
        bias: (N,), or None.
        relu: Whether negative results become zeros; what NaN becomes is not promised.

    Returns:
        (..., N).
    """
    if _suits_onednn(x, weight):
        name = "relu" if relu else "none"
        return torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, name, [], "")
    if not relu:
        return F.linear(x, weight, bias)
    if x.dim() < 3:
        return torch.relu_(F.linear(x, weight, bias))
    # With more than two dimensions the result would be a view. ReLU changes it in place, and
    # autograd copies the gradient of a view that is changed.
    return torch.relu_(F.linear(x.flatten(0, -2), weight, bias)).unflatten(0, x.shape[:-1])


def _suits_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether numbers are computed at once, on a CPU, in float32 and without a gradient."""
    return (
        not torch.compiler.is_compiling()
        and not torch.is_grad_enabled()
        and x.device.type == "cpu"
        and x.numel() >= SMALL
        and x.dtype == weight.dtype == torch.float32
        and type(x) is Tensor  # fake tensors and others with a meaning of their own are not
        and type(weight) in (Tensor, nn.Parameter)
        and not torch.is_autocast_enabled("cpu")
        and not torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
        and torch.cpu._is_avx512_supported()  # pyright: ignore[reportPrivateUsage]
    )
