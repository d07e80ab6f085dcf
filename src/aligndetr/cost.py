"""What a network costs: its parameters, and the multiply-adds of one image.

Nothing is computed: the network is built without memory and runs on shapes alone. Convolutions and
matrix products count, attention's included, as in the papers' GFLOPS; norms, activations and the
bilinear samples of deformable attention do not. Layers that only training has cost no
multiply-adds, but their parameters count. Of a region detector all proposals are looked at.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from aligndetr.config.schema import AnyConfig, Config, RegionConfig
from aligndetr.model.build import build_model
from aligndetr.regions.build import BINS
from aligndetr.regions.detector import RegionDetector
from aligndetr.types import ImageBatch

SHORT_SIDE = 800
LONG_SIDES = (1066, 1333)
"""Of COCO's images as the family sees them: 4:3, and the longest there are."""
STRUCTURE = {
    "type", "num_classes", "width", "heads", "backbone", "neck", "encoder", "queries", "decoder",
    "denoising", "groups", "head", "proposals",
}  # fmt: skip
"""The fields of a configuration that decide what its network costs, beside its softmax."""

Size = tuple[int, int]
"""Height and width."""


@dataclass(frozen=True)
class Cost:
    """Millions of parameters, and 10^9 multiply-adds of one image of `size_hw`.

    `equal_size_hw` is the image of short side 800 whose multiply-adds are the published ones; None
    where none of COCO's is, or nothing is published.
    """

    params_m: float
    size_hw: Size
    gmacs: float
    equal_size_hw: Size | None


def costs(wanted: Iterable[tuple[AnyConfig, float | None]], size_hw: Size) -> Iterator[Cost]:
    """Yield the cost of each configuration, given its published GFLOPS; equal networks once."""
    known: dict[str, Network] = {}
    for config, gflops in wanted:
        has_softmax = isinstance(config, Config) and config.has_softmax
        key = f"{has_softmax} {config.model_dump_json(include=STRUCTURE)}"
        network = known[key] if key in known else known.setdefault(key, Network(config))
        equal = None if gflops is None else _equal_size(network, gflops)
        yield Cost(network.parameters / 1e6, size_hw, network.gmacs(size_hw), equal)


class Network:
    """A network without memory, and what was counted of it."""

    def __init__(self, config: AnyConfig) -> None:
        self._network = _build(config)
        self._counted: dict[Size, float] = {}

    @property
    def parameters(self) -> int:
        """The number of parameters, trained or not; those of frozen norms are none."""
        return sum(parameter.numel() for parameter in self._network.parameters())

    def gmacs(self, size_hw: Size) -> float:
        """Return the 10^9 multiply-adds of one image without padding."""
        if size_hw not in self._counted:
            self._counted[size_hw] = _count_macs(self._network, size_hw) / 1e9
        return self._counted[size_hw]


class EveryProposal(nn.Module):
    """A region detector that looks at as many proposals as it may, whatever they are."""

    def __init__(self, detector: RegionDetector, count: int) -> None:
        super().__init__()
        self.detector, self.count = detector, count

    def forward(self, images: ImageBatch) -> None:
        """Run every layer."""
        levels = self.detector.features(images).levels
        maps = self.detector.pyramid({str(index): level for index, level in enumerate(levels)})
        finest, *_ = maps = list(maps.values())
        self.detector.proposals.head(maps)
        regions = finest.new_empty(self.count, finest.shape[1], BINS, BINS)
        self.detector.heads.box_predictor(self.detector.heads.box_head(regions))


def _build(config: AnyConfig) -> nn.Module:
    # A backbone that is frozen as a whole would fold its norms, for which it needs its weights.
    backbone = config.backbone.model_copy(update={"freeze": 0})
    device, changes = torch.device("meta"), {"backbone": backbone, "precision": "fp32"}
    with device:
        match config:
            case Config():
                plain = config.model_copy(update=changes)
                network, _ = build_model(plain, device=device, pretrained=False)
            case RegionConfig():
                plain = config.model_copy(update=changes)
                detector, _ = build_model(plain, device=device, pretrained=False)
                network = EveryProposal(detector, config.proposals.count)
    return network.eval()


def _count_macs(network: nn.Module, size_hw: Size) -> int:
    """Return the multiply-adds of a forward pass: half of what torch counts as FLOPs."""
    # Pretends to be on a CPU, for autocast does not know the device "meta"; without fused
    # attention, which the counter does not know there.
    height, width = size_hw
    counter = FlopCounterMode(display=False)
    with FakeTensorMode(), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        named = (*network.named_parameters(), *network.named_buffers())
        state = {name: torch.empty(value.shape, dtype=value.dtype) for name, value in named}
        image = ImageBatch(torch.empty(1, 3, height, width), None, torch.tensor([size_hw]))
        functional_call(network, state, (image,))
    return counter.get_total_flops() // 2


def _equal_size(network: Network, gflops: float) -> Size | None:
    """Return the size of the published GFLOPS on the line through two sizes."""
    low, high = LONG_SIDES
    at_low, at_high = (network.gmacs((SHORT_SIDE, long_side)) for long_side in LONG_SIDES)
    long_side = round(low + (gflops - at_low) / (at_high - at_low) * (high - low))
    return (SHORT_SIDE, long_side) if SHORT_SIDE <= long_side <= high else None
