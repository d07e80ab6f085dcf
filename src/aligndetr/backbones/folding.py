"""Folding norm layers into the convolutions before them.

A norm with fixed statistics is a scale and a shift by channel; inside the convolution they cost
nothing, while as operations of their own they take most of a light backbone's time. Weights stay
where they are: the network runs without its norms on weights that are scaled on the way, and
gradients flow back through the scaling.
"""

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

TRIAL_SIZE = 64
"""Side of the image that finds out which norm follows which convolution."""


class Pair(NamedTuple):
    """The names of a convolution and of the norm that its result goes straight into."""

    convolution: str
    norm: str


class Folding:
    """A network without the norms that directly follow a convolution; others stay as they are."""

    def __init__(self, network: nn.Module) -> None:
        self._pairs = _pairs(network)
        self._skeleton = copy.deepcopy(network)
        for pair in self._pairs:
            norm = self._skeleton.get_submodule(pair.norm)
            self._skeleton.set_submodule(pair.norm, getattr(norm, "act", nn.Identity()))
            convolution = self._skeleton.get_submodule(pair.convolution)
            assert isinstance(convolution, nn.Conv2d)
            convolution.bias = nn.Parameter(torch.empty(convolution.out_channels))
        self._skeleton.to("meta")  # it has no weights of its own

    def weights(self, network: nn.Module) -> dict[str, Tensor]:
        """Return the tensors, by name, with which the network computes the same as `network`."""
        tensors: dict[str, Any] = {
            **dict(network.named_parameters()),
            **dict(network.named_buffers()),
        }
        for pair in self._pairs:
            norm: Any = network.get_submodule(pair.norm)
            scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
            weight, bias = f"{pair.convolution}.weight", f"{pair.convolution}.bias"
            tensors[weight] = tensors[weight] * scale[:, None, None, None]
            shift = tensors.get(bias, 0.0) - norm.running_mean
            tensors[bias] = norm.bias + shift * scale
            for name, _ in (*norm.named_parameters(), *norm.named_buffers()):
                del tensors[f"{pair.norm}.{name}"]
        return tensors

    def run(self, pixels: Tensor, weights: dict[str, Tensor], *, training: bool) -> Any:
        """Return what the network makes of pixels with these weights."""
        return functional_call(self._skeleton.train(training), weights, (pixels,))


def has_statistics(module: nn.Module) -> bool:
    """Return whether a module is a norm that keeps a mean and a variance: one that folds."""
    return isinstance(getattr(module, "running_var", None), Tensor)


@torch.no_grad()
def _pairs(network: nn.Module) -> list[Pair]:
    """Return which norms follow a convolution, as a small trial shows."""
    trial = copy.deepcopy(network).float().eval()  # its own: nothing happens to the network's
    names = {module: name for name, module in trial.named_modules()}
    makers: dict[int, str] = {}
    made: list[Tensor] = []  # kept, so that no other tensor takes their place in memory
    pairs: list[Pair] = []

    def note_result(module: nn.Module, _: Any, result: Tensor) -> None:
        makers[id(result)] = names[module]
        made.append(result)

    def note_input(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if id(inputs[0]) in makers:
            pairs.append(Pair(makers[id(inputs[0])], names[module]))

    for module in trial.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(note_result)
        elif has_statistics(module):
            module.register_forward_pre_hook(note_input)
    parameter = next(trial.parameters())
    trial(parameter.new_zeros(1, 3, TRIAL_SIZE, TRIAL_SIZE))
    return pairs
