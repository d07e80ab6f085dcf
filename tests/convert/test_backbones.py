"""ResNets of other code give the same maps as timm's with their tensors."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.resnet import Bottleneck, ResNet

from aligndetr.config.codec import override
from aligndetr.config.presets import get_preset
from aligndetr.config.schema import Config
from aligndetr.convert.backbones import NETWORK, find_naming, rename_backbone
from aligndetr.errors import CheckpointError
from aligndetr.model.build import build_backbone
from aligndetr.types import ImageBatch
from convert.networks import (
    as_detectron2,
    as_torchvision,
    small_resnet,
    uncounted,
    with_statistics,
)

WIDE = (512, 1024, 2048)
"""Channels of the maps of strides 8, 16 and 32 in a ResNet with bottlenecks."""
NARROW = (128, 256, 512)


def settings_of(
    tensors: dict[str, Tensor], channels: tuple[int, ...], *, is_dilated: bool = False
) -> tuple[list[str], dict[str, Tensor]]:
    naming = find_naming(tensors, "file.pth")
    return rename_backbone(tensors, naming, channels, is_dilated=is_dilated, where="file.pth")


def maps_of(settings: list[str], ours: dict[str, Tensor], pixels: Tensor) -> tuple[Tensor, ...]:
    """The maps of our backbone with these settings and tensors, every one of which it has."""
    config = override(get_preset("dino-r50-4scale"), settings)
    assert isinstance(config, Config)
    backbone, _ = build_backbone(config, pretrained=False)
    backbone.load_state_dict({name.removeprefix("backbone."): v for name, v in ours.items()})
    with torch.no_grad():
        images = ImageBatch(pixels, None, torch.tensor([[64, 96]]))
        return backbone.eval()(images).levels


def published(name: str) -> nn.Module:
    """One of torchvision's networks, as if it had been trained; their own start takes seconds."""
    torch.manual_seed(0)
    with torch.device("meta"):
        network = get_model(name, weights=None)
    network = network.to_empty(device="cpu")
    for parameter in network.parameters():
        bound = (3 / parameter[0].numel()) ** 0.5
        nn.init.uniform_(parameter, -bound, bound)
    return with_statistics(network)


def assert_equal_maps(found: tuple[Tensor, ...], expected: Any) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("resnet18", NARROW),
        ("resnet34", NARROW),
        ("resnet50", WIDE),
        ("resnet101", WIDE),
        ("resnet152", WIDE),
        ("resnext50_32x4d", WIDE),
        ("resnext101_32x8d", WIDE),
        ("resnext101_64x4d", WIDE),
        ("wide_resnet50_2", WIDE),
        ("wide_resnet101_2", WIDE),
    ],
)
def test_every_resnet_is_told_by_its_shapes(name, channels):
    with torch.device("meta"):
        tensors = as_torchvision(uncounted(get_model(name, weights=None).state_dict()))
    settings, ours = settings_of(tensors, channels)
    assert settings == [f"backbone.name={name}.tv_in1k", "backbone.strides=[8, 16, 32]"]
    assert len(ours) == len(tensors)


@pytest.mark.parametrize(
    ("name", "channels", "named"),
    [
        ("resnet18", NARROW, as_torchvision),
        ("resnet18", NARROW, as_detectron2),
        ("resnet50", WIDE, as_detectron2),
        ("resnet101", WIDE, as_torchvision),
    ],
)
def test_torchvisions_resnets_give_the_same_maps(name, channels, named):
    network = published(name)
    settings, ours = settings_of(named(uncounted(network.state_dict())), channels)
    pixels = torch.randn(1, 3, 64, 96)
    layers = {f"layer{stage}": str(stage) for stage in (2, 3, 4)}
    with torch.no_grad():
        expected = IntermediateLayerGetter(network, layers)(pixels).values()
    assert_equal_maps(maps_of(settings, ours, pixels), expected)


def test_a_dilated_last_stage_has_the_stride_of_the_one_before():
    tensors = as_torchvision(uncounted(published("resnet50").state_dict()))
    settings, _ = settings_of(tensors, (2048,), is_dilated=True)
    assert settings[1] == "backbone.strides=[16]"


