"""The presets by name: every published system, its Align version, and small ones for a laptop.

A system is a function in `family_dense.py` or `family_deformable.py`; `align`, other backbones and
schedules are functions on systems, in `variants.py`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import Generic, TypeVar

from aligndetr.config.family_deformable import (
    align_dino_released,
    dab_deformable_detr,
    deformable_detr,
    deformable_detr_refined,
    deformable_detr_two_stage,
    dino,
    dino_5scale,
    dn_deformable_detr,
    group_detr,
    h_deformable_detr,
)
from aligndetr.config.family_dense import (
    align_dab_detr_released,
    anchor_detr,
    conditional_detr,
    dab_detr,
    detr,
    dn_detr,
    smca,
)
from aligndetr.config.family_regions import faster_rcnn, faster_rcnn_lite
from aligndetr.config.laptop import align_dino_lite, align_dino_small, align_dino_tiny
from aligndetr.config.published import PUBLISHED, Published
from aligndetr.config.schema import AnyConfig, Config
from aligndetr.config.variants import align, dc5, r101, r101_dc5, retimed
from aligndetr.errors import ConfigError

__all__ = ["PRESETS", "PresetInfo", "align", "describe", "dino", "get_preset", "list_presets"]

Change = Callable[[Config], Config]
Made = TypeVar("Made", bound=AnyConfig, covariant=True)


@dataclass(frozen=True)
class PresetInfo:
    """What `aligndetr models` says of a preset."""

    name: str
    title: str
    paper: str
    ap: float | None
    """AP on COCO val2017 that its paper reports."""
    epochs: int
    params_m: float | None
    """Millions of parameters, as the paper has them."""
    gflops: float | None
    """GFLOPS of the paper, which are multiply-adds on images of COCO val2017."""
    command: str
    purpose: str


@dataclass(frozen=True)
class Preset(Generic[Made]):
    """A function that makes the configuration, and what to say of it."""

    make: Callable[[], Made]
    title: str
    paper: str
    purpose: str


ALIGN = "Align-DETR (arXiv:2304.07527)"
DETR = "DETR (arXiv:2005.12872)"
CONDITIONAL = "Conditional DETR (arXiv:2108.06152)"
ANCHOR = "Anchor DETR (arXiv:2109.07107)"
DAB = "DAB-DETR (arXiv:2201.12329)"
DN = "DN-DETR (arXiv:2203.01305)"
SMCA = "SMCA (arXiv:2101.07448)"
DEFORMABLE = "Deformable DETR (arXiv:2010.04159)"
DINO = "DINO (arXiv:2203.03605)"
H_DETR = "H-DETR (arXiv:2207.13080)"
GROUP = "Group DETR (arXiv:2207.13085)"
FASTER_RCNN = "Faster R-CNN (arXiv:1506.01497)"

SINGLE_SCALE = (
    Preset(detr, "DETR", DETR, "the first of the family"),
    Preset(conditional_detr, "Conditional DETR", CONDITIONAL, "queries with a place"),
    Preset(anchor_detr, "Anchor DETR", ANCHOR, "attention of little memory"),
    Preset(dab_detr, "DAB-DETR", DAB, "the paper's single-scale baseline"),
    Preset(dn_detr, "DN-DETR", DN, "DAB-DETR with denoising"),
)
"""Systems that come on four backbones."""
BACKBONES: dict[str, Change] = {
    "ResNet-50": lambda config: config,
    "ResNet-101": r101,
    "ResNet-50, dilated": dc5,
    "ResNet-101, dilated": r101_dc5,
}
MULTI_SCALE = (
    Preset(smca, "SMCA", SMCA, "attention near a place"),
    Preset(deformable_detr, "Deformable DETR", DEFORMABLE, "multi-scale at little cost"),
    Preset(deformable_detr_refined, "Deformable DETR, refined", DEFORMABLE, "Table 3's row"),
    Preset(deformable_detr_two_stage, "Deformable DETR, two stages", DEFORMABLE, "its best"),
    Preset(dab_deformable_detr, "DAB-Deformable-DETR", DAB, "a step towards DINO"),
    Preset(dn_deformable_detr, "DN-Deformable-DETR", DN, "a step towards DINO"),
    Preset(
        lambda: retimed(dn_deformable_detr(), epochs=12, drop=11),
        "DN-Deformable-DETR, 12 epochs",
        DN,
        "Table 3's short schedule",
    ),
    Preset(dino, "DINO, 4 scales", DINO, "the baseline of Align-DETR; GPUs and COCO"),
    Preset(
        lambda: retimed(dino(), epochs=24, drop=20),
        "DINO, 4 scales, 24 epochs",
        DINO,
        "the same, trained for longer",
    ),
    Preset(
        lambda: retimed(dino(), epochs=36, drop=30),
        "DINO, 4 scales, 36 epochs",
        DINO,
        "the same, trained for longer",
    ),
    Preset(dino_5scale, "DINO, 5 scales", DINO, "small objects, for much memory"),
    Preset(group_detr, "Group DETR on DINO", GROUP, "more positives in training"),
)
"""Systems whose Align version is `align` as it is."""
OTHERS = (
    Preset(h_deformable_detr, "H-Deformable-DETR", H_DETR, "more positives in training"),
    Preset(
        lambda: align(h_deformable_detr(), k=1),
        "IA-BCE on H-Deformable-DETR",
        ALIGN,
        "the paper's Table 7",
    ),
    Preset(
        align_dab_detr_released,
        "Align-DETR on DAB-DETR, as its authors released it",
        ALIGN,
        "comparing with the authors' code",
    ),
    Preset(
        align_dino_released,
        "Align-DETR on DINO, as its authors released it",
        ALIGN,
        "comparing with the authors' code and weights",
    ),
    Preset(
        align_dino_lite,
        "Small Align-DINO on a frozen EfficientNet-Lite0",
        ALIGN,
        "your own data, minutes on a laptop's CPU",
    ),
    Preset(
        align_dino_small,
        "Middle-sized Align-DINO on ConvNeXt-Nano",
        ALIGN,
        "your own data, one GPU or an hour on a CPU",
    ),
    Preset(
        align_dino_tiny,
        "The smallest Align-DINO, 128-pixel images",
        ALIGN,
        "trying things out; what `make demo` trains",
    ),
)
NOT_DETR = (
    Preset(faster_rcnn, "Faster R-CNN with a pyramid", FASTER_RCNN, "the yardstick; GPUs and COCO"),
    Preset(
        faster_rcnn_lite,
        "Small Faster R-CNN on a frozen EfficientNet-Lite0",
        FASTER_RCNN,
        "the yardstick of align-dino-lite",
    ),
)
BEST = {
    "align-dab-detr-r50": "the paper's single-scale detector",
    "align-dino-r50-4scale": "the paper's main detector; GPUs and COCO",
}
"""What the Align versions of the paper's two baselines are for."""


