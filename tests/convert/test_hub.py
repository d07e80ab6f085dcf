"""transformers' config.json says what tensors do not."""

import pytest

from aligndetr.convert.hub import hub_settings, is_dilated, refuse_variants
from aligndetr.errors import CheckpointError


@pytest.mark.parametrize(
    ("hub", "dilated"),
    [
        ({}, False),
        ({"dilation": True}, True),  # versions 3 and 4
        ({"dilation": False, "backbone_config": {"output_stride": 16}}, True),  # version 5
        ({"dilation": True, "backbone_config": {"output_stride": None}}, False),  # not used there
        ({"dilation": True, "backbone_config": None}, True),
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
