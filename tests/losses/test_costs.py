from itertools import product

import pytest
import torch
from pydantic import TypeAdapter
from torch.testing import assert_close

from aligndetr.boxes import cxcywh_to_xyxy, giou, iou
from aligndetr.losses.costs import (
    AnyScoreCost,
    FocalCost,
    ScoreIoUCost,
    SoftmaxCost,
    Wanted,
)

COSTS = [FocalCost(), FocalCost(beta=0.5), SoftmaxCost(), ScoreIoUCost()]


IMAGE = torch.tensor([0, 0, 1, 1, 1, 1, 1])
"""The image of each target; the third image has none."""


def case(targets: int, queries: int = 4) -> tuple[torch.Tensor, torch.Tensor, Wanted]:
    generator = torch.Generator().manual_seed(targets)
    logits = torch.randn(2, 3, 3, queries, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (targets,), generator=generator)
    boxes = torch.rand(2, 3, queries, 4, generator=generator, dtype=torch.float64) * 0.4 + 0.2
    wanted = torch.rand(targets, 4, generator=generator, dtype=torch.float64) * 0.4 + 0.2
    return logits, boxes, Wanted(wanted, labels, IMAGE[:targets])


def focal(s: torch.Tensor) -> torch.Tensor:
    return -0.25 * (1 - s) ** 2 * (s + 1e-8).log() + 0.75 * s**2 * (1 - s + 1e-8).log()


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize(("targets", "queries"), [(2, 0), (0, 4)])
def test_nothing_costs_nothing(cost, targets, queries) -> None:
    assert cost(*case(targets, queries)).shape == (2, targets, queries)


@pytest.mark.parametrize("classes", [1, 3])  # fewer entries by class than by object, and more
@pytest.mark.parametrize("targets", [1, 2, 7])
def test_each_cost_is_its_formula(targets, classes) -> None:
    logits, boxes, wanted = case(targets)
    logits = logits[:, :, :classes]
    wanted = Wanted(wanted.boxes, wanted.labels.clamp(max=classes - 1), wanted.image)
    for row, target in product(range(2), range(targets)):
        image, label = wanted.image[target], wanted.labels[target]
        own = logits[row, image, :, :]
        corners = cxcywh_to_xyxy(wanted.boxes[target]), cxcywh_to_xyxy(boxes[row, image])
        s = own[label].sigmoid()
        same = wanted.boxes[wanted.image == image]
        others = cxcywh_to_xyxy(same).unsqueeze(1), cxcywh_to_xyxy(boxes[row, image])
        scaled = (giou(*corners) + 1) / (giou(*others) + 1).max()

        assert_close(FocalCost()(logits, boxes, wanted)[row, target], focal(s))
        found = FocalCost(beta=0.5)(logits, boxes, wanted)[row, target]
        assert_close(found, focal(s * scaled.sqrt()))
        found = SoftmaxCost()(logits, boxes, wanted)[row, target]
        assert_close(found, -own.softmax(0)[label])
        found = ScoreIoUCost()(logits, boxes, wanted)[row, target]
        assert_close(found, -s * iou(*corners) ** 4)


@pytest.mark.parametrize("cost", COSTS)
def test_inputs_are_left_as_they_were(cost) -> None:
    logits, boxes, wanted = case(2)
    before = logits.clone()
    cost(logits, boxes, wanted)

    assert torch.equal(logits, before)


def test_a_cost_is_told_by_its_type() -> None:
    adapter = TypeAdapter(AnyScoreCost)

    assert adapter.validate_python({"type": "score_iou", "power": 2}) == ScoreIoUCost(power=2)
