"""AdamW with the parameter groups of the DETR family.

Two questions decide a parameter's group: where it is (the learning rate of the backbone is
multiplied by `backbone_factor`, that of layers which make places by `offset_factor`), and whether
it belongs to a norm layer (no weight decay). Biases of other layers decay like weights, as in
detectron2, whose defaults the authors' code keeps.
"""

from collections.abc import Iterator

from torch import nn
from torch.optim import AdamW

from aligndetr.config.schema import Training

PLACE_MAKERS = (".offsets.", "queries.point.")
"""Parts of the names of sampling offsets and reference points."""
FUSED_DEVICES = frozenset({"cpu", "cuda", "mps", "xpu"})
"""Devices on which torch has AdamW as one kernel."""


def build_optimizer(model: nn.Module, training: Training) -> AdamW:
    """Return AdamW over the parameters of `model` that require gradients, each in one group.

    Every group remembers its rate as `initial_lr`, of which the schedule sets a share.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter, in_norm in trained_parameters(model):
        groups.setdefault((_rate_factor(name, training), in_norm), []).append(parameter)
    devices = {parameter.device.type for group in groups.values() for parameter in group}
    optimizer = AdamW(
        [
            {
                "params": parameters,
                "lr": training.learning_rate * rate_factor,
                "weight_decay": 0.0 if in_norm else training.weight_decay,
            }
            for (rate_factor, in_norm), parameters in groups.items()
        ],
        betas=training.betas,
        fused=devices <= FUSED_DEVICES,
    )
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def _rate_factor(name: str, training: Training) -> float:
    """Return what the learning rate of a parameter is multiplied with, all along."""
    if name.startswith("backbone."):
        return training.backbone_factor
    return training.offset_factor if any(part in name for part in PLACE_MAKERS) else 1.0


def trained_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, bool]]:
    """Yield name, parameter and whether a norm layer owns it, once for each trained parameter."""
    seen: set[nn.Parameter] = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(module_name, recurse=False):
            if parameter.requires_grad and parameter not in seen:
                seen.add(parameter)
                yield name, parameter, is_norm(module)


def is_norm(module: nn.Module) -> bool:
    """Return whether the module is a norm layer, told by its class name.

    torch and timm have a score of them without a common ancestor (`BatchNormAct2d`,
    `LayerNorm2d`, `RmsNorm`, ...); all carry the word.
    """
    return "norm" in type(module).__name__.lower()
