import pickle
from typing import Any

import pytest
import torch

from aligndetr.boxes import cxcywh_to_xyxy
from aligndetr.config.presets import get_detr
from aligndetr.model.build import _build_denoising
from aligndetr.model.denoising import Denoising, Noise, blocks_for
from aligndetr.model.groups import attention_mask
from aligndetr.types import Queries, QueryGroup, Targets

CPU = torch.device("cpu")


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


def denoising(queries: int = 8, **options: Any) -> Denoising:
    """Return that of DINO."""
    torch.manual_seed(0)
    common = {"label_noise": 0.25, "box_noise": 1.0, "eps": 1e-3}
    blocks = blocks_for(queries)
    return Denoising(8, 5, has_negatives=True, blocks=blocks, **(common | options))


def plain(blocks: int = 2, **options: Any) -> Denoising:
    """Return that of DN-DETR."""
    torch.manual_seed(0)
    common = {"label_noise": 0.2, "box_noise": 0.4, "eps": 1e-3}
    return Denoising(8, 5, has_negatives=False, blocks=lambda _: blocks, **(common | options))


@pytest.mark.parametrize("make", [denoising, plain])
def test_a_batch_without_objects_gets_no_denoising_group(make):
    queries = start(2)
    assert make()(queries, targets(0, 0)) is queries


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


@pytest.mark.parametrize(
    ("queries", "below", "slots", "blocks"),
    [
        (100, 0, 7, 14),  # 98 positives
        (100, 100, 7, 14),
        (49, 100, 7, 98),  # twice 49 is below 100: it is the number itself, in IDEA's code
        (50, 100, 7, 7),
        (4, 100, 9, 8),
        (4, 0, 9, 1),  # never less than one
    ],
)
def test_few_queries_may_be_the_number_of_blocks_themselves(queries, below, slots, blocks):
    assert blocks_for(queries, below=below)(slots) == blocks


@pytest.mark.parametrize("name", ["dino-r50-4scale", "dn-detr-r50"])
def test_the_numbers_of_blocks_can_be_pickled(name: str):
    denoising = _build_denoising(get_detr(name))
    assert denoising is not None
    blocks = denoising.num_blocks
    copy = pickle.loads(pickle.dumps(blocks))
    assert [copy(slots) for slots in (1, 7, 300)] == [blocks(slots) for slots in (1, 7, 300)]


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
    noise = Noise.draw(2 * 2 * 3, 5, CPU)
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


def numbered(layer: Denoising) -> Denoising:
    """Return the layer with labels for embeddings: the first feature of a content is its label."""
    with torch.no_grad():
        layer.label.weight.copy_(torch.arange(5.0)[:, None].expand(layer.label.weight.shape))
    return layer


def test_the_asked_for_share_of_labels_is_drawn_anew():
    layer = numbered(denoising(1000))
    batch = Targets(torch.full((1, 4), 0.5), torch.tensor([2]), (1,))
    labels = layer(start(1), batch).content[0, :2000, 0]
    changed = (labels != 2).float().mean()
    assert 0.15 < changed < 0.25  # of 0.25 one in five draws the old label again


@pytest.mark.parametrize("make", [denoising, plain])
def test_labels_change_where_chance_says_so_to_what_was_drawn(make):
    batch = targets(2)
    layer = numbered(make(2))
    rows = (2 if layer.has_negatives else 1) * layer.num_blocks(2) * 2
    noise = Noise.draw(rows, 5, CPU)
    content = layer(start(1), batch, noise).content[0, :rows, 0]
    for row in range(rows):
        is_new = float(noise.label_chance[row]) < layer.label_noise
        expected = noise.label[row] if is_new else batch.labels[row % 2]
        assert content[row] == expected


@pytest.mark.parametrize("make", [denoising, plain])
def test_targets_are_restored_to_their_clean_labels_and_boxes(make):
    batch = targets(2, 1)
    before = (batch.boxes.clone(), batch.labels.clone())
    make(label_noise=1.0)(start(2), batch)
    assert torch.equal(batch.boxes, before[0])
    assert torch.equal(batch.labels, before[1])


