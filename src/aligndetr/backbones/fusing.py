"""Convolution, shortcut and activation as one operation, for inference on a CPU.

An activation or an addition of its own reads and writes whole maps, which costs a CPU about as much
as a small convolution does. oneDNN applies both to a convolution's result while that is in the
cache; torch has these operations for its compiler (`torch.ops.mkldnn`), and they need none.
"""

import operator
from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import pad_same
from torch import Tensor, fx, nn

from aligndetr.backbones.depthwise import DepthwiseConv2d

TRIAL_SHAPE = (2, 3, 64, 96)
"""Of the images on which both networks have to agree, ..."""
TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
"""... so well, relative to the norm of each map; of other types nothing is fused."""
ADDITIONS = (operator.add, operator.iadd, torch.add)
FAILURES = (RuntimeError, ValueError, TypeError, AssertionError, AttributeError)
"""What tracing raises where a network's code depends on its input, and a network on a wrong one."""

Activation = tuple[str, list[float]]
"""What oneDNN calls an activation, and the numbers that it takes."""
NO_ACTIVATION: Activation = ("none", [])


class FusedConvolution(nn.Module):
    """A convolution with fixed weights, a shortcut that is added, and an activation; no graph."""

    overwrites = False
    """Whether the sum takes the shortcut's memory."""

    def __init__(self, convolution: nn.Conv2d, activation: Activation) -> None:
        """Take a convolution and what follows it."""
        super().__init__()
        self._is_same = isinstance(convolution, Conv2dSame) or (
            isinstance(convolution, DepthwiseConv2d) and convolution.is_same
        )
        self._kernel = convolution.kernel_size
        self._stride, self._dilation = convolution.stride, convolution.dilation
        self._name, self._numbers = activation
        padding = (0, 0) if self._is_same else convolution.padding
        self._places = (padding, self._stride, self._dilation, convolution.groups)
        self.weight, self.bias = convolution.weight, convolution.bias

    def forward(self, maps: Tensor, shortcut: Tensor | None = None) -> Tensor:
        """Return the activation of the convolution of maps (B, C, H, W) plus the shortcut."""
        if self._is_same:
            maps = pad_same(maps, list(self._kernel), list(self._stride), list(self._dilation))
        operations = torch.ops.mkldnn
        weights = (self.weight, self.bias, *self._places)
        if shortcut is None:
            run = operations._convolution_pointwise.default
            return run(maps, *weights, self._name, self._numbers, "")
        name = None if self._name == "none" else self._name
        rest = (*weights, "add", 1.0, name, self._numbers, "")
        if self.overwrites:
            return operations._convolution_pointwise_.binary(shortcut, maps, *rest)
        return operations._convolution_pointwise.binary(maps, shortcut, *rest)

    def extra_repr(self) -> str:
        """Return what follows the convolution, for printing."""
        return f"kernel={self._kernel}, stride={self._stride}, activation={self._name}"


def fused(network: nn.Module) -> nn.Module:
    """Return a network in evaluation mode that computes the same by fused convolutions.

    They share its weights. The network itself comes back where nothing can be fused: on other
    devices than a CPU, for types without such operations, where its code depends on its input.
    """
    weight = next(network.parameters())
    tolerance = TOLERANCES.get(weight.dtype)
    if weight.device.type != "cpu" or tolerance is None or not torch.backends.mkldnn.is_available():
        return network
    images = torch.randn(TRIAL_SHAPE, generator=torch.Generator().manual_seed(0))
    images = images.to(weight.dtype, memory_format=torch.channels_last)
    with torch.no_grad():
        try:
            candidate = _with_fused_convolutions(network)
            found, expected = list(candidate(images)), list(network(images))
        except FAILURES:
            return network
    if len(found) != len(expected):
        return network
    pairs = zip(found, expected, strict=True)
    are_equal = all((own - other).norm() <= tolerance * other.norm() for own, other in pairs)
    return candidate if are_equal else network


