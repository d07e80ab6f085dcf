from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from aligndetr.boxes import inverse_sigmoid
from aligndetr.layers.attention import SelfAttention
from aligndetr.layers.basic import FeedForward
from aligndetr.layers.deformable import DeformableAttention
from aligndetr.layers.full import FullAttention
from aligndetr.model.cross_attention import DeformableReading, FullReading
from aligndetr.model.decoder import Decoder, DecoderLayer, Refinement
from aligndetr.model.groups import Layout
from aligndetr.model.heads import Head
from aligndetr.model.places import EmbeddedPositions, GivenPositions, Places
from aligndetr.types import LayerOutput, Memory, Queries, QueryGroup
from drawn import drawn
from memories import WIDTH, random_memory

Norm = Literal["none", "before_heads", "between_layers"]
HEADS = 2
MAIN = (QueryGroup("main", (0, 5)),)


def layer_of(reading: DeformableReading | FullReading) -> DecoderLayer:
    return DecoderLayer(SelfAttention(WIDTH, HEADS), reading, FeedForward(WIDTH, 16), WIDTH)


def decoder(
    refinement: Refinement = "look_forward_twice",
    *,
    layers: int = 3,
    norm: Norm = "before_heads",
    reads_references: bool = True,
) -> Decoder:
    """Return a decoder that knows places by the references, or by given positions alone."""

    def reading() -> DeformableReading | FullReading:
        if reads_references:
            return DeformableReading(DeformableAttention(WIDTH, HEADS, levels=1, points=2))
        return FullReading(FullAttention(WIDTH, HEADS))

    embedded = EmbeddedPositions(WIDTH, coordinates=4, is_scaled=False)
    positions = embedded if reads_references else GivenPositions()
    part = Decoder(
        [layer_of(reading()) for _ in range(layers)],
        [Head(WIDTH, 3, prior=0.01) for _ in range(layers)],
        Places(positions, None, on_padded=True),
        None if norm == "none" else nn.LayerNorm(WIDTH),
        refinement=refinement,
        norms_between=norm == "between_layers",
        eps=1e-3,
    )
    return drawn(part, std=0.2)


def inputs() -> tuple[Queries, Memory]:
    torch.manual_seed(1)
    reference = torch.rand(1, 5, 4) * 0.6 + 0.2
    content, position = torch.randn(2, 1, 5, WIDTH)
    queries = Queries(content, reference, position, MAIN, None)
    return queries, random_memory(((3, 4),), images=1)


def head_at(part: Decoder, depth: int) -> Head:
    head = part.heads[depth]
    assert isinstance(head, Head)
    return head


def box_of(part: Decoder, depth: int, states: Tensor, reference: Tensor) -> Tensor:
    correction = head_at(part, depth).box(states)
    return (correction + inverse_sigmoid(reference, eps=1e-3)).sigmoid()


@pytest.mark.parametrize("norm", ["none", "before_heads", "between_layers"])
@torch.no_grad()
def test_predictions_are_made_from_states_and_references_layer_by_layer(norm: Norm):
    part, (queries, memory) = decoder(norm=norm), inputs()
    found = part(queries, memory)
    assert queries.reference is not None
    x, reference = queries.content, queries.reference
    for depth, layer in enumerate(part.layers):
        place = part.places(depth, x, reference, None, memory)
        x = layer(x, place, memory, None)
        seen = x  # by the heads
        if norm == "before_heads":
            seen = part.norm(x)
        if norm == "between_layers":
            seen = x = part.norm(x)
            seen = part.norm(x) if depth == 2 else seen  # as in transformers' ConditionalDetr
        torch.testing.assert_close(found[depth].logits, head_at(part, depth).classes(seen))
        torch.testing.assert_close(found[depth].boxes, box_of(part, depth, seen, reference))
        reference = box_of(part, depth, x, reference)


