"""Folding norm layers into the convolutions before them, for a network that is not trained.

A frozen norm is a scale and a shift by channel; inside the convolution they cost nothing, while
as operations of their own they take most of a light backbone's time.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

TRIAL_SIZE = 64
"""Side of the image that finds out which norm follows which convolution."""


def folded(network: nn.Module) -> nn.Module:
    """Return a copy of a network in evaluation mode that computes the same without its norms.

    Norms that do not directly follow a convolution stay as they are.
    """
    network = copy.deepcopy(network).eval()
    names = {module: name for name, module in network.named_modules()}
    for convolution, norm in _pairs(network):
        _fold(convolution, norm)
        network.set_submodule(names[norm], getattr(norm, "act", nn.Identity()))
    return network


@torch.no_grad()
def _pairs(network: nn.Module) -> list[tuple[nn.Conv2d, nn.Module]]:
    """Return the convolutions whose result goes straight into a norm, with that norm."""
    makers: dict[int, nn.Conv2d] = {}
    made: list[Tensor] = []  # kept, so that no other tensor takes their place in memory
    pairs: list[tuple[nn.Conv2d, nn.Module]] = []

    def note_result(module: nn.Module, _: Any, result: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        makers[id(result)] = module
        made.append(result)

    def note_input(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if id(inputs[0]) in makers:
            pairs.append((makers[id(inputs[0])], module))

    hooks: list[Any] = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(note_result))
        elif isinstance(getattr(module, "running_var", None), Tensor):
            hooks.append(module.register_forward_pre_hook(note_input))
    parameter = next(network.parameters())
    network(parameter.new_zeros(1, 3, TRIAL_SIZE, TRIAL_SIZE))
    for hook in hooks:
        hook.remove()
    return pairs


def _fold(convolution: nn.Conv2d, norm: Any) -> None:
    convolution.weight, convolution.bias = fuse_conv_bn_weights(
        convolution.weight,
        convolution.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )
