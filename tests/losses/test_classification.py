import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torch.testing import assert_close

from aligndetr.losses import ia_bce
from aligndetr.losses.classification import (
    IABCE,
    ClassificationLoss,
    Focal,
    WeightedBCE,
    at_least_float32,
)

EVERY_LOSS: list[WeightedBCE] = [Focal(), Focal(alpha=0.5, gamma=0), IABCE(), IABCE(gamma=0.5)]
NOTHING = tuple(torch.zeros(0, dtype=torch.int64) for _ in range(3))


def entries(*triples: tuple[int, int, int]) -> tuple[torch.Tensor, ...]:
    return torch.tensor(triples).unbind(1)


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))


def ia_bce_by_loops(logits, positive, iou, prime, alpha, gamma, clamp=0.01) -> float:
    """Algorithm 1, steps 3 and 5 to 7, entry by entry in Python floats."""
    pairs = {
        index: (u, w)
        for *index, u, w in zip(*(p.tolist() for p in positive), iou, prime, strict=True)
        for index in [tuple(index)]
    }
    total = 0.0
    for b, image in enumerate(logits.tolist()):
        for q, query in enumerate(image):
            for c, x in enumerate(query):
                score = math.exp(log_sigmoid(x))
                if (b, q, c) in pairs:
                    u, w = pairs[b, q, c]
                    t = w * max(score**alpha * u ** (1 - alpha), clamp)
                    total -= t * log_sigmoid(x) + (1 - t) * log_sigmoid(-x)
                else:
                    total -= score**gamma * log_sigmoid(-x)
    return total


def random_case(seed: int, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 5, 3, generator=generator, dtype=dtype) * 3
    positive = entries((0, 0, 1), (0, 4, 1), (1, 2, 0), (1, 3, 2))
    iou, prime = torch.rand(2, 4, generator=generator, dtype=dtype).unbind()
    return logits, positive, iou, prime


@pytest.mark.parametrize("loss", EVERY_LOSS)
@pytest.mark.parametrize("shape", [(0, 5, 3), (2, 0, 3), (2, 5, 0)])
def test_nothing_to_supervise_is_zero_with_a_gradient(loss, shape) -> None:
    logits = torch.zeros(shape, requires_grad=True)
    rows = loss(logits, NOTHING, torch.zeros(0), torch.zeros(0))
    rows.sum().backward()

    assert rows.tolist() == [0.0] * shape[0]
    assert logits.grad is not None


def test_without_positives_all_entries_are_background() -> None:
    logits = torch.tensor([[[0.0, 2.0]]], requires_grad=True)
    rows = IABCE(gamma=2)(logits, NOTHING, torch.zeros(0), torch.zeros(0))
    rows.sum().backward()

    s = 1 / (1 + math.exp(-2))
    expected = 0.25 * math.log(2) - s**2 * math.log(1 - s)
    assert rows.item() == pytest.approx(expected, rel=1e-6)
    assert logits.grad is not None
    assert (logits.grad > 0).all()


def test_ia_bce_of_one_positive_by_hand() -> None:
    # s = 0.5, u = 0.5: t = 0.5 for every alpha, so the loss is log 2.
    loss = ia_bce(torch.zeros(1, 1, 1), entries((0, 0, 0)), torch.tensor([0.5]))

    assert loss.item() == pytest.approx(math.log(2), rel=1e-6)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.floats(0, 1), st.sampled_from([0.0, 0.5, 1.5, 2.0]))
def test_ia_bce_equals_algorithm_1_entry_by_entry(seed, alpha, gamma) -> None:
    logits, positive, iou, prime = random_case(seed)
    ours = ia_bce(logits, positive, iou, prime=prime, alpha=alpha, gamma=gamma)
    theirs = ia_bce_by_loops(logits, positive, iou.tolist(), prime.tolist(), alpha, gamma)

    assert ours.item() == pytest.approx(theirs, rel=1e-9)


def test_focal_equals_its_definition_entry_by_entry() -> None:
    logits, positive, iou, _ = random_case(1)
    ours = Focal(alpha=0.3, gamma=1.5)(logits, positive, iou, torch.ones_like(iou))
    is_positive = torch.zeros_like(logits).index_put(positive, logits.new_tensor(1.0)).bool()
    s = logits.sigmoid()
    theirs = torch.where(
        is_positive, -0.3 * (1 - s) ** 1.5 * s.log(), -0.7 * s**1.5 * (1 - s).log()
    )

    assert_close(ours, theirs.sum(dim=(1, 2)))


@pytest.mark.parametrize("loss", EVERY_LOSS)
def test_a_positive_of_no_prime_weight_leaves_ordinary_targets(loss) -> None:
    logits, positive, iou, _ = random_case(2)
    zero = torch.zeros_like(iou)
    if isinstance(loss, Focal):  # nothing of the positive part is left: it is background
        assert_close(loss(logits, positive, iou, zero), loss(logits, NOTHING, zero[:0], zero[:0]))
    else:  # BCE(s, 0), unlike background without s^gamma
        x = logits[positive]
        kept = loss(logits.index_put(positive, x.new_tensor(-1e9)), positive, iou, zero)
        assert_close(
            loss(logits, positive, iou, zero).sum() - kept.sum(), -torch.sum((-x).sigmoid().log())
        )


