from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from aligndetr.layers.attention import SelfAttention
from aligndetr.layers.basic import MLP, FeedForward
from aligndetr.layers.deformable import DeformableAttention
from aligndetr.layers.row_column import RowColumnAttention
from aligndetr.model.encoder import (
    DeformableEncoder,
    DeformableEncoderLayer,
    DenseEncoder,
    DenseEncoderLayer,
    Encoder,
    RowColumnEncoder,
    RowColumnEncoderLayer,
    as_map,
    token_centres,
)
from aligndetr.model.places import AxisEmbedding
from aligndetr.types import Memory
from drawn import drawn
from memories import LEVELS, SINGLE, WIDTH, is_image, padded, random_memory

HEADS, HIDDEN = 2, 24


def dense(*mixes_levels: bool, is_scaled: bool = False) -> DenseEncoder:
    layers = [
        DenseEncoderLayer(
            SelfAttention(WIDTH, HEADS), FeedForward(WIDTH, HIDDEN), mixes_levels=mixes
        )
        for mixes in mixes_levels
    ]
    return drawn(DenseEncoder(layers, MLP(WIDTH, WIDTH, WIDTH) if is_scaled else None))


def deformable(layers: int = 2) -> DeformableEncoder:
    return drawn(
        DeformableEncoder(
            [
                DeformableEncoderLayer(
                    DeformableAttention(WIDTH, HEADS, levels=2, points=2),
                    FeedForward(WIDTH, HIDDEN),
                    WIDTH,
                )
                for _ in range(layers)
            ]
        )
    )


def row_column(layers: int = 2) -> RowColumnEncoder:
    return drawn(
        RowColumnEncoder(
            [
                RowColumnEncoderLayer(
                    RowColumnAttention(WIDTH, HEADS), FeedForward(WIDTH, HIDDEN), WIDTH
                )
                for _ in range(layers)
            ],
            AxisEmbedding(WIDTH),
        )
    )


@pytest.mark.parametrize(
    ("encoder", "shapes"),
    [
        (dense(True, True), LEVELS),
        (dense(False, True, False), LEVELS),  # SMCA's
        (dense(True, True, is_scaled=True), SINGLE),  # DAB-DETR's
        (row_column(), SINGLE),
        (deformable(), LEVELS),
    ],
)
@torch.no_grad()
def test_padding_changes_nothing(encoder: Encoder, shapes):
    memory = random_memory(shapes)
    larger = padded(memory)
    found = encoder(larger)
    kept = is_image(memory.shapes, larger.shapes)
    expected = encoder(memory)
    torch.testing.assert_close(found.tokens[:, kept], expected.tokens, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(expected.tokens, memory.tokens, atol=0.1)
    if isinstance(encoder, RowColumnEncoder):
        assert torch.equal(found.position, encoder.axes(token_centres(larger)))
        found = replace(found, position=larger.position)
    assert replace(found, tokens=larger.tokens) == larger  # all else is passed on


def test_an_encoder_without_layers_gives_the_memory_itself():
    memory = random_memory()
    assert DeformableEncoder([])(memory) is memory
    assert dense()(memory) is memory


@torch.no_grad()
def test_a_dense_layer_is_torchs_own_where_there_are_no_positions():
    encoder, memory = dense(True), random_memory()
    (layer,) = encoder.layers
    assert isinstance(layer, DenseEncoderLayer)
    twin = nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, dropout=0.0, batch_first=True)
    twin.self_attn.load_state_dict(
        {
            "in_proj_weight": layer.attention.in_proj.weight,
            "in_proj_bias": layer.attention.in_proj.bias,
            "out_proj.weight": layer.attention.out_proj.weight,
            "out_proj.bias": layer.attention.out_proj.bias,
        }
    )
    twin.linear1.load_state_dict(layer.feedforward.expand.state_dict())
    twin.linear2.load_state_dict(layer.feedforward.contract.state_dict())
    twin.norm1.load_state_dict(layer.attention.norm.state_dict())
    twin.norm2.load_state_dict(layer.feedforward.norm.state_dict())
    found = encoder(replace(memory, position=torch.zeros_like(memory.position)))
    torch.testing.assert_close(found.tokens, twin(memory.tokens), atol=1e-5, rtol=1e-4)


def layer_by_layer(encoder: DenseEncoder, tokens: Tensor, position: Tensor) -> Tensor:
    """What layers make that attend across all levels."""
    for layer in encoder.layers:
        assert isinstance(layer, DenseEncoderLayer)
        scale = 1.0 if encoder.scale is None else encoder.scale(tokens)
        tokens = layer.feedforward(layer.attention(tokens, position * scale, None))
    return tokens


