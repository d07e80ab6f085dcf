import pytest
import torch

from aligndetr.model.build import build_model
from aligndetr.model.heads import Head

CPU = torch.device("cpu")


def test_a_fresh_head_gives_the_prior_and_leaves_boxes_where_they_are() -> None:
    head = Head(16, 3, prior=0.01)
    head.start_at_reference(0.0)
    states, reference = torch.zeros(1, 2, 16), torch.rand(1, 2, 4) * 0.5 + 0.2

    assert head.logits(states).sigmoid().tolist() == [[[pytest.approx(0.01)] * 3] * 2]
    boxes = head.boxes(torch.randn(1, 2, 16), reference, eps=1e-5)
    torch.testing.assert_close(boxes, reference)
    assert head.iou_logits(states) is None


def test_a_head_of_points_starts_at_an_eighth_of_the_image() -> None:
    head = Head(16, 3, prior=0.01)
    head.start_at_reference(-2.0)
    points = torch.rand(1, 2, 2) * 0.5 + 0.2
    boxes = head.boxes(torch.randn(1, 2, 16), points, eps=1e-5)

    torch.testing.assert_close(boxes[..., :2], points)
    torch.testing.assert_close(boxes[..., 2:], torch.full((1, 2, 2), 0.1192), atol=1e-4, rtol=0)


def test_a_head_without_a_prior_starts_as_torch_draws_it() -> None:
    torch.manual_seed(0)
    head = Head(64, 3, prior=None)

    assert head.classes.bias.abs().max() <= 1 / 8
    assert head.classes.bias.abs().min() > 0
    states = torch.randn(1, 2, 64)
    expected = head.box(states).sigmoid()
    torch.testing.assert_close(head.boxes(states, None, eps=1e-5), expected)


@pytest.mark.parametrize("eps", [1e-3, 1e-5])
def test_corrections_are_added_to_logits_of_the_reference(eps: float) -> None:
    torch.manual_seed(0)
    head = Head(16, 3, prior=0.01)
    states = torch.randn(1, 3, 16)
    reference = torch.tensor([[[0.0, 1.0, 0.5, 1e-4], [0.3, 0.2, 0.1, 0.9], [1.0, 0.0, 1.0, 1.0]]])
    inside = reference.double()
    logits = torch.log(inside.clamp(min=eps) / (1 - inside).clamp(min=eps))
    expected = (head.box(states).double() + logits).sigmoid().float()

    torch.testing.assert_close(head.boxes(states, reference, eps=eps), expected)


def test_boxes_and_logits_are_in_full_precision_under_autocast() -> None:
    head = Head(16, 3, prior=0.01)
    states = torch.randn(2, 5, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, boxes = head.logits(states), head.boxes(states, torch.rand(2, 5, 4), eps=1e-3)

    assert logits.dtype == boxes.dtype == torch.float32
    assert torch.equal(logits, head.logits(states))


def test_the_iou_branch_has_one_number_a_query_in_full_precision() -> None:
    head = Head(16, 3, prior=0.01, has_iou_branch=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = head.iou_logits(torch.randn(2, 5, 16, dtype=torch.bfloat16))

    assert logits is not None
    assert logits.shape == (2, 5)
    assert logits.dtype == torch.float32


def test_every_decoder_layer_predicts_the_iou_and_the_proposals_do_not(
    small_config, images, targets
) -> None:
    head = small_config.head.model_copy(update={"iou_branch": True})
    model, _ = build_model(small_config.model_copy(update={"head": head}), device=CPU)
    output = model(images, targets)
    losses = small_config.criterion(output, targets)
    torch.stack(list(losses.values())).sum().backward()

    assert all(layer.iou_logits is not None for layer in output.layers)
    assert output.proposals.iou_logits is None
    assert {f"main.{depth}.iou" for depth in range(3)} <= set(losses)
    for decoder_head in model.decoder.heads:
        assert isinstance(decoder_head, Head)
        assert decoder_head.iou is not None
        assert decoder_head.iou.weight.grad is not None
        assert decoder_head.iou.weight.grad.abs().sum() > 0
