import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torch.testing import assert_close

from aligndetr.kernels.scores import at_least_float32
from aligndetr.losses import ia_bce
from aligndetr.losses.bce import Matched, WeightedBCE
from aligndetr.losses.classification import (
    IABCE,
    ClassificationLoss,
    DualWeighting,
    Focal,
    GIoUAware,
    IABCEVariant,
    MatchabilityAware,
    MutualSupervision,
    PositionSupervised,
    QualityFocal,
    SoftmaxCE,
    TaskAligned,
    Varifocal,
)

TABLE_B: Any = (
    ("(1-s)^2", "0"),
    ("1", "0"),
    ("t", "0"),
    ("(t-s)^2", "(t-s)^2"),
    ("(t-s)^2", "(1-t)s^2"),
    ("t", "1-t"),
)
EVERY_LOSS: list[WeightedBCE] = [
    Focal(),
    Focal(alpha=0.5, gamma=0),
    QualityFocal(),
    QualityFocal(gamma=1),
    Varifocal(),
    Varifocal(iou_weighted=False),
    TaskAligned(),
    MutualSupervision(),
    DualWeighting(),
    IABCE(),
    IABCE(gamma=0.5),
    *(IABCEVariant(w_pos=w_pos, w_neg=w_neg) for w_pos, w_neg in TABLE_B),
    MatchabilityAware(),
    PositionSupervised(),
    GIoUAware(),
]
NOTHING = tuple(torch.zeros(0, dtype=torch.int64) for _ in range(3))


def entries(*triples: tuple[int, int, int]) -> tuple[torch.Tensor, ...]:
    return torch.tensor(triples).unbind(1)


def matched_at(logits, positive, iou, giou=None, bag=None) -> Matched:
    """The positive entries of `logits`; each an object of its own unless `bag` says otherwise."""
    return Matched(
        positive,
        at_least_float32(logits.detach()[positive]),
        iou,
        iou if giou is None else giou,
        torch.arange(len(iou)) if bag is None else bag,
    )


def rows_of(loss, logits, positive, iou, prime, giou=None, bag=None) -> torch.Tensor:
    """The loss of each row, with the quality that the loss itself sees."""
    m = matched_at(logits, positive, iou, giou, bag)
    return loss(logits, m, loss.quality(m), prime)


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
    rows = rows_of(loss, logits, NOTHING, torch.zeros(0), torch.zeros(0))
    rows.sum().backward()

    assert rows.tolist() == [0.0] * shape[0]
    assert logits.grad is not None


def test_without_positives_all_entries_are_background() -> None:
    logits = torch.tensor([[[0.0, 2.0]]], requires_grad=True)
    rows = rows_of(IABCE(gamma=2), logits, NOTHING, torch.zeros(0), torch.zeros(0))
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


@settings(max_examples=200)
@given(st.integers(0, 10_000), st.floats(0, 1), st.sampled_from([0.0, 0.5, 1.5, 2.0]))
def test_ia_bce_equals_algorithm_1_entry_by_entry(seed, alpha, gamma) -> None:
    logits, positive, iou, prime = random_case(seed)
    ours = ia_bce(logits, positive, iou, prime=prime, alpha=alpha, gamma=gamma)
    theirs = ia_bce_by_loops(logits, positive, iou.tolist(), prime.tolist(), alpha, gamma)

    assert ours.item() == pytest.approx(theirs, rel=1e-9)


def test_ia_bce_of_one_image_is_that_of_a_batch_of_one() -> None:
    logits = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    one, batch = logits.requires_grad_(), logits.detach()[None].requires_grad_()
    query, label = torch.tensor([0, 4, 5]), torch.tensor([2, 1, 2])
    iou = torch.tensor([0.2, 0.9, 0.5], dtype=torch.float64)
    for x, entry in ((one, (query, label)), (batch, (torch.zeros_like(query), query, label))):
        ia_bce(x, entry, iou).backward()
    assert one.grad is not None
    assert batch.grad is not None
    assert torch.equal(one.grad, batch.grad[0])
    with pytest.raises(ValueError, match="an index for each dimension of logits, 2, found 3"):
        ia_bce(one, (query, query, label), iou)


