import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.testing import assert_close

from aligndetr.losses.box import BoxLoss
from aligndetr.losses.classification import IABCE, Focal
from aligndetr.losses.criterion import Criterion
from aligndetr.losses.matching import Matcher
from aligndetr.types import DetectorOutput, LayerOutput, QueryGroup, Targets

TERMS = ("class", "l1", "giou")


def random_targets(counts: tuple[int, ...], classes: int = 3, seed: int = 0) -> Targets:
    generator = torch.Generator().manual_seed(seed)
    total = sum(counts)
    boxes = torch.rand(total, 4, generator=generator) * 0.4 + 0.2
    return Targets(boxes, torch.randint(0, classes, (total,), generator=generator), counts)


def random_layer(images: int, queries: int, classes: int = 3, seed: int = 0) -> LayerOutput:
    generator = torch.Generator().manual_seed(seed + 100)
    logits = torch.randn(images, queries, classes, generator=generator)
    boxes = torch.rand(images, queries, 4, generator=generator) * 0.4 + 0.2
    return LayerOutput(logits.requires_grad_(), boxes.requires_grad_())


def output_of(
    *layers: LayerOutput, groups: tuple[QueryGroup, ...] = (), proposals: LayerOutput | None = None
) -> DetectorOutput:
    main = QueryGroup("main", (0, layers[0].logits.shape[1]))
    return DetectorOutput(layers, groups or (main,), proposals)


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))


def overlaps(a: list[float], b: list[float]) -> tuple[float, float]:
    """IoU and GIoU of two cxcywh boxes."""
    sides, hulls = [], []
    for axis in (0, 1):
        low = [box[axis] - box[axis + 2] / 2 for box in (a, b)]
        high = [box[axis] + box[axis + 2] / 2 for box in (a, b)]
        sides.append(max(0.0, min(high) - max(low)))
        hulls.append(max(high) - min(low))
    intersection, hull = math.prod(sides), math.prod(hulls)
    union = a[2] * a[3] + b[2] * b[3] - intersection
    return intersection / union, intersection / union - (hull - union) / hull


def algorithm_1(
    layer: LayerOutput, targets: Targets, *, k: int, tau: float, alpha: float, gamma: float
) -> dict[str, float]:
    """The paper's Algorithm 1 in Python loops, with costs 2, 5, 2 and loss weights 1, 5, 2."""
    sums = dict.fromkeys(TERMS, 0.0)
    for image, (start, count) in enumerate(zip(targets.offsets, targets.counts, strict=True)):
        logits, boxes = layer.logits[image].tolist(), layer.boxes[image].tolist()
        wanted = targets.boxes[start : start + count].tolist()
        labels = targets.labels[start : start + count].tolist()
        copies = max(1, min(k, len(boxes) // (2 * count))) if count else 0
        cost = [
            [
                pair_cost(logits[q][label], boxes[q], box)
                for box, label in list(zip(wanted, labels, strict=True)) * copies
            ]
            for q in range(len(boxes))
        ]
        bags: dict[int, list[int]] = {}
        if count:
            for q, column in zip(*linear_sum_assignment(cost), strict=True):
                bags.setdefault(column % count, []).append(int(q))
        positive: dict[tuple[int, int], float] = {}
        for target, bag in bags.items():
            quality = {
                q: max(
                    math.exp(alpha * log_sigmoid(logits[q][labels[target]]))
                    * overlaps(boxes[q], wanted[target])[0] ** (1 - alpha),
                    0.01,
                )
                for q in bag
            }
            for rank, q in enumerate(sorted(bag, key=lambda q: (-quality[q], q))):
                w = math.exp(-rank / tau)
                positive[q, labels[target]] = w * quality[q]
                pair = zip(boxes[q], wanted[target], strict=True)
                sums["l1"] += 5 * w * sum(abs(a - b) for a, b in pair)
                sums["giou"] += 2 * w * (1 - overlaps(boxes[q], wanted[target])[1])
        for q, c in itertools.product(range(len(boxes)), range(layer.logits.shape[2])):
            x = logits[q][c]
            t = positive.get((q, c))
            if t is None:
                sums["class"] -= math.exp(gamma * log_sigmoid(x)) * log_sigmoid(-x)
            else:
                sums["class"] -= t * log_sigmoid(x) + (1 - t) * log_sigmoid(-x)
    return {term: value / max(len(targets), 1) for term, value in sums.items()}


def pair_cost(logit: float, box: list[float], target: list[float]) -> float:
    p = 1 / (1 + math.exp(-logit))
    focal = -0.25 * (1 - p) ** 2 * math.log(p + 1e-8) + 0.75 * p**2 * math.log(1 - p + 1e-8)
    distance = sum(abs(a - b) for a, b in zip(box, target, strict=True))
    return 2 * focal + 5 * distance - 2 * overlaps(box, target)[1]


@pytest.mark.parametrize("classification", [Focal(), IABCE()])
@pytest.mark.parametrize("counts", [(0,), (0, 0)])
def test_images_without_objects_are_all_background(classification, counts) -> None:
    layer = random_layer(len(counts), 4)
    criterion = Criterion(classification=classification, k=2)
    losses = criterion(output_of(layer, layer, proposals=layer), random_targets(counts))
    torch.stack(list(losses.values())).sum().backward()

    names = ("main.0", "main.1", "proposals")
    assert set(losses) == {f"{name}.{term}" for name in names for term in TERMS}
    for name in names:
        assert losses[f"{name}.class"] > 0
        assert losses[f"{name}.l1"] == losses[f"{name}.giou"] == 0
    assert layer.logits.grad is not None
    assert layer.logits.grad.abs().min() > 0
    assert layer.boxes.grad is not None
    assert layer.boxes.grad.abs().max() == 0


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 10_000),
    st.lists(st.integers(0, 5), min_size=1, max_size=3),
    st.integers(1, 4),
    st.integers(1, 12),
)
def test_losses_equal_algorithm_1_in_loops(seed, counts, k, queries) -> None:
    targets = random_targets(tuple(counts), seed=seed)
    inner, last = random_layer(len(counts), queries, seed=seed), random_layer(len(counts), queries)
    criterion = Criterion(classification=IABCE(alpha=0.4, gamma=1.5), k=k, proposal_k=2, tau=1.2)
    losses = criterion(output_of(inner, last, proposals=inner), targets)

    options = {"tau": 1.2, "alpha": 0.4, "gamma": 1.5}
    for name, layer, positives in (
        ("main.0", inner, k),
        ("main.1", last, 1),
        ("proposals", inner, 2),
    ):
        expected = algorithm_1(layer, targets, k=positives, **options)
        for term in TERMS:
            ours = losses[f"{name}.{term}"].item()
            assert ours == pytest.approx(expected[term], rel=1e-4, abs=1e-6), f"{name}.{term}"


