import pytest
import torch

from aligndetr.losses.box import BoxLoss


def test_no_pairs_have_no_loss() -> None:
    l1, giou = BoxLoss()(torch.zeros(0, 4), torch.zeros(0, 4), torch.zeros(0))

    assert l1.shape == giou.shape == (0,)


def test_losses_of_half_overlapping_boxes_by_hand() -> None:
    # Two boxes of 0.2 x 0.2, shifted by 0.1: intersection 0.02, union 0.06, enclosing 0.06.
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.2]])
    targets = torch.tensor([[0.6, 0.5, 0.2, 0.2]])
    l1, giou = BoxLoss(l1=5, giou=2)(boxes, targets, torch.tensor([0.5]))

    assert l1.item() == pytest.approx(5 * 0.5 * 0.1, rel=1e-5)
    assert giou.item() == pytest.approx(2 * 0.5 * (1 - 1 / 3), rel=1e-5)


def test_gradients_of_point_boxes_are_finite() -> None:
    boxes = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]], requires_grad=True)
    targets = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.1, 0.1, 0.0, 0.2]])
    l1, giou = BoxLoss()(boxes, targets, torch.ones(2))
    (l1.sum() + giou.sum()).backward()

    assert torch.isfinite(l1).all()
    assert torch.isfinite(giou).all()
    assert boxes.grad is not None
    assert torch.isfinite(boxes.grad).all()


def test_memory_grows_with_pairs_and_not_with_their_square() -> None:
    # The published criteria take the diagonal of a P x P matrix: 160 GB here.
    boxes = torch.rand(200_000, 4)
    l1, giou = BoxLoss()(boxes, boxes, torch.ones(len(boxes)))

    assert l1.max() == 0
    assert giou.abs().max() < 1e-5


def test_gradients_equal_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    boxes = (
        torch.rand(6, 4, generator=generator, dtype=torch.float64) * 0.5 + 0.2
    ).requires_grad_()
    targets = torch.rand(6, 4, generator=generator, dtype=torch.float64) * 0.5 + 0.2
    prime = torch.rand(6, generator=generator, dtype=torch.float64)

    assert torch.autograd.gradcheck(lambda b: BoxLoss()(b, targets, prime), boxes)
