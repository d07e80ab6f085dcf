import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from aligndetr.boxes import inverse_sigmoid
from aligndetr.layers.position import embed_boxes
from aligndetr.model.groups import Layout
from aligndetr.model.heads import Head
from aligndetr.model.queries import (
    AnchorBoxQueries,
    AnchorPointQueries,
    LearnedQueries,
    PointQueries,
    ProposalEmbedding,
    QuerySource,
    TopQueries,
    propose,
)
from aligndetr.types import Memory, QueryGroup
from drawn import drawn
from memories import LEVELS, WIDTH, padded, random_memory

MAIN = (QueryGroup("main", (0, 4)),)
GROUPED = Layout(4, groups=2, extra=3, copies=2)
"""4 main queries, and 2 groups of 3 in training."""


def memory() -> Memory:
    return random_memory(LEVELS)


# Learned


def sources(layout: Layout) -> dict[str, QuerySource]:
    """Every source whose queries do not depend on the image, of random weights."""
    boxes: dict[str, Any] = {"centres": "normal", "freezes_centres": False}
    made = {
        "learned": LearnedQueries(WIDTH, layout),
        "points": PointQueries(WIDTH, layout, content="zeros", point_layers=2),
        "points and contents": PointQueries(WIDTH, layout, content="learned", point_layers=1),
        "anchor points": AnchorPointQueries(WIDTH, layout, patterns=1),
        "anchor boxes": AnchorBoxQueries(WIDTH, layout, content="zeros", **boxes),
        "boxes, one content": AnchorBoxQueries(WIDTH, layout, content="shared", **boxes),
        "boxes and contents": AnchorBoxQueries(WIDTH, layout, content="learned", **boxes),
    }
    return {name: drawn(source) for name, source in made.items()}


KINDS = tuple(sources(Layout(1)))


@pytest.mark.parametrize("kind", KINDS)
def test_learned_queries_are_the_same_for_every_image(kind: str):
    queries = sources(Layout(4))[kind](memory())
    assert queries.content.shape == (2, 4, WIDTH)
    assert queries.groups == MAIN
    assert queries.proposals is None
    for part in (queries.content, queries.position, queries.reference):
        assert part is None or torch.equal(part[0], part[1])


@pytest.mark.parametrize("kind", KINDS)
def test_groups_of_training_have_rows_of_their_own_behind_the_main_ones(kind: str):
    source = sources(GROUPED)[kind]
    in_training, in_evaluation = source.train()(memory()), source.eval()(memory())
    assert in_training.groups == GROUPED.here(training=True)
    assert in_evaluation.groups == MAIN
    assert in_training.content.shape == (2, 10, WIDTH)
    names = ("content", "position", "reference")
    for name in names:
        every, main = getattr(in_training, name), getattr(in_evaluation, name)
        assert (every is None) == (main is None)
        if every is not None:
            torch.testing.assert_close(every[:, :4], main)
            is_one_for_all = name == "content" and not kind.endswith("and contents")
            assert is_one_for_all or len(every[0].unique(dim=0)) == 10


@pytest.mark.parametrize("kind", KINDS)
def test_every_row_is_a_query_in_training(kind: str):
    source = sources(GROUPED)[kind].train()
    queries = source(memory())
    parts = [queries.content, queries.position, queries.reference]
    torch.cat([part.square().flatten() for part in parts if part is not None]).sum().backward()
    for name, parameter in source.named_parameters():
        assert parameter.grad is not None, name
        assert (
            parameter.grad.abs().flatten(1).sum(1) if parameter.dim() > 1 else parameter.grad
        ).all()


def test_learned_queries_have_a_position_and_nothing_else():
    source = drawn(LearnedQueries(WIDTH, Layout(4)))
    queries = source(memory())
    assert queries.position is not None
    torch.testing.assert_close(queries.position[1], source.position)
    assert queries.content.abs().max() == 0
    assert queries.reference is None


