"""The matrix products and convolutions of a network alone: what its time cannot fall below.

They are recorded while the network runs, and run again on numbers of the same shapes, strides and
type, without anything between them. What is fused with a convolution is left out.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tools.turns import Call

PRODUCTS = frozenset(
    {
        "aten::addmm",
        "aten::mm",
        "aten::bmm",
        "aten::baddbmm",
        "aten::linear",
        "aten::convolution",
        "aten::_scaled_dot_product_flash_attention_for_cpu",
    }
)
LINEAR = "mkldnn::_linear_pointwise"
"""A product with its bias and what follows (`aligndetr.layers.linear`); that is left out."""
FUSED = {
    "mkldnn::_convolution_pointwise": (0, 1),
    "mkldnn::_convolution_pointwise.binary": (0, 2),
    "mkldnn::_convolution_pointwise_.binary": (1, 2),
}
"""Convolutions with what follows them (`aligndetr.backbones.fusing`), and which argument of them is
the input, and which the weight; bias, padding, stride, dilation and groups come after it."""


class Recorder(TorchDispatchMode):
    """Notes the products that run while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = []
        self._made: dict[tuple[Any, ...], Tensor] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.name().split(".")[0] in PRODUCTS:
            self._note(func, args, kwargs)
        elif func.name() == LINEAR:
            self._note(func, (*args[:3], "none", [], ""), kwargs)
        elif places := FUSED.get(func.name()):
            self._note(torch.ops.aten.convolution.default, _unfused(args, *places), {})
        return func(*args, **kwargs)

    def _note(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        alike = tuple(self._alike(position, arg) for position, arg in enumerate(args))
        named = {name: self._alike(name, arg) for name, arg in kwargs.items()}
        self.calls.append((func, alike, named))

    def _alike(self, place: int | str, argument: Any) -> Any:
        """Return other numbers of the same layout; one tensor serves all calls of that layout."""
        if not isinstance(argument, Tensor):
            return argument
        shape, stride = argument.shape, argument.stride()
        key = (place, shape, stride, argument.dtype)
        if key not in self._made:
            # An axis of stride 0 is one number that is read again and again.
            base = [1 if step == 0 else size for size, step in zip(shape, stride, strict=True)]
            empty = torch.empty_strided(base, stride, dtype=argument.dtype)
            numbers = empty.normal_() if argument.is_floating_point() else empty.zero_()
            self._made[key] = numbers.expand(shape)
        return self._made[key]


def _unfused(args: tuple[Any, ...], maps: int, weight: int) -> tuple[Any, ...]:
    """Return the arguments of the plain convolution in a fused one."""
    bias, padding, stride, dilation, groups = args[weight + 1 : weight + 6]
    return (args[maps], args[weight], bias, stride, padding, dilation, False, [0, 0], groups)


def make_products(make: Callable[[], Call]) -> Call:
    """Return a call that runs only the products of the call that `make` makes."""
    call = make()
    call()  # the first time, the backbone is made ready as well
    with Recorder() as recorder:
        call()

    @torch.no_grad()
    def products() -> None:
        for func, args, kwargs in recorder.calls:
            func(*args, **kwargs)

    return products