@pytest.mark.parametrize("is_scaled", [False, True])
@torch.no_grad()
def test_positions_are_added_in_every_layer_scaled_by_its_own_tokens(is_scaled: bool):
    encoder, memory = dense(True, True, is_scaled=is_scaled), random_memory(SINGLE)
    expected = layer_by_layer(encoder, memory.tokens, memory.position)
    torch.testing.assert_close(encoder(memory).tokens, expected)


@torch.no_grad()
def test_one_position_may_serve_all_images():
    memory = random_memory(SINGLE)
    shared = replace(memory, position=memory.position[:1])
    every = replace(memory, position=memory.position[:1].repeat(2, 1, 1))
    for encoder in (dense(True), dense(True, is_scaled=True)):
        torch.testing.assert_close(encoder(shared).tokens, encoder(every).tokens)


@torch.no_grad()
def test_layers_that_do_not_mix_treat_every_level_as_an_image_of_its_own():
    encoder, memory = dense(False, False), random_memory()
    found = encoder(memory).tokens
    sizes = [height * width for height, width in LEVELS]
    parts = zip(memory.tokens.split(sizes, 1), memory.position.split(sizes, 1), strict=True)
    expected = [layer_by_layer(encoder, *part) for part in parts]
    torch.testing.assert_close(found, torch.cat(expected, dim=1))


@pytest.mark.parametrize(
    ("mixes", "reaches"),
    [
        ((False, False), False),
        ((False, True), True),
        ((True, False), True),  # and what was read stays with its level
    ],
)
def test_a_level_hears_of_another_only_where_levels_mix(mixes, reaches: bool):
    memory = random_memory()
    tokens = memory.tokens.requires_grad_()
    dense(*mixes)(memory).tokens[:, 24:].square().sum().backward()
    assert tokens.grad is not None
    assert bool(tokens.grad[:, 24:].any())
    assert bool(tokens.grad[:, :24].any()) == reaches


@torch.no_grad()
def test_a_row_column_layer_reads_the_map_by_its_own_tokens_and_their_places():
    encoder, memory = row_column(1), random_memory(SINGLE)
    (layer,) = encoder.layers
    assert isinstance(layer, RowColumnEncoderLayer)
    tokens = memory.tokens.view(2, 3, 4, WIDTH)
    centres = torch.tensor(
        [[(column + 0.5) / 4, (row + 0.5) / 3] for row in range(3) for column in range(4)]
    )
    axes = encoder.axes(centres).expand(2, 12, 2, WIDTH)
    read = layer.attention(memory.tokens, axes, tokens, axes.view(2, 3, 4, 2, WIDTH), None)
    expected = layer.feedforward(layer.norm(memory.tokens + read))
    torch.testing.assert_close(encoder(memory).tokens, expected)


@torch.no_grad()
def test_a_deformable_layer_reads_around_its_own_centre_on_every_level():
    encoder, memory = deformable(1), padded(random_memory())
    (layer,) = encoder.layers
    assert isinstance(layer, DeformableEncoderLayer)
    reference = token_centres(memory)[:, :, None].expand(-1, -1, 2, -1) / 2  # half is image
    read = layer.attention(
        memory.tokens + memory.position, reference, memory.tokens, memory.shapes, memory.padding
    )
    expected = layer.feedforward(layer.norm(memory.tokens + read))
    torch.testing.assert_close(encoder(memory).tokens, expected)


@pytest.mark.parametrize("encoder", [dense(True), row_column(1)])
def test_dropout_acts_in_training_alone(encoder: Encoder):
    memory = random_memory(SINGLE)
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    encoder.eval()
    assert torch.equal(encoder(memory).tokens, encoder(memory).tokens)
    encoder.train()
    assert not torch.equal(encoder(memory).tokens, encoder(memory).tokens)
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def test_centres_are_shares_of_the_unpadded_image():
    memory = padded(random_memory(SINGLE))
    centres = token_centres(memory)
    kept = is_image(SINGLE, memory.shapes)
    expected = [[(column + 0.5) / 4, (row + 0.5) / 3] for row in range(3) for column in range(4)]
    torch.testing.assert_close(centres[:, kept], torch.tensor(expected).expand(2, -1, -1))


def test_a_map_has_rows_and_columns_and_keeps_the_rest():
    memory = random_memory(SINGLE)
    assert torch.equal(as_map(memory.tokens, memory)[:, 1, 2], memory.tokens[:, 4 + 2])
    assert as_map(torch.zeros(2, 12, 2, WIDTH), memory).shape == (2, 3, 4, 2, WIDTH)


def test_a_memory_of_several_levels_is_no_map():
    memory: Memory = random_memory()
    with pytest.raises(ValueError, match="too many values"):
        as_map(memory.tokens, memory)
