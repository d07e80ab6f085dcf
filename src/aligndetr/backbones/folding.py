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

from aligndetr.backbones.cutting import UpperParts

TRIAL_SIZE = 64
"""Side of the image that finds out which norm follows which convolution."""


class Pair(NamedTuple):
    """The names of a convolution and of the norm that its result goes straight into."""

    convolution: str
    norm: str


class Folding:
    """A network without the norms that directly follow a convolution; others stay as they are."""

    def __init__(self, network: nn.Module) -> None:
        """Find the norms by a small trial; where that is impossible, or wrong, none is folded."""
        trial = _trial(network)
        image = torch.randn(1, 3, TRIAL_SIZE, TRIAL_SIZE, generator=torch.Generator())
        self._pairs: list[Pair] = []
        try:
            pairs, expected = _pairs(trial, image)
        except (RuntimeError, ValueError, AssertionError):  # it takes no image of this size
            pairs, expected = [], []
        self._take(trial, pairs)
        with torch.no_grad():
            found = self.run(image, self.weights(trial), training=False) if pairs else []
        if not all(map(_are_close, found, expected)):  # somebody else reads a convolution's result
            self._take(trial, [])

    @property
    def is_empty(self) -> bool:
        """Whether no norm is folded."""
        return not self._pairs

    def _take(self, network: nn.Module, pairs: list[Pair]) -> None:
        self._pairs = pairs
        self._skeleton = copy.deepcopy(network)
        for pair in pairs:
            norm = self._skeleton.get_submodule(pair.norm)
            self._skeleton.set_submodule(pair.norm, getattr(norm, "act", nn.Identity()))
            convolution = self._skeleton.get_submodule(pair.convolution)
            assert isinstance(convolution, nn.Conv2d)
            convolution.bias = nn.Parameter(torch.empty(convolution.out_channels))
        self._skeleton.to("meta")  # it has no weights of its own
        self._uppers = UpperParts()

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

    def run(
        self,
        pixels: Tensor,
        weights: dict[str, Tensor],
        *,
        training: bool,
        below: int | None = None,
    ) -> Any:
        """Return what the network makes of pixels with these weights; not from several threads.

        With `below`, what its upper part makes of the map of that level in place of pixels.
        """
        skeleton = self._skeleton.train(training)
        if below is None:
            return functional_call(skeleton, weights, (pixels,))
        return self._uppers.run(skeleton, below, weights, pixels)

    def with_weights(self, weights: dict[str, Tensor]) -> nn.Module:
        """Return a network of its own that has these weights, in evaluation mode."""
        network = copy.deepcopy(self._skeleton)
        network.load_state_dict(weights, strict=False, assign=True)
        return network.eval()


def has_statistics(module: nn.Module) -> bool:
    """Return whether a module is a norm that keeps a mean and a variance: one that folds."""
    return isinstance(getattr(module, "running_var", None), Tensor)


@torch.no_grad()
def _trial(network: nn.Module) -> nn.Module:
    """Return a copy whose norms all do something, to try out what becomes of them."""
    trial = copy.deepcopy(network).float().cpu().eval()
    generator = torch.Generator().manual_seed(0)
    for module in trial.modules():
        if has_statistics(module):
            mean, variance = module.get_buffer("running_mean"), module.get_buffer("running_var")
            mean.normal_(0, 0.1, generator=generator)
            variance.uniform_(0.5, 2, generator=generator)
    return trial


@torch.no_grad()
def _pairs(trial: nn.Module, image: Tensor) -> tuple[list[Pair], list[Tensor]]:
    """Return which norms follow a convolution, and the maps of the image."""
    names = {module: name for name, module in trial.named_modules()}
    makers: dict[int, str] = {}
    made: list[Tensor] = []  # kept, so that no other tensor takes their place in memory
    pairs: list[Pair] = []

    def note_result(module: nn.Module, _: Any, result: Tensor) -> None:
        makers[id(result)] = names[module]
        made.append(result)

    def note_input(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if id(inputs[0]) in makers and _is_foldable(module):
            pairs.append(Pair(makers[id(inputs[0])], names[module]))

    hooks = [
        module.register_forward_hook(note_result)
        if isinstance(module, nn.Conv2d)
        else module.register_forward_pre_hook(note_input)
        for module in trial.modules()
        if isinstance(module, nn.Conv2d) or has_statistics(module)
    ]
    maps = list(trial(image))
    for hook in hooks:
        hook.remove()
    return pairs, maps


def _is_foldable(norm: nn.Module) -> bool:
    """Whether a norm is a scale and a shift, with at most an activation behind."""
    has_scale = isinstance(norm.weight, Tensor) and isinstance(norm.bias, Tensor)
    return has_scale and isinstance(getattr(norm, "drop", None) or nn.Identity(), nn.Identity)


def _are_close(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).norm() <= 1e-3 * expected.norm())
