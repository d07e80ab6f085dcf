import pytest
import torch
from torch.testing import assert_close

from aligndetr.kernels.softmax import short_softmax


@pytest.mark.parametrize("shape", [(0, 12), (3, 1), (2, 5, 4, 12), (7, 33), (0, 16), (5, 16)])
def test_it_equals_pytorchs_own(shape):
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 5
    assert_close(short_softmax(logits), logits.softmax(-1))


@pytest.mark.parametrize("size", [12, 16])
def test_steps_between_rows_do_not_matter(size: int):
    logits = torch.randn(3, 5, 2 * size, generator=torch.Generator().manual_seed(0))[..., size:]
    assert_close(short_softmax(logits), logits.softmax(-1))


@pytest.mark.parametrize("size", [6, 16])
def test_its_gradients_are_those_of_finite_differences(size: int):
    logits = torch.randn(3, 4, size, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(short_softmax, (logits,))


def test_large_logits_stay_finite():
    logits = torch.tensor([[1e4, 0.0, -1e4], [-1e4, -1e4, -1e4]], requires_grad=True)
    shares = short_softmax(logits)
    assert_close(shares, torch.tensor([[1.0, 0, 0], [1 / 3, 1 / 3, 1 / 3]]))
    (gradient,) = torch.autograd.grad(shares[:, 0].sum(), logits)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    logits = torch.randn(5, 12, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert_close(short_softmax(logits), logits.float().softmax(-1))


def test_a_bad_number_does_not_reach_other_rows():
    logits = torch.tensor([[0.0, float("nan")], [0.0, 0.0]])
    shares = short_softmax(logits)
    assert shares[0].isnan().all()
    assert_close(shares[1], torch.full((2,), 0.5))
