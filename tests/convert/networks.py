"""Small ResNets with statistics, and their tensors as torchvision and detectron2 name them."""

import re

import timm
from torch import Tensor, nn

PLANES = (8, 16, 24, 40)
"""Of the small ResNet; the last three are what the necks of `published_names` take."""


def with_statistics(network: nn.Module) -> nn.Module:
    """The network, as if it had been trained: no norm is the identity."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.weight.data, module.running_var):
                assert value is not None
                value.uniform_(0.5, 1.5)
            for value in (module.bias.data, module.running_mean):
                assert value is not None
                value.normal_(0, 0.1)
    return network.eval()


def small_resnet(planes: tuple[int, ...] = PLANES) -> dict[str, Tensor]:
    """The tensors of a ResNet of one block a stage, without counters, as torchvision names them."""
    network = timm.create_model(
        "resnet18", features_only=True, layers=(1, 1, 1, 1), channels=planes
    )
    return uncounted(with_statistics(network).state_dict())


def uncounted(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a frozen norm leaves: all but counters and the classifier."""
    return {
        name: value
        for name, value in tensors.items()
        if not name.endswith("num_batches_tracked") and not name.startswith("fc.")
    }


def as_torchvision(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names as in the code of DETR, Deformable DETR and IDEA."""
    return {f"backbone.0.body.{name}": value for name, value in tensors.items()}


def as_detectron2(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names as in detectron2 and detrex."""

    def named(name: str) -> str:
        name = re.sub(r"bn(\d)", r"conv\1.norm", name)
        name = name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
        if not name.startswith("layer"):
            return f"stem.{name}"
        return f"res{int(name[5]) + 1}{name[6:]}"

    return {f"backbone.{named(name)}": value for name, value in tensors.items()}
