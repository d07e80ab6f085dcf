"""Calling numba kernels with whatever arrays are at hand."""

from collections.abc import Callable
from functools import cache
from typing import Any

from aligndetr.kernels.compiling import Kernel, compile_kernel


def call(kernel: Callable[..., object], *arguments: Any) -> None:
    """Call a kernel, which writes to its arguments; compiled once for each kind of them."""
    from numba import typeof  # takes a second to import

    _compiled(kernel, tuple(typeof(argument) for argument in arguments))(*arguments)


@cache
def _compiled(kernel: Any, types: tuple[Any, ...]) -> Kernel:
    return compile_kernel(kernel, types)