@pytest.mark.parametrize("make", [denoising, plain])
def test_gradient_reaches_the_label_embedding(make):
    layer = make()
    layer(start(1), targets(2)).content.square().sum().backward()
    assert layer.label.weight.grad is not None
    assert layer.label.weight.grad.abs().sum() > 0


# Without negatives


@pytest.mark.parametrize("counts", [(1,), (3, 1), (9,)])
def test_plain_denoising_has_as_many_blocks_as_it_is_told(counts):
    out = plain(5)(start(len(counts)), targets(*counts))
    group = out.groups[0]
    assert (group.name, group.blocks, group.copies, group.sees_main) == ("denoising", 5, 5, True)
    assert group.span == (0, 5 * max(counts))
    assert out.groups[1] == QueryGroup("main", (group.span[1], group.span[1] + 3))


def test_plain_denoising_moves_centres_by_half_sizes_and_changes_sizes():
    """An oracle that changes the numbers of a box one at a time (DN-DETR, section 4.2)."""
    batch = targets(2, 1)
    layer = plain(3, box_noise=0.8)
    noise = Noise.draw(3 * 3, 5, CPU)
    out = layer(start(2), batch, noise)
    assert out.reference is not None
    row = 0
    for block in range(3):
        for target, (image, place) in enumerate([(0, 0), (0, 1), (1, 0)]):
            x, y, width, height = batch.boxes[target].tolist()
            step = (0.8 * noise.sign[row] * noise.part[row]).tolist()
            moved = [
                x + step[0] * width / 2,
                y + step[1] * height / 2,
                width + step[2] * width,
                height + step[3] * height,
            ]
            expected = torch.tensor(moved).clamp(1e-3, 1 - 1e-3)
            torch.testing.assert_close(
                out.reference[image, block * 2 + place], expected, atol=1e-5, rtol=0
            )
            row += 1


def test_plain_denoising_pairs_every_query_with_an_object():
    batch = targets(2, 0, 3)
    out = plain(2, label_noise=0.0, box_noise=1e-6)(start(3), batch)
    known = out.groups[0].known
    assert known is not None
    assert out.reference is not None
    assert sorted(known.target.tolist()) == sorted(list(range(5)) * 2)
    assert known.query.tolist() == [0, 1, 0, 1, 2, 3, 4, 3, 4, 5]
    found = out.reference[known.image, known.query]
    torch.testing.assert_close(found, batch.boxes[known.target], atol=1e-4, rtol=0)


def test_the_last_feature_tells_noised_objects_from_all_else():
    layer = plain(2)
    assert layer.label.weight.shape == (5, 7)
    queries = start(2)
    content = layer(queries, targets(2, 1)).content
    assert content[0, :4, 7].eq(1).all()
    assert content[1, :4, 7].tolist() == [1, 0, 1, 0]  # image 1 fills one of two slots
    torch.testing.assert_close(content[:, 4:], queries.content)


def test_contrastive_denoising_has_no_such_feature():
    layer = numbered(denoising())
    assert layer(start(1), targets(1)).content[0, 0].unique().numel() == 1


# Beside other groups


@pytest.mark.parametrize("make", [denoising, plain])
def test_groups_behind_are_shifted_and_keep_what_they_were(make):
    queries = start(1, queries=7)
    extra = QueryGroup("extra", (3, 7), copies=4, weight=0.5, blocks=2)
    grouped = Queries(
        queries.content, queries.reference, None, (QueryGroup("main", (0, 3)), extra), None
    )
    out = make(2)(grouped, targets(2))
    size = out.groups[0].span[1]
    assert out.groups[1] == QueryGroup("main", (size, size + 3))
    shifted = (size + 3, size + 7)
    assert out.groups[2] == QueryGroup("extra", shifted, copies=4, weight=0.5, blocks=2)
    mask = attention_mask(out.groups, CPU)
    assert mask is not None
    assert mask[size + 3 :, :size].all()  # extra queries see no denoising ones, nor these them
    assert mask[:size, size + 3 :].all()
    assert not mask[:size, size : size + 3].any()
    assert out.reference is not None
    assert queries.reference is not None
    torch.testing.assert_close(out.reference[:, size:], queries.reference)
