"""The systems of the paper at a size that runs in milliseconds."""

import re
from functools import cache
from typing import Any, TypeVar

import torch
from torch import nn

from aligndetr.config.presets import get_detr
from aligndetr.config.schema import Config
from aligndetr.config.slots import Backbone, Denoising, Encoder, ExtraGroups, Queries
from aligndetr.config.variants import align
from aligndetr.model.build import build_model
from aligndetr.model.detector import DetectorModel

Part = TypeVar("Part", bound=nn.Module)

SYSTEMS = (
    "detr-r50",
    "conditional-detr-r50",
    "smca-r50",
    "anchor-detr-r50",
    "dab-detr-r50",
    "dn-detr-r50",
    "deformable-detr-r50",
    "deformable-detr-refined-r50",
    "deformable-detr-two-stage-r50",
    "dab-deformable-detr-r50",
    "dn-deformable-detr-r50",
    "dino-r50-4scale",
    "h-deformable-detr-r50",
    "group-detr-r50",
)
"""The twelve, and Deformable DETR in all of its three versions."""
CLASSES = 4
CPU = torch.device("cpu")


def small(name: str, *, is_aligned: bool = False, **changes: Any) -> Config:
    """Return a preset with everything that makes it what it is, but few and narrow layers.

    No dropout; further changes are those of `Config`'s own fields.
    """
    config = get_detr(name)
    config = align(config) if is_aligned else config
    strides = config.backbone.strides[-2:]
    slots: dict[str, Any] = {
        "num_classes": CLASSES,
        "width": 64,
        "heads": 4,
        "backbone": Backbone(
            name="test_resnet",
            strides=strides,
            options={"zero_init_last": False},  # no branch is 0 at the start
            freeze=config.backbone.freeze,
            pretrained=False,
        ),
        "neck": config.neck.model_copy(update={"levels": 2 * len(strides) - 1}),  # 1 or 3
        "encoder": _small_encoder(config.encoder),
        "queries": _small_queries(config.queries),
        "decoder": config.decoder.model_copy(
            update={"layers": 2, "feedforward": 32, "dropout": 0.0}
        ),
        "denoising": config.denoising and _small_denoising(config.denoising),
        "groups": config.groups and _small_groups(config.groups),
        "precision": "fp32",
    }
    return config.model_copy(update=slots | changes)


def _small_encoder(encoder: Encoder) -> Encoder:
    changes: dict[str, Any] = {"layers": 1, "feedforward": 32, "dropout": 0.0}
    if encoder.type == "dense" and encoder.mixing is not None:  # one layer of either kind
        changes |= {"layers": 2, "mixing": (1,)}
    return encoder.model_copy(update=changes)


def _small_queries(queries: Queries) -> Queries:
    return queries.model_copy(update={"count": 8})


def _small_denoising(denoising: Denoising) -> Denoising:
    """Return one of two blocks where an image has two objects."""
    changes = {"queries": 4} if denoising.type == "contrastive" else {"blocks": 2}
    return denoising.model_copy(update=changes)


def _small_groups(groups: ExtraGroups) -> ExtraGroups:
    changes = {"groups": min(groups.groups, 2), "queries": 6, "copies": min(groups.copies, 2)}
    return groups.model_copy(update=changes)


def perturbed(model: Part, *, std: float = 0.05) -> Part:
    """Add noise to every parameter, so that no zero at the start hides what depends on it."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += std * torch.randn(parameter.shape, generator=generator)
    return model


@cache
def network(name: str) -> DetectorModel:
    """Return the perturbed network of a small system; tests share it, so they set its mode."""
    torch.manual_seed(0)
    model, _ = build_model(small(name), device=CPU)
    return perturbed(model)


def idle_parameters(model: nn.Module) -> set[str]:
    """Return the trained parameters whose gradient is zero but for rounding."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    sizes = {
        name: 0.0 if parameter.grad is None else float(parameter.grad.abs().max())
        for name, parameter in trained.items()
    }
    return {name for name, size in sizes.items() if size < 1e-7 * max(sizes.values())}


def blind_biases(model: nn.Module) -> set[str]:
    """Return the parameters whose gradient is zero: a softmax is blind to what all keys share."""
    pattern = re.compile(r"\.key(_position|_x|_y)?\.bias$")
    return {name for name, _ in model.named_parameters() if pattern.search(name)}
