import math

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from aligndetr.errors import UserError
from aligndetr.train.finite import DivergenceError, FiniteCheck


def some_terms(value: float = 1.0) -> dict[str, Tensor]:
    return {"main.0.class": torch.tensor(1.0), "main.0.l1": torch.tensor(value)}


def optimizer_of(weight: nn.Parameter) -> AdamW:
    return AdamW([weight], lr=0.1, weight_decay=0.0, fused=True)


@pytest.fixture
def weight() -> nn.Parameter:
    return nn.Parameter(torch.ones(3))


def check(weight: nn.Parameter, *, waits: bool = True) -> FiniteCheck:
    return FiniteCheck(optimizer_of(weight), waits=waits)


@pytest.mark.parametrize("waits", [True, False])
def test_finite_losses_and_gradients_pass(weight: nn.Parameter, waits: bool) -> None:
    finite = check(weight, waits=waits)
    finite.settle()
    for step in range(3):
        finite.note(some_terms(), [1], step=step)
        finite.conclude(torch.tensor(1e30), step=step)
    finite.settle()


def test_the_message_names_the_terms_and_the_images(weight: nn.Parameter) -> None:
    terms = {
        "main.0.class": torch.tensor(1.0),
        "main.1.class": torch.tensor(math.nan),
        "denoising.0.l1": torch.tensor(math.inf),
    }
    with pytest.raises(DivergenceError) as error:
        check(weight).note(terms, [12, 55], step=3)
    message = str(error.value)
    assert "training step 3: expected finite losses and gradients" in message
    assert "found main.1.class=nan, denoising.0.l1=inf; image ids of the batch: 12, 55" in message
    assert "lower training.learning_rate or set precision=fp32" in message
    assert "main.0.class" not in message
    assert "\n" not in message
    assert isinstance(error.value, UserError)


def test_an_infinite_gradient_names_the_images_of_all_batches(weight: nn.Parameter) -> None:
    finite = check(weight)
    finite.note(some_terms(), [7], step=1)
    finite.note(some_terms(), [8], step=1)
    with pytest.raises(DivergenceError, match=r"found gradient norm=inf; .* the batch: 7, 8;"):
        finite.conclude(torch.tensor(math.inf), step=1)


def train_step(finite: FiniteCheck, weight: nn.Parameter, optimizer: AdamW, loss: float) -> None:
    finite.note(some_terms(loss), [5], step=0)
    weight.grad = torch.full_like(weight, loss)
    finite.conclude(weight.grad.norm(), step=0)
    optimizer.step()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_without_waiting_the_update_is_skipped_and_the_error_comes_later(
    weight: nn.Parameter, value: float
) -> None:
    optimizer = optimizer_of(weight)
    finite = FiniteCheck(optimizer, waits=False)
    train_step(finite, weight, optimizer, 1.0)
    moved = weight.detach().clone()
    assert not torch.equal(moved, torch.ones(3))
    train_step(finite, weight, optimizer, value)
    assert torch.equal(weight, moved)
    with pytest.raises(DivergenceError, match=f"gradient norm={value}; image ids of the batch: 5;"):
        finite.note(some_terms(), [6], step=1)
    train_step(finite, weight, optimizer, 1.0)  # it can go on, for whoever catches the error
    assert not torch.equal(weight, moved)
    finite.settle()


def test_a_bad_last_step_is_found_when_it_is_settled(weight: nn.Parameter) -> None:
    optimizer = optimizer_of(weight)
    finite = FiniteCheck(optimizer, waits=False)
    train_step(finite, weight, optimizer, math.nan)
    with pytest.raises(DivergenceError, match=r"main\.0\.l1=nan"):
        finite.settle()