@pytest.mark.parametrize("layers", [1, 2])
@torch.no_grad()
def test_reference_points_are_made_from_positions(layers):
    source = drawn(PointQueries(WIDTH, Layout(4), content="zeros", point_layers=layers))
    queries = source(memory())
    first, last = source.point.layers[0], source.point.layers[-1]
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    states = source.position
    if layers == 2:
        states = (states @ first.weight.T + first.bias).clamp(min=0)
    expected = 1 / (1 + (-(states @ last.weight.T + last.bias)).exp())
    assert queries.reference is not None
    assert queries.reference.shape == (2, 4, 2)
    torch.testing.assert_close(queries.reference[0], expected)
    assert queries.content.abs().max() == 0


def test_points_may_have_learned_contents():
    source = drawn(PointQueries(WIDTH, Layout(4), content="learned", point_layers=1))
    assert source.content is not None
    torch.testing.assert_close(source(memory()).content[0], source.content)


def test_every_pattern_is_at_every_point_one_pattern_after_the_other():
    source = drawn(AnchorPointQueries(WIDTH, Layout(4), patterns=3))
    queries = source(memory())
    assert queries.reference is not None
    assert queries.position is None
    assert queries.groups == (QueryGroup("main", (0, 12)),)
    for pattern in range(3):
        for point in range(4):
            row = pattern * 4 + point
            torch.testing.assert_close(queries.reference[1, row], source.points[point])
            torch.testing.assert_close(queries.content[1, row], source.patterns[pattern])


def test_every_group_of_points_has_all_patterns():
    source = drawn(AnchorPointQueries(WIDTH, Layout(2, groups=2, extra=1), patterns=2)).train()
    queries = source(memory())
    assert queries.reference is not None
    main, extra = queries.groups
    assert (main.span, extra.span, extra.blocks, extra.copies) == ((0, 4), (4, 8), 2, 2)
    points, patterns = [0, 1, 0, 1, 2, 2, 3, 3], [0, 0, 1, 1, 0, 1, 0, 1]
    torch.testing.assert_close(queries.reference[0], source.points[points])
    torch.testing.assert_close(queries.content[0], source.patterns[patterns])


def boxes_source(content: str = "zeros", **options: Any) -> AnchorBoxQueries:
    options = {"centres": "normal", "freezes_centres": False} | options
    return AnchorBoxQueries(WIDTH, Layout(4), content=content, **options)  # pyright: ignore


def test_anchor_boxes_are_logits_of_references():
    source = drawn(boxes_source())
    queries = source(memory())
    assert queries.reference is not None
    torch.testing.assert_close(inverse_sigmoid(queries.reference[0], eps=1e-6), source.boxes)
    assert queries.position is None


@pytest.mark.parametrize(("content", "rows"), [("zeros", 0), ("shared", 1), ("learned", 4)])
def test_contents_of_boxes_are_zeros_one_vector_or_one_each(content: str, rows: int):
    source = drawn(boxes_source(content))
    found = source(memory()).content[0]
    assert len(found.unique(dim=0)) == max(rows, 1)
    if source.content is None:
        assert found.abs().max() == 0
    else:
        torch.testing.assert_close(found, source.content.expand(4, -1))


def test_frozen_centres_get_no_gradient_and_sizes_do():
    gradients: list[Tensor] = []
    for freezes in (True, False):
        source = drawn(boxes_source(freezes_centres=freezes))
        reference = source(memory()).reference
        assert reference is not None
        reference.square().sum().backward()
        assert source.boxes.grad is not None
        gradients.append(source.boxes.grad)
    frozen, free = gradients
    assert frozen[:, :2].abs().max() == 0
    torch.testing.assert_close(frozen[:, 2:], free[:, 2:])
    assert free.abs().min() > 0


