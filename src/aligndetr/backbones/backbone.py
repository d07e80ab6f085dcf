"""Backbone: a timm model, its norm layers and leading stages frozen as asked."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from timm.layers.norm_act import freeze_batch_norm_2d
from torch import Tensor, nn
from torch.nn import functional as F

from aligndetr.backbones.folding import folded
from aligndetr.errors import ConfigError
from aligndetr.types import Features, ImageBatch

Norm = Literal["frozen", "trained"]


class Backbone(nn.Module):
    """Feature maps of a timm `features_only` model, finest first.

    A backbone that is frozen as a whole runs without a graph, in evaluation mode, and with its
    norms folded into its convolutions.
    """

    def __init__(self, network: nn.Module, *, freeze: int | Literal["all"], norm: Norm) -> None:
        super().__init__()
        if norm == "frozen":
            network = freeze_batch_norm_2d(network)
        info: Any = network.feature_info
        self.channels: tuple[int, ...] = tuple(info.channels())
        self.has_channels_last = str(getattr(network, "output_fmt", "")).endswith("NHWC")
        self.multiple: int = info.info[0]["reduction"] if self.has_channels_last else 1
        self.strides: tuple[int, ...] = tuple(info.reduction())
        self.network = network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.is_frozen = freeze == "all"
        for parameter in frozen_parameters(network, freeze):
            parameter.requires_grad_(False)
        self._folded: dict[torch.dtype, nn.Module] = {}  # a dict keeps them out of the state dict
        self.register_load_state_dict_post_hook(_forget_folded)

    def train(self, mode: bool = True) -> "Backbone":
        """Set the training mode, which a wholly frozen backbone does not follow."""
        super().train(mode and not self.is_frozen)
        return self

    def forward(self, images: ImageBatch, *, precision: torch.dtype = torch.float32) -> Features:
        """Return the maps of normalised images."""
        images = _padded(images, self.multiple)
        pixels = images.pixels.contiguous(memory_format=torch.channels_last)
        if self.is_frozen:
            levels = self._run_folded(pixels, precision)
        else:
            is_low = precision == torch.bfloat16 and self._is_fast_in(pixels.device)
            with torch.autocast(pixels.device.type, dtype=torch.bfloat16, enabled=is_low):
                levels: Sequence[Tensor] = self.network(pixels)
        if self.has_channels_last:  # timm's Swin and its kin
            levels = [level.permute(0, 3, 1, 2) for level in levels]
        return Features(tuple(levels), images.padding, images.sizes)

    @torch.no_grad()
    def _run_folded(self, pixels: Tensor, precision: torch.dtype) -> Sequence[Tensor]:
        """Return the maps in `precision` from a folded copy, made when first needed."""
        if precision not in self._folded:
            self._folded[precision] = folded(self.network).to(precision)
        with torch.autocast(pixels.device.type, enabled=False):
            return self._folded[precision](pixels.to(precision))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Backbone":
        self._folded.clear()  # they would stay behind on the old device
        return super()._apply(fn, recurse)

    def _is_fast_in(self, device: torch.device) -> bool:
        """Whether bf16 pays: on a CPU not for the backward of depthwise convolutions."""
        if device.type != "cpu" or not torch.is_grad_enabled():
            return True
        return not any(
            isinstance(module, nn.Conv2d) and module.groups > 1 for module in self.network.modules()
        )


def _padded(images: ImageBatch, multiple: int) -> ImageBatch:
    """Return the images padded to sides that are multiples: timm's Swin takes no others."""
    height, width = images.pixels.shape[-2:]
    margin = (0, -width % multiple, 0, -height % multiple)
    if not any(margin):
        return images
    padding = images.padding
    if padding is None:
        padding = images.pixels.new_zeros((len(images.pixels), height, width), dtype=torch.bool)
    return ImageBatch(
        F.pad(images.pixels, margin), F.pad(padding, margin, value=True), images.sizes
    )


def _forget_folded(module: nn.Module, _: object) -> None:
    assert isinstance(module, Backbone)
    module._folded.clear()  # pyright: ignore[reportPrivateUsage]


def frozen_parameters(network: nn.Module, freeze: int | Literal["all"]) -> list[nn.Parameter]:
    """Return the parameters of the first `freeze` stages of a timm feature extractor.

    Stages end where timm taps a feature map: the first is the stem (or the stage of stride 2),
    so 1 freezes a ResNet's stem and 2 its stem and first stage.
    """
    if freeze == "all":
        return list(network.parameters())
    if freeze == 0:
        return []
    last_module = _stage_ends(network)[freeze - 1]
    modules = list(network.named_modules())
    ends = [index for index, (name, _) in enumerate(modules) if _is_within(name, last_module)]
    if not ends:
        raise ConfigError(
            f"backbone.freeze: expected a backbone whose stages are modules of their own, found "
            f"{type(network).__name__} without {last_module or 'any'}; set it to 0 or all"
        )
    end = ends[-1]
    return [
        parameter
        for _, module in modules[: end + 1]
        for parameter in module.parameters(recurse=False)
    ]


def _stage_ends(network: nn.Module) -> list[str]:
    info: Any = network.feature_info
    return [entry["module"] for entry in info.info]


def _is_within(name: str, parent: str) -> bool:
    """Whether a module lies in `parent`; timm's flat wrappers write `layers_0` for `layers.0`."""
    flat, flat_parent = name.replace(".", "_"), parent.replace(".", "_")
    return flat == flat_parent or flat.startswith(f"{flat_parent}_")
