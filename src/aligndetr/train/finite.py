"""Stopping before a loss or gradient that is not finite reaches the weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.optim import Optimizer

from aligndetr.errors import UserError


class DivergenceError(UserError):
    """The training has left the finite numbers; the weights are those of the step before."""


REMEDY = "the weights are as before this step; lower training.learning_rate or set precision=fp32"


@dataclass(frozen=True)
class _Numbers:
    """What is finite in a good step: loss terms by name, then the norm of the gradients.

    `event` tells when they have arrived, where they are still on their way from a device.
    """

    values: Tensor
    names: tuple[str, ...]
    image_ids: tuple[int, ...]
    step: int
    event: torch.Event | None = None


class FiniteCheck:
    """Checks losses and gradients of every step before the weights change.

    Where an accelerator would have to be waited for, the fused optimizer itself skips an update
    that is not finite, and the error comes with the next step, or with `settle`.
    """

    def __init__(self, optimizer: Optimizer, *, waits: bool) -> None:
        """Take whether to look at once, as on a CPU; else the optimizer must be a fused one."""
        self._optimizer, self._waits = optimizer, waits
        self._terms: list[tuple[str, Tensor]] = []
        self._image_ids: list[int] = []
        self._arriving: _Numbers | None = None

    def note(self, terms: Mapping[str, Tensor], image_ids: Sequence[int], *, step: int) -> None:
        """Take the loss terms of a batch, named `group.layer.term`; several batches make a step.

        Raises:
            DivergenceError: Some are not finite, or were not in the step before.
        """
        self.settle()
        self._terms += [(name, value.detach()) for name, value in terms.items()]
        self._image_ids += image_ids
        if self._waits:
            _check(self._numbers(step))

    def conclude(self, norm: Tensor, *, step: int) -> None:
        """Take the norm of the gradients of the step, just before the weights change.

        Raises:
            DivergenceError: It is not finite.
        """
        self._terms.append(("gradient norm", norm.detach()))
        numbers = self._numbers(step)
        self._terms, self._image_ids = [], []
        if self._waits:
            _check(numbers)
            return
        skips = (~numbers.values.isfinite().all()).float()
        if torch.distributed.is_initialized():  # all processes skip, or none
            torch.distributed.all_reduce(skips, torch.distributed.ReduceOp.MAX)
        self._optimizer.found_inf = skips  # pyright: ignore[reportAttributeAccessIssue]
        values = numbers.values.to("cpu", non_blocking=True)
        event = None
        if norm.device.type != "cpu":
            event = torch.Event(norm.device)
            event.record()
        self._arriving = replace(numbers, values=values, event=event)

    def settle(self) -> None:
        """Look at the numbers of the step before.

        Raises:
            DivergenceError: Some were not finite.
        """
        numbers, self._arriving = self._arriving, None
        if numbers is not None:
            _check(numbers)

    def _numbers(self, step: int) -> _Numbers:
        names, values = zip(*self._terms, strict=True)
        return _Numbers(torch.stack(values), names, tuple(self._image_ids), step)


def _check(numbers: _Numbers) -> None:
    """Raise a DivergenceError unless all are finite."""
    if numbers.event is not None:
        numbers.event.synchronize()
    is_finite = numbers.values.isfinite().tolist()
    if all(is_finite):
        return
    found = ", ".join(
        f"{name}={value}"
        for name, value, is_good in zip(
            numbers.names, numbers.values.tolist(), is_finite, strict=True
        )
        if not is_good
    )
    raise DivergenceError(
        f"training step {numbers.step}: expected finite losses and gradients, found {found}; "
        f"image ids of the batch: {', '.join(map(str, numbers.image_ids))}; {REMEDY}"
    )
