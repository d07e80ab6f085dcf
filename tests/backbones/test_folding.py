import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from timm.layers.norm_act import freeze_batch_norm_2d
from torch import Tensor, nn

from aligndetr.backbones.backbone import Backbone
from aligndetr.backbones.folding import Folding
from aligndetr.types import ImageBatch
from timm_networks import timm_network

LEVELS = (1, 2)


def run_folded(model: nn.Module, pixels: Tensor) -> list[Tensor]:
    folding = Folding(model)
    return folding.run(pixels, folding.weights(model), training=False)


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet10t", "convnext_atto"])
@pytest.mark.parametrize("is_frozen", [False, True])
def test_maps_and_gradients_are_those_of_the_network(name: str, is_frozen: bool):
    model = timm_network(name, LEVELS)
    if is_frozen:
        model = freeze_batch_norm_2d(model)
    weights = list(model.parameters())
    pixels = torch.randn(2, 3, 64, 96)
    expected, found = model(pixels), run_folded(model, pixels)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    gradients = [
        torch.autograd.grad(levels[-1].square().mean(), weights, allow_unused=True)
        for levels in (found, expected)
    ]
    for mine, own in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, own, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "left"), [("tf_efficientnet_lite0", 0), ("resnet10t", 0), ("convnext_atto", 1)]
)
def test_norms_with_statistics_are_gone(name: str, left: int):
    model = timm_network(name, LEVELS)
    weights = Folding(model).weights(model)
    assert not any("running_var" in key for key in weights)
    assert any("norm" in key for key in weights) == bool(left)  # layer norms stay


def test_the_network_itself_is_left_alone():
    model = timm_network("resnet10t", LEVELS)
    before = copy.deepcopy(model.state_dict())
    run_folded(model, torch.randn(1, 3, 64, 64))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def images() -> ImageBatch:
    torch.manual_seed(1)
    return ImageBatch(torch.randn(1, 3, 64, 64), None, torch.tensor([[64, 64]]))


def test_a_frozen_backbone_folds_without_changing_its_state_dict():
    backbone = Backbone(timm_network("resnet10t", LEVELS), freeze="all", norm="frozen")
    names = list(backbone.state_dict())
    expected = backbone.network(images().pixels)
    for found, level in zip(backbone(images()).levels, expected, strict=True):
        torch.testing.assert_close(found, level, atol=1e-4, rtol=1e-4)
    assert list(backbone.state_dict()) == names


def halved_by_loading(backbone: Backbone) -> None:
    backbone.load_state_dict({key: value * 0.5 for key, value in backbone.state_dict().items()})


def halved_by_assigning(backbone: Backbone) -> None:
    half = {key: value * 0.5 for key, value in backbone.state_dict().items()}
    backbone.load_state_dict(half, assign=True)


@torch.no_grad()
def halved_in_place(backbone: Backbone) -> None:
    for parameter in backbone.parameters():
        parameter.mul_(0.5)


def stepped(backbone: Backbone) -> None:
    backbone.train()
    optimizer = torch.optim.SGD(backbone.parameters(), lr=0.01)
    with torch.enable_grad():
        backbone(images()).levels[-1].square().mean().backward()
    optimizer.step()
    backbone.eval()


@torch.no_grad()
@pytest.mark.parametrize(
    ("freeze", "change"),
    [
        ("all", halved_by_loading),
        ("all", halved_by_assigning),
        (0, halved_by_loading),
        (0, halved_in_place),
        (0, stepped),
    ],
)
def test_changed_weights_are_folded_anew(freeze, change):
    backbone = Backbone(timm_network("resnet10t", LEVELS), freeze=freeze, norm="frozen").eval()
    before = backbone(images()).levels[-1]
    change(backbone)
    expected = backbone.network(images().pixels)[-1]
    found = backbone(images()).levels[-1]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found, before, atol=1e-3)


def test_weights_are_folded_once_where_nothing_changes(monkeypatch):
    calls: list[int] = []
    real = Folding.with_weights
    monkeypatch.setattr(Folding, "with_weights", lambda *args: calls.append(1) or real(*args))
    backbone = Backbone(timm_network("resnet10t", LEVELS), freeze=0, norm="frozen").eval()
    with torch.no_grad():
        for _ in range(3):
            backbone(images())
    assert len(calls) == 1


@torch.no_grad()
def test_a_fused_optimizer_that_no_mode_change_announces_is_noticed():
    """It writes weights without telling torch's counter."""
    backbone = Backbone(timm_network("resnet10t", LEVELS), freeze=0, norm="frozen").eval()
    optimizer = torch.optim.AdamW(backbone.parameters(), lr=0.05, fused=True)
    backbone(images())
    for _ in range(2):
        with torch.enable_grad():
            backbone(images()).levels[-1].square().mean().backward()
        optimizer.step()
        expected = backbone.network(images().pixels)[-1]
        torch.testing.assert_close(backbone(images()).levels[-1], expected, atol=1e-3, rtol=1e-3)


def test_threads_may_share_a_backbone_in_inference():
    backbone = Backbone(timm_network("resnet10t", LEVELS), freeze=0, norm="frozen").eval()
    picture = images()
    with torch.no_grad():
        expected = backbone(picture).levels[-1]

    def infer(_: int) -> bool:
        with torch.no_grad():
            found = [backbone(picture).levels[-1] for _ in range(10)]
        return all(torch.allclose(level, expected, atol=1e-4) for level in found)

    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(infer, range(3)))


@torch.inference_mode()
def test_weights_made_in_inference_mode_have_no_counter():
    backbone = Backbone(timm_network("resnet10t", LEVELS), freeze="all", norm="frozen").eval()
    expected = backbone.network(images().pixels)[-1]
    torch.testing.assert_close(backbone(images()).levels[-1], expected, atol=1e-4, rtol=1e-4)


class Branching(nn.Module):
    """The result of its convolution is read twice, once by a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.convolution(x)
        return [x, self.norm(x)]


class Particular(Branching):
    """It takes no image but of one size."""

    def forward(self, x: Tensor) -> list[Tensor]:
        if x.shape[2:] != (48, 48):
            raise ValueError("expected 48 x 48")
        return super().forward(x)


@pytest.mark.parametrize("model", [Branching(), Particular()])
def test_what_cannot_be_folded_is_left_as_it_is(model: nn.Module):
    assert Folding(model).is_empty


def test_a_norm_without_a_scale_stays():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False))
    assert Folding(model).is_empty


def test_statistics_that_are_trained_are_not_folded():
    backbone = Backbone(timm_network("resnet10t", LEVELS), freeze=0, norm="trained").train()
    before = backbone.network.get_buffer("bn1.running_mean").clone()
    backbone(images())
    assert not torch.equal(before, backbone.network.get_buffer("bn1.running_mean"))


def test_bfloat16_maps_come_from_a_bfloat16_copy():
    backbone = Backbone(timm_network("resnet10t", LEVELS), freeze="all", norm="frozen")
    exact = backbone(images()).levels[-1]
    rough = backbone(images(), precision=torch.bfloat16).levels[-1]
    assert rough.dtype == torch.bfloat16
    assert float((rough.float() - exact).abs().mean() / exact.abs().mean()) < 0.05
    assert backbone(images()).levels[-1].dtype == torch.float32
