"""Our matching and losses against the official Align-DETR code and IDEA's DINO.

Where the published code has a defect (the number of positives leaks into later images and falls
to none in crowded ones), the pairs of its one-image calls are the reference, and the missing
pairs of crowded images are those of DINO's plain Hungarian matcher.
"""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from aligndetr.boxes import cxcywh_to_xyxy, iou
from aligndetr.losses.box import BoxLoss
from aligndetr.losses.classification import IABCE, Focal, ia_bce
from aligndetr.losses.criterion import Criterion
from aligndetr.losses.matching import Matcher, Stack
from aligndetr.losses.prime import prime_weight, rank_within
from aligndetr.types import Assignment, DetectorOutput, LayerOutput, QueryGroup, Targets

PUBLISHED = Matcher(eps=1e-6)
official = pytest.mark.goldens("losses", "case_*.safetensors")
baseline = pytest.mark.goldens("losses_baseline", "base_*.safetensors")


def targets_of(case) -> Targets:
    return Targets(case["gt_boxes"], case["gt_labels"], tuple(case["gt_sizes"].tolist()))


def pairs_of(pairs, prefix: str, targets: Targets) -> Assignment:
    """The pairs of a file in its order, which decides between pairs of equal quality."""
    counts = pairs[f"{prefix}_counts"]
    image = torch.arange(len(counts)).repeat_interleave(counts)
    query = pairs[f"{prefix}_src"]
    target = pairs[f"{prefix}_tgt"] + torch.tensor(targets.offsets)[image]
    return Assignment(image, query, target)


def as_set(pairs: Assignment) -> set[tuple[int, ...]]:
    columns = (pairs.image.tolist(), pairs.query.tolist(), pairs.target.tolist())
    return set(zip(*columns, strict=True))


def match(case, k: int) -> Assignment:
    stack = Stack(case["logits"][None], case["boxes"][None], (k,))
    return PUBLISHED([stack], targets_of(case))[0]


def in_crowded_images(pairs: Assignment, case) -> Tensor:
    """Which pairs lie in images where the official code gives no object a positive."""
    return 2 * case["gt_sizes"][pairs.image] > case["logits"].shape[1]


def select(pairs: Assignment, keep: Tensor) -> Assignment:
    return Assignment(pairs.image[keep], pairs.query[keep], pairs.target[keep])


def pair_ious(case, pairs: Assignment) -> Tensor:
    boxes = cxcywh_to_xyxy(case["boxes"][pairs.image, pairs.query].double())
    others = cxcywh_to_xyxy(case["gt_boxes"][pairs.target].double())
    return iou(boxes, others, eps=1e-6)


@official
@pytest.mark.parametrize("prefix", ["single", "k1"])
def test_pairs_equal_the_official_matcher_called_image_by_image(golden, prefix) -> None:
    targets = targets_of(golden)
    ours = match(golden, golden.metadata["k"] if prefix == "single" else 1)
    theirs = pairs_of(golden, prefix, targets)
    if prefix == "k1":  # one batch call: a crowded image takes the later ones' positives with it
        told = golden["k1_counts"][ours.image] > 0
        ours = select(ours, told)
    ours = select(ours, ~in_crowded_images(ours, golden))

    assert as_set(ours) == as_set(theirs)


@official
def test_every_object_of_a_crowded_image_gets_a_query_or_every_query_an_object(golden) -> None:
    queries = golden["logits"].shape[1]
    pairs = match(golden, golden.metadata["k"])

    for image, count in enumerate(golden["gt_sizes"].tolist()):
        own = select(pairs, pairs.image == image)
        assert len(own.target.unique()) == min(count, queries)
        assert len(own.query.unique()) == len(own)


@official
def test_quality_rank_and_prime_weight_equal_the_official_ones(golden) -> None:
    targets, metadata = targets_of(golden), golden.metadata
    pairs = pairs_of(golden, "match", targets)
    loss = IABCE(alpha=metadata["alpha"], gamma=metadata["gamma"])
    logits = golden["logits"][pairs.image, pairs.query, targets.labels[pairs.target]]
    overlap = pair_ious(golden, pairs).float()
    quality = loss.quality(logits, overlap)

    assert_close(overlap, golden["matched_iou"], rtol=1e-5, atol=1e-6)
    assert_close(quality, golden["matched_t"], rtol=1e-5, atol=1e-6)
    # Ranked by the official quality: rounding may order near ties otherwise.
    t = golden["matched_t"]
    assert_close(rank_within(pairs.target, t), golden["matched_rank"].long())
    assert_close(prime_weight(pairs.target, t, metadata["tau"]), golden["rank_weight"])


