import math

import pytest
import torch
from torch.testing import assert_close

from aligndetr.boxes import cxcywh_to_xyxy, giou
from aligndetr.kernels import box_costs
from aligndetr.kernels.box_costs import UNUSABLE, add_box_costs

COUNTS = (2, 0, 3)
"""Targets of each image."""


def case(counts: tuple[int, ...], queries: int, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    images, targets = len(counts), sum(counts)
    boxes = torch.rand(4, images, queries, 4, generator=generator, dtype=dtype) * 0.4 + 0.2
    wanted = torch.rand(targets, 4, generator=generator, dtype=dtype) * 0.4 + 0.2
    return torch.rand(4, targets, queries, generator=generator, dtype=dtype), boxes, wanted


def with_box_costs(cost, boxes, targets, counts, eps=0.0):
    image = torch.tensor([i for i, count in enumerate(counts) for _ in range(count)]).long()
    return add_box_costs(cost, boxes, targets, image=image, counts=counts, weights=(5, 2), eps=eps)


def expected(cost, boxes, targets, counts, eps=0.0):
    total = cost.clone()
    for target, image in enumerate(i for i, count in enumerate(counts) for _ in range(count)):
        own, others = targets[target], boxes[:, image]
        distance = (own - others).abs().sum(dim=-1)
        overlap = giou(cxcywh_to_xyxy(own), cxcywh_to_xyxy(others), eps=eps)
        total[:, target] += 5 * distance - 2 * overlap
    return total


@pytest.mark.parametrize(
    ("counts", "queries"), [((), 4), ((0,), 4), ((0, 0), 4), ((4,), 0), ((1,), 1)]
)
@pytest.mark.parametrize("compiled", [True, False])
def test_the_smallest_problems(counts, queries, compiled, monkeypatch) -> None:
    if not compiled:
        monkeypatch.setattr(box_costs, "COMPILED", ())
    cost, boxes, wanted = case(counts, queries)
    found = with_box_costs(cost.clone(), boxes, wanted, counts)

    assert_close(found, expected(cost, boxes, wanted, counts))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [0.0, 1e-6])
@pytest.mark.parametrize("compiled", [True, False])
def test_costs_are_their_formula(dtype, eps, compiled, monkeypatch) -> None:
    if not compiled:  # the path of other devices
        monkeypatch.setattr(box_costs, "COMPILED", ())
    cost, boxes, wanted = case(COUNTS, 37, dtype)
    boxes[0, 0, 0] = wanted[0]  # a perfect box
    boxes[0, 0, 1, 2:] = 0  # a point
    wanted[1, 2] = 0  # a line
    wanted[2] = boxes[0, 2, 1] = boxes[0, 0, 1]  # the same point
    found = with_box_costs(cost.clone(), boxes, wanted, COUNTS, eps)

    assert_close(found, expected(cost, boxes, wanted, COUNTS, eps))
    assert found.isfinite().all()


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_unusable(value, compiled, monkeypatch) -> None:
    if not compiled:
        monkeypatch.setattr(box_costs, "COMPILED", ())
    cost, boxes, wanted = case((2,), 4)
    boxes[1, 0, 2, 0] = value
    cost[0, 1, 3] = value
    found = with_box_costs(cost, boxes, wanted, (2,))

    assert (found[1, :, 2] == UNUSABLE).all()
    assert found[0, 1, 3] == UNUSABLE
    assert (found == UNUSABLE).sum() == 3
