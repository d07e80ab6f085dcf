"""Linear layers; on a CPU, large ones are oneDNN's, with the ReLU that follows them."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aligndetr.kernels.eager import is_eager

SMALL = 1 << 14
"""Numbers of an input below which finding the way takes longer than oneDNN saves."""
LARGE = 1 << 19
"""Numbers from which on oneDNN is faster when it sees the rows as an image's pixels."""


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
    on CPUs with AVX-512. Many rows are the pixels of a convolution with a kernel of 1 x 1, which
    has a gradient here (`PixelProduct`); under autocast to bfloat16, too, on CPUs that have its
    instructions. With `torch.backends.mkldnn.enabled = False` all is torch's own.

    Args:
        x: (..., K).
        weight: (N, K).
        bias: (N,), or None.
        relu: Whether negative results become zeros; what NaN becomes without a gradient is not
            promised.

    Returns:
        (..., N).
    """
    has_gradient, is_large = torch.is_grad_enabled(), x.numel() >= LARGE
    dtype = _onednn_type(x, weight, is_large=is_large)
    if dtype is None or (has_gradient and not is_large):
        return _by_torch(x, weight, bias, relu=relu)
    after = "relu" if relu else "none"
    if not is_large:
        return torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, after, [], "")
    rows, weight = x.reshape(-1, x.shape[-1]).to(dtype), weight.to(dtype)
    bias = None if bias is None else bias.to(dtype)
    if has_gradient:
        result = PixelProduct.apply(rows, weight, bias)
        result = torch.relu_(result) if relu else result
    else:
        result = _of_pixels(rows, weight, bias, after)
    return result.view(*x.shape[:-1], len(weight))


def _by_torch(x: Tensor, weight: Tensor, bias: Tensor | None, *, relu: bool) -> Tensor:
    if not relu:
        return F.linear(x, weight, bias)
    if x.dim() < 3:
        return torch.relu_(F.linear(x, weight, bias))
    # With more than two dimensions the result would be a view. ReLU changes it in place, and
    # autograd copies the gradient of a view that is changed.
    return torch.relu_(F.linear(x.flatten(0, -2), weight, bias)).unflatten(0, x.shape[:-1])


class PixelProduct(torch.autograd.Function):
    """Product of many rows, computed as oneDNN's convolution with a kernel of 1 x 1.

    Forward and backward take less time than as products of matrices, oneDNN's own and MKL's. It
    has gradients of gradients; other derivatives and transforms take torch's own way.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return (R, N) of rows x (R, K), weight (N, K) and bias (N,)."""
        ctx.save_for_backward(x, weight)
        return _of_pixels(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, weight and bias."""
        x, weight = ctx.saved_tensors
        (gradient,) = gradients
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            PixelProduct.apply(gradient, weight.t(), None) if of_x else None,
            _weight_gradient(gradient, x) if of_weight else None,
            gradient.sum(0) if of_bias else None,
        )


def _of_pixels(x: Tensor, weight: Tensor, bias: Tensor | None, after: str = "none") -> Tensor:
    """Return what is made of rows (R, K), (R, N): no view, which could not be changed in place."""
    places = ([0, 0], [1, 1], [1, 1], 1)  # padding, stride, dilation, groups
    run = torch.ops.mkldnn._convolution_pointwise.default
    pixels = run(_as_pixels(x), weight[:, :, None, None], bias, *places, after, [], "")
    rows = pixels.permute(0, 2, 3, 1).contiguous()
    return torch.ops.aten._unsafe_view.default(rows, [len(x), len(weight)])


def _as_pixels(rows: Tensor) -> Tensor:
    """Return rows (R, C) as the only line of an image, (1, C, 1, R) and channels-last."""
    return rows.contiguous()[None, None].permute(0, 3, 1, 2)


def _weight_gradient(gradient: Tensor, x: Tensor) -> Tensor:
    """Return gradient^T x, (N, K), of (R, N) and (R, K).

    oneDNN takes twice as long where there are more input channels than output channels. In
    bfloat16 both have the product of matrices from it, which is the faster one there.
    """
    if gradient.dtype == torch.bfloat16:
        return gradient.t() @ x
    if gradient.shape[1] < x.shape[1]:
        return _weight_gradient(x, gradient).t()
    shape = gradient.new_empty(()).expand(gradient.shape[1], x.shape[1], 1, 1)
    places = ([1, 1], [0, 0], [1, 1], False, [0, 0], 1)
    run = torch.ops.aten.convolution_backward.default
    found = run(_as_pixels(gradient), _as_pixels(x), shape, None, *places, [False, True, False])
    return found[1][:, :, 0, 0]


def _onednn_type(x: Tensor, weight: Tensor, *, is_large: bool) -> torch.dtype | None:
    """Return the type in which oneDNN computes, or None where torch's own way is taken.

    Numbers have to be computed at once, on a CPU, and there must be enough of them. Of bfloat16
    there is the product of pixels alone, for autocast.
    """
    is_compiled = torch.compiler.is_compiling()  # its code would be for this number of rows alone
    if is_compiled or x.numel() < SMALL or len(weight) == 0 or not is_eager(x, weight):
        return None
    if torch.is_autocast_enabled("cpu"):
        known, dtype = (torch.float32, torch.bfloat16), torch.get_autocast_dtype("cpu")
        has_instructions = torch.cpu._is_avx512_bf16_supported()  # pyright: ignore[reportPrivateUsage]
        is_known = dtype == torch.bfloat16 and x.dtype in known and weight.dtype in known
        return dtype if has_instructions and is_large and is_known else None
    has_instructions = torch.cpu._is_avx512_supported()  # pyright: ignore[reportPrivateUsage]
    return x.dtype if has_instructions and x.dtype == weight.dtype == torch.float32 else None
