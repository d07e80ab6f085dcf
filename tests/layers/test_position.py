import math

import pytest
import torch

from aligndetr.layers.position import embed_boxes, embed_grid, embed_whole_grid, sine_features


def sine_oracle(value: float, size: int, temperature: float) -> list[float]:
    features = []
    for index in range(size):
        angle = value / temperature ** (2 * (index // 2) / size)
        features.append(math.sin(angle) if index % 2 == 0 else math.cos(angle))
    return features


@pytest.mark.parametrize("temperature", [20.0, 10000.0])
def test_sine_features_interleave_sine_and_cosine(temperature: float):
    values = torch.tensor([0.0, 0.3, 5.5])
    expected = torch.tensor([sine_oracle(v, 8, temperature) for v in values.tolist()])
    torch.testing.assert_close(sine_features(values, 8, temperature), expected)


def test_grid_counts_valid_pixels_and_ends_at_two_pi():
    valid = torch.tensor([[[True, True, False], [True, True, False]]])
    embedding = embed_grid(valid, 8, temperature=20.0, offset=0.0)
    assert embedding.shape == (1, 2, 3, 8)
    last_row_y = torch.tensor(sine_oracle(2 * math.pi, 4, 20.0))
    half_way_x = torch.tensor(sine_oracle(math.pi, 4, 20.0))
    torch.testing.assert_close(embedding[0, 1, 0, :4], last_row_y, atol=1e-5, rtol=0)
    torch.testing.assert_close(embedding[0, 1, 0, 4:], half_way_x, atol=1e-5, rtol=0)


def test_grid_offset_of_minus_half_takes_pixel_centres():
    valid = torch.ones(1, 1, 4, dtype=torch.bool)
    embedding = embed_grid(valid, 4, temperature=20.0, offset=-0.5)
    first_x = torch.tensor(sine_oracle(0.5 / 4 * 2 * math.pi, 2, 20.0))
    torch.testing.assert_close(embedding[0, 0, 0, 2:], first_x, atol=1e-5, rtol=0)


def test_grid_of_valid_pixels_does_not_depend_on_the_padding():
    whole = embed_grid(torch.ones(1, 3, 4, dtype=torch.bool), 8, temperature=20.0, offset=0.0)
    padded = torch.zeros(1, 5, 6, dtype=torch.bool)
    padded[:, :3, :4] = True
    embedding = embed_grid(padded, 8, temperature=20.0, offset=0.0)
    torch.testing.assert_close(embedding[:, :3, :4], whole)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (7, 3)])
@pytest.mark.parametrize("offset", [0.0, -0.5])
def test_a_whole_grid_is_that_of_pixels_that_are_all_valid(shape: tuple[int, int], offset: float):
    expected = embed_grid(
        torch.ones(1, *shape, dtype=torch.bool), 8, temperature=20.0, offset=offset
    )
    cpu = torch.device("cpu")
    found = embed_whole_grid(shape, 8, temperature=20.0, offset=offset, device=cpu)
    torch.testing.assert_close(found, expected)


def test_boxes_are_embedded_in_the_order_y_x_width_height():
    embedding = embed_boxes(torch.tensor([[0.1, 0.2, 0.3, 0.4]]), 6)
    order = (0.2, 0.1, 0.3, 0.4)
    expected = [f for value in order for f in sine_oracle(value * 2 * math.pi, 6, 10000.0)]
    torch.testing.assert_close(embedding[0], torch.tensor(expected))


def test_points_are_embedded_in_the_order_y_x():
    points = embed_boxes(torch.tensor([[0.1, 0.2]]), 6)
    boxes = embed_boxes(torch.tensor([[0.1, 0.2, 0.3, 0.4]]), 6)
    torch.testing.assert_close(points, boxes[:, :12])
