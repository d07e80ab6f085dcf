import math
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.testing import assert_close

from aligndetr.boxes import cxcywh_to_xyxy, iou
from aligndetr.losses.box import BoxLoss
from aligndetr.losses.classification import IABCE, Focal, SoftmaxCE
from aligndetr.losses.costs import SoftmaxCost
from aligndetr.losses.criterion import Criterion, total_loss
from aligndetr.losses.matching import Matcher
from aligndetr.types import LayerOutput, Targets
from predictions import TERMS, output_of, random_layer, random_targets


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


def test_the_default_is_plain_one_to_one_with_focal_loss() -> None:
    criterion = Criterion()

    assert criterion.classification == Focal(alpha=0.25, gamma=2)
    assert (criterion.k, criterion.proposal_k, criterion.class_weight) == (1, 1, 1)


def with_iou(layer: LayerOutput, seed: int = 0) -> LayerOutput:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(layer.logits.shape[:2], generator=generator)
    return replace(layer, iou_logits=logits.requires_grad_())


def test_the_iou_branch_learns_the_iou_of_matched_predictions() -> None:
    targets = random_targets((2, 1))
    layers = [with_iou(random_layer(2, 6, seed=seed), seed) for seed in (1, 2)]
    proposals = random_layer(2, 6, seed=3)  # which have no such branch
    criterion = Criterion(classification=IABCE(), iou_weight=3.0)
    output = output_of(*layers, proposals=proposals)
    losses = criterion(output, targets)
    pairs = criterion.assign(output, targets)["main.1"]
    torch.stack(list(losses.values())).sum().backward()

    boxes = layers[1].boxes[pairs.image, pairs.query]
    overlap = iou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(targets.boxes[pairs.target])).detach()
    branches = [layer.iou_logits for layer in layers if layer.iou_logits is not None]
    x = branches[1][pairs.image, pairs.query]
    bce = torch.nn.functional.binary_cross_entropy_with_logits(x, overlap, reduction="sum")
    assert_close(losses["main.1.iou"], 3.0 * bce / 3)
    assert "proposals.iou" not in losses
    assert "proposals.class" in losses
    for branch in branches:
        assert branch.grad is not None
        assert (branch.grad != 0).sum() == 3


@pytest.mark.parametrize(("k", "counts"), [(2, (2, 2, 1)), ((3, 1, 2), (3, 1, 2))])
def test_k_is_a_number_below_the_last_layer_or_a_list(k, counts) -> None:
    targets = random_targets((1,))
    layers = [random_layer(1, 8, seed=seed) for seed in range(3)]
    assigned = Criterion(k=k).assign(output_of(*layers), targets)

    assert tuple(len(assigned[f"main.{depth}"]) for depth in range(3)) == counts


def test_a_list_of_k_for_another_number_of_layers_is_refused() -> None:
    layer = random_layer(1, 8)
    with pytest.raises(ValueError, match="expected one number or 2, one for each decoder layer"):
        Criterion(k=(2, 1, 1))(output_of(layer, layer), random_targets((1,)))


def test_softmax_cross_entropy_is_a_mean_over_the_queries_of_each_layer() -> None:
    targets = random_targets((1, 0), classes=2)
    layers = [random_layer(2, 4, seed=seed) for seed in (4, 5)]  # 2 classes and "no object"
    criterion = Criterion(classification=SoftmaxCE(), matcher=Matcher(score=SoftmaxCost()))
    output = output_of(*layers)
    losses = criterion(output, targets)

    for depth, layer in enumerate(layers):
        pairs = criterion.assign(output, targets)[f"main.{depth}"]
        labels = torch.full((2, 4), 2)
        labels[pairs.image, pairs.query] = targets.labels[pairs.target]
        expected = torch.nn.functional.cross_entropy(
            layer.logits.transpose(1, 2), labels, torch.tensor([1.0, 1.0, 0.1])
        )
        assert_close(losses[f"main.{depth}.class"], expected)


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


@pytest.mark.parametrize("classification", [Focal(), IABCE()])
def test_proposals_may_learn_to_tell_objects_from_background(classification) -> None:
    # By the first class, as in Deformable DETR: their losses are those of zeroed labels.
    layer, proposals = random_layer(2, 6), random_layer(2, 9, seed=1)
    targets = random_targets((2, 1))
    assert targets.labels.any()
    zeroed = replace(targets, labels=torch.zeros_like(targets.labels))
    output = output_of(layer, layer, proposals=proposals)
    own, one = (
        Criterion(classification=classification, k=2, proposal_k=2, proposal_labels=labels)
        for labels in ("own", "one")
    )
    found, plain, binary = one(output, targets), own(output, targets), own(output, zeroed)

    for name, value in found.items():
        expected = binary if name.startswith("proposals") else plain
        assert_close(value, expected[name])
    assert found["proposals.class"] != plain["proposals.class"]
    pairs, expected = one.assign(output, targets), own.assign(output, zeroed)
    assert torch.equal(pairs["proposals"].query, expected["proposals"].query)
    assert torch.equal(pairs["main.1"].query, own.assign(output, targets)["main.1"].query)


def test_proposals_of_the_same_shape_are_not_taken_for_a_layer() -> None:
    layer, targets = random_layer(1, 6), random_targets((2,))
    zeroed = replace(targets, labels=torch.zeros_like(targets.labels))
    losses = Criterion(proposal_labels="one")(output_of(layer, proposals=layer), targets)

    assert_close(losses["proposals.class"], Criterion()(output_of(layer), zeroed)["main.0.class"])
    assert_close(losses["main.0.class"], Criterion()(output_of(layer), targets)["main.0.class"])


def test_only_the_first_class_of_such_proposals_is_ever_positive() -> None:
    layer, targets = random_layer(1, 6), random_targets((2,))
    losses = Criterion(proposal_labels="one")(output_of(layer, proposals=layer), targets)
    (gradient,) = torch.autograd.grad(losses["proposals.class"], layer.logits)

    assert (gradient[..., 1:] > 0).all()  # a loss that falls with the logit is that of a positive
    assert (gradient[..., 0] < 0).sum() == 2


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
        ("proposal_labels", "zero", "'own' or 'one'"),
        ("iou_eps", math.inf, "finite"),
    ],
)
def test_values_that_make_no_sense_are_refused(field, value, message) -> None:
    with pytest.raises(ValidationError, match=message):
        Criterion.model_validate({field: value})


def test_the_total_is_the_sum_of_the_terms() -> None:
    terms = {"a": torch.tensor(1.5, requires_grad=True), "b": torch.tensor(2.0)}
    assert total_loss(terms).item() == 3.5
    assert total_loss(terms).requires_grad