def _all_presets() -> Iterator[Preset[AnyConfig]]:
    for system in SINGLE_SCALE:
        for backbone, change in BACKBONES.items():
            preset = Preset(
                partial(_changed, system.make, change),
                f"{system.title}, {backbone}",
                system.paper,
                system.purpose,
            )
            yield from (preset, _aligned(preset))
    for preset in MULTI_SCALE:
        yield from (preset, _aligned(preset))
    yield from OTHERS
    yield from NOT_DETR


def _aligned(preset: Preset[Config]) -> Preset[Config]:
    name = f"align-{preset.make().name}"
    return Preset(
        partial(_changed, preset.make, align),
        f"Align-DETR on {preset.title}",
        ALIGN,
        BEST.get(name, "the same network, aligned"),
    )


def _changed(make: Callable[[], Config], change: Change) -> Config:
    return change(make())


PRESETS: dict[str, Preset[AnyConfig]] = {preset.make().name: preset for preset in _all_presets()}


def get_preset(name: str) -> AnyConfig:
    """Return the configuration of a preset.

    Raises:
        ConfigError: There is no such preset; the message names the closest.
    """
    if name in PRESETS:
        return PRESETS[name].make()
    close = get_close_matches(name, PRESETS, n=1)
    hint = f"did you mean {close[0]!r}?" if close else "`aligndetr models` lists them"
    raise ConfigError(f"model: expected a preset or a run folder, found {name!r}; {hint}")


def get_detr(name: str) -> Config:
    """Return the configuration of a preset that is a DETR.

    Raises:
        ConfigError: As `get_preset`.
        ValueError: It is a region detector.
    """
    config = get_preset(name)
    if not isinstance(config, Config):
        raise ValueError(f"get_detr: {name} is a region detector")
    return config


def list_presets() -> list[PresetInfo]:
    """Return what there is to say of every preset."""
    return [describe(name) for name in PRESETS]


def describe(name: str) -> PresetInfo:
    """Return what there is to say of one preset.

    Raises:
        ConfigError: As `get_preset`.
    """
    config, published = get_preset(name), PUBLISHED.get(name, Published())
    preset = PRESETS[name]
    return PresetInfo(
        name=name,
        title=preset.title,
        paper=preset.paper,
        ap=published.ap,
        epochs=config.training.epochs,
        params_m=published.params_m,
        gflops=published.gflops,
        command=f"aligndetr train --model {name} --data DIR --out RUN",
        purpose=preset.purpose,
    )