def test_focal_equals_its_definition_entry_by_entry() -> None:
    logits, positive, iou, _ = random_case(1)
    ours = rows_of(Focal(alpha=0.3, gamma=1.5), logits, positive, iou, torch.ones_like(iou))
    is_positive = torch.zeros_like(logits).index_put(positive, logits.new_tensor(1.0)).bool()
    s = logits.sigmoid()
    theirs = torch.where(
        is_positive, -0.3 * (1 - s) ** 1.5 * s.log(), -0.7 * s**1.5 * (1 - s).log()
    )

    assert_close(ours, theirs.sum(dim=(1, 2)))


def test_a_positive_without_prime_weight_is_background_in_focal_loss() -> None:
    logits, positive, iou, _ = random_case(2)
    zero = torch.zeros_like(iou)

    assert_close(
        rows_of(Focal(), logits, positive, iou, zero),
        rows_of(Focal(), logits, NOTHING, zero[:0], zero[:0]),
    )


def test_a_positive_without_prime_weight_is_plain_bce_in_ia_bce() -> None:
    logits, positive, iou, _ = random_case(2)
    zero = torch.zeros_like(iou)
    x = logits[positive]
    silent = logits.index_put(positive, x.new_tensor(-1e9))
    difference = rows_of(IABCE(), logits, positive, iou, zero) - rows_of(
        IABCE(), silent, positive, iou, zero
    )

    assert_close(difference.sum(), -torch.sum((-x).sigmoid().log()))  # unlike s^gamma BCE(s, 0)


def geometric(s: float, u: float) -> float:
    return s**0.25 * u**0.75


def focused(s: float, t: float, gamma: float = 2.0) -> tuple[float, float]:
    return abs(t - s) ** gamma * t, abs(t - s) ** gamma * (1 - t)


def dual(s: float, u: float) -> tuple[float, float]:
    """One candidate: all of the positive weight is its own."""
    return 1.0, (1.0 if u < 0.5 else (1 - u * u) / 0.75) * s * s


def of_table_b(w_pos, w_neg):
    return IABCEVariant(w_pos=w_pos, w_neg=w_neg)


ROWS = [
    # (loss, weights of a positive of score s, IoU u and GIoU g, weight of background of score s)
    (Focal(), lambda s, u, g: (0.25 * (1 - s) ** 2, 0.0), lambda s: 0.75 * s * s),
    (QualityFocal(), lambda s, u, g: focused(s, u), lambda s: s * s),
    (QualityFocal(gamma=1), lambda s, u, g: focused(s, u, 1), lambda s: s),
    (Varifocal(), lambda s, u, g: (u * u, u * (1 - u)), lambda s: 0.75 * s * s),
    (Varifocal(iou_weighted=False), lambda s, u, g: (u, 1 - u), lambda s: 0.75 * s * s),
    (TaskAligned(), lambda s, u, g: focused(s, u), lambda s: s * s),  # one positive: t = u
    (
        MutualSupervision(),
        lambda s, u, g: (
            (s - geometric(s, u)) ** 2 * geometric(s, u),
            s * s * (1 - geometric(s, u)) ** 4,
        ),
        lambda s: s * s,
    ),
    (DualWeighting(), lambda s, u, g: dual(s, u), lambda s: s * s),
    (IABCE(), lambda s, u, g: (geometric(s, u), 1 - geometric(s, u)), lambda s: s * s),
    (of_table_b("(1-s)^2", "0"), lambda s, u, g: ((1 - s) ** 2, 0), lambda s: s * s),
    (of_table_b("1", "0"), lambda s, u, g: (1, 0), lambda s: s * s),
    (of_table_b("t", "0"), lambda s, u, g: (geometric(s, u), 0), lambda s: s * s),
    (
        of_table_b("(t-s)^2", "(t-s)^2"),
        lambda s, u, g: ((geometric(s, u) - s) ** 2, (geometric(s, u) - s) ** 2),
        lambda s: s * s,
    ),
    (
        of_table_b("(t-s)^2", "(1-t)s^2"),
        lambda s, u, g: ((geometric(s, u) - s) ** 2, (1 - geometric(s, u)) * s * s),
        lambda s: s * s,
    ),
    (MatchabilityAware(), lambda s, u, g: (u**1.5, 1 - u**1.5), lambda s: s**1.5),
    (
        PositionSupervised(),  # one positive an image: t = 1
        lambda s, u, g: (0.25 * (1 - s) ** 2, 0.0),
        lambda s: 0.75 * s * s,
    ),
    (
        GIoUAware(),
        lambda s, u, g: tuple(0.25 * w for w in focused(s, (g + 1) / 2)),
        lambda s: 0.75 * s * s,
    ),
]


