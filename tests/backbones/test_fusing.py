import copy
import pickle

import pytest
import timm
import torch
from torch import Tensor, fx, nn

from aligndetr.backbones.backbone import Backbone
from aligndetr.backbones.folding import Folding
from aligndetr.backbones.fusing import FusedConvolution, _with_fused_convolutions, fused
from aligndetr.types import ImageBatch
from timm_networks import timm_network

NETWORKS = [
    "resnet18",  # shortcuts through a convolution, ReLU behind the sum
    "resnet10t",  # pooled shortcuts
    "resnet26d",  # bottlenecks
    "tf_efficientnet_lite0",  # ReLU6, padding on one side, no activation behind the sum
    "mobilenetv3_small_050",  # hard swish, squeeze and excitation
    "efficientnet_b0",  # SiLU
    "regnetx_002",  # grouped convolutions
]


def folded(name: str) -> nn.Module:
    """Return a network without norms, whose weights all do something."""
    model = timm_network(name, (1, 2, 3))
    folding = Folding(model)
    return folding.with_weights(folding.weights(model)).requires_grad_(False)


def kinds(network: nn.Module) -> list[type[nn.Module]]:
    return [type(module) for module in network.modules() if not list(module.children())]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("height", "width"), [(64, 96), (97, 65)])
def test_maps_are_those_of_the_network(name: str, height: int, width: int):
    network = folded(name)
    pixels = torch.randn(2, 3, height, width).contiguous(memory_format=torch.channels_last)
    found, expected = _with_fused_convolutions(network)(pixels), network(pixels)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_convolution_is_fused_with_what_follows_it(name: str):
    network = folded(name)
    result = fused(network)
    assert isinstance(result, fx.GraphModule)
    left = kinds(result)
    assert left.count(FusedConvolution) == sum(issubclass(k, nn.Conv2d) for k in kinds(network))
    assert not any(issubclass(kind, nn.Conv2d) for kind in left)
    names = {str(node.target) for node in result.graph.nodes if node.op == "call_function"}
    assert not any("add" in name for name in names)


def test_a_light_network_keeps_no_activation():
    assert set(kinds(fused(folded("tf_efficientnet_lite0")))) == {FusedConvolution}


def test_the_network_itself_is_left_alone():
    network = folded("resnet10t")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    structure = str(network)
    fused(network)
    assert str(network) == structure
    torch.testing.assert_close(network.state_dict(), before, atol=0, rtol=0)


class Toy(nn.Module):
    """A convolution of 3 channels to 3, and what a test does with it."""

    def __init__(self, **options: object) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(3, 3, 3, padding=1, **options)  # pyright: ignore[reportArgumentType]
        self.activation = nn.ReLU()

    def forward(self, pixels: Tensor) -> list[Tensor]:
        return [self.activation(self.convolution(pixels))]


class ReadTwice(Toy):
    def forward(self, pixels: Tensor) -> list[Tensor]:
        result = self.convolution(pixels)
        return [self.activation(result), result]


class Overwritten(Toy):
    """What is added to changes in place, and is read afterwards."""

    def forward(self, pixels: Tensor) -> list[Tensor]:
        pixels = pixels * 2
        shortcut = pixels
        pixels += self.convolution(pixels)
        return [self.activation(pixels), shortcut]


class Doubled(Toy):
    def forward(self, pixels: Tensor) -> list[Tensor]:
        result = self.convolution(pixels)
        return [result + result]


class Broadcast(Toy):
    """The sum is larger than the convolution's result."""

    def forward(self, pixels: Tensor) -> list[Tensor]:
        return [self.convolution(pixels[..., :1, :]) + pixels]


class Scalar(Toy):
    def forward(self, pixels: Tensor) -> list[Tensor]:
        return [self.activation(self.convolution(pixels) + 1.0)]


class Choosing(Toy):
    def forward(self, pixels: Tensor) -> list[Tensor]:
        return [self.convolution(pixels) if pixels.mean() > 0 else pixels]


