import pytest
import torch

from aligndetr.layers.conditional import PlaceEmbedding
from aligndetr.layers.position import embed_boxes, sine_features
from aligndetr.model.places import AxisEmbedding, EmbeddedPositions, GivenPositions, Places
from aligndetr.types import Memory
from drawn import drawn
from memories import WIDTH, padded, random_memory

POINTS, BOXES = 2, 4


def states() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 5, WIDTH)


def references(size: int = BOXES) -> torch.Tensor:
    torch.manual_seed(2)
    return torch.rand(2, 5, size) * 0.8 + 0.1


@pytest.mark.parametrize("depth", [0, 3])
def test_given_positions_are_the_same_in_every_layer(depth: int):
    given = torch.randn(2, 5, WIDTH)
    assert GivenPositions()(depth, states(), references(), given) is given


@pytest.mark.parametrize("size", [POINTS, BOXES])
@pytest.mark.parametrize("depth", [0, 1])
@torch.no_grad()
def test_embedded_positions_are_made_of_the_reference_alone(size, depth: int):
    part = drawn(EmbeddedPositions(WIDTH, coordinates=size, is_scaled=False))
    found = part(depth, states(), references(size), None)
    features = embed_boxes(references(size), WIDTH // 2)
    assert features.shape[-1] == size * WIDTH // 2
    torch.testing.assert_close(found, part.embed(features))


@torch.no_grad()
def test_scaled_positions_are_scaled_by_the_state_after_the_first_layer():
    part = drawn(EmbeddedPositions(WIDTH, coordinates=4, is_scaled=True))
    plain = part.embed(embed_boxes(references(), WIDTH // 2))
    assert part.scale is not None
    torch.testing.assert_close(part(0, states(), references(), None), plain)
    for depth in (1, 2):
        found = part(depth, states(), references(), None)
        torch.testing.assert_close(found, plain * part.scale(states()))


@torch.no_grad()
def test_axes_are_embedded_one_by_one_x_before_y():
    part = drawn(AxisEmbedding(WIDTH))
    points = references(POINTS)
    found = part(points)
    assert found.shape == (2, 5, 2, WIDTH)
    for axis in (0, 1):
        features = sine_features(points[..., axis] * 2 * torch.pi, WIDTH, 10000.0)
        torch.testing.assert_close(found[:, :, axis], part.embed(features))


def narrow() -> Memory:
    """Half of each map is image."""
    return padded(random_memory())


@pytest.mark.parametrize("size", [POINTS, BOXES])
@torch.no_grad()
def test_positions_are_relative_to_the_padded_map_only_where_points_are_read(size):
    positions = drawn(EmbeddedPositions(WIDTH, coordinates=size, is_scaled=False))
    of_map, of_image = (Places(positions, None, on_padded=on_padded) for on_padded in (True, False))
    reference, x = references(size), states()
    on_map = of_map(0, x, reference, None, narrow())
    on_image = of_image(0, x, reference, None, narrow())
    torch.testing.assert_close(on_map.position, positions(0, x, reference / 2, None))
    torch.testing.assert_close(on_image.position, positions(0, x, reference, None))
    for place in (on_map, on_image):
        assert place.reference is reference
        assert place.guide is None


@pytest.mark.parametrize("depth", [0, 1])
@torch.no_grad()
def test_the_guide_of_conditional_attention_embeds_the_reference(depth: int):
    guide = drawn(PlaceEmbedding(WIDTH, has_size=True))
    place = Places(GivenPositions(), guide, on_padded=False)(
        depth, states(), references(), torch.randn(2, 5, WIDTH), narrow()
    )
    expected = guide(states(), references(), is_first=depth == 0)
    torch.testing.assert_close(place.guide, expected)


@pytest.mark.parametrize("size", [POINTS, BOXES])
@torch.no_grad()
def test_the_guide_of_row_column_attention_embeds_the_centre(size: int):
    guide = drawn(AxisEmbedding(WIDTH))
    place = Places(GivenPositions(), guide, on_padded=False)(
        1, states(), references(size), torch.randn(2, 5, WIDTH), narrow()
    )
    torch.testing.assert_close(place.guide, guide(references(size)[..., :2]))


def test_queries_without_a_reference_have_a_position_alone():
    given = torch.randn(2, 5, WIDTH)
    place = Places(GivenPositions(), None, on_padded=True)(0, states(), None, given, narrow())
    assert place.position is given
    assert (place.reference, place.guide) == (None, None)
