import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aligndetr.kernels.box_costs import UNUSABLE
from aligndetr.losses.costs import FocalCost
from aligndetr.losses.matching import Matcher, Stack
from aligndetr.types import Assignment, Targets


def random_targets(counts: tuple[int, ...], classes: int, seed: int = 0) -> Targets:
    generator = torch.Generator().manual_seed(seed)
    total = sum(counts)
    boxes = torch.rand(total, 4, generator=generator) * 0.4 + 0.1
    return Targets(boxes, torch.randint(0, classes, (total,), generator=generator), counts)


def random_stack(
    shape: tuple[int, int, int, int], positives=None, seed: int = 0, **options
) -> Stack:
    generator = torch.Generator().manual_seed(seed + 100)
    logits = torch.randn(shape, generator=generator)
    boxes = torch.rand(*shape[:3], 4, generator=generator) * 0.4 + 0.1
    return Stack(logits, boxes, positives or (1,) * shape[0], **options)


def triples(pairs: Assignment) -> list[tuple[int, ...]]:
    columns = (pairs.image.tolist(), pairs.target.tolist(), pairs.query.tolist())
    return list(zip(*columns, strict=True))


def positives_by_image(pairs: Assignment, images: int) -> list[int]:
    return torch.bincount(pairs.image, minlength=images).tolist()


def scalar_cost(logit: float, box: list[float], target: list[float], m: Matcher) -> float:
    """The published cost of one pair, in Python floats."""
    p = 1 / (1 + math.exp(-logit))
    assert isinstance(m.score, FocalCost)
    alpha, gamma = m.score.alpha, m.score.gamma
    focal = alpha * (1 - p) ** gamma * -math.log(p + 1e-8)
    focal -= (1 - alpha) * p**gamma * -math.log(1 - p + 1e-8)
    (ax, ay, aw, ah), (bx, by, bw, bh) = box, target
    width = min(ax + aw / 2, bx + bw / 2) - max(ax - aw / 2, bx - bw / 2)
    height = min(ay + ah / 2, by + bh / 2) - max(ay - ah / 2, by - bh / 2)
    inter = max(width, 0) * max(height, 0)
    union = aw * ah + bw * bh - inter
    hull = (max(ax + aw / 2, bx + bw / 2) - min(ax - aw / 2, bx - bw / 2)) * (
        max(ay + ah / 2, by + bh / 2) - min(ay - ah / 2, by - bh / 2)
    )
    overlap = inter / union - (hull - union) / hull
    distance = sum(abs(a - b) for a, b in zip(box, target, strict=True))
    return m.class_cost * focal + m.l1 * distance - m.giou * overlap


@pytest.mark.parametrize("counts", [(), (0,), (0, 0, 0)])
def test_no_objects_have_no_pairs(counts) -> None:
    stack = random_stack((2, len(counts), 4, 3), seed=1)
    (pairs,) = Matcher()([stack], random_targets(counts, 3))

    assert len(pairs) == 0
    assert pairs.image.dtype == pairs.query.dtype == pairs.target.dtype == torch.int64


def test_no_stacks_have_no_assignments() -> None:
    assert Matcher()([], random_targets((2,), 3)) == []


def test_no_queries_match_nothing() -> None:
    (pairs,) = Matcher()([random_stack((1, 1, 0, 3))], random_targets((2,), 3))

    assert len(pairs) == 0


def test_one_object_gets_its_cheapest_query() -> None:
    stack, targets = random_stack((1, 1, 6, 3)), random_targets((1,), 3)
    (pairs,) = Matcher()([stack], targets)
    cost = Matcher().cost(stack.logits, stack.boxes, targets)[0]

    assert triples(pairs) == [(0, 0, int(cost.argmin()))]


@pytest.mark.parametrize("count", [2, 9])  # fewer and more objects than classes
def test_the_cost_of_each_pair_equals_the_published_formula(count) -> None:
    matcher = Matcher(score=FocalCost(alpha=0.3, gamma=1.5), class_cost=1.5, l1=4, giou=3)
    stack, targets = random_stack((1, 1, 5, 4)), random_targets((count,), 4)
    logits, boxes = stack.logits[0, 0], stack.boxes[0, 0]
    cost = matcher.cost(stack.logits, stack.boxes, targets)[0]

    expected = [
        [
            scalar_cost(logits[q, label].item(), boxes[q].tolist(), target.tolist(), matcher)
            for target, label in zip(targets.boxes, targets.labels, strict=True)
        ]
        for q in range(5)
    ]
    assert torch.allclose(cost.T, torch.tensor(expected), atol=1e-5)


@settings(max_examples=200)
@given(
    st.integers(0, 10_000),
    st.lists(st.integers(0, 6), min_size=1, max_size=4),
    st.integers(1, 4),
    st.integers(1, 12),
)
def test_each_image_is_matched_by_itself_in_any_order(seed, counts, k, queries) -> None:
    targets = random_targets(tuple(counts), 3, seed)
    stack = random_stack((2, len(counts), queries, 3), (k, 1), seed)
    (together,) = Matcher()([stack], targets)

    expected = []
    for image, (start, count) in enumerate(zip(targets.offsets, counts, strict=True)):
        own = slice(start, start + count)
        alone = Targets(targets.boxes[own], targets.labels[own], (count,))
        single = Stack(
            stack.logits[:, image : image + 1], stack.boxes[:, image : image + 1], (k, 1)
        )
        (pairs,) = Matcher()([single], alone)
        expected += [
            (layer * len(counts) + image, start + target, query)
            for layer, target, query in triples(pairs)
        ]
    assert triples(together) == sorted(expected)


