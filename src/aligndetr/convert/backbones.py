"""The ResNets of published detectors as timm's: which one it is, and its tensors' names there."""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import timm
import torch
from torch import Tensor
from torch.nn import functional as F

from aligndetr.convert.names import Renames, renamed
from aligndetr.errors import CheckpointError

NETWORK = "backbone.network."
"""What our names of its tensors begin with."""
STEM_CHANNELS = 64
"""Of every ResNet of timm with a stem of one convolution."""
STAGES = range(1, 5)
NORM_EPS = 1e-5
"""Of batch norm, in torchvision, timm, detectron2 and transformers."""

NAMED: dict[tuple[bool, tuple[int, ...], int, int], str] = {
    (False, (2, 2, 2, 2), 1, 64): "resnet18.tv_in1k",
    (False, (3, 4, 6, 3), 1, 64): "resnet34.tv_in1k",
    (True, (3, 4, 6, 3), 1, 64): "resnet50.tv_in1k",
    (True, (3, 4, 23, 3), 1, 64): "resnet101.tv_in1k",
    (True, (3, 8, 36, 3), 1, 64): "resnet152.tv_in1k",
    (True, (3, 4, 6, 3), 32, 4): "resnext50_32x4d.tv_in1k",
    (True, (3, 4, 23, 3), 32, 8): "resnext101_32x8d.tv_in1k",
    (True, (3, 4, 23, 3), 64, 4): "resnext101_64x4d.tv_in1k",
    (True, (3, 4, 6, 3), 1, 128): "wide_resnet50_2.tv_in1k",
    (True, (3, 4, 23, 3), 1, 128): "wide_resnet101_2.tv_in1k",
}
"""timm's name of a ResNet with 64 to 512 planes: has it bottlenecks, its blocks by stage, groups,
width of a group. All others are one of the first with other options, and have no ImageNet weights.
"""


@dataclass(frozen=True)
class Naming:
    """How some code names a ResNet's tensors: its stem, its first block, and from them timm's.

    `prefix` comes before all of them.
    """

    stem: str
    block: str
    renames: Renames
    prefix: str = ""

    def ours(self, name: str) -> str:
        """Return our name of a published tensor; itself, if it is none of the ResNet."""
        if not name.startswith(self.prefix):
            return name
        return NETWORK + renamed(name.removeprefix(self.prefix), self.renames)


TORCHVISION = Naming("conv1.weight", "layer1.0.conv1.weight", ())
"""timm's names are the same."""

DETECTRON2 = Naming(
    "stem.conv1.weight",
    "res2.0.conv1.weight",
    (
        (r"^stem\.", ""),
        *((rf"^res{stage + 1}\.", f"layer{stage}.") for stage in STAGES),
        (r"conv(\d)\.norm\.", r"bn\1."),
        (r"shortcut\.norm\.", "downsample.1."),
        (r"shortcut\.", "downsample.0."),
    ),
)

TRANSFORMERS = Naming(
    "embedder.embedder.convolution.weight",
    "encoder.stages.0.layers.0.layer.0.convolution.weight",
    (
        (r"^embedder\.embedder\.convolution", "conv1"),
        (r"^embedder\.embedder\.normalization", "bn1"),
        *((rf"^encoder\.stages\.{stage - 1}\.layers", f"layer{stage}") for stage in STAGES),
        *((rf"\.layer\.{place}\.convolution", f".conv{place + 1}") for place in range(3)),
        *((rf"\.layer\.{place}\.normalization", f".bn{place + 1}") for place in range(3)),
        (r"shortcut\.convolution", "downsample.0"),
        (r"shortcut\.normalization", "downsample.1"),
    ),
)


def find_naming(names: Collection[str], where: str) -> Naming:
    """Return how a backbone's tensors are named.

    Raises:
        CheckpointError: It is no ResNet. `where` begins the message.
    """
    for naming in (TORCHVISION, DETECTRON2, TRANSFORMERS):
        for name in names:
            prefix = name.removesuffix(naming.stem)
            if prefix != name and f"{prefix}{naming.block}" in names:
                return replace(naming, prefix=prefix)
    shown = ", ".join(list(names)[:2])
    raise CheckpointError(
        f"{where}: expected a ResNet as backbone, named as in torchvision, detectron2, timm or "
        f"transformers, found {shown}, ...; other backbones cannot be converted yet"
    )


def rename_backbone(
    tensors: Mapping[str, Tensor],
    naming: Naming,
    channels: tuple[int, ...],
    *,
    is_dilated: bool,
    stages: tuple[int, ...] | None = None,
    where: str,
) -> tuple[list[str], dict[str, Tensor]]:
    """Return the settings of a published backbone, and its tensors under our names.

    Stages behind the last map are left out.

    Args:
        tensors: Its tensors as published.
        naming: How they are named.
        channels: Of the maps that the neck takes, finest first.
        is_dilated: Whether the last stage keeps the stride of the one before.
        stages: That the maps are of, 0 the stem, or more before them; None where only the channels
            tell.
        where: Begins the message of an error.

    Raises:
        CheckpointError: It is none of timm's ResNets.
    """
    ours = {naming.ours(name): value for name, value in tensors.items()}
    network = {
        name.removeprefix(NETWORK): value
        for name, value in ours.items()
        if name.startswith(NETWORK)
    }
    if naming.block == DETECTRON2.block:
        _refuse_caffes(network, where)
    network = _with_full_stem(network)
    name, options = _description(network)
    offered = _offered(name, options, is_dilated=is_dilated)
    maps = _maps(offered, channels, stages, where)
    settings = [f"backbone.name={name}", f"backbone.strides={list(maps.values())}"]
    if options:
        settings += [f"backbone.options={json.dumps(options)}", "backbone.pretrained=false"]
    unused = tuple(f"{NETWORK}layer{stage}." for stage in STAGES if stage > max(maps))
    ours |= {f"{NETWORK}{name}": value for name, value in network.items()}
    return settings, {name: value for name, value in ours.items() if not name.startswith(unused)}


