import math

import pytest
import torch
from torch import Tensor, nn

from aligndetr.layers.full import FullAttention, GaussianAttention
from drawn import drawn
from naive import attend_naively, heads_of, joined

HEADS, WIDTH = 2, 8


def full() -> FullAttention:
    return drawn(FullAttention(WIDTH, HEADS))


def twin(attention: FullAttention) -> nn.MultiheadAttention:
    """Return torch's own attention with the same weights."""
    other = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    parts = (attention.query, attention.key, attention.value)
    with torch.no_grad():
        other.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        other.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
    other.out_proj.load_state_dict(attention.output.state_dict())
    return other


def inputs(tokens: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(2, 3, WIDTH), torch.randn(2, tokens, WIDTH), torch.randn(2, tokens, WIDTH)


def test_full_attention_equals_torchs_with_positions_in_the_keys():
    attention, (query, tokens, position) = full(), inputs()
    padding = torch.zeros(2, 6, dtype=torch.bool)
    padding[1, 4:] = True
    expected, _ = twin(attention)(query, tokens + position, tokens, key_padding_mask=padding)
    torch.testing.assert_close(attention(query, tokens, position, padding), expected)


def test_padding_equals_cutting_the_tokens_off():
    attention, (query, tokens, position) = full(), inputs()
    padding = torch.zeros(2, 6, dtype=torch.bool)
    padding[:, 4:] = True
    expected = attention(query, tokens[:, :4], position[:, :4], None)
    torch.testing.assert_close(attention(query, tokens, position, padding), expected)


@torch.no_grad()
def test_a_bias_is_added_to_the_logits_of_the_weights():
    attention, (query, tokens, position) = full(), inputs()
    bias = torch.randn(2, HEADS, 3, 6)
    mixed = attend_naively(
        heads_of(attention.query(query), HEADS),
        heads_of(attention.key(tokens + position), HEADS),
        heads_of(attention.value(tokens), HEADS),
        bias=bias,
    )
    found = attention(query, tokens, position, None, bias=bias)
    torch.testing.assert_close(found, attention.output(joined(mixed)))


def test_one_position_may_serve_all_images():
    attention, (query, tokens, position) = full(), inputs()
    found = attention(query, tokens, position[:1], None)
    torch.testing.assert_close(found, attention(query, tokens, position[:1].repeat(2, 1, 1), None))


# Around a reference

SHAPES = ((2, 4), (1, 2))
"""Height and width of two levels: 8 and 2 tokens."""


def gaussian(levels: int = 2, smoothness: float = 3.0) -> GaussianAttention:
    return drawn(GaussianAttention(WIDTH, HEADS, levels=levels, smoothness=smoothness))


WHOLE = torch.ones(2, 2, 2)
"""Valid ratios of two images without padding."""


def exponents(attention: GaussianAttention, query: Tensor, centre: Tensor, shape) -> Tensor:
    """Return the logarithm (B, heads, Q, h * w) of the Gaussians, cell by cell (section 3.2)."""
    height, width = shape
    images, queries, _ = query.shape
    found = torch.zeros(images, HEADS, queries, height * width)
    for image in range(images):
        for row in range(queries):
            state = attention.norm(query[image, row])
            shift = attention.shift(state).view(HEADS, 2)
            spread = attention.spread(state).view(HEADS, 2)
            for head in range(HEADS):
                x = centre[image, row, 0] * width + shift[head, 0]
                y = centre[image, row, 1] * height + shift[head, 1]
                for cell in range(height * width):
                    across = spread[head, 0] * (cell % width + 0.5 - x)
                    down = spread[head, 1] * (cell // width + 0.5 - y)
                    exponent = (across**2 + down**2) / attention.smoothness
                    found[image, head, row, cell] = -exponent
    return found


@torch.no_grad()
def test_every_head_looks_around_its_own_place_on_every_level():
    attention, (query, tokens, position) = gaussian(), inputs(10)
    centre = torch.rand(2, 3, 2)
    padding = torch.zeros(2, 10, dtype=torch.bool)
    padding[1, 7] = True
    found = attention(query, centre, tokens, position, padding, valid_ratios=WHOLE, shapes=SHAPES)
    own, expected = attention.attention, torch.zeros(2, 3, WIDTH)
    assert attention.level is not None
    shares = attention.level(query).softmax(-1)
    for level, part in enumerate((slice(0, 8), slice(8, 10))):
        size = part.stop - part.start
        mixed = attend_naively(
            heads_of(own.query(query), HEADS),
            heads_of(own.key(tokens[:, part] + position[:, part]), HEADS),
            heads_of(own.value(tokens[:, part]), HEADS),
            padding[:, None, None, part].expand(2, HEADS, 3, size),
            exponents(attention, query, centre, SHAPES[level]),
        )
        expected += shares[..., level : level + 1] * own.output(joined(mixed))
    torch.testing.assert_close(found, expected)


def test_a_single_level_has_no_shares():
    attention = gaussian(levels=1)
    query, tokens, position = inputs(8)
    assert attention.level is None
    shapes = SHAPES[:1]
    centre = torch.rand(2, 3, 2)
    found = attention(query, centre, tokens, position, None, valid_ratios=WHOLE, shapes=shapes)
    bias = exponents(attention, query, centre, shapes[0])
    expected = attention.attention(query, tokens, position, None, bias=bias)
    torch.testing.assert_close(found, expected)


def test_a_gaussian_without_end_is_full_attention():
    attention = gaussian(levels=1, smoothness=1e12)
    query, tokens, position = inputs(8)
    shapes = SHAPES[:1]
    found = attention(
        query, torch.rand(2, 3, 2), tokens, position, None, valid_ratios=WHOLE, shapes=shapes
    )
    torch.testing.assert_close(found, attention.attention(query, tokens, position, None))


def test_fresh_heads_look_four_cells_away_each_in_its_own_direction():
    attention = GaussianAttention(16, 4, levels=1, smoothness=8.0)
    state = torch.randn(16)
    directions = [[4.0, 0.0], [0.0, 4.0], [-4.0, 0.0], [0.0, -4.0]]
    torch.testing.assert_close(
        attention.shift(state).view(4, 2), torch.tensor(directions), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(attention.spread(state), torch.ones(8))


@pytest.mark.parametrize("axis", [0, 1])
@torch.no_grad()
def test_a_narrow_head_reads_the_cell_that_it_points_at(axis: int):
    """By hand: equal keys, a shift of one cell right or down, and almost no width."""
    attention = gaussian(levels=1, smoothness=0.01)
    for part in (attention.shift, attention.spread, attention.attention.query):
        nn.init.zeros_(part.weight)
        nn.init.zeros_(part.bias)
    attention.shift.bias[axis::2] = 1.0
    attention.spread.bias.fill_(3.0)
    shape = (4, 4)
    tokens = torch.randn(1, 16, WIDTH)
    centre = torch.tensor([[[1.5 / 4, 1.5 / 4]]])  # the cell of row 1 and column 1
    found = attention(
        torch.randn(1, 1, WIDTH),
        centre,
        tokens,
        torch.zeros(1, 16, WIDTH),
        None,
        valid_ratios=WHOLE[:1],
        shapes=(shape,),
    )
    seen = 4 * 1 + 2 if axis == 0 else 4 * 2 + 1
    own = attention.attention
    torch.testing.assert_close(found[0, 0], own.output(own.value(tokens[0, seen])))
    assert math.isfinite(float(found.sum()))


@torch.no_grad()
def test_gaussians_are_measured_in_cells_of_the_image_without_its_padding():
    """An image of 2 x 4 cells in a map of 3 x 6: places are shares of the image, not of the map."""
    attention = gaussian(levels=1)
    query, tokens, position = inputs(8)
    centre = torch.rand(2, 3, 2)
    shape, padded_shape = (2, 4), (3, 6)
    alone = attention(query, centre, tokens, position, None, valid_ratios=WHOLE, shapes=(shape,))
    valid = torch.zeros(padded_shape, dtype=torch.bool)
    valid[:2, :4] = True
    wide_tokens, wide_position = torch.randn(2, 2, 18, WIDTH)
    wide_tokens[:, valid.flatten()] = tokens
    wide_position[:, valid.flatten()] = position
    padded = attention(
        query,
        centre,
        wide_tokens,
        wide_position,
        ~valid.flatten().expand(2, -1),
        valid_ratios=torch.tensor([4 / 6, 2 / 3]).expand(2, 1, 2),
        shapes=(padded_shape,),
    )
    torch.testing.assert_close(padded, alone)
