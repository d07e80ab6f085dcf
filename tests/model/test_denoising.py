import pytest
import torch

from aligndetr.boxes import cxcywh_to_xyxy
from aligndetr.model.denoising import ContrastiveDenoising, Noise
from aligndetr.types import Queries, QueryGroup, Targets


def start(images: int, queries: int = 3, width: int = 8) -> Queries:
    return Queries(
        content=torch.randn(images, queries, width),
        reference=torch.rand(images, queries, 4),
        position=None,
        groups=(QueryGroup("main", (0, queries)),),
        proposals=None,
    )


def targets(*counts: int) -> Targets:
    torch.manual_seed(1)
    boxes = torch.rand(sum(counts), 4) * 0.3 + 0.2
    return Targets(boxes, torch.randint(5, (sum(counts),)), tuple(counts))


def denoising(queries: int = 8, label_noise: float = 0.5, box_noise: float = 1.0):
    torch.manual_seed(0)
    return ContrastiveDenoising(
        8, 5, queries=queries, label_noise=label_noise, box_noise=box_noise, eps=1e-3
    )


def test_a_batch_without_objects_gets_no_denoising_group():
    queries = start(2)
    assert denoising()(queries, targets(0, 0)) is queries


@pytest.mark.parametrize(
    ("wanted", "counts", "blocks"),
    [
        (8, (1,), 8),  # one object: as many blocks as positive queries
        (8, (3, 1), 2),  # the fullest image decides
        (8, (9,), 1),  # never less than one
    ],
)
def test_number_of_blocks_follows_the_fullest_image(wanted, counts, blocks):
    out = denoising(wanted)(start(len(counts)), targets(*counts))
    group = out.groups[0]
    assert group.blocks == group.copies == blocks
    assert group.span == (0, 2 * blocks * max(counts))
    assert out.groups[1].span == (group.span[1], group.span[1] + 3)


def test_known_pairs_join_every_positive_with_its_target():
    batch = targets(2, 0, 3)
    out = denoising(6, label_noise=0.0, box_noise=1e-6)(start(3), batch)
    known = out.groups[0].known
    assert known is not None
    assert out.reference is not None
    assert len(known) == 2 * 5  # two blocks
    assert sorted(known.target.tolist()) == sorted(list(range(5)) * 2)
    found = out.reference[known.image, known.query]
    torch.testing.assert_close(found, batch.boxes[known.target], atol=1e-4, rtol=0)


def test_slots_without_an_object_are_zeros_at_the_centre():
    out = denoising(6)(start(2), targets(2, 1))
    assert out.reference is not None
    empty = [1, 3, 5, 7, 9, 11]  # image 1 fills the first of each pair of slots
    assert out.content[1, empty].abs().max() == 0
    torch.testing.assert_close(out.reference[1, empty], torch.full((6, 4), 0.5))


def test_boxes_move_corner_by_corner_and_negatives_further():
    """An oracle that moves the corners one at a time."""
    batch = targets(2, 1)
    layer = denoising(4)
    noise = Noise.draw(2 * 2 * 3, 5, torch.device("cpu"))
    out = layer(start(2), batch, noise)
    assert out.reference is not None
    row = 0
    for half in range(4):  # positives, negatives, positives, negatives
        for target, (image, place) in enumerate([(0, 0), (0, 1), (1, 0)]):
            box = batch.boxes[target]
            half_size = box[2:].repeat(2) / 2
            corners = cxcywh_to_xyxy(box)
            for corner in range(4):
                reach = noise.part[row, corner] + half % 2
                corners[corner] += noise.sign[row, corner] * reach * half_size[corner]
            left, top, right, bottom = corners.clamp(0, 1).tolist()
            moved = torch.tensor(
                [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
            ).clamp(1e-3, 1)
            torch.testing.assert_close(
                out.reference[image, half * 2 + place], moved, atol=2e-3, rtol=0
            )
            row += 1


def test_a_quarter_of_the_labels_changes_at_the_usual_noise():
    layer = denoising(1000)
    with torch.no_grad():
        layer.label.weight.copy_(torch.arange(5.0)[:, None].expand(5, 8))
    batch = Targets(torch.full((1, 4), 0.5), torch.tensor([2]), (1,))
    labels = layer(start(1), batch).content[0, :2000, 0]
    changed = (labels != 2).float().mean()
    assert 0.15 < changed < 0.25  # half of 0.5, and one in five draws the old label again


def test_gradient_reaches_the_label_embedding():
    layer = denoising()
    layer(start(1), targets(2)).content.square().sum().backward()
    assert layer.label.weight.grad is not None
    assert layer.label.weight.grad.abs().sum() > 0