@pytest.mark.parametrize(("loss", "weights", "background"), ROWS)
@pytest.mark.parametrize("iou", [0.3, 0.9])
def test_each_loss_is_its_row_of_the_tables(loss, weights, background, iou) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 2, generator=generator, dtype=torch.float64) * 2
    positive = entries((0, 1, 0), (1, 2, 1))
    u = torch.tensor([iou, iou], dtype=torch.float64)
    rows = rows_of(loss, logits, positive, u, torch.ones_like(u), giou=u - 0.2)

    for row, query, label in zip(*(index.tolist() for index in positive), strict=True):
        expected = 0.0
        for q in range(3):
            for c in range(2):
                x = logits[row, q, c].item()
                s = math.exp(log_sigmoid(x))
                if (q, c) == (query, label):
                    w_pos, w_neg = weights(s, iou, iou - 0.2)
                    expected -= w_pos * log_sigmoid(x) + w_neg * log_sigmoid(-x)
                else:
                    expected -= background(s) * log_sigmoid(-x)
        assert rows[row].item() == pytest.approx(expected, rel=1e-9)


def test_a_varifocal_positive_of_iou_zero_is_background() -> None:
    logits, positive, iou, prime = random_case(6)
    apart = torch.zeros_like(iou)
    nothing = apart[:0]

    assert_close(
        rows_of(Varifocal(), logits, positive, apart, prime),
        rows_of(Varifocal(), logits, NOTHING, nothing, nothing),
    )


def test_task_aligned_quality_is_scaled_to_the_largest_iou_of_each_object() -> None:
    x = torch.zeros(4)  # scores of 1/2
    u = torch.tensor([0.8, 0.4, 0.5, 0.0])
    bag = torch.tensor([7, 7, 3, 5])
    nowhere = (bag, bag, bag)

    quality = TaskAligned().quality(Matched(nowhere, x, u, u, bag))
    assert quality.tolist() == pytest.approx([0.8, 0.8 / 2**6, 0.5, 0.0])


def test_position_supervised_quality_is_scaled_to_one_in_each_image() -> None:
    u = torch.tensor([0.8, 0.4, 0.5])
    row = torch.tensor([0, 0, 1])
    quality = PositionSupervised().quality(Matched((row, row, row), u, u, u, torch.arange(3)))

    assert quality.tolist() == pytest.approx([1.0, 0.25, 1.0])


def test_dual_weights_rank_the_candidates_of_an_object() -> None:
    x = torch.zeros(4)
    u = torch.tensor([0.9, 0.7, 0.4, 0.6])  # three candidates of one object, one of another
    bag = torch.tensor([0, 0, 0, 1])
    m = Matched((bag, bag, bag), x, u, u, bag)
    loss = DualWeighting(gamma=0)
    w_pos, w_neg = loss.weights(m, loss.quality(m))

    raw = [math.exp(5 * t) * t for t in (0.5 * v**5 for v in (0.9, 0.7, 0.4))]
    assert w_pos[:3].tolist() == pytest.approx([w / sum(raw) for w in raw])
    low = (1 - 0.81) / 0.75
    middle = ((1 - 0.49) / 0.75 - low) / (1 - low)
    assert w_neg.tolist() == pytest.approx([0.0, middle, 1.0, (1 - 0.36) / 0.75], abs=1e-6)
    assert w_pos[3].item() == pytest.approx(1.0)


def test_softmax_cross_entropy_equals_torchs_weighted_mean() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 4, 4, generator=generator, dtype=torch.float64)  # 3 classes, nothing
    positive = entries((0, 1, 2), (1, 0, 0), (1, 3, 2))
    loss, iou = SoftmaxCE(no_object=0.2), torch.ones(3)
    rows = rows_of(loss, logits, positive, iou, torch.ones(3, dtype=torch.float64))
    total = loss.normaliser(torch.tensor([3.0]), queries=8, total=5.0)

    labels = torch.full((2, 4), 3).index_put(positive[:2], positive[2])
    weights = torch.tensor([1.0, 1.0, 1.0, 0.2], dtype=torch.float64)
    expected = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, weights)
    assert_close(rows.sum() / total, expected.reshape(1), check_dtype=False)


