from pathlib import Path

import pytest
import torch

from aligndetr.autoconfig import apply
from aligndetr.autoconfig.apply import configure
from aligndetr.autoconfig.speed import Speed, measure_speed
from aligndetr.checkpoint import CONFIG_FILE
from aligndetr.config.codec import fields_set, load_config, override
from aligndetr.config.presets import get_preset
from aligndetr.config.schema import Config
from aligndetr.data.formats import open_split
from aligndetr.data.shapes import shapes_dataset
from aligndetr.runs import train
from small import SMALL
from systems import CPU

LITE = override(get_preset("align-dino-lite"), SMALL)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shapes_dataset(tmp_path_factory.mktemp("data") / "shapes", train=8, val=4, size=64)


def test_fields_that_the_user_has_set_stay(shapes: Path) -> None:
    split, said = open_split(shapes, "train"), list[str]()
    free = configure(LITE, split, minutes=None, device=CPU, given=(), say=said.append)
    assert free.data.augmentation.max_side == 192  # images have 64 pixels themselves
    assert not free.training.autoconfig
    assert any(line.startswith("autoconfig: data.augmentation.short_side=") for line in said)

    said.clear()
    given = fields_set(["data.augmentation.max_side=384"])
    kept = configure(LITE, split, minutes=None, device=CPU, given=given, say=said.append)
    assert kept.data.augmentation == LITE.data.augmentation
    assert not any("max_side" in line for line in said)


def test_a_slot_or_a_file_that_is_given_counts_for_its_fields(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("data:\n  augmentation:\n    short_side: 100\nwidth: 64\n")
    found = fields_set(["training.ema=null"], file)
    expected = {"data.augmentation.short_side", "width", "training.ema"}
    assert expected <= found
    assert "data.augmentation.max_side" not in found


def test_only_a_budget_in_minutes_is_timed(shapes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split, timed = open_split(shapes, "train"), list[int]()

    def measured(*_: object, objects: int) -> Speed:
        timed.append(objects)
        return Speed(1.0, 1.0)

    monkeypatch.setattr(apply, "measure_speed", measured)
    configure(LITE, split, minutes=None, device=CPU, given=(), say=lambda _: None)
    assert timed == []
    config = configure(LITE, split, minutes=1.0, device=CPU, given=(), say=lambda _: None)
    assert len(timed) == 1
    assert not config.data.cache_features  # a second a pixel


@pytest.mark.parametrize("preset", ["align-dino-lite", "faster-rcnn-lite"])
def test_measuring_leaves_the_random_numbers_alone(preset: str) -> None:
    config = override(
        get_preset(preset), ["backbone.pretrained=false", "width=32", "data.batch_size=2"]
    )
    torch.manual_seed(3)
    before = torch.get_rng_state()
    speed = measure_speed(config, CPU, objects=3)
    assert torch.get_rng_state().equal(before)
    assert 0 < speed.backbone < 1e-3
    assert 0 < speed.step < 1e-3


def test_a_run_has_the_choices_and_is_settled(shapes: Path, tmp_path: Path) -> None:
    train(
        model="align-dino-lite", data=shapes, out=tmp_path / "run", steps=1,
        overrides=[*SMALL, "encoder.layers=0"],
    )  # fmt: skip
    config = load_config(tmp_path / "run" / CONFIG_FILE)
    assert isinstance(config, Config)
    assert config.data.augmentation.max_side == 192
    assert not config.training.autoconfig