@pytest.mark.parametrize(
    ("queries", "k", "count", "expected"),
    [
        (30, 1, 3, 1),
        (30, 4, 3, 4),
        (30, 4, 5, 3),  # 4 each would take more than half of the queries
        (30, 4, 15, 1),
        (30, 2, 16, 1),  # never below 1: the published rule gives 0 from here on
        (30, 2, 30, 1),
    ],
)
def test_positives_per_object_are_lowered_where_objects_are_many(
    queries, k, count, expected
) -> None:
    stack = random_stack((1, 1, queries, 3), (k,))
    (pairs,) = Matcher()([stack], random_targets((count,), 3))

    assert torch.bincount(pairs.target).tolist() == [expected] * count


def test_a_crowded_image_does_not_lower_the_positives_of_later_ones() -> None:
    # Published: 6, 100, 3, 0, 5 positives here, and others in another order of the images.
    targets = random_targets((3, 100, 3, 0, 5), 3)
    (pairs,) = Matcher()([random_stack((1, 5, 300, 3), (2,))], targets)

    assert positives_by_image(pairs, 5) == [6, 100, 6, 0, 10]


def test_more_objects_than_half_of_the_queries_still_have_positives() -> None:
    # Published: 6, 0, 0 positives.
    (pairs,) = Matcher()([random_stack((1, 3, 300, 3), (2,))], random_targets((3, 160, 3), 3))

    assert positives_by_image(pairs, 3) == [6, 160, 6]


def test_600_objects_share_300_queries() -> None:
    (pairs,) = Matcher()([random_stack((1, 1, 300, 5), (3,))], random_targets((600,), 5))

    assert sorted(pairs.query.tolist()) == list(range(300))
    assert len(pairs.target.unique()) == 300


def test_pairs_are_ordered_by_image_target_and_query() -> None:
    stack, targets = random_stack((3, 2, 40, 4), (3, 3, 1)), random_targets((4, 3), 4)
    (pairs,) = Matcher()([stack], targets)

    assert triples(pairs) == sorted(triples(pairs))
    assert positives_by_image(pairs, 6) == [12, 9, 12, 9, 4, 3]


def test_copies_repeat_each_object_come_what_may() -> None:
    stack = random_stack((1, 2, 14, 4), copies=6)
    (pairs,) = Matcher()([stack], random_targets((2, 3), 4))

    assert positives_by_image(pairs, 2) == [12, 14]  # 18 copies, but only 14 queries


def test_blocks_are_matched_on_their_own() -> None:
    stack, targets = random_stack((2, 2, 12, 4), blocks=3), random_targets((2, 3), 4)
    (pairs,) = Matcher()([stack], targets)

    expected = []
    for block in range(3):
        part = slice(4 * block, 4 * block + 4)
        alone = Stack(stack.logits[:, :, part], stack.boxes[:, :, part], (1, 1))
        (own,) = Matcher()([alone], targets)
        expected += [(image, target, query + 4 * block) for image, target, query in triples(own)]
    assert triples(pairs) == sorted(expected)


def test_binary_stacks_are_matched_by_the_first_class_alone() -> None:
    targets = random_targets((2, 3), 4)
    zeroed = Targets(targets.boxes, torch.zeros_like(targets.labels), targets.counts)
    (found,) = Matcher()([random_stack((2, 2, 8, 4), (2, 1), is_binary=True)], targets)
    (expected,) = Matcher()([random_stack((2, 2, 8, 4), (2, 1))], zeroed)
    (own,) = Matcher()([random_stack((2, 2, 8, 4), (2, 1))], targets)

    assert triples(found) == triples(expected) != triples(own)


def test_stacks_of_one_step_are_matched_as_if_alone() -> None:
    stacks = [random_stack((2, 2, 8, 4), (2, 1), 1), random_stack((1, 2, 5, 4), None, 2)]
    targets = random_targets((2, 1), 4)
    together = Matcher()(stacks, targets)

    alone = [Matcher()([stack], targets)[0] for stack in stacks]
    assert [triples(pairs) for pairs in together] == [triples(pairs) for pairs in alone]


def test_threads_find_the_same_pairs(monkeypatch) -> None:
    stack, targets = random_stack((3, 2, 40, 4), (3, 3, 1)), random_targets((4, 3), 4)
    (one,) = Matcher()([stack], targets)
    monkeypatch.setattr("aligndetr.kernels.assignment.THREADED", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    (several,) = Matcher()([stack], targets)

    assert triples(several) == triples(one)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_predictions_that_are_not_finite_are_the_last_to_be_matched(value) -> None:
    stack, targets = random_stack((1, 1, 6, 3)), random_targets((4,), 3)
    stack.boxes[0, 0, 1] = value
    stack.logits[0, 0, 4] = math.nan
    (pairs,) = Matcher()([stack], targets)
    cost = Matcher().cost(stack.logits, stack.boxes, targets)[0]

    assert sorted(pairs.query.tolist()) == [0, 2, 3, 5]
    assert (cost[:, [1, 4]] == UNUSABLE).all()


def test_an_output_of_nan_is_still_matched() -> None:
    stack = random_stack((1, 1, 6, 3))
    broken = Stack(stack.logits * math.nan, stack.boxes, (2,))
    (pairs,) = Matcher()([broken], random_targets((2,), 3))

    assert len(pairs) == 2


@pytest.mark.parametrize("size", [80.0, 200.0])
def test_costs_of_extreme_logits_are_finite(size) -> None:
    targets = random_targets((2,), 3)
    logits = torch.tensor([[[[size, -size, 0.0], [-size, size, size]]]])
    cost = Matcher().cost(logits, torch.rand(1, 1, 2, 4), targets)

    assert (cost.abs() < 100).all()