@pytest.mark.parametrize("loss", EVERY_LOSS)
def test_gradients_equal_finite_differences(loss) -> None:
    logits, positive, iou, prime = random_case(3)
    quality = loss.quality(logits[positive], iou)

    assert torch.autograd.gradcheck(
        lambda x: loss(x, positive, quality, prime), logits.requires_grad_()
    )


def test_no_gradient_flows_through_the_quality_but_the_negative_weight_has_one() -> None:
    logits = torch.tensor([[[1.0, -1.0]]], requires_grad=True)
    iou = torch.tensor([0.6], requires_grad=True)
    ia_bce(logits, entries((0, 0, 0)), iou).backward()

    s, n = torch.tensor([1.0, -1.0]).sigmoid().tolist()
    t = s**0.25 * 0.6**0.75
    assert iou.grad is None
    assert logits.grad is not None
    # d BCE(s, t) / dx = s - t; d s^2 softplus(x) / dx = s^2 (2 (1 - s) softplus(x) + s).
    expected = [s - t, n**2 * (2 * (1 - n) * -math.log(1 - n) + n)]
    assert logits.grad.flatten().tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", EVERY_LOSS)
@pytest.mark.parametrize("size", [17.0, 80.0, 110.0, 200.0])
def test_loss_and_gradient_are_finite_and_exact_for_extreme_logits(loss, size) -> None:
    # The published sigmoid().log() is infinite from +17 on and NaN from -104 on.
    logits = torch.tensor([[[size, -size], [-size, size], [0.0, -size]]], requires_grad=True)
    exact = logits.detach().double().requires_grad_()
    positive = entries((0, 0, 0), (0, 1, 0))
    ones = torch.ones(2)
    quality = loss.quality(logits.detach()[positive], ones)
    rows = loss(logits, positive, quality, ones)
    rows.sum().backward()
    loss(exact, positive, quality.double(), ones.double()).sum().backward()

    assert torch.isfinite(rows).all()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert_close(logits.grad.double(), exact.grad, rtol=1e-5, atol=1e-7)


def test_half_precision_is_computed_in_float32_even_under_autocast() -> None:
    positive = entries((0, 0, 0), (0, 1, 0))
    logits = torch.tensor(
        [[[80.0, -80.0], [-80.0, 80.0]]], dtype=torch.bfloat16, requires_grad=True
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = ia_bce(logits, positive, torch.tensor([0.9, 0.1]))
    half.backward()
    full = ia_bce(logits.detach().float(), positive, torch.tensor([0.9, 0.1]))

    assert half.dtype == torch.float32
    assert_close(half.detach(), full)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert at_least_float32(torch.zeros(1, dtype=torch.float64)).dtype == torch.float64


def test_softplus_of_the_dense_part_is_exact_down_to_the_smallest_scores() -> None:
    logits = torch.linspace(-80, 200, 1001).view(-1, 1, 1)
    rows = IABCE(gamma=0)(logits, NOTHING, torch.zeros(0), torch.zeros(0))
    exact = torch.nn.functional.softplus(logits.double(), threshold=1000)

    assert_close(rows.double(), exact.flatten(), rtol=1e-6, atol=0)


def test_pieces_of_the_dense_part_add_up_to_the_whole(monkeypatch) -> None:
    logits, positive, iou, prime = random_case(4)
    logits.requires_grad_()
    whole = IABCE()(logits, positive, iou, prime)
    (gradient,) = torch.autograd.grad(whole.sum(), logits)
    monkeypatch.setattr("aligndetr.losses.chunks.CACHE_ELEMENTS", 15)
    pieces = IABCE()(logits, positive, iou, prime)
    (gradient_of_pieces,) = torch.autograd.grad(pieces.sum(), logits)

    assert_close(pieces, whole)
    assert_close(gradient_of_pieces, gradient)


def test_the_logits_are_left_as_they_were() -> None:
    logits, positive, iou, prime = random_case(5)
    before = logits.clone()
    ia_bce(logits, positive, iou, prime=prime)

    assert torch.equal(logits, before)


def test_a_second_derivative_is_refused_instead_of_wrong() -> None:
    logits = torch.zeros(1, 1, 1, requires_grad=True)
    rows = IABCE()(logits, NOTHING, torch.zeros(0), torch.zeros(0))

    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(rows.sum(), logits, create_graph=True)


def test_a_loss_is_told_by_its_type() -> None:
    adapter = TypeAdapter(ClassificationLoss)

    assert adapter.validate_python({"type": "ia_bce", "alpha": 0.5}) == IABCE(alpha=0.5)
    assert adapter.validate_python({"type": "focal"}) == Focal()
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        IABCE(alpha=1.5)