def test_softmax_cross_entropy_of_nothing_has_a_gradient() -> None:
    logits = torch.zeros(0, 4, 3, requires_grad=True)
    rows_of(SoftmaxCE(), logits, NOTHING, torch.zeros(0), torch.zeros(0)).sum().backward()

    assert logits.grad is not None


@pytest.mark.parametrize("loss", [loss for loss in EVERY_LOSS if not loss.detach_background])
def test_gradients_equal_finite_differences(loss) -> None:
    logits, positive, iou, prime = random_case(3)
    m = matched_at(logits, positive, iou, giou=iou - 0.1, bag=torch.tensor([0, 0, 1, 1]))
    quality = loss.quality(m)

    assert torch.autograd.gradcheck(lambda x: loss(x, m, quality, prime), logits.requires_grad_())


def test_the_weight_of_background_is_a_constant_in_the_matchability_aware_loss() -> None:
    logits = torch.tensor([[[1.0, 2.0]]], requires_grad=True)
    u = torch.tensor([0.6])
    rows_of(MatchabilityAware(), logits, entries((0, 0, 1)), u, torch.ones(1)).sum().backward()

    n, s = torch.tensor([1.0, 2.0]).sigmoid().tolist()
    expected = [n**1.5 * n, s - 0.6**1.5]  # d softplus(x) / dx = s
    assert logits.grad is not None
    assert logits.grad.flatten().tolist() == pytest.approx(expected, rel=1e-5)


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
    rows = rows_of(loss, logits, positive, ones, ones)
    rows.sum().backward()
    rows_of(loss, exact, positive, ones.double(), ones.double()).sum().backward()

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


def test_the_logits_are_left_as_they_were() -> None:
    logits, positive, iou, prime = random_case(5)
    before = logits.clone()
    ia_bce(logits, positive, iou, prime=prime)

    assert torch.equal(logits, before)


def test_a_loss_is_told_by_its_type() -> None:
    adapter = TypeAdapter(ClassificationLoss)

    assert adapter.validate_python({"type": "ia_bce", "alpha": 0.5}) == IABCE(alpha=0.5)
    assert adapter.validate_python({"type": "focal"}) == Focal()
    assert adapter.validate_python({"type": "tood"}) == TaskAligned()
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        IABCE(alpha=1.5)


def test_a_query_that_answers_for_two_objects_has_both_gradients() -> None:
    logits = torch.zeros(1, 2, 3, dtype=torch.float64, requires_grad=True)
    positive = entries((0, 1, 2), (0, 1, 2))
    iou = torch.tensor([0.9, 0.3], dtype=torch.float64)
    quality = torch.tensor([geometric(0.5, 0.9), geometric(0.5, 0.3)])
    ia_bce(logits, positive, iou).backward()

    assert logits.grad is not None
    expected = float((0.5 - quality).sum())  # of BCE(s, t) each: s - t
    assert logits.grad[0, 1, 2].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_around_ia_bce_changes_nothing(dtype) -> None:
    logits, nothing = torch.full((1, 900, 80), 3.0), torch.zeros(0)
    expected = ia_bce(logits, NOTHING, nothing)
    with torch.autocast("cpu", dtype=dtype):
        found = ia_bce(logits, NOTHING, nothing)

    assert_close(found, expected)


def test_ia_bce_takes_other_floats_and_refuses_other_shapes() -> None:
    logits, positive, iou, prime = random_case(7, torch.float32)
    expected = ia_bce(logits, positive, iou, prime=prime)

    assert_close(ia_bce(logits, positive, iou.double(), prime=prime.double()), expected)
    assert ia_bce(logits, positive, torch.tensor([-0.1, 1.2, 0.5, 0.5])).isfinite()
    with pytest.raises(ValueError, match=r"expected iou and prime of shape \(4,\)"):
        ia_bce(logits, positive, iou[:1])


def test_a_varifocal_positive_of_iou_zero_has_the_gradient_of_background() -> None:
    loss = Varifocal(detach_background=True)
    logits = torch.zeros(1, 2, 1, requires_grad=True)
    rows_of(loss, logits, entries((0, 0, 0)), torch.zeros(1), torch.ones(1)).sum().backward()

    assert logits.grad is not None
    assert logits.grad[0, 0, 0].item() == pytest.approx(logits.grad[0, 1, 0].item())
