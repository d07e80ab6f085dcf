"""The upper stages of a network alone, from the map of the last stage below them."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.func import functional_call

from aligndetr.backbones.fusing import FAILURES, TRIAL_SHAPE, Tracer

TOLERANCE = 1e-4
"""Both ways have to agree so well on a trial, relative to the norm of each map."""


def upper_part(network: nn.Module, level: int) -> fx.GraphModule:
    """Return what makes the maps after `level` from the map of that level; it shares the weights.

    It does what the network does in its present mode, training or evaluation. Raises one of
    `FAILURES` where the network's code depends on its input.
    """
    is_traced = isinstance(network, fx.GraphModule)
    whole = copy.deepcopy(network.graph) if is_traced else Tracer().trace(network)
    module = fx.GraphModule(network, whole)
    graph = module.graph
    (image,) = graph.find_nodes(op="placeholder")
    output = graph.output_node()
    with graph.inserting_before(image):
        place = graph.placeholder("map_below")
    maps = list(output.args[0])  # pyright: ignore[reportArgumentType]
    maps[level].replace_all_uses_with(place)
    output.args = (maps[level + 1 :],)
    for node in reversed(graph.nodes):  # batch norms count as impure where dead code is looked for
        if not node.users and node not in (place, output):
            graph.erase_node(node)
    if image in graph.nodes:
        raise ValueError("upper_part: expected maps from the level's, found some from the image")
    module.delete_all_unused_submodules()
    module.recompile()
    return module


class UpperParts:
    """The upper parts of a network, one for each mode, made when they are first run."""

    def __init__(self) -> None:
        self._parts: dict[tuple[int, bool], nn.Module] = {}

    def run(
        self, network: nn.Module, level: int, tensors: Mapping[str, Tensor], maps: Tensor
    ) -> Any:
        """Return the maps after `level`, made of the map of that level with tensors by name."""
        key = (level, network.training)
        if key not in self._parts:
            self._parts[key] = upper_part(network, level)
        part = self._parts[key]
        names = [name for name, _ in (*part.named_parameters(), *part.named_buffers())]
        return functional_call(part, {name: tensors[name] for name in names}, (maps,))


@torch.no_grad()
def can_be_cut(network: nn.Module, level: int) -> bool:
    """Whether `upper_part` computes the same as the whole network, and leaves its input alone."""
    if any(tensor.is_meta or isinstance(tensor, FakeTensor) for tensor in network.parameters()):
        return False
    trial = copy.deepcopy(network).float().cpu().eval()
    images = torch.randn(TRIAL_SHAPE, generator=torch.Generator().manual_seed(0))
    try:
        expected = list(trial(images))
        below = expected[level].clone()
        found = list(upper_part(trial, level)(below))
    except FAILURES:
        return False
    pairs = zip(found, expected[level + 1 :], strict=True)
    are_close = all((own - other).norm() <= TOLERANCE * other.norm() for own, other in pairs)
    return are_close and below.equal(expected[level])