@official
def test_ia_bce_and_its_gradient_equal_the_official_loss_in_float64(golden) -> None:
    targets, metadata = targets_of(golden), golden.metadata
    pairs = pairs_of(golden, "match", targets)
    for dtype, rtol in ((torch.float64, 1e-6), (torch.float32, 1e-5)):
        logits = golden["logits"].to(dtype).requires_grad_()
        overlap = pair_ious(golden, pairs).to(dtype)
        positive = (pairs.image, pairs.query, targets.labels[pairs.target])
        options = {"alpha": metadata["alpha"], "gamma": metadata["gamma"]}
        quality = IABCE(**options).quality(logits.detach()[positive], overlap)
        prime = prime_weight(pairs.target, quality, metadata["tau"])
        loss = ia_bce(logits, positive, overlap, prime=prime, **options) / max(len(targets), 1)
        loss.backward()

        assert_close(loss.double(), golden["loss_class_f64"].double(), rtol=rtol, atol=0)
        if "grad_logits_class_f64" in golden:
            expected = golden["grad_logits_class_f64"].double()
            assert_close(
                logits.grad.double(), expected, rtol=rtol, atol=1e-5 * expected.abs().max()
            )


@official
def test_the_whole_criterion_equals_the_official_one_where_that_has_no_defect(golden) -> None:
    targets, metadata = targets_of(golden), golden.metadata
    pairs = list(zip(golden["match_tgt"].tolist(), golden["matched_t"].tolist(), strict=True))
    if not metadata["batch_equals_single"] or 0 in metadata["effective_k_batch"]:
        pytest.skip("the official number of positives depends on other images")
    if len(set(pairs)) < len(pairs):
        pytest.skip("the official rank of equal qualities depends on an unstable sort")
    criterion = Criterion(
        classification=IABCE(alpha=metadata["alpha"], gamma=metadata["gamma"]),
        box=BoxLoss(l1=1, giou=1, eps=1e-6),
        matcher=PUBLISHED,
        k=metadata["k"],
        tau=metadata["tau"],
        iou_eps=1e-6,
    )
    layer = LayerOutput(golden["logits"], golden["boxes"])
    groups = (QueryGroup("main", (0, layer.logits.shape[1])),)
    ours = criterion(DetectorOutput((layer, layer), groups), targets)

    for term, name in (("class", "loss_class"), ("l1", "loss_bbox"), ("giou", "loss_giou")):
        expected = golden[f"{name}_f64"].float()
        assert_close(ours[f"main.0.{term}"], expected, rtol=1e-5, atol=1e-6)


@official
def test_box_losses_and_their_gradients_equal_the_official_ones(golden) -> None:
    targets = targets_of(golden)
    pairs = pairs_of(golden, "match", targets)
    boxes = golden["boxes"].double().requires_grad_()
    logits = golden["logits"].double()[pairs.image, pairs.query, targets.labels[pairs.target]]
    quality = IABCE(alpha=golden.metadata["alpha"]).quality(logits, pair_ious(golden, pairs))
    prime = prime_weight(pairs.target, quality, golden.metadata["tau"])
    terms = BoxLoss(l1=1, giou=1, eps=1e-6)(
        boxes[pairs.image, pairs.query], targets.boxes[pairs.target].double(), prime
    )

    for term, name, gradient in zip(
        terms, ("loss_bbox", "loss_giou"), ("grad_boxes_l1", "grad_boxes_giou"), strict=True
    ):
        loss = term.sum() / max(len(targets), 1)
        (ours,) = torch.autograd.grad(loss, boxes, retain_graph=True)
        assert_close(loss, golden[f"{name}_f64"].double(), rtol=1e-5, atol=1e-7)
        if f"{gradient}_f64" in golden:
            expected = golden[f"{gradient}_f64"].double()
            assert_close(ours, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@baseline
def test_one_to_one_pairs_equal_dinos_hungarian_matcher(golden) -> None:
    case = golden.other(golden.metadata["inputs"])
    targets = targets_of(case)

    assert as_set(match(case, 1)) == as_set(pairs_of(golden, "match", targets))


@baseline
def test_focal_loss_and_its_gradient_equal_dinos(golden) -> None:
    case = golden.other(golden.metadata["inputs"])
    targets = targets_of(case)
    pairs = pairs_of(golden, "match", targets)
    positive = (pairs.image, pairs.query, targets.labels[pairs.target])
    ones = torch.ones(len(pairs))
    for dtype, rtol in ((torch.float64, 1e-6), (torch.float32, 1e-5)):
        logits = case["logits"].to(dtype).requires_grad_()
        prime = ones.to(dtype)
        loss = Focal()(logits, positive, prime, prime).sum() / max(len(targets), 1)
        loss.backward()

        assert_close(loss.double(), golden["focal_f64"].double(), rtol=rtol, atol=0)
        if "grad_focal_f64" in golden:
            expected = golden["grad_focal_f64"].double()
            assert_close(
                logits.grad.double(), expected, rtol=rtol, atol=1e-5 * expected.abs().max()
            )


@baseline
def test_box_losses_equal_dinos(golden) -> None:
    case = golden.other(golden.metadata["inputs"])
    targets = targets_of(case)
    pairs = pairs_of(golden, "match", targets)
    l1, giou = BoxLoss(l1=1, giou=1, eps=1e-6)(
        case["boxes"][pairs.image, pairs.query], targets.boxes[pairs.target], torch.ones(len(pairs))
    )
    count = max(len(targets), 1)

    assert_close(l1.sum() / count, golden["loss_bbox"], rtol=1e-5, atol=1e-6)
    assert_close(giou.sum() / count, golden["loss_giou"], rtol=1e-5, atol=1e-6)