@torch.no_grad()
def test_how_far_gradients_reach_changes_no_prediction():
    queries, memory = inputs()
    detached, twice = decoder("detached"), decoder("look_forward_twice")
    for one, other in zip(detached(queries, memory), twice(queries, memory), strict=True):
        assert torch.equal(one.boxes, other.boxes)


@torch.no_grad()
def test_without_refinement_every_layer_starts_from_the_first_reference():
    part, (queries, memory) = decoder("none"), inputs()
    assert queries.reference is not None
    x = queries.content
    for depth, (layer, found) in enumerate(zip(part.layers, part(queries, memory), strict=True)):
        place = part.places(depth, x, queries.reference, None, memory)
        x = layer(x, place, memory, None)
        expected = box_of(part, depth, part.norm(x), queries.reference)
        torch.testing.assert_close(found.boxes, expected)


@torch.no_grad()
def test_points_are_corrected_to_centres_and_give_no_size():
    part = decoder("none", reads_references=False)
    queries, memory = inputs()
    assert queries.reference is not None
    points = replace(queries, reference=queries.reference[..., :2])
    plain = replace(queries, reference=None)
    for found, other in zip(part(points, memory), part(plain, memory), strict=True):
        torch.testing.assert_close(found.boxes[..., 2:], other.boxes[..., 2:])
        centre = inverse_sigmoid(other.boxes[..., :2], eps=1e-7)
        centre = centre + inverse_sigmoid(queries.reference[..., :2], eps=1e-3)
        torch.testing.assert_close(found.boxes[..., :2], centre.sigmoid(), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_points_are_refined_to_boxes():
    part = decoder("detached", reads_references=False)
    queries, memory = inputs()
    assert queries.reference is not None
    points = replace(queries, reference=queries.reference[..., :2])
    x, place = queries.content, part.places(0, queries.content, None, queries.position, memory)
    x = part.layers[0](x, place, memory, None)
    boxes = head_at(part, 0).boxes(x, points.reference, eps=1e-3)
    x = part.layers[1](x, place, memory, None)  # given positions are those of every layer
    expected = box_of(part, 1, part.norm(x), boxes)
    torch.testing.assert_close(part(points, memory)[1].boxes, expected)


# How far gradients reach


def is_reached(*tensors: Tensor) -> bool:
    return any(tensor.grad is not None and bool(tensor.grad.any()) for tensor in tensors)


@pytest.mark.parametrize(
    ("refinement", "reaches"),
    [
        ("none", [False, True, False]),
        ("detached", [False, True, False]),
        ("look_forward_twice", [True, True, False]),  # one layer back, through the reference
    ],
)
def test_how_far_a_box_loss_reaches_back(refinement: Refinement, reaches: list[bool]):
    """The box head of layer 0 hears of layer 1's boxes through the reference alone."""
    part, (queries, memory) = decoder(refinement), inputs()
    part(queries, memory)[1].boxes.sum().backward()
    found = [is_reached(*head_at(part, depth).box.parameters()) for depth in range(3)]
    assert found == reaches


def test_looking_forward_twice_goes_no_further_than_one_layer_back():
    part, (queries, memory) = decoder(), inputs()
    part(queries, memory)[2].boxes.sum().backward()
    found = [is_reached(*head_at(part, depth).box.parameters()) for depth in range(3)]
    assert found == [False, True, True]


@pytest.mark.parametrize(
    ("refinement", "reaches"),
    [
        # whether the boxes of each layer reach the first reference
        ("none", [True, True, True]),
        ("detached", [True, False, False]),
        ("look_forward_twice", [True, True, False]),
    ],
)
def test_how_far_boxes_reach_back_to_the_first_reference(
    refinement: Refinement, reaches: list[bool]
):
    """Through references alone, for these layers know places by given positions."""
    found: list[bool] = []
    for depth in range(3):
        part = decoder(refinement, reads_references=False)
        queries, memory = inputs()
        assert queries.reference is not None
        queries.reference.requires_grad_()
        part(queries, memory)[depth].boxes.sum().backward()
        found.append(is_reached(queries.reference))
    assert found == reaches


def test_refined_references_send_no_gradient_by_way_of_places():
    """Layer 1 reads the memory where layer 0's box is, but does not move it."""
    part, (queries, memory) = decoder(), inputs()
    part(queries, memory)[1].logits.sum().backward()
    assert not is_reached(*head_at(part, 0).box.parameters())
    assert is_reached(*part.layers[0].parameters())


@pytest.mark.parametrize("refinement", ["none", "detached", "look_forward_twice"])
def test_a_shared_head_hears_of_every_layer(refinement: Refinement):
    part, (queries, memory) = decoder(refinement), inputs()
    head = head_at(part, 0)
    shared = Decoder(
        [layer for layer in part.layers if isinstance(layer, DecoderLayer)],
        [head] * 3,
        part.places,
        part.norm if isinstance(part.norm, nn.LayerNorm) else None,
        refinement=refinement,
        eps=1e-3,
    )
    gradients: list[Tensor] = []
    for depth in range(3):
        head.zero_grad()
        shared(queries, memory)[depth].logits.sum().backward()
        assert head.classes.weight.grad is not None
        gradients.append(head.classes.weight.grad.clone())
    assert all(bool(gradient.any()) for gradient in gradients)
    assert not torch.equal(gradients[0], gradients[2])


# Whom queries see


@pytest.mark.parametrize("reads_references", [True, False])
def test_permuting_queries_permutes_the_predictions(reads_references: bool):
    part, (queries, memory) = decoder(reads_references=reads_references), inputs()
    order = torch.tensor([3, 0, 4, 1, 2])
    assert queries.reference is not None
    assert queries.position is not None
    shuffled = replace(
        queries,
        content=queries.content[:, order],
        reference=queries.reference[:, order],
        position=queries.position[:, order],
    )
    for before, after in zip(part(queries, memory), part(shuffled, memory), strict=True):
        torch.testing.assert_close(after.boxes, before.boxes[:, order])
        torch.testing.assert_close(after.logits, before.logits[:, order])


def assert_alike(found: tuple[LayerOutput, ...], other: tuple[LayerOutput, ...]) -> None:
    for one, another in zip(found, other, strict=True):
        torch.testing.assert_close(one.boxes, another.boxes, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(one.logits, another.logits, atol=1e-5, rtol=1e-5)


def only(queries: Queries, start: int, stop: int) -> Queries:
    part: dict[str, Any] = {
        name: getattr(queries, name)[:, start:stop] for name in ("content", "reference", "position")
    }
    return replace(queries, groups=(QueryGroup("main", (0, stop - start)),), **part)


@torch.no_grad()
def test_every_group_and_block_is_predicted_as_if_alone():
    part, (queries, memory) = decoder(), inputs()
    grouped = replace(queries, groups=Layout(1, groups=2, extra=2).here(training=True))
    found = part(grouped, memory)
    for span in ((0, 1), (1, 3), (3, 5)):
        alone = part(only(queries, *span), memory)
        assert_alike(tuple(layer.span(*span) for layer in found), alone)


@torch.no_grad()
def test_queries_without_groups_see_each_other():
    part, (queries, memory) = decoder(), inputs()
    found = part(queries, memory)[-1].span(0, 2)
    alone = part(only(queries, 0, 2), memory)[-1]
    assert not torch.allclose(found.boxes, alone.boxes, atol=1e-4)


def test_dropout_acts_in_training_alone():
    part, (queries, memory) = decoder(), inputs()
    for layer in part.layers:
        assert isinstance(layer, DecoderLayer)
        layer.dropout.p = 0.5
    part.eval()
    assert torch.equal(part(queries, memory)[-1].boxes, part(queries, memory)[-1].boxes)
    part.train()
    assert not torch.equal(part(queries, memory)[-1].boxes, part(queries, memory)[-1].boxes)
