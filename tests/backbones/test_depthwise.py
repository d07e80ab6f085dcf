"""Depthwise convolutions against torch's own."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

from aligndetr.backbones.depthwise import (
    DepthwiseConv2d,
    _window_starts,
    is_depthwise,
    with_fast_depthwise,
)

CHANNELS = 6


def convolution(kind: type[nn.Conv2d] = nn.Conv2d, **options: Any) -> nn.Conv2d:
    torch.manual_seed(0)
    return kind(CHANNELS, CHANNELS, groups=CHANNELS, **options)


def gradients(
    layer: nn.Module, x: Tensor, run: Callable[[Tensor], Tensor] | None = None
) -> list[Tensor]:
    """Return the result, and the gradients of x and of all parameters; `run` calls the layer."""
    x = x.clone().requires_grad_()
    found = (run or layer)(x)
    weights = [weight for weight in layer.parameters() if weight.requires_grad]
    direction = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    return [found, *torch.autograd.grad(found, [x, *weights], direction.to(found.dtype))]


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 5, "padding": 2},
        {"kernel_size": 5, "padding": 2, "stride": 2},
        {"kernel_size": 7, "padding": 3, "bias": False},
        {"kernel_size": 4, "stride": 3},
        {"kernel_size": 6, "padding": 1, "stride": (2, 1)},
        {"kernel_size": (3, 8), "padding": (0, 4)},
        {"kernel_size": (1, 11), "padding": (0, 5)},
    ],
)
@pytest.mark.parametrize("size", [(9, 12), (11, 14)])
@pytest.mark.parametrize("kind", [nn.Conv2d, Conv2dSame])
def test_results_and_gradients_are_those_of_torch(
    kind: type[nn.Conv2d], size: tuple[int, int], options: dict[str, Any]
) -> None:
    layer = convolution(kind, **options).double()
    x = torch.rand(2, CHANNELS, *size, dtype=torch.float64)
    for own, expected in zip(
        gradients(DepthwiseConv2d(layer), x), gradients(layer, x), strict=True
    ):
        torch.testing.assert_close(own, expected)


@pytest.mark.parametrize("stride", [1, 2])
def test_under_autocast_gradients_are_those_of_float32_but_for_rounding(stride: int) -> None:
    layer = convolution(kernel_size=5, padding=2, stride=stride)
    x = torch.rand(2, CHANNELS, 16, 20)
    expected = gradients(layer, x)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(DepthwiseConv2d(layer), x)
    assert [value.dtype for value in found] == [torch.bfloat16] + [torch.float32] * 3
    for own, value in zip(found, expected, strict=True):
        assert (own - value).norm() <= 0.01 * value.norm()


def test_a_frozen_weight_has_no_gradient_and_the_input_has() -> None:
    layer = convolution(kernel_size=5, padding=2).requires_grad_(False)
    assert layer.bias is not None
    layer.bias.requires_grad_()
    x = torch.rand(2, CHANNELS, 9, 9)
    found, expected = gradients(DepthwiseConv2d(layer), x), gradients(layer, x)
    for own, value in zip(found, expected, strict=True):
        torch.testing.assert_close(own, value)


def test_it_has_gradients_of_gradients() -> None:
    layer = DepthwiseConv2d(convolution(kernel_size=5, padding=2).double())
    x = torch.rand(1, CHANNELS, 5, 6, dtype=torch.float64, requires_grad=True)
    assert layer.bias is not None
    names = ("weight", "bias")

    def run(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradgradcheck(run, (x, layer.weight, layer.bias), fast_mode=True)


def test_a_compiled_layer_is_torchs_own() -> None:
    layer = DepthwiseConv2d(convolution(kernel_size=5, padding=2))
    compiled = torch.compile(lambda x: layer(x), backend="eager", fullgraph=True)
    x = torch.rand(2, CHANNELS, 9, 9)
    found = gradients(layer, x, compiled)
    for own, expected in zip(found, gradients(layer, x), strict=True):
        torch.testing.assert_close(own, expected)


@pytest.mark.parametrize("side", range(3, 12))
def test_windows_cover_a_side_with_no_more_than_it_takes(side: int) -> None:
    starts = _window_starts(side)
    assert {place for start in starts for place in range(start, start + 3)} == set(range(side))
    assert len(starts) == max(1, -(-(side - 1) // 2))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(6, 6),
        nn.Conv2d(6, 6, 3),
        nn.Conv2d(6, 6, 3, groups=3),
        nn.Conv2d(6, 12, 3, groups=6),
        nn.Conv2d(1, 1, 3),
        nn.Conv2d(6, 6, 3, groups=6, dilation=2),
        nn.Conv2d(6, 6, 3, groups=6, padding="same"),
        nn.Conv2d(6, 6, 3, groups=6, padding=1, padding_mode="reflect"),
    ],
)
def test_other_layers_are_left(layer: nn.Module) -> None:
    assert not is_depthwise(layer)


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "convnext_atto"])
def test_a_network_keeps_its_names_weights_and_maps(name: str) -> None:
    torch.manual_seed(0)
    network = timm.create_model(name, features_only=True).eval()
    fast = with_fast_depthwise(copy.deepcopy(network))
    assert any(isinstance(layer, DepthwiseConv2d) for layer in fast.modules())
    assert not any(map(is_depthwise, fast.modules()))
    assert list(fast.state_dict()) == list(network.state_dict())
    image = torch.rand(1, 3, 64, 64)
    for own, expected in zip(fast(image), network(image), strict=True):
        assert (own - expected).norm() <= 1e-4 * expected.norm()
