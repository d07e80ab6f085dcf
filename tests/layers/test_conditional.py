import pytest
import torch
from torch import Tensor

from aligndetr.layers.conditional import ConditionalAttention, PlaceEmbedding
from aligndetr.layers.position import embed_boxes
from drawn import drawn
from naive import attend_naively, heads_of, joined

HEADS, WIDTH = 2, 8


def attention(*, is_first: bool) -> ConditionalAttention:
    return drawn(ConditionalAttention(WIDTH, HEADS, is_first=is_first))


def inputs() -> tuple[Tensor, ...]:
    """Content, position and place of 3 queries; tokens and positions of 6 tokens."""
    torch.manual_seed(1)
    return (*torch.randn(3, 2, 3, WIDTH), *torch.randn(2, 2, 6, WIDTH))


def side_by_side(content: Tensor, place: Tensor) -> Tensor:
    """Return (B, heads, Q, 2 D / heads), the share of content before that of places."""
    parts = zip(content.chunk(HEADS, dim=-1), place.chunk(HEADS, dim=-1), strict=True)
    return torch.stack([torch.cat(part, dim=-1) for part in parts], dim=1)


@pytest.mark.parametrize("is_first", [False, True])
@torch.no_grad()
def test_every_head_compares_contents_and_places(is_first: bool):
    part = attention(is_first=is_first)
    x, position, place, tokens, token_position = inputs()
    padding = torch.zeros(2, 6, dtype=torch.bool)
    padding[1, 4:] = True
    query, key = part.query(x), part.key(tokens)
    if is_first:
        assert part.query_position is not None
        query = query + part.query_position(position)
        key = key + part.key_position(token_position)
    mixed = attend_naively(
        side_by_side(query, part.query_place(place)),
        side_by_side(key, part.key_position(token_position)),
        heads_of(part.value(tokens), HEADS),
        padding[:, None, None].expand(2, HEADS, 3, 6),
    )
    found = part(x, position, place, tokens, token_position, padding)
    torch.testing.assert_close(found, part.output(joined(mixed)))


def test_only_the_first_layer_reads_positions():
    part = attention(is_first=False)
    x, position, place, tokens, token_position = inputs()
    found = part(x, position, place, tokens, token_position, None)
    assert part.query_position is None
    torch.testing.assert_close(found, part(x, position + 1, place, tokens, token_position, None))


def test_padding_equals_cutting_the_tokens_off():
    part = attention(is_first=True)
    *queries, tokens, token_position = inputs()
    padding = torch.zeros(2, 6, dtype=torch.bool)
    padding[:, 4:] = True
    expected = part(*queries, tokens[:, :4], token_position[:, :4], None)
    torch.testing.assert_close(part(*queries, tokens, token_position, padding), expected)


def test_one_position_may_serve_all_images():
    part = attention(is_first=True)
    *queries, tokens, token_position = inputs()
    found = part(*queries, tokens, token_position[:1], None)
    every = token_position[:1].repeat(2, 1, 1)
    torch.testing.assert_close(found, part(*queries, tokens, every, None))


# Where to look


def embedding(*, has_size: bool) -> PlaceEmbedding:
    return drawn(PlaceEmbedding(WIDTH, has_size=has_size))


@pytest.mark.parametrize("size", [2, 4])  # of points and of boxes the centre counts
@torch.no_grad()
def test_places_are_sine_features_of_the_centre_scaled_after_the_first_layer(size: int):
    part = embedding(has_size=False)
    x, reference = torch.randn(2, 3, WIDTH), torch.rand(2, 3, size)
    plain = embed_boxes(reference[..., :2], WIDTH // 2)
    torch.testing.assert_close(part(x, reference, is_first=True), plain)
    torch.testing.assert_close(part(x, reference, is_first=False), plain * part.scale(x))


@torch.no_grad()
def test_features_of_y_are_weighed_by_height_and_those_of_x_by_width():
    part = embedding(has_size=True)
    x, reference = torch.randn(1, 1, WIDTH), torch.tensor([[[0.3, 0.6, 0.2, 0.5]]])
    assert part.size is not None
    width, height = (float(share.sigmoid()) for share in part.size(x)[0, 0])
    plain = embed_boxes(reference[..., :2], WIDTH // 2)
    factor = torch.tensor([height / 0.5] * (WIDTH // 2) + [width / 0.2] * (WIDTH // 2))
    torch.testing.assert_close(part(x, reference, is_first=True), plain * factor)
    scaled = plain * part.scale(x) * factor
    torch.testing.assert_close(part(x, reference, is_first=False), scaled)
