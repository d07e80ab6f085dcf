"""transformers' config.json says what tensors do not."""

import math

import pytest

from aligndetr.convert.hub import (
    hub_of_options,
    hub_settings,
    is_dilated,
    refuse_variants,
    stated_stages,
)
from aligndetr.errors import CheckpointError


@pytest.mark.parametrize(
    ("hub", "dilated"),
    [
        ({}, False),
        ({"dilation": True}, True),  # versions 3 and 4
        ({"dilation": False, "backbone_config": {"output_stride": 16}}, True),  # version 5
        ({"dilation": True, "backbone_config": {"output_stride": None}}, False),  # not used there
        ({"dilation": True, "backbone_config": None}, True),
        ({"backbone_kwargs": {"output_stride": 16}}, True),  # version 4 with a backbone of timm
    ],
)
def test_a_dilated_backbone_is_told_by_old_and_new_files(hub, dilated):
    assert is_dilated(hub) == dilated
    assert hub_settings(hub) == ["backbone.output_stride=16"] * dilated


def test_temperatures_are_taken_over():
    hub = {"temperature_height": 20, "temperature_width": 20}
    assert hub_settings(hub) == ["position.temperature=20"]


@pytest.mark.parametrize(
    ("hub", "found"),
    [
        ({"activation_function": "gelu"}, "activation_function=gelu"),
        (
            {"encoder_attention_heads": 8, "decoder_attention_heads": 4},
            "encoder_attention_heads=8 but decoder_attention_heads=4",
        ),
        ({"temperature_height": 20}, "temperature_height=20 but temperature_width=None"),
        ({"backbone_config": {"hidden_act": "silu"}}, "backbone_config.hidden_act=silu"),
        (
            {"backbone_config": {"downsample_in_bottleneck": True}},
            "backbone_config.downsample_in_bottleneck=true",
        ),
        ({"pre_norm": True}, "pre_norm=true"),
        ({"sine_position_embedding_scale": 1.0}, "sine_position_embedding_scale=1.0"),
        ({"backbone_config": "resnet50"}, "backbone_config='resnet50'"),
        ({"backbone_config": {"output_stride": 8}}, "output_stride=8 of the backbone"),
        ({"backbone_config": {"backbone": "resnetblur18"}}, "backbone=resnetblur18"),
        ({"backbone": "resnet50d"}, "backbone=resnet50d"),
    ],
)
def test_a_variant_of_equal_shapes_is_refused(hub, found):
    with pytest.raises(CheckpointError, match=rf"run: expected .*, found {found} in its config"):
        refuse_variants(hub, "run")


def test_detectors_as_published_are_not_refused():
    refuse_variants({}, "run")
    refuse_variants(
        {
            "activation_function": "prelu",
            "encoder_attention_heads": 8,
            "decoder_attention_heads": 8,
            "backbone_config": {"hidden_act": "relu", "downsample_in_bottleneck": False},
        },
        "run",
    )


@pytest.mark.parametrize(
    "name",
    ["resnet50", "resnet101.tv_in1k", "wide_resnet50_2", "resnext50_32x4d", "microsoft/resnet-50"],
)
def test_plain_resnets_are_not_refused(name):
    refuse_variants({"backbone": name, "sine_position_embedding_scale": 2 * math.pi}, "run")


@pytest.mark.parametrize(
    ("hub", "stages"),
    [
        ({}, None),
        ({"backbone_config": {"out_indices": [2, 3]}}, (2, 3)),
        ({"backbone_config": {"out_indices": [-1], "hidden_sizes": [8] * 4}}, (4,)),
        ({"backbone_config": {"out_indices": [-1], "hidden_sizes": [8] * 3}}, (3,)),
        ({"backbone_kwargs": {"out_indices": [1, 2, 3, 4]}}, (1, 2, 3, 4)),
    ],
)
def test_stages_are_counted_from_the_stem(hub, stages):
    assert stated_stages(hub) == stages


def test_options_of_a_training_are_read_in_the_same_words():
    assert hub_of_options({}) == {}
    options = {"nheads": 4, "pe_temperatureH": 20, "pe_temperatureW": 20, "lr": 1e-4}
    assert hub_of_options({**options, "num_queries": 50, "two_stage": True}) == {
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "temperature_height": 20,
        "temperature_width": 20,
        "two_stage_num_proposals": 50,
    }
    assert "two_stage_num_proposals" not in hub_of_options({"num_queries": 50, "two_stage": False})
