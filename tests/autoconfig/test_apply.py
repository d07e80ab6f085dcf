from pathlib import Path
from typing import Any

import pytest

from aligndetr.autoconfig import apply
from aligndetr.autoconfig.apply import configure
from aligndetr.autoconfig.machine import Line, Speed
from aligndetr.checkpoint import CONFIG_FILE
from aligndetr.config.codec import fields_set, load_config, override
from aligndetr.config.presets import get_preset
from aligndetr.config.schema import AnyConfig, Config
from aligndetr.data.formats import open_split
from aligndetr.errors import ConfigError
from aligndetr.runs import train
from small import SMALL
from systems import CPU

LITE = override(get_preset("align-dino-lite"), SMALL)


def settled(shapes: Path, said: list[str], **changes: Any) -> AnyConfig:
    options = {"minutes": None, "device": CPU, "given": (), "say": said.append} | changes
    splits = (open_split(shapes, split) for split in ("train", "val"))
    return configure(LITE, *splits, **options)


def test_fields_that_the_user_has_set_stay(shapes: Path) -> None:
    said = list[str]()
    free = settled(shapes, said)
    assert free.data.augmentation.max_side == 192  # images have 64 pixels themselves
    assert not free.training.autoconfig
    assert any(line.startswith("autoconfig: data.augmentation.short_side=") for line in said)

    said.clear()
    kept = settled(shapes, said, given=fields_set(["data.augmentation.max_side=384"]))
    assert kept.data.augmentation == LITE.data.augmentation
    assert not any("max_side" in line for line in said)


def test_a_slot_or_a_file_that_is_given_counts_for_its_fields(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("data:\n  augmentation:\n    short_side: 100\nwidth: 64\n")
    found = fields_set(["training.ema=null", "queries={type: top, count: 5}"], file)
    expected = {"data.augmentation.short_side", "width", "training.ema", "queries.count", "queries"}
    assert expected <= found
    assert "data.augmentation.max_side" not in found


def test_only_a_budget_in_minutes_is_timed(shapes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed = list[int]()

    def measured(*_: object, objects: int) -> Speed:
        timed.append(objects)
        return Speed(Line(1.0, 0.0), Line(1.0, 0.0), 0.0)

    monkeypatch.setattr(apply, "measure_speed", measured)
    settled(shapes, [])
    assert timed == []
    config = settled(shapes, [], minutes=0.5)
    assert len(timed) == 1
    assert not config.data.cache_features  # a second an image


def test_a_run_has_the_choices_and_is_settled(shapes: Path, tmp_path: Path) -> None:
    train(
        model="align-dino-lite", data=shapes, out=tmp_path / "run", steps=1,
        overrides=[*SMALL, "encoder.layers=0"],
    )  # fmt: skip
    config = load_config(tmp_path / "run" / CONFIG_FILE)
    assert isinstance(config, Config)
    assert config.data.augmentation.max_side == 192
    assert config.training.epochs == get_preset("align-dino-lite").training.epochs
    assert not config.training.autoconfig


def test_a_few_images_are_trained_for_more_epochs_than_the_preset_says(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = list[int | None]()
    monkeypatch.setattr("aligndetr.runs.fit", lambda *_, budget, **__: found.append(budget.epochs))
    train(model="align-dino-lite", data=shapes, out=tmp_path / "run", overrides=SMALL)
    assert found == [300]  # of two steps


def test_a_used_folder_is_refused_before_anything_is_timed(
    shapes: Path, small_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aligndetr.runs.configure", None)
    with pytest.raises(ConfigError, match="expected a new folder"):
        train(model="align-dino-lite", data=shapes, out=small_run, minutes=1, overrides=SMALL)
