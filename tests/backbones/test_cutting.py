"""The upper stages of a network alone, against the whole network."""

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from aligndetr.backbones.cutting import can_be_cut, upper_part


def extractor(name: str) -> Any:
    torch.manual_seed(0)
    return timm.create_model(name, features_only=True, out_indices=(1, 2, 3)).eval()


class Reader(nn.Module):
    """Two levels; what makes the second may change the first, or look at the image."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.first, self.second = nn.Conv2d(3, 4, 2, stride=2), nn.Conv2d(4, 4, 2, stride=2)

    def forward(self, image: Tensor) -> list[Tensor]:
        below = self.first(image)
        if self.kind == "branches" and below.sum() > 0:
            below = -below
        upper = self.second(below)
        if self.kind == "overwrites":
            below = torch.relu_(below)
            upper = upper + self.second(below)
        if self.kind == "image":
            upper = upper * image.mean()
        return [below, upper]


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0", "mobilenetv3_small_050"])
@pytest.mark.parametrize("level", [0, 1])
def test_the_upper_part_makes_the_maps_of_the_whole(name: str, level: int) -> None:
    network = extractor(name)
    with torch.no_grad():
        maps = network(torch.rand(2, 3, 64, 80))
        found = upper_part(network, level)(maps[level])
    assert len(found) == 2 - level
    for own, expected in zip(found, maps[level + 1 :], strict=True):
        torch.testing.assert_close(own, expected)


def test_it_shares_the_weights_and_has_no_others() -> None:
    network = extractor("resnet18")
    own = dict(upper_part(network, 0).named_parameters())
    shared = dict(network.named_parameters())
    assert 0 < len(own) < len(shared)
    assert all(weight is shared[name] for name, weight in own.items())


@pytest.mark.parametrize(
    ("kind", "is_possible"),
    [("plain", True), ("branches", False), ("overwrites", False), ("image", False)],
)
def test_networks_that_it_would_get_wrong_are_not_cut(kind: str, is_possible: bool) -> None:
    torch.manual_seed(0)
    assert can_be_cut(Reader(kind), 0) == is_possible


class Moody(nn.Module):
    """Its code asks for the mode, as functions with a dropout do."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 2, stride=2)

    def forward(self, image: Tensor) -> list[Tensor]:
        below = self.first(image)
        return [below, below * (2.0 if self.training else 3.0)]


@pytest.mark.parametrize("training", [True, False])
def test_a_part_is_of_the_mode_that_the_network_has(training: bool) -> None:
    network = Moody().train(training)
    below, upper = network(torch.rand(1, 3, 4, 4))
    (found,) = upper_part(network, 0)(below)
    assert found.equal(upper)


def test_weights_without_numbers_cannot_be_tried() -> None:
    assert not can_be_cut(extractor("resnet18").to("meta"), 1)


def test_looking_leaves_the_network_alone() -> None:
    network = extractor("resnet18").train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert can_be_cut(network, 1)
    assert network.training
    assert all(tensor.equal(before[name]) for name, tensor in network.state_dict().items())