def test_the_default_is_plain_one_to_one_with_focal_loss() -> None:
    criterion = Criterion()

    assert criterion.classification == Focal(alpha=0.25, gamma=2)
    assert (criterion.k, criterion.proposal_k, criterion.class_weight) == (1, 1, 1)


def test_layers_below_the_last_have_k_positives_and_the_last_has_one() -> None:
    layer = random_layer(2, 20)
    pairs = Criterion(k=3, proposal_k=2).assign(
        output_of(layer, layer, layer, proposals=layer), random_targets((2, 1))
    )

    assert {name: len(own) for name, own in pairs.items()} == {
        "main.0": 9,
        "main.1": 9,
        "main.2": 3,
        "proposals": 6,
    }
    assert all(own.image.max() == 1 for own in pairs.values())


def test_losses_do_not_depend_on_the_order_of_the_images() -> None:
    # With the published code a crowded image takes positives from the images after it.
    counts, queries = (2, 6, 1), 12
    targets, layer = random_targets(counts), random_layer(3, queries)
    order = [1, 2, 0]
    parts = [range(start, start + n) for start, n in zip(targets.offsets, counts, strict=True)]
    rows = torch.tensor([row for image in order for row in parts[image]])
    shuffled = Targets(targets.boxes[rows], targets.labels[rows], tuple(counts[i] for i in order))
    criterion = Criterion(classification=IABCE(), k=3)
    losses = criterion(output_of(layer, layer), targets)
    others = criterion(
        output_of(*[LayerOutput(layer.logits[order], layer.boxes[order])] * 2), shuffled
    )

    for name, value in losses.items():
        assert_close(others[name], value)


def test_600_objects_and_300_queries_have_finite_losses() -> None:
    layer = random_layer(1, 300)
    losses = Criterion(classification=IABCE(), k=3)(output_of(layer, layer), random_targets((600,)))

    assert all(torch.isfinite(value) for value in losses.values())


def test_objects_of_no_area_have_finite_losses_and_gradients() -> None:
    targets = Targets(torch.tensor([[0.5, 0.5, 0.0, 0.0]]), torch.tensor([0]), (1,))
    layer = LayerOutput(
        torch.zeros(1, 2, 1, requires_grad=True),
        torch.tensor([[[0.5, 0.5, 0.0, 0.0], [0.1, 0.1, 0.0, 0.0]]], requires_grad=True),
    )
    losses = Criterion(classification=IABCE(), k=2)(output_of(layer, layer), targets)
    torch.stack(list(losses.values())).sum().backward()

    assert all(torch.isfinite(value) for value in losses.values())
    assert layer.boxes.grad is not None
    assert torch.isfinite(layer.boxes.grad).all()


