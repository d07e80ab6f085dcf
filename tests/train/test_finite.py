import pytest
import torch

from aligndetr.errors import UserError
from aligndetr.train.finite import DivergenceError, check_gradient, check_terms


def test_finite_losses_and_gradients_pass() -> None:
    check_terms({"main.0.class": torch.tensor(1.0)}, [1], step=0)
    check_gradient(torch.tensor(1e30), [1], step=0)


def test_the_message_names_the_terms_and_the_images() -> None:
    terms = {
        "main.0.class": torch.tensor(1.0),
        "main.1.class": torch.tensor(float("nan")),
        "denoising.0.l1": torch.tensor(float("inf")),
    }
    with pytest.raises(DivergenceError) as error:
        check_terms(terms, [12, 55], step=3)
    message = str(error.value)
    assert "training step 3: expected finite losses" in message
    assert "found main.1.class=nan, denoising.0.l1=inf; image ids of the batch: 12, 55" in message
    assert "lower training.learning_rate or set precision=fp32" in message
    assert "main.0.class" not in message
    assert "\n" not in message
    assert isinstance(error.value, UserError)


def test_an_infinite_gradient_names_the_images() -> None:
    with pytest.raises(DivergenceError, match="found a norm of inf; image ids of the batch: 7;"):
        check_gradient(torch.tensor(float("inf")), [7], step=1)