@pytest.mark.parametrize(
    "network",
    [Toy(), ReadTwice(), Overwritten(), Doubled(), Broadcast(), Scalar(), Choosing()],
    ids=lambda network: type(network).__name__,
)
@torch.no_grad()
def test_whatever_happens_to_a_result_stays_the_same(network: nn.Module):
    pixels = torch.randn(1, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    found = fused(network.eval())(pixels.clone())
    torch.testing.assert_close(found, network(pixels.clone()))


class Two(Toy):
    """Two convolutions, the second of which has its own input for a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        first = self.convolution(pixels)
        return [self.activation(self.second(first) + first)]


class Block(Two):
    """The first shortcut is nobody's any more after its sum."""

    def forward(self, pixels: Tensor) -> list[Tensor]:
        first = self.convolution(pixels)
        return [self.activation(self.convolution(self.second(first)) + first)]


class ReturnedToo(Two):
    def forward(self, pixels: Tensor) -> list[Tensor]:
        first = self.convolution(pixels)
        return [self.activation(self.convolution(self.second(first)) + first), first]


class ViewedBefore(Two):
    def forward(self, pixels: Tensor) -> list[Tensor]:
        first = self.convolution(pixels)
        view = first[:, :1]
        return [self.convolution(self.second(first)) + first, view + 1]


class ReadLater(Two):
    """What reads the shortcut last moves behind the first sum when it is fused itself."""

    def forward(self, pixels: Tensor) -> list[Tensor]:
        first = self.convolution(pixels)
        second = self.convolution(self.second(first))
        third = self.convolution(first)
        total = second + first
        return [third + total]


class OfTheCaller(Two):
    def forward(self, pixels: Tensor) -> list[Tensor]:
        return [self.second(pixels) + pixels]


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (Two(), 0),
        (Block(), 1),
        (ReturnedToo(), 0),
        (ViewedBefore(), 0),
        (ReadLater(), 1),
        (OfTheCaller(), 0),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else str(value),
)
@torch.no_grad()
def test_a_sum_takes_the_memory_of_what_nobody_needs_any_more(network: nn.Module, expected: int):
    result = _with_fused_convolutions(network.eval())
    operations = [m for m in result.modules() if isinstance(m, FusedConvolution)]
    assert sum(operation.overwrites for operation in operations) == expected
    pixels = torch.randn(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    expected_maps = network(pixels.clone())
    torch.testing.assert_close(result(pixels), expected_maps)


@pytest.mark.parametrize(
    "network",
    [Choosing(), Broadcast(), Toy().double(), Toy(device="meta")],
    ids=["depends on its input", "broadcasts", "float64", "no weights"],
)
def test_what_cannot_be_fused_comes_back(network: nn.Module):
    assert fused(network.eval()) is network


@pytest.mark.parametrize("options", [{"padding_mode": "reflect"}, {"device": None}])
def test_only_padding_with_zeros_is_fused(options: dict[str, object]):
    is_plain = "padding_mode" not in options
    assert (FusedConvolution in kinds(fused(Toy(**options).eval()))) == is_plain


@torch.no_grad()
def test_bfloat16_is_fused_too():
    network = folded("resnet10t").bfloat16()
    pixels = torch.randn(1, 3, 64, 64).bfloat16().contiguous(memory_format=torch.channels_last)
    result = fused(network)
    for found, expected in zip(result(pixels), network(pixels), strict=True):
        assert found.dtype == torch.bfloat16
        assert (found - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_a_backbone_that_has_run_can_be_copied(copied):
    torch.manual_seed(0)
    network = timm.create_model("resnet10t", features_only=True, out_indices=(2,))
    backbone = Backbone(network, freeze="all", norm="frozen")
    images = ImageBatch(torch.randn(1, 3, 64, 64), None, torch.tensor([[64, 64]]))
    expected = backbone(images).levels
    torch.testing.assert_close(copied(backbone)(images).levels, expected)