@pytest.mark.parametrize("size", [80.0, 200.0])
def test_extreme_logits_have_finite_losses_under_autocast(size) -> None:
    layer = random_layer(1, 6)
    signs = torch.where(layer.logits.detach() > 0, size, -size)
    for dtype in (torch.bfloat16, torch.float32):
        logits = signs.to(dtype).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = Criterion(classification=IABCE(), k=2)(
                output_of(*[LayerOutput(logits, layer.boxes.to(dtype))] * 2), random_targets((2,))
            )
        total = torch.stack(list(losses.values())).sum()
        total.backward()

        assert total.dtype == torch.float32
        assert torch.isfinite(total)
        assert logits.grad is not None
        assert torch.isfinite(logits.grad).all()


def test_a_loss_that_is_not_finite_is_reported_as_such() -> None:
    layer = random_layer(1, 6)
    broken = LayerOutput(layer.logits * math.nan, layer.boxes)
    losses = Criterion()(output_of(broken), random_targets((2,)))

    assert torch.isnan(losses["main.0.class"])


def test_no_gradient_flows_from_the_class_loss_into_boxes() -> None:
    layer = random_layer(1, 6)
    losses = Criterion(classification=IABCE())(output_of(layer), random_targets((2,)))
    (boxes,) = torch.autograd.grad(losses["main.0.class"], layer.boxes, allow_unused=True)

    assert boxes is None or boxes.abs().max() == 0


def test_weights_scale_each_loss() -> None:
    output, targets = output_of(random_layer(1, 6)), random_targets((2,))
    plain = Criterion(box=BoxLoss(l1=1, giou=1))(output, targets)
    weighted = Criterion(class_weight=3, box=BoxLoss(l1=5, giou=2))(output, targets)

    for term, factor in zip(TERMS, (3, 5, 2), strict=True):
        assert_close(weighted[f"main.0.{term}"], factor * plain[f"main.0.{term}"])


def test_losses_are_divided_by_the_objects_of_all_processes() -> None:
    output, targets = output_of(random_layer(1, 6)), random_targets((2,))
    own = Criterion()(output, targets)["main.0.l1"] * 2

    given_numbers: list[tuple[float | Tensor, float]] = [
        (5.0, 5.0),
        (torch.tensor(5.0), 5.0),
        (0.3, 1.0),  # never below 1
        (torch.tensor(0.3), 1.0),
    ]
    for number, divisor in given_numbers:
        losses = Criterion()(output, targets, num_targets=number)
        assert_close(losses["main.0.l1"], own / divisor)


def test_prime_weights_can_be_switched_off() -> None:
    layer, targets = random_layer(1, 20), random_targets((2,))
    output = output_of(layer, layer)
    on, off = (Criterion(k=4, tau=tau)(output, targets) for tau in (1.5, None))
    pairs = Criterion(k=4).assign(output, targets)["main.0"]
    every = (layer.boxes[0, pairs.query] - targets.boxes[pairs.target]).abs().sum()

    assert_close(off["main.0.l1"], 5 * every / 2)
    assert on["main.0.l1"] < off["main.0.l1"]
    assert_close(on["main.1.l1"], off["main.1.l1"])  # one positive has weight 1


def test_targets_are_left_as_they_were() -> None:
    # A published option sets all labels to 0 in place for the proposals, and denoising follows.
    layer, targets = random_layer(2, 6), random_targets((2, 1))
    before = replace(targets, boxes=targets.boxes.clone(), labels=targets.labels.clone())
    Criterion(classification=IABCE(), k=2)(output_of(layer, proposals=layer), targets)

    assert torch.equal(targets.labels, before.labels)
    assert torch.equal(targets.boxes, before.boxes)


def test_the_eps_of_the_published_code_reaches_the_quality() -> None:
    boxes = torch.tensor([[[0.5, 0.5, 0.001, 0.001]]])
    layer = LayerOutput(torch.zeros(1, 1, 1), boxes)
    targets = Targets(boxes[0], torch.tensor([0]), (1,))
    exact, published = (
        Criterion(classification=IABCE(alpha=0), iou_eps=eps, matcher=Matcher(eps=eps))
        for eps in (0.0, 1e-6)
    )

    # At a logit of 0 every target has the loss log 2; the gradient s - t tells t.
    for criterion, t in ((exact, 1.0), (published, 0.5)):
        logits = layer.logits.clone().requires_grad_()
        loss = criterion(output_of(LayerOutput(logits, boxes)), targets)["main.0.class"]
        (gradient,) = torch.autograd.grad(loss, logits)
        assert gradient.item() == pytest.approx(0.5 - t, abs=1e-3)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("k", 0, "greater than 0"),
        ("tau", 0.0, "greater than 0"),
        ("class_weight", -1.0, "greater than or equal to 0"),
        ("prime", "some", "'main' or 'matched'"),
        ("iou_eps", math.inf, "finite"),
    ],
)
def test_values_that_make_no_sense_are_refused(field, value, message) -> None:
    with pytest.raises(ValidationError, match=message):
        Criterion.model_validate({field: value})