def _refuse_caffes(network: Mapping[str, Tensor], where: str) -> None:
    """Raise if statistics are part of the weights, as in detectron2's oldest ones."""
    if not network["bn1.running_mean"].any():
        raise CheckpointError(
            f"{where}: expected a ResNet backbone with statistics of batch norm, found one "
            "without, as Caffe's in detectron2, whose strides are elsewhere; it cannot be converted"
        )


def _with_full_stem(network: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the network with the stem of 64 channels that timm's ResNets have.

    A narrower one gets channels that are always 0. Then the first block's input is not as wide as
    its output, and where it had no projection beside it, one that changes nothing.
    """
    lacking = STEM_CHANNELS - network["conv1.weight"].shape[0]
    if lacking <= 0:
        return dict(network)
    stem = {
        name: F.pad(value, (0,) * (2 * value.dim() - 1) + (lacking,))
        for name, value in network.items()
        if name.startswith(("conv1.", "bn1.")) and value.dim() > 0
    }
    shortcut = {
        name: value for name, value in network.items() if name.startswith("layer1.0.downsample")
    } or _identity(network["conv1.weight"].shape[0])
    first = {"layer1.0.conv1.weight": network["layer1.0.conv1.weight"], **shortcut}
    readers = {
        name: F.pad(value, (0, 0, 0, 0, 0, lacking))
        for name, value in first.items()
        if value.dim() == 4
    }
    return {**network, **stem, **shortcut, **readers}


def _identity(width: int) -> dict[str, Tensor]:
    """Return a projection beside a block that changes nothing, its norm included."""
    ones = torch.ones(width)
    return {
        "layer1.0.downsample.0.weight": torch.eye(width)[:, :, None, None],
        "layer1.0.downsample.1.weight": ones,
        "layer1.0.downsample.1.bias": torch.zeros(width),
        "layer1.0.downsample.1.running_mean": torch.zeros(width),
        "layer1.0.downsample.1.running_var": ones - NORM_EPS,
    }


def _description(network: Mapping[str, Tensor]) -> tuple[str, dict[str, Any]]:
    """Return timm's name of a ResNet, and the options without which it is another."""
    has_bottlenecks = "layer1.0.conv3.weight" in network
    counts = {stage: _blocks(network, stage) for stage in STAGES}
    layers = tuple(count for count in counts.values() if count)
    if gap := next((stage for stage in range(1, len(layers) + 1) if not counts[stage]), None):
        raise KeyError(f"layer{gap}.0.conv1.weight")
    last, expansion = ("conv3", 4) if has_bottlenecks else ("conv2", 1)
    planes = tuple(
        network[f"layer{stage}.0.{last}.weight"].shape[0] // expansion
        for stage, count in counts.items()
        if count
    )
    middle = network["layer1.0.conv2.weight"]
    groups = middle.shape[0] // middle.shape[1]
    group_width = STEM_CHANNELS * middle.shape[0] // (planes[0] * groups)
    name = NAMED.get((has_bottlenecks, layers, groups, group_width))
    if name is not None and planes == (64, 128, 256, 512):
        return name, {}
    options: dict[str, Any] = {"layers": layers, "channels": planes}
    if has_bottlenecks and (groups, group_width) != (1, 64):
        options |= {"cardinality": groups, "base_width": group_width}
    return ("resnet50" if has_bottlenecks else "resnet18"), options


def _blocks(network: Mapping[str, Tensor], stage: int) -> int:
    return sum(
        re.fullmatch(rf"layer{stage}\.\d+\.conv1\.weight", name) is not None for name in network
    )


def _offered(name: str, options: Mapping[str, Any], *, is_dilated: bool) -> list[tuple[int, int]]:
    """Return channels and stride of the stem's map and of each stage's."""
    with torch.device("meta"):
        info: Any = timm.create_model(
            name, features_only=True, output_stride=16 if is_dilated else 32, **options
        ).feature_info
    return list(zip(info.channels(), info.reduction(), strict=True))


def _maps(
    offered: list[tuple[int, int]],
    channels: tuple[int, ...],
    stated: tuple[int, ...] | None,
    where: str,
) -> dict[int, int]:
    """Return stage and stride of the maps that have these channels."""
    count = len(channels)
    if stated is not None:
        candidates = [stated[-count:]]
    else:
        starts = range(1, len(offered) - count + 1)
        candidates = [tuple(range(start, start + count)) for start in starts]
    fitting = [
        stages
        for stages in candidates
        if tuple(offered[stage][0] for stage in stages if stage < len(offered)) == channels
    ]
    if len(fitting) == 1:
        return {stage: offered[stage][1] for stage in fitting[0]}
    if fitting:
        raise CheckpointError(
            f"{where}: expected a config.json that says which stages the neck takes, for several "
            f"have {list(channels)} channels, found none; it cannot be converted"
        )
    raise CheckpointError(
        f"{where}: expected a neck for maps of some of {[width for width, _ in offered]} channels, "
        f"which this ResNet has, found one for {list(channels)}; it cannot be converted"
    )
