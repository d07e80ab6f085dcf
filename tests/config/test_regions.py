import pytest
import yaml

from aligndetr.config.codec import dump_config, override, parse_config
from aligndetr.config.family_regions import faster_rcnn, faster_rcnn_lite
from aligndetr.config.laptop import align_dino_lite
from aligndetr.config.presets import get_detr, get_preset
from aligndetr.config.regions import Proposals, RegionHead
from aligndetr.config.schema import Config, RegionConfig
from aligndetr.errors import ConfigError


def test_the_network_is_torchvisions() -> None:
    config = get_preset("faster-rcnn-r50-fpn")
    assert config == faster_rcnn()
    assert isinstance(config, RegionConfig)
    assert (config.width, config.head) == (256, RegionHead(hidden=1024, samples=512))
    assert config.proposals == Proposals(
        sizes=(32, 64, 128, 256, 512), ratios=(0.5, 1.0, 2.0), count=1000, training_count=2000
    )
    assert (config.postprocess.top, config.postprocess.nms_iou) == (100, 0.5)
    assert (config.backbone.freeze, config.training.epochs) == (2, 108)


def test_the_small_one_differs_from_its_rival_in_the_network_and_the_rate_alone() -> None:
    config, rival = faster_rcnn_lite(), align_dino_lite()
    assert (config.backbone, config.data) == (rival.backbone, rival.data)
    rates = {"learning_rate", "schedule"}
    assert config.training.model_dump(exclude=rates) == rival.training.model_dump(exclude=rates)
    assert config.training.schedule.warmup == rival.training.schedule.warmup


# A configuration is of one kind or the other


def test_the_type_tells_the_kinds_apart() -> None:
    for config in (faster_rcnn_lite(), align_dino_lite()):
        text = dump_config(config)
        assert next(iter(yaml.safe_load(text))) == "type"
        assert parse_config(text, "here") == config


def test_what_has_no_type_is_a_detr() -> None:
    """As run folders from before there were two kinds."""
    config = align_dino_lite()
    text = dump_config(config).removeprefix("type: detr\n")
    assert "type: detr\n" not in text.splitlines()[0]
    assert parse_config(text, "here") == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "type: region",
            "here: type: expected 'detr' or 'regions', found 'region'; did you mean 'regions'?",
        ),
        ("type: regions\nname: a", "here: data: expected a value, found none; add it"),
        (
            "type: regions\nname: a\ndata: {augmentation: {type: lite}}",
            "here: data.augmentation.type: expected 'detr' or 'light', found 'lite'",
        ),
    ],
)
def test_a_refusal_knows_the_kind(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "here")
    assert str(caught.value).startswith(message)


def test_an_assignment_does_not_change_the_kind() -> None:
    with pytest.raises(ConfigError, match="--set: type: expected 'detr', found 'regions'"):
        override(align_dino_lite(), ["type=regions"])
    assert override(faster_rcnn_lite(), ["head.samples=7"]).head.samples == 7


def test_a_detr_is_asked_for_as_such() -> None:
    assert isinstance(get_detr("dino-r50-4scale"), Config)
    with pytest.raises(ValueError, match="faster-rcnn-lite is a region detector"):
        get_detr("faster-rcnn-lite")


# What does not fit together


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "backbone.strides=[8, 32]",
            r"backbone\.strides: expected each to be twice the one before, found \[8, 32\]",
        ),
        ("backbone.output_stride=16", r"backbone\.output_stride: expected null, .* found 16"),
        (
            "proposals.sizes=[32]",
            r"proposals\.sizes: expected 5, one for each of backbone\.strides .* found 1",
        ),
        ("postprocess.scores=sigmoid", r"postprocess\.scores: expected softmax, .* found sigmoid"),
        (
            "queries.count=3",
            "queries: expected a field of RegionConfig, found 'queries'; choose from type, name",
        ),
    ],
)
def test_what_does_not_fit_is_refused(change: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        override(faster_rcnn(), [change])