def test_centres_are_drawn_as_logits_or_evenly_over_the_image():
    torch.manual_seed(0)
    spread: dict[str, Tensor] = {}
    for centres in ("normal", "uniform"):
        source = AnchorBoxQueries(
            WIDTH,
            Layout(4000),
            content="zeros",
            centres=centres,  # pyright: ignore[reportArgumentType]
            freezes_centres=False,
        )
        source.draw_parameters()
        reference = source(memory()).reference
        assert reference is not None
        spread[centres] = reference[0].std(dim=0)
    uniform, normal = 1 / math.sqrt(12), 0.208  # that of the sigmoid of N(0, 1)
    torch.testing.assert_close(
        spread["uniform"], torch.tensor([uniform, uniform, normal, normal]), atol=0.01, rtol=0
    )
    torch.testing.assert_close(spread["normal"], torch.full((4,), normal), atol=0.01, rtol=0)


# At the encoder's proposals


def selection(layout: Layout | int = 4, *, is_embedded: bool = False, **options: Any) -> TopQueries:
    part = TopQueries(
        Head(WIDTH, 5, prior=0.01),
        WIDTH,
        Layout(layout) if isinstance(layout, int) else layout,
        embedding=ProposalEmbedding(WIDTH) if is_embedded else None,
        **options,
    )
    return drawn(part, std=0.3)


@torch.no_grad()
def states_of(part: TopQueries, source: Memory) -> Tensor:
    return part.norm(part.project(source.tokens))


def test_proposals_sit_at_token_centres_and_double_in_size_with_the_level():
    logits, is_usable = propose(memory())
    boxes = logits.sigmoid()
    row = 0
    for level, (height, width) in enumerate(LEVELS):
        for y in range(height):
            for x in range(width):
                box = [(x + 0.5) / width, (y + 0.5) / height, 0.05 * 2**level, 0.05 * 2**level]
                torch.testing.assert_close(boxes[0, row], torch.tensor(box))
                row += 1
    assert is_usable.all()


def test_padded_and_border_proposals_are_infinite():
    padding = torch.zeros(2, 30, dtype=torch.bool)
    padding[1, 5] = True
    logits, is_usable = propose(replace(memory(), padding=padding))
    assert logits[1, 5].tolist() == [math.inf] * 4
    assert is_usable.sum() == 59
    wide = random_memory(((1, 80),), images=1)
    _, is_usable = propose(wide)  # the first and last centres lie within 0.01 of the border
    assert (~is_usable[0]).nonzero().flatten().tolist() == [0, 79]


def test_the_best_tokens_become_queries_in_order_of_their_score():
    part, source = selection(), memory()
    out = part(source)
    assert out.proposals is not None
    assert out.reference is not None
    best = part.head.logits(states_of(part, source)).amax(-1)
    expected = best.sort(dim=1, descending=True).values[:, :4]
    torch.testing.assert_close(out.proposals.logits.amax(-1), expected)
    torch.testing.assert_close(out.reference, out.proposals.boxes)
    assert not out.reference.requires_grad
    assert out.proposals.boxes.requires_grad
    assert out.groups == MAIN


def test_the_first_class_alone_may_choose():
    part, source = selection(chosen_by="first_class"), memory()
    out = part(source)
    assert out.proposals is not None
    first = part.head.logits(states_of(part, source))[..., 0]
    expected = first.sort(dim=1, descending=True).values[:, :4]
    torch.testing.assert_close(out.proposals.logits[..., 0], expected)