def _with_fused_convolutions(network: nn.Module) -> nn.Module:
    graph = Tracer().trace(network)
    module = fx.GraphModule(network, graph)
    for node in list(graph.nodes):
        if isinstance(_layer(module, node), nn.Identity):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    for node in list(graph.nodes):
        if _is_plain(_layer(module, node)):
            _fuse(module, node)
    for node in module.graph.nodes:  # now that each has its place
        operation = _called(module, node)
        if isinstance(operation, FusedConvolution) and len(node.args) > 1:
            operation.overwrites = _is_last_reader(module, node)
    module.delete_all_unused_submodules()
    module.recompile()
    return module


class Tracer(fx.Tracer):
    """Looks into modules that have parts, and takes layers as they are."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is called as it is."""
        del module_qualified_name
        return next(m.children(), None) is None


def _fuse(module: fx.GraphModule, node: fx.Node) -> None:
    """Put one operation in the place of a convolution and of what alone reads its result."""
    chain, inputs = [node], [node.args[0]]
    reader = _only_reader(node)
    shortcut = None if reader is None else _shortcut(reader, node)
    if reader is not None and shortcut is not None:
        chain.append(reader)
        inputs.append(shortcut)
        reader = _only_reader(reader)
    activation = None if reader is None else _activation(_layer(module, reader))
    if reader is not None and activation is not None:
        chain.append(reader)
    convolution: Any = _layer(module, node)
    name = f"fused_{node.name}"
    module.add_submodule(name, FusedConvolution(convolution, activation or NO_ACTIVATION))
    with module.graph.inserting_after(chain[-1]):
        operation = module.graph.call_module(name, tuple(inputs))
    chain[-1].replace_all_uses_with(operation)
    for link in reversed(chain):
        module.graph.erase_node(link)


def _layer(module: nn.Module, node: fx.Node) -> nn.Module | None:
    """Return the layer that a node calls with one input, if it does."""
    if node.op != "call_module" or len(node.args) != 1 or node.kwargs:
        return None
    return module.get_submodule(str(node.target))


def _is_plain(layer: nn.Module | None) -> bool:
    """Whether a layer is a convolution whose padding is zeros."""
    return (
        type(layer) in (nn.Conv2d, Conv2dSame, DepthwiseConv2d)
        and isinstance(layer, nn.Conv2d)
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
    )


def _only_reader(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _shortcut(addition: fx.Node, term: fx.Node) -> fx.Node | None:
    """Return what is added to a term, if that is all that happens.

    What is changed in place could be read elsewhere; it may be the term, but nothing else.
    """
    if addition.op != "call_function" or addition.target not in ADDITIONS or addition.kwargs:
        return None
    first, second = addition.args
    if first is term and isinstance(second, fx.Node) and second is not term:
        return second
    is_in_place = addition.target is operator.iadd
    return first if isinstance(first, fx.Node) and first is not term and not is_in_place else None


def _is_last_reader(module: nn.Module, operation: fx.Node) -> bool:
    """Whether the memory of an operation's shortcut is its own, and needed by nobody afterwards.

    Nothing but convolutions may read it: others could return a view of it. One that reads it as
    its input, too, needs it while it writes.
    """
    maps, shortcut = operation.args
    assert isinstance(shortcut, fx.Node)
    seen = (shortcut, *shortcut.users)
    if maps is shortcut or not all(isinstance(_called(module, n), FusedConvolution) for n in seen):
        return False
    order = {node: place for place, node in enumerate(operation.graph.nodes)}
    return all(order[reader] <= order[operation] for reader in shortcut.users)


def _called(module: nn.Module, node: fx.Node) -> nn.Module | None:
    return module.get_submodule(str(node.target)) if node.op == "call_module" else None


def _activation(layer: nn.Module | None) -> Activation | None:
    match layer:
        case nn.Hardtanh():  # ReLU6 is one
            return "hardtanh", [float(layer.min_val), float(layer.max_val)]
        case nn.ReLU():
            return "relu", []
        case nn.SiLU():
            return "swish", []
        case nn.Hardswish():
            return "hardswish", []
        case _:
            return None