@pytest.mark.parametrize(
    "options",
    [
        {"layer_type": "basic", "embedding_size": 64, "hidden_sizes": [64, 24, 32, 48]},
        {"layer_type": "basic", "embedding_size": 16, "hidden_sizes": [16, 24, 32, 48]},
        {"layer_type": "basic", "embedding_size": 16, "hidden_sizes": [8, 24, 32, 48]},
        {"layer_type": "bottleneck", "embedding_size": 24, "hidden_sizes": [24, 32, 48, 64]},
        {"layer_type": "bottleneck", "embedding_size": 8, "hidden_sizes": [16, 32, 48, 64]},
    ],
)
def test_transformers_resnets_of_any_width_give_the_same_maps(options):
    transformers: Any = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        **options, depths=[1, 2, 1, 1], out_features=["stage2", "stage3", "stage4"]
    )
    torch.manual_seed(0)
    network = with_statistics(transformers.ResNetBackbone(config))
    tensors = {f"backbone.model.{name}": v for name, v in uncounted(network.state_dict()).items()}
    settings, ours = settings_of(tensors, tuple(options["hidden_sizes"][1:]))
    assert "backbone.pretrained=false" in settings
    pixels = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = network(pixels).feature_maps
    assert_equal_maps(maps_of(settings, ours, pixels), expected)


def test_a_resnext_of_another_depth_has_its_groups_among_the_options():
    network = ResNet(Bottleneck, [1, 1, 1, 1], groups=32, width_per_group=4)
    torch.manual_seed(0)
    tensors = as_torchvision(uncounted(with_statistics(network).state_dict()))
    settings, ours = settings_of(tensors, (2048,))
    pixels = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = IntermediateLayerGetter(network, {"layer4": "0"})(pixels).values()
    assert_equal_maps(maps_of(settings, ours, pixels), expected)


def test_stages_behind_the_last_map_are_left_out():
    settings, ours = settings_of(as_torchvision(small_resnet()), (16, 24))
    assert settings[1] == "backbone.strides=[8, 16]"
    assert f"{NETWORK}layer3.0.conv1.weight" in ours
    assert not any("layer4" in name for name in ours)
    assert len(maps_of(settings, ours, torch.randn(1, 3, 64, 96))) == 2


def test_other_tensors_beside_the_network_keep_their_names():
    tensors = as_torchvision(small_resnet()) | {"backbone.1.row_embed.weight": torch.ones(2)}
    _, ours = settings_of(tensors, (40,))
    assert "backbone.1.row_embed.weight" in ours


# What is refused


def test_a_transformer_is_refused_as_a_backbone():
    with pytest.raises(CheckpointError, match=r"expected a ResNet .* found backbone\.0\.patch_emb"):
        find_naming({"backbone.0.patch_embed.proj.weight": torch.ones(1)}, "file.pth")


def test_caffes_weights_are_refused():
    tensors = as_detectron2(small_resnet())
    zeros = {name: v * 0 for name, v in tensors.items() if name.endswith("running_mean")}
    with pytest.raises(CheckpointError, match=r"file\.pth: .* found one without, as Caffe's"):
        settings_of(tensors | zeros, (40,))


def test_a_neck_for_other_maps_is_refused():
    with pytest.raises(CheckpointError, match=r"some of \[64, 8, 16, 24, 40\] .* one for \[16, 40"):
        settings_of(as_torchvision(small_resnet()), (16, 40))


def test_stages_of_equal_channels_are_not_guessed():
    tensors = as_torchvision(small_resnet((16, 16, 24, 24)))
    with pytest.raises(CheckpointError, match=r"several have \[24\] channels"):
        settings_of(tensors, (24,))


def test_a_missing_stage_is_named():
    tensors = {n: v for n, v in as_torchvision(small_resnet()).items() if "layer2" not in n}
    with pytest.raises(KeyError, match=r"layer2\.0\.conv1"):
        settings_of(tensors, (40,))