def test_gradients_are_those_of_looking_at_all_tokens():
    """They go through the chosen alone, which are computed a second time."""
    part = selection()
    tokens = memory().tokens.requires_grad_()
    out = part(replace(memory(), tokens=tokens))
    assert out.proposals is not None
    found = out.proposals.logits.square().sum() + out.proposals.boxes.square().sum()
    states = part.norm(part.project(tokens))
    logits = part.head.logits(states)
    best = logits.amax(-1).argsort(dim=1, descending=True)[:, :4]
    logits = torch.stack([rows[index] for rows, index in zip(logits, best, strict=True)])
    boxes = (part.head.correction(states) + propose(memory())[0]).sigmoid()
    boxes = torch.stack([rows[index] for rows, index in zip(boxes, best, strict=True)])
    expected = logits.square().sum() + boxes.square().sum()
    torch.testing.assert_close(found, expected)
    weights = [tokens, *part.project.parameters(), *part.norm.parameters()]
    weights += list(part.head.parameters())
    for own, other in zip(
        torch.autograd.grad(found, weights), torch.autograd.grad(expected, weights), strict=True
    ):
        torch.testing.assert_close(own, other)


def test_under_autocast_the_projection_has_a_gradient():
    """Weights that were converted without one must not serve the chosen."""
    part = selection()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = part(memory())
    assert out.proposals is not None
    (out.proposals.logits.sum() + out.proposals.boxes.sum()).backward()
    assert part.project.weight.grad is not None
    assert part.project.weight.grad.abs().max() > 0


@torch.no_grad()
def test_boxes_are_corrected_proposals():
    part, source = selection(), memory()
    out = part(source)
    logits, _ = propose(source)
    states = states_of(part, source)
    corrected = (part.head.correction(states) + logits).sigmoid()
    for image in range(2):
        order = part.head.logits(states[image]).amax(-1).argsort(descending=True)[:4]
        assert out.reference is not None
        torch.testing.assert_close(out.reference[image], corrected[image, order])


def test_learned_content_is_the_same_for_every_image():
    part = selection()
    out = part(memory())
    assert torch.equal(out.content[0], out.content[1])
    assert part.content is not None
    torch.testing.assert_close(out.content[0], part.content)


def test_content_from_memory_is_detached_and_differs():
    part, source = selection(content="memory"), memory()
    out = part(source)
    assert not out.content.requires_grad
    order = part.head.logits(states_of(part, source)).amax(-1).argsort(dim=1, descending=True)
    expected = states_of(part, source)[1, order[1, :4]]
    torch.testing.assert_close(out.content[1], expected)


