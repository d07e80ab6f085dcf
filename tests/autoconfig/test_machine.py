from pathlib import Path

import pytest
import torch

from aligndetr.autoconfig.machine import Line, measure_room, measure_speed
from aligndetr.config.codec import override
from aligndetr.config.presets import get_preset
from aligndetr.data.formats import open_split
from small import SMALL
from systems import CPU


def test_a_line_goes_through_both_points() -> None:
    line = Line.through((100, 3.0), (200, 4.0))
    assert (line.seconds(100), line.seconds(200)) == (3.0, 4.0)
    assert line.fixed_seconds == 2.0


@pytest.mark.parametrize(
    ("small", "large", "expected"),
    [((100, 1.0), (200, 4.0), Line(0.0, 0.02)), ((100, 4.0), (200, 3.0), Line(3.0, 0.0))],
)
def test_no_part_of_a_line_is_negative(
    small: tuple[int, float], large: tuple[int, float], expected: Line
) -> None:
    assert Line.through(small, large) == expected


def test_room_is_that_of_the_maps(shapes: Path) -> None:
    config = override(get_preset("align-dino-lite"), SMALL)
    room = measure_room(config, CPU)
    assert room.feature_bytes == 4 * (40 / 8**2 + 112 / 16**2 + 320 / 32**2)
    assert room.free_bytes > 0


@pytest.mark.parametrize("preset", ["align-dino-lite", "faster-rcnn-lite"])
def test_measuring_leaves_the_random_numbers_alone(preset: str, shapes: Path) -> None:
    config = override(
        get_preset(preset), ["backbone.pretrained=false", "width=32", "data.batch_size=2"]
    )
    torch.manual_seed(3)
    before = torch.get_rng_state()
    speed = measure_speed(config, open_split(shapes, "train"), CPU, objects=3)
    assert torch.get_rng_state().equal(before)
    assert speed.backbone.seconds(64 * 64) > 0
    assert speed.step.seconds(64 * 64) > 0
    assert speed.load_seconds > 0
