"""What an arm becomes at laptop scale, and what a training is called."""

from dataclasses import replace
from pathlib import Path

import pytest

from aligndetr.config.schema import Config
from aligndetr.data.shapes import shapes_dataset
from aligndetr.errors import ConfigError
from aligndetr.reproduce.catalogue import EXPERIMENTS
from aligndetr.reproduce.experiment import Arm
from aligndetr.reproduce.small import DataSet, Trial, small_config

SMALL_ARMS = [arm for experiment in EXPERIMENTS.values() for arm in experiment.arms if arm.is_small]


@pytest.mark.parametrize("arm", SMALL_ARMS, ids=lambda arm: f"{arm.preset}-{arm.key}")
def test_every_arm_has_a_small_version_of_its_own_loss(arm: Arm, data: DataSet) -> None:
    small, large = small_config(arm, data), arm.config()
    assert small.num_classes == 3
    assert small.backbone.freeze == "all"
    assert small.data.cache_features
    if isinstance(small, Config) and isinstance(large, Config):
        assert small.width == 128
        assert small.criterion == large.criterion
        assert small.head == large.head
        assert small.postprocess.nms_iou is None


def test_the_recipe_goes_with_the_pictures(data: DataSet) -> None:
    arm = EXPERIMENTS["4"].arm("focal")
    synthetic, own = (small_config(arm, replace(data, is_synthetic=kind)) for kind in (True, False))
    assert synthetic.data.augmentation.model_dump()["short_side"] == 128
    assert own.data.augmentation.model_dump()["short_side"] == 288


def test_a_change_for_all_arms_comes_before_the_arm_s_own(data: DataSet) -> None:
    arm = EXPERIMENTS["6b"].arm("k-2")
    small = small_config(arm, data, overrides=["criterion.k=9", "width=32"])
    assert isinstance(small, Config)
    assert (small.criterion.k, small.width) == (2, 32)
    with pytest.raises(ConfigError, match="--set: widht: expected"):
        small_config(arm, data, overrides=["widht=32"])


def test_auto_is_the_arithmetic_of_the_folder(data: DataSet) -> None:
    arm = EXPERIMENTS["4"].arm("focal")
    low = small_config(arm, data, precision="bf16")
    assert low.precision == "bf16"
    own = small_config(arm, data, precision="bf16", overrides=["precision=fp32"])
    assert own.precision == "fp32"
    asked = small_config(arm, data, precision="bf16", overrides=["precision=auto"])
    assert asked.precision == "bf16"
    assert Trial(low, 1.0, 1, 100).name(data) != Trial(own, 1.0, 1, 100).name(data)


def name(data: DataSet, table: str, key: str, **changes: object) -> str:
    experiment = EXPERIMENTS[table]
    config = small_config(experiment.arm(key), data)
    trial = Trial(config, 1.0, 1, 100)
    return replace(trial, **changes).name(data)  # pyright: ignore[reportArgumentType]


def test_equal_arms_have_equal_names_and_others_have_not(data: DataSet) -> None:
    focal = name(data, "4", "focal")
    assert focal.startswith("focal-w1-s1-")
    assert name(data, "B", "focal") == focal
    assert name(data, "4", "iou-branch*") == name(data, "4", "iou-branch") != focal
    others = [
        name(data, "4", "vfl"),
        name(data, "4", "ia-bce"),
        name(data, "4", "focal", weight=2.0),
        name(data, "4", "focal", seed=2),
        name(data, "4", "focal", steps=101),
        name(replace(data, digest="other"), "4", "focal"),
    ]
    assert len({focal, *others}) == 1 + len(others)


def test_a_name_does_not_depend_on_where_features_are(data: DataSet, tmp_path: Path) -> None:
    arm = EXPERIMENTS["4"].arm("focal")
    here, there = (small_config(arm, data, features=f) for f in (None, tmp_path))
    assert here != there
    names = {Trial(config, 1.0, 1, 100).name(data) for config in (here, there)}
    assert len(names) == 1


def test_a_curve_has_evaluations_on_the_way(data: DataSet) -> None:
    config = small_config(EXPERIMENTS["figA"].arm("dino"), data)
    images = replace(data, images=160)  # ten batches of 16
    once, often = (Trial(config, 1.0, 1, 240, evaluations=n) for n in (1, 12))
    assert once.trained_config(images).training.evaluate_every > 1000
    assert often.trained_config(images).training.evaluate_every == 2  # 24 epochs


def test_the_digest_of_data_is_that_of_its_content(shapes: Path, tmp_path: Path) -> None:
    copy = shapes_dataset(tmp_path / "copy", train=8, val=4, size=64)
    other = shapes_dataset(tmp_path / "other", train=8, val=4, size=64, seed=1)
    assert DataSet.open(copy).digest == DataSet.open(shapes).digest
    assert DataSet.open(other).digest != DataSet.open(shapes).digest
    assert DataSet.open(copy).name == "copy"
