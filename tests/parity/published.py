"""Published networks as ours, built from a case's weights as checkpoints are converted."""

from functools import cache
from itertools import takewhile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from aligndetr.config.schema import Config
from aligndetr.convert.convert import derive, recognise
from aligndetr.convert.layouts import Layout
from aligndetr.convert.read import Source
from aligndetr.model.build import build_detector
from aligndetr.model.denoising import Noise
from aligndetr.model.detector import DetectorModel
from aligndetr.types import DetectorOutput, Features, Targets
from parity.goldens import Golden

EPS = ("criterion.box.eps=1e-6", "criterion.matcher.eps=1e-6", "criterion.iou_eps=1e-6")
"""IDEA's and detrex's code adds it to areas."""


class GivenMaps(nn.Module):
    """Stands for a backbone where a case gives its feature maps."""

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        self.channels = tuple(channels)


class Published:
    """A case, our network at its weights, and the configuration that was derived for it."""

    def __init__(self, case: Golden) -> None:
        self.case = case
        self.layout, self.config, self.model = _derived(case.path)
        self.model.train().zero_grad()  # another test may have had it

    def rename(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Other tensors of the network, such as gradients, under our names."""
        return self.layout.rename(tensors, where=str(self.case.path))

    def output(self) -> DetectorOutput:
        """The network's predictions, in the mode in which the case was made.

        Published code gives all proposals in evaluation, too, where ours leaves them out.
        """
        if not is_training(self.case):
            self.model.eval()
            if self.config.groups is None:
                self.model.queries.train()
            with torch.no_grad():
                return self.model(features_of(self.case))
        noise = noise_of(self.case) if "dn_rand_p" in self.case else None
        return self.model.train()(features_of(self.case), targets_of(self.case), noise)


@cache
def _derived(path: Path) -> tuple[Layout, Config, DetectorModel]:
    """Return how a case's weights are laid out, and the network that was made of them."""
    case = Golden.read(path)
    weights = Golden.read(weights_of(case))
    tensors = {
        name.removeprefix("sd."): value.float()
        for name, value in weights.arrays.items()
        if name.startswith("sd.") and ".backbone." not in name  # its maps are given
    }
    aliases = weights.metadata.get("aliases", {})
    tensors |= {name: tensors[kept] for name, kept in aliases.items() if kept in tensors}
    source = Source(weights.path, tensors, hub_of(case))
    layout = recognise(source)
    config, state = derive(layout, source, overrides=overrides_of(case))
    return layout, config, network(config, state)


def network(config: Config, state: dict[str, Tensor]) -> DetectorModel:
    kernels = [
        value
        for name, value in state.items()
        if name.startswith("neck.projections.") and name.endswith(".0.weight")
    ]
    channels = [kernel.shape[1] for kernel in kernels if kernel.shape[2] == 1]
    model = build_detector(config, GivenMaps(channels))  # pyright: ignore[reportArgumentType]
    model.load_state_dict(state)
    return model


def weights_of(case: Golden) -> Path:
    """The file of a case's weights: named by the case, its own, or that of the most alike one."""
    folder = case.path.parent
    named = case.metadata.get("weights", f"{case.path.stem}_weights.safetensors")
    if (folder / named).exists():
        return folder / named
    candidates = [Golden.read(path) for path in sorted(folder.glob("*_weights.safetensors"))]
    if not candidates:
        pytest.skip(f"no weights for {case.path}")
    return max(candidates, key=lambda other: likeness(case, other)).path


def likeness(case: Golden, other: Golden) -> tuple[int, int, int]:
    ours, theirs = (
        {**entry.metadata, **entry.metadata.get("config", {})} for entry in (case, other)
    )
    equal = sum(ours.get(key) == value for key, value in theirs.items())
    pairs = zip(case.path.stem, other.path.stem, strict=False)
    prefix = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return equal, int(case.metadata.get("seed") == other.metadata.get("seed")), prefix


def hub_of(case: Golden):
    return case.metadata["config"] if case.metadata["reference"].startswith("huggingface") else None


def overrides_of(case: Golden) -> list[str]:
    """What a state dict cannot tell of its network, from the case's own metadata."""
    meta = case.metadata
    config = meta.get("config", {})
    match meta["reference"]:
        case "IDEA-Research/DINO":
            return [
                f"heads={config['nheads']}",
                temperature_of(config["pe_temperatureH"], config["pe_temperatureW"]),
                f"queries.count={config['num_queries']}",
                *denoising_of(
                    config["dn_number"],
                    config["dn_label_noise_ratio"],
                    config["dn_box_noise_scale"],
                ),
                *EPS,
            ]
        case "FelixCaae/AlignDETR":
            shared = [f"heads={meta['heads']}", f"criterion.tau={meta['tau']}", *EPS]
            shared.append(f"criterion.classification.alpha={meta['alpha']}")
            if "match_number" in meta:
                shared.append(temperature_of(meta["pe_temperature"]))
                return [*shared, f"criterion.k={meta['match_number'][1:]}"]
            return [
                *shared,
                f"criterion.k={meta['match_num'][1:]}",
                f"criterion.proposal_k={meta['match_num'][0]}",
                f"criterion.classification.gamma={meta['gamma']}",
                *denoising_of(
                    meta["dn_number"], meta["label_noise_ratio"], meta["box_noise_scale"]
                ),
            ]
        case "IDEA-Research/DAB-DETR":
            return [f"heads={meta['heads']}", temperature_of(meta["pe_temperature"]), *EPS]
        case "deformable-detr" | "H-Deformable-DETR":
            return deformable_overrides(meta, config)
        case _:
            return []


def temperature_of(height: float, width: float | None = None) -> str:
    assert width in (None, height), "ours has one temperature"
    return f"position.temperature={height}"


def denoising_of(queries: int, label_noise: float, box_noise: float) -> list[str]:
    if not queries:
        return ["denoising=null"]
    return [
        f"denoising.queries={queries}",
        f"denoising.label_noise={label_noise}",
        f"denoising.box_noise={box_noise}",
    ]


def deformable_overrides(meta, config) -> list[str]:
    settings = [f"heads={config['nheads']}", "encoder.dropout=0", "decoder.dropout=0"]
    if meta["reference"] == "H-Deformable-DETR" or config["num_queries_one2many"]:
        extra = config["num_queries_one2many"]
        settings.append(f"queries.count={config['num_queries_one2one']}")
        if config["with_box_refine"]:
            twice = config["look_forward_twice"]
            settings.append(f"decoder.refinement={'look_forward_twice' if twice else 'detached'}")
        copies = meta["k_one2many"]
        groups = f"{{queries: {extra}, copies: {copies}}}" if extra else "null"
        settings.append(f"groups={groups}")
    elif config["two_stage"]:
        settings.append(f"queries.count={config['num_queries']}")
    return settings


def is_training(case: Golden) -> bool:
    return bool(case.metadata["train"])


def features_of(case: Golden) -> Features:
    names = sorted(name for name in case.arrays if name.startswith("feat") and name[4:].isdigit())
    sizes = case["img_sizes"]
    height, width = int(sizes[:, 0].max()), int(sizes[:, 1].max())
    if "mask" in case:
        padding = case["mask"].bool()
    else:
        padding = torch.ones(len(sizes), height, width, dtype=torch.bool)
        for image, (rows, columns) in enumerate(sizes.tolist()):
            padding[image, :rows, :columns] = False
    levels = tuple(case[name] for name in names)
    return Features(levels, padding if padding.any() else None, sizes)


def targets_of(case: Golden) -> Targets:
    return Targets(case["gt_boxes"], case["gt_labels"], tuple(case["gt_sizes"].tolist()))


def noise_of(case: Golden) -> Noise:
    """The recorded draws; the file has new labels only where a label was to change."""
    config = case.metadata.get("config", case.metadata)
    label_noise = config.get("dn_label_noise_ratio", config.get("label_noise_ratio"))
    chance = case["dn_rand_p"].flatten()
    label = torch.zeros(len(chance), dtype=torch.int64)
    label[chance < label_noise * 0.5] = case["dn_new_label"]
    return Noise(chance, label, case["dn_rand_sign01"] * 2.0 - 1.0, case["dn_rand_part"])
