import copy

import pytest
import timm
import torch
from timm.layers.norm_act import freeze_batch_norm_2d
from torch import nn

from aligndetr.backbones.backbone import Backbone
from aligndetr.backbones.folding import folded
from aligndetr.types import ImageBatch


def network(name: str) -> nn.Module:
    """Return a network whose norms do something."""
    torch.manual_seed(0)
    model = timm.create_model(name, features_only=True, out_indices=(1, 2))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            nn.init.uniform_(module.get_buffer("running_mean"), -0.5, 0.5)
            nn.init.uniform_(module.get_buffer("running_var"), 0.5, 2.0)
    return model.eval()


def norms(model: nn.Module) -> int:
    return sum("norm" in type(module).__name__.lower() for module in model.modules())


@torch.no_grad()
@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet10t", "convnext_atto"])
@pytest.mark.parametrize("is_frozen", [False, True])
def test_the_folded_copy_computes_the_same(name: str, is_frozen: bool):
    model = network(name)
    if is_frozen:
        model = freeze_batch_norm_2d(model)
    copied = folded(model)
    pixels = torch.randn(2, 3, 64, 96)
    for found, expected in zip(copied(pixels), model(pixels), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    if name == "convnext_atto":  # its norms are layer norms, which stay
        assert norms(copied) == norms(model)
    else:
        assert norms(copied) == 0


def test_the_network_itself_is_left_alone():
    model = network("resnet10t")
    before = copy.deepcopy(model.state_dict())
    folded(model)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def images() -> ImageBatch:
    torch.manual_seed(1)
    return ImageBatch(torch.randn(1, 3, 64, 64), None, torch.tensor([[64, 64]]))


def test_a_frozen_backbone_folds_without_changing_its_state_dict():
    backbone = Backbone(network("resnet10t"), freeze="all", norm="frozen")
    names = list(backbone.state_dict())
    expected = backbone.network(images().pixels)
    for found, level in zip(backbone(images()).levels, expected, strict=True):
        torch.testing.assert_close(found, level, atol=1e-4, rtol=1e-4)
    assert list(backbone.state_dict()) == names


def test_loading_other_weights_renews_the_folded_copy():
    backbone = Backbone(network("resnet10t"), freeze="all", norm="frozen")
    backbone(images())
    backbone.load_state_dict({key: value * 0.5 for key, value in backbone.state_dict().items()})
    expected = backbone.network(images().pixels)
    torch.testing.assert_close(backbone(images()).levels[-1], expected[-1], atol=1e-4, rtol=1e-4)


def test_bfloat16_maps_come_from_a_bfloat16_copy():
    backbone = Backbone(network("resnet10t"), freeze="all", norm="frozen")
    exact = backbone(images()).levels[-1]
    rough = backbone(images(), precision=torch.bfloat16).levels[-1]
    assert rough.dtype == torch.bfloat16
    assert float((rough.float() - exact).abs().mean() / exact.abs().mean()) < 0.05
    assert backbone(images()).levels[-1].dtype == torch.float32
