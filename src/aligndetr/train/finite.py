"""Stopping before a loss or gradient that is not finite reaches the weights."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from aligndetr.errors import UserError


class DivergenceError(UserError):
    """The training has left the finite numbers; the weights are those of the step before."""


REMEDY = "the weights are as before this step; lower training.learning_rate or set precision=fp32"


def check_terms(terms: Mapping[str, Tensor], image_ids: Sequence[int], *, step: int) -> None:
    """Check the loss terms of a batch, which are named `group.layer.term`.

    Raises:
        DivergenceError: Some are not finite; says which, and in which images.
    """
    values = torch.stack([value.detach() for value in terms.values()])
    if bool(values.isfinite().all()):
        return
    found = ", ".join(
        f"{name}={value}"
        for name, value, is_finite in zip(
            terms, values.tolist(), values.isfinite().tolist(), strict=True
        )
        if not is_finite
    )
    raise DivergenceError(
        f"training step {step}: expected finite losses, found {found}; "
        f"{_images(image_ids)}; {REMEDY}"
    )


def check_gradient(norm: Tensor, image_ids: Sequence[int], *, step: int) -> None:
    """Check the norm of the gradients of a batch.

    Raises:
        DivergenceError: It is not finite.
    """
    if not bool(norm.isfinite()):
        raise DivergenceError(
            f"training step {step}: expected a finite gradient, found a norm of {norm.item()}; "
            f"{_images(image_ids)}; {REMEDY}"
        )


def _images(image_ids: Sequence[int]) -> str:
    return f"image ids of the batch: {', '.join(map(str, image_ids))}"
