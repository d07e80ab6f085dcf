from dataclasses import replace

import pytest
import torch
from torch import Tensor

from aligndetr.layers.conditional import ConditionalAttention
from aligndetr.layers.deformable import DeformableAttention
from aligndetr.layers.full import FullAttention, GaussianAttention
from aligndetr.layers.row_column import RowColumnAttention
from aligndetr.model.cross_attention import (
    ConditionalReading,
    DeformableReading,
    FullReading,
    GaussianReading,
    Reading,
    RowColumnReading,
)
from aligndetr.model.encoder import RowColumnEncoder
from aligndetr.model.places import AxisEmbedding, Place
from aligndetr.types import Memory
from drawn import drawn
from memories import LEVELS, SINGLE, WIDTH, padded, random_memory

HEADS = 2
KINDS = ("full", "gaussian", "conditional", "row_column", "deformable")


def reading(kind: str, *, sees_padding: bool = False) -> Reading:
    """Return one of random weights."""
    match kind:
        case "full":
            part = FullReading(FullAttention(WIDTH, HEADS))
        case "gaussian":
            part = GaussianReading(GaussianAttention(WIDTH, HEADS, levels=2, smoothness=8.0))
        case "conditional":
            attention = ConditionalAttention(WIDTH, HEADS, is_first=True)
            part = ConditionalReading(attention, sees_padding=sees_padding)
        case "row_column":
            part = RowColumnReading(RowColumnAttention(WIDTH, HEADS))
        case _:
            part = DeformableReading(DeformableAttention(WIDTH, HEADS, levels=2, points=3))
    return drawn(part)


def memory_for(kind: str, *, is_padded: bool = False) -> Memory:
    memory = random_memory(SINGLE if kind == "row_column" else LEVELS)
    memory = padded(memory) if is_padded else memory
    return RowColumnEncoder([], axes())(memory) if kind == "row_column" else memory


def axes() -> AxisEmbedding:
    """What tells places to row-column attention."""
    return drawn(AxisEmbedding(WIDTH))


def place_for(kind: str, size: int = 4) -> Place:
    torch.manual_seed(1)
    position, reference = torch.randn(2, 5, WIDTH), torch.rand(2, 5, size) * 0.6 + 0.2
    guides = {"conditional": (2, 5, WIDTH), "row_column": (2, 5, 2, WIDTH)}
    guide = torch.randn(guides[kind]) if kind in guides else None
    return Place(position, reference, guide)


def states() -> Tensor:
    torch.manual_seed(2)
    return torch.randn(2, 5, WIDTH)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing(kind: str):
    part, memory = reading(kind), memory_for(kind)
    alone = part(states(), place_for(kind), memory)
    assert alone.shape == (2, 5, WIDTH)
    found = part(states(), place_for(kind), memory_for(kind, is_padded=True))
    torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_each_query_and_each_image_reads_on_its_own(kind: str):
    part, memory, place = reading(kind), memory_for(kind), place_for(kind)
    order = torch.tensor([3, 0, 4, 1, 2])
    assert place.reference is not None
    guide = None if place.guide is None else place.guide[1:, order]
    shuffled = Place(place.position[1:, order], place.reference[1:, order], guide)
    second = Memory(
        memory.tokens[1:], memory.position[1:], None, memory.shapes, memory.valid_ratios[1:]
    )
    found = part(states()[1:, order], shuffled, second)
    torch.testing.assert_close(found, part(states(), place, memory)[1:, order])


@pytest.mark.parametrize(
    ("kind", "reads"),
    [
        # what of the place is read: position, reference, guide
        ("full", (True, False, False)),
        ("gaussian", (True, True, False)),
        ("conditional", (True, False, True)),
        ("row_column", (False, False, True)),
        ("deformable", (True, True, False)),
    ],
)
def test_what_each_kind_reads_of_the_place(kind: str, reads: tuple[bool, ...]):
    place = place_for(kind)
    parts = [place.position, place.reference, place.guide]
    for part in parts:
        if part is not None:
            part.requires_grad_()
    reading(kind)(states(), place, memory_for(kind)).square().sum().backward()
    found = tuple(
        part is not None and part.grad is not None and bool(part.grad.any()) for part in parts
    )
    assert found == reads


def test_padding_that_is_seen_changes_what_is_read():
    memory = memory_for("conditional")
    part = reading("conditional", sees_padding=True)
    found = part(states(), place_for("conditional"), padded(memory))
    unmasked = replace(padded(memory), padding=None)
    torch.testing.assert_close(found, part(states(), place_for("conditional"), unmasked))
    assert not torch.allclose(found, part(states(), place_for("conditional"), memory), atol=0.01)


@pytest.mark.parametrize("size", [2, 4])  # points and boxes
def test_references_are_taken_to_every_level_by_its_own_ratio(size: int):
    part, place = reading("deformable"), place_for("deformable", size)
    assert isinstance(part, DeformableReading)
    ratios = torch.tensor([[[0.5, 0.75], [0.6, 1.0]], [[1.0, 1.0], [1.0, 1.0]]])
    memory = replace(memory_for("deformable", is_padded=True), valid_ratios=ratios)
    assert memory.padding is not None
    assert place.reference is not None
    on_levels = torch.stack(
        [place.reference * ratios[:, level, None].repeat(1, 1, size // 2) for level in (0, 1)],
        dim=2,
    )
    expected = part.attention(
        states() + place.position, on_levels, memory.tokens, memory.shapes, memory.padding
    )
    torch.testing.assert_close(part(states(), place, memory), expected)


def test_rows_and_columns_are_told_by_the_centres_of_their_tokens():
    part, memory, place = reading("row_column"), memory_for("row_column"), place_for("row_column")
    assert isinstance(part, RowColumnReading)
    height, width = SINGLE[0]
    embedding, embedded = axes(), torch.zeros(2, height, width, 2, WIDTH)
    for row in range(height):
        for column in range(width):
            centre = torch.tensor([(column + 0.5) / width, (row + 0.5) / height])
            embedded[:, row, column] = embedding(centre)
    tokens = memory.tokens.view(2, height, width, WIDTH)
    assert place.guide is not None
    expected = part.attention(states(), place.guide, tokens, embedded, None)
    torch.testing.assert_close(part(states(), place, memory), expected)
