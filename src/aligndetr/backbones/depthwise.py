"""Depthwise convolutions whose backward pass is fast on a CPU.

oneDNN's gradient of a depthwise weight takes ten times as long as its forward pass where the kernel
is larger than 3 x 3, a hundred times in bfloat16; that of the input takes fifty times as long in
bfloat16 where the stride is 2. Those of 3 x 3 kernels, and of float32, do not.
"""

from itertools import product
from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import pad_same
from torch import Tensor, nn
from torch.nn import functional as F

from aligndetr.kernels.eager import is_eager

WINDOW = 3
"""Side of a kernel that is fast."""


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution with the parameters of another, `is_same` of timm's `Conv2dSame`."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        """Take the place of a convolution for which `is_depthwise` holds."""
        channels = convolution.out_channels
        super().__init__(
            channels,
            channels,
            (convolution.kernel_size[0], convolution.kernel_size[1]),
            stride=(convolution.stride[0], convolution.stride[1]),
            padding=convolution.padding,  # pyright: ignore[reportArgumentType]
            groups=channels,
            bias=convolution.bias is not None,
            device="meta",
        )
        self.is_same = isinstance(convolution, Conv2dSame)
        self.weight, self.bias = convolution.weight, convolution.bias
        self.train(convolution.training)

    def forward(self, input: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H', W')."""
        padding: Any = self.padding
        if self.is_same:
            input, padding = pad_same(input, list(self.kernel_size), list(self.stride)), (0, 0)
        weight, bias = self.weight, self.bias
        has_gradient = torch.is_grad_enabled() and weight.requires_grad
        if not has_gradient or not is_eager(input, weight):
            return F.conv2d(input, weight, bias, self.stride, padding, groups=self.groups)
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            input, weight = input.to(dtype), weight.to(dtype)
            bias = None if bias is None else bias.to(dtype)
        return _Convolution.apply(input, weight, bias, self.stride, padding)


def is_depthwise(layer: nn.Module) -> bool:
    """Whether a layer is a convolution of each channel on its own, padded with zeros."""
    return (
        type(layer) in (nn.Conv2d, Conv2dSame)
        and isinstance(layer, nn.Conv2d)
        and layer.groups == layer.in_channels == layer.out_channels > 1
        and layer.dilation == (1, 1)
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
    )


def with_fast_depthwise(network: nn.Module) -> nn.Module:
    """Let depthwise convolutions of a network be `DepthwiseConv2d`, in place; names stay."""
    for name, layer in list(network.named_modules()):
        if is_depthwise(layer):
            assert isinstance(layer, nn.Conv2d)
            network.set_submodule(name, DepthwiseConv2d(layer))
    return network


class _Convolution(torch.autograd.Function):
    """A depthwise convolution; it has gradients of gradients, by torch's own operations."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
    ) -> Tensor:
        """Return (B, C, H', W') of x (B, C, H, W), weight (C, 1, h, w) and bias (C,)."""
        ctx.save_for_backward(x, weight)
        ctx.places = (stride, padding)
        return F.conv2d(x, weight, bias, stride, padding, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, weight and bias."""
        x, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous(memory_format=torch.channels_last)
        stride, padding = ctx.places
        of_x, of_weight, of_bias = ctx.needs_input_grad[:3]
        return (
            _input_gradient(gradient, x, weight, stride, padding) if of_x else None,
            _weight_gradient(gradient, x, weight, stride, padding) if of_weight else None,
            gradient.sum((0, 2, 3)) if of_bias else None,
            None,
            None,
        )


def _input_gradient(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    is_slow = x.dtype == torch.bfloat16 and stride != (1, 1)
    dtype = torch.float32 if is_slow else x.dtype
    tensors = (gradient.to(dtype), x.to(dtype), weight.to(dtype))
    return _plain(*tensors, stride, padding, (True, False))[0].to(x.dtype)


def _weight_gradient(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """Return (C, 1, h, w): a large kernel's piece by piece, each that of a kernel of 3 x 3."""
    sides = (weight.shape[2], weight.shape[3])
    if max(sides) <= WINDOW or min(sides) < WINDOW or torch.is_grad_enabled():
        return _plain(gradient, x, weight, stride, padding, (False, True))[1]
    padded = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    found, part = torch.empty_like(weight), weight[:, :, :WINDOW, :WINDOW]
    height, width = (
        step * (places - 1) + WINDOW
        for step, places in zip(stride, gradient.shape[2:], strict=True)
    )
    for top, left in product(*map(_window_starts, sides)):
        seen = padded[:, :, top : top + height, left : left + width]
        found[:, :, top : top + WINDOW, left : left + WINDOW] = _plain(
            gradient, seen, part, stride, (0, 0), (False, True)
        )[1]
    return found


def _window_starts(side: int) -> list[int]:
    """Return where windows begin that together cover a side, each 3 wide."""
    return [*range(0, side - WINDOW, WINDOW - 1), side - WINDOW]


def _plain(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    wanted: tuple[bool, bool],
) -> tuple[Tensor, Tensor]:
    """Return torch's own gradients of x and weight, those that are wanted."""
    run = torch.ops.aten.convolution_backward.default
    places = ([*stride], [*padding], [1, 1], False, [0, 0], len(weight))
    return run(gradient, x, weight, None, *places, [*wanted, False])[:2]