@torch.no_grad()
def test_position_and_content_may_be_made_from_the_box():
    """Deformable DETR, A.4, by its formula: sine features in the order x, y, width, height."""
    part = selection(content="proposal", position="proposal", is_embedded=True)
    out = part(memory())
    assert out.reference is not None
    assert part.embedding is not None
    features = embed_boxes(out.reference, WIDTH // 2, order="xy")
    made = part.embedding.norm(part.embedding.project(features))
    torch.testing.assert_close(out.position, made[..., :WIDTH])
    torch.testing.assert_close(out.content, made[..., WIDTH:])


@pytest.mark.parametrize("content", ["learned", "memory"])
@torch.no_grad()
def test_only_what_is_said_to_be_made_from_the_box_is(content: str):
    options: dict[str, Any] = {"content": content, "is_embedded": True}
    with_position = selection(position="proposal", **options)(memory())
    without = selection(position="reference", **options)(memory())
    assert with_position.position is not None
    assert without.position is None
    torch.testing.assert_close(with_position.content, without.content)
    plain = selection(content=content)
    other = selection(content=content, is_embedded=True)
    other.load_state_dict(plain.state_dict(), strict=False)
    torch.testing.assert_close(other(memory()).content, plain(memory()).content)


def test_the_embedding_of_boxes_sends_no_gradient_into_them():
    part = selection(content="proposal", position="proposal", is_embedded=True)
    out = part(memory())
    assert out.position is not None
    (out.position.sum() + out.content.square().sum()).backward()
    assert all(parameter.grad is None for parameter in part.head.parameters())


def test_an_image_of_few_tokens_gives_fewer_queries():
    out = selection(100)(memory())
    assert out.content.shape == (2, 30, WIDTH)
    assert out.groups[0].span == (0, 30)


# Groups of training, and what is supervised


def ranked(part: TopQueries, source: Memory) -> tuple[Tensor, Tensor]:
    """Return logits and boxes of all tokens, best first."""
    with torch.no_grad():
        states = states_of(part, source)
        logits = part.head.logits(states)
        boxes = (part.head.correction(states) + propose(source)[0]).sigmoid()
        order = logits.amax(-1).argsort(dim=1, descending=True)
    rows = torch.arange(2)[:, None]
    return logits[rows, order], boxes[rows, order]


@pytest.mark.parametrize(
    ("proposals", "ranks"),
    [("next", list(range(10))), ("same", [0, 1, 2, 3, 0, 1, 2, 0, 1, 2])],
)
def test_extra_groups_take_the_next_proposals_or_the_best_again(proposals, ranks: list[int]):
    part, source = selection(replace(GROUPED, proposals=proposals)), memory()
    out = part.train()(source)
    _, boxes = ranked(part, source)
    torch.testing.assert_close(out.reference, boxes[:, ranks])
    assert part.content is not None
    torch.testing.assert_close(out.content[0], part.content)
    assert [group.name for group in out.groups] == ["main", "extra"]


@pytest.mark.parametrize("proposals", ["next", "same"])
def test_extra_groups_of_few_tokens_keep_their_own_contents(proposals):
    layout = replace(GROUPED, proposals=proposals)
    part, source = selection(layout), random_memory(((2, 3),))
    out = part.train()(source)
    assert part.content is not None
    rows = [0, 1, 2, 3, 4, 7] if proposals == "next" else list(range(10))
    torch.testing.assert_close(out.content[1], part.content[rows])
    assert out.groups[-1].span[1] == len(rows)
    assert out.groups[1].blocks == 2


def test_evaluation_has_the_main_queries_of_training():
    part, source = selection(GROUPED), memory()
    in_training, in_evaluation = part.train()(source), part.eval()(source)
    assert in_evaluation.groups == MAIN
    assert in_training.reference is not None
    torch.testing.assert_close(in_evaluation.reference, in_training.reference[:, :4])
    torch.testing.assert_close(in_evaluation.content, in_training.content[:, :4])


def test_proposals_of_the_main_group_alone_are_supervised():
    part, source = selection(GROUPED), memory()
    proposals = part.train()(source).proposals
    logits, boxes = ranked(part, source)
    assert proposals is not None
    torch.testing.assert_close(proposals.logits, logits[:, :4])
    torch.testing.assert_close(proposals.boxes, boxes[:, :4])


@torch.no_grad()
def test_all_tokens_may_be_supervised_in_training():
    part, source = selection(supervises_all=True), memory()
    proposals = part.train()(source).proposals
    states = states_of(part, source)
    assert proposals is not None
    torch.testing.assert_close(proposals.logits, part.head.logits(states))
    boxes = (part.head.correction(states) + propose(source)[0]).sigmoid()
    torch.testing.assert_close(proposals.boxes, boxes)
    in_evaluation = part.eval()(source).proposals
    assert in_evaluation is not None
    assert in_evaluation.logits.shape[1] == 4


@pytest.mark.parametrize("chosen_by", ["best_class", "first_class"])
@torch.no_grad()
def test_padding_is_never_chosen_before_the_image(chosen_by: str):
    # Published: all padding has the score of an empty token, which is better than some here.
    source = memory()
    for count in (4, 30):
        part = selection(count, chosen_by=chosen_by)
        alone, found = part(source), part(padded(source))
        torch.testing.assert_close(found.reference, alone.reference)
        torch.testing.assert_close(found.content, alone.content)


def test_losses_of_unusable_proposals_have_finite_gradients():
    part = selection(supervises_all=True)
    proposals = part.train()(padded(memory())).proposals
    assert proposals is not None
    (proposals.boxes.sum() + proposals.logits.sum()).backward()
    for name, parameter in part.head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
