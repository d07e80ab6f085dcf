import pytest
import torch
from timm.layers.norm import LayerNorm2d, RmsNorm
from timm.layers.norm_act import BatchNormAct2d
from torch import nn

from aligndetr.config.schema import Training
from aligndetr.train.optimizer import build_optimizer, is_norm, trained_parameters


class Shared(nn.Module):
    """A backbone with norm layers and a frozen one, and two heads that share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))
        self.backbone[2].requires_grad_(False)
        self.norm = nn.LayerNorm(4)
        self.heads = nn.ModuleList([nn.Linear(4, 2), nn.Linear(4, 2)])
        self.heads[1].weight = self.heads[0].weight
        self.embedding = nn.Parameter(torch.zeros(2))


def named_groups(model: nn.Module, training: Training) -> dict[tuple[float, float], set[str]]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        (group["lr"], group["weight_decay"]): {names[parameter] for parameter in group["params"]}
        for group in build_optimizer(model, training).param_groups
    }


def test_groups_follow_backbone_and_norm() -> None:
    training = Training(learning_rate=1.0, backbone_factor=0.25, weight_decay=0.5)
    assert named_groups(Shared(), training) == {
        (0.25, 0.5): {"backbone.0.weight", "backbone.0.bias"},
        (0.25, 0.0): {"backbone.1.weight", "backbone.1.bias"},
        (1.0, 0.0): {"norm.weight", "norm.bias"},
        (1.0, 0.5): {"heads.0.weight", "heads.0.bias", "heads.1.bias", "embedding"},
    }


def test_layers_that_make_places_have_a_rate_of_their_own() -> None:
    model = nn.ModuleDict(
        {
            "decoder": nn.ModuleDict({"offsets": nn.Linear(2, 2), "value": nn.Linear(2, 2)}),
            "queries": nn.ModuleDict({"point": nn.Linear(2, 2)}),
        }
    )
    training = Training(learning_rate=1.0, offset_factor=0.5, weight_decay=0.25)
    assert named_groups(model, training) == {
        (0.5, 0.25): {
            *(f"decoder.offsets.{part}" for part in ("weight", "bias")),
            *(f"queries.point.{part}" for part in ("weight", "bias")),
        },
        (1.0, 0.25): {"decoder.value.weight", "decoder.value.bias"},
    }


def test_each_trained_parameter_is_in_one_group_and_frozen_ones_in_none() -> None:
    model = Shared()
    optimizer = build_optimizer(model, Training())
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert len(parameters) == len(set(parameters))
    assert set(parameters) == {p for p in model.parameters() if p.requires_grad}


def test_a_frozen_backbone_makes_no_group() -> None:
    model = Shared()
    model.backbone.requires_grad_(False)
    assert {rate for rate, _ in named_groups(model, Training())} == {1e-4}
    assert not [name for name, *_ in trained_parameters(model) if name.startswith("backbone")]


def test_groups_remember_the_rate_that_they_start_from() -> None:
    optimizer = build_optimizer(Shared(), Training(learning_rate=1e-3))
    rates = {group["initial_lr"] for group in optimizer.param_groups}
    assert sorted(rates) == pytest.approx([1e-4, 1e-3])
    assert all(group["fused"] for group in optimizer.param_groups)
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Linear(1, 1), False),
        (nn.BatchNorm2d(1), True),
        (nn.GroupNorm(1, 1), True),
        (nn.RMSNorm(1), True),
        (BatchNormAct2d(1), True),  # timm's own
        (LayerNorm2d(1), True),
        (RmsNorm(1), True),
    ],
)
def test_norm_layers_of_torch_and_timm_are_known(module: nn.Module, expected: bool) -> None:
    assert is_norm(module) is expected
