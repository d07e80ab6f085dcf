"""Backbone: a timm model, its norm layers and leading stages frozen as asked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from timm.layers.norm_act import freeze_batch_norm_2d
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F

from aligndetr.backbones.cutting import UpperParts, can_be_cut, upper_part
from aligndetr.backbones.depthwise import DepthwiseConv2d, with_fast_depthwise
from aligndetr.backbones.folding import Folding, has_statistics
from aligndetr.backbones.fusing import fused
from aligndetr.errors import ConfigError
from aligndetr.types import Features, ImageBatch

Norm = Literal["frozen", "trained"]
State = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class _Fixed:
    """A network with fused operations, and the state of the one that it was made from."""

    made_from: State
    network: nn.Module


class Backbone(nn.Module):
    """Feature maps of a timm `features_only` model, finest first.

    A backbone that is frozen as a whole runs without a graph and in evaluation mode. Norms whose
    statistics are fixed run as part of the convolutions before them, and on a CPU, without a graph,
    so do activations and shortcuts.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        freeze: int | Literal["all"],
        norm: Norm,
        freeze_later: int | None = None,
    ) -> None:
        """Take a timm feature extractor.

        Args:
            network: Made by `create_backbone`.
            freeze: Leading stages that are not trained, or "all".
            norm: Whether statistics and weights of batch norms are trained.
            freeze_later: Of a backbone that is frozen as a whole, the leading stages that are not
                trained after `unfreeze` either; None where that will not be called.
        """
        super().__init__()
        if norm == "frozen":
            network = freeze_batch_norm_2d(network)
        network = with_fast_depthwise(network)
        info: Any = network.feature_info
        self.channels: tuple[int, ...] = tuple(info.channels())
        self.has_channels_last = str(getattr(network, "output_fmt", "")).endswith("NHWC")
        self.multiple: int = info.info[0]["reduction"] if self.has_channels_last else 1
        self.strides: tuple[int, ...] = tuple(info.reduction())
        self.network = network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.is_frozen = freeze == "all"
        stages = freeze if freeze_later is None else freeze_later
        frozen = frozen_parameters(network, stages)
        self._below = _last_level_within(network, stages)
        for parameter in frozen:
            parameter.requires_grad_(False)
        if freeze_later is not None and len(frozen) == len(list(network.parameters())):
            raise ConfigError(
                f"training.unfreeze.freeze: expected fewer than all stages, found {freeze_later}, "
                "which leaves nothing to train; lower it, or set training.unfreeze=null"
            )
        self._parts = tuple(network.modules())
        self._has_statistics = any(map(has_statistics, self._parts))
        self._is_slow_in_bf16 = any(
            isinstance(part, nn.Conv2d)
            and part.groups > 1
            and not isinstance(part, DepthwiseConv2d)
            for part in self._parts
        )
        self._are_norms_fixed = norm == "frozen"
        self._folding: Folding | None = None
        self._fixed: dict[tuple[torch.dtype, int | None], _Fixed] = {}
        self._uppers = UpperParts()
        self._can_renew: bool | None = None

    def unfreeze(self) -> None:
        """Let training change all that is not frozen for good; `train` has to be called anew."""
        self.is_frozen = False
        self._fixed.clear()

    def train(self, mode: bool = True) -> "Backbone":
        """Set the training mode, which a wholly frozen backbone does not follow."""
        super().train(mode and not self.is_frozen)
        if self.training:
            self._fixed.clear()
        return self

    def forward(self, images: ImageBatch, *, precision: torch.dtype = torch.float32) -> Features:
        """Return the maps of normalised images."""
        height, width = images.pixels.shape[-2:]
        images = _padded(images, self.multiple)
        pixels = images.pixels.contiguous(memory_format=torch.channels_last)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.is_frozen):
            levels = self._run(pixels, precision)
        if self.has_channels_last:  # timm's Swin and its kin
            levels = [level.permute(0, 3, 1, 2) for level in levels]
        return Features(tuple(levels), images.padding, images.sizes, (height, width))

    @property
    def can_renew(self) -> bool:
        """Whether maps that are at hand tell all that trained stages need: see `renew`."""
        if self._can_renew is None:
            self._can_renew = (
                self._below is not None
                and not self.has_channels_last
                and (self._are_norms_fixed or not self._has_statistics)
                and can_be_cut(self.network, self._below)
            )
        return self._can_renew

    def renew(self, features: Features, *, precision: torch.dtype = torch.float32) -> Features:
        """Return maps that are at hand with those of trained stages computed anew.

        They come from the map of the last level whose stages are all frozen. A backbone that is
        frozen as a whole, or that cannot (`can_renew`), leaves all as they are. Padding of that map
        is seen as it is: zeros where views were kept without it, not what padded pixels lead to.
        """
        if self.is_frozen or not self.can_renew or self._below is None:
            return features
        kept = features.levels[: self._below + 1]
        if len(kept) == len(features.levels):
            return features
        dtype = next(self.network.parameters()).dtype
        start = kept[-1].to(dtype).contiguous(memory_format=torch.channels_last)
        return replace(features, levels=(*kept, *self._run(start, precision, self._below)))

    def _run(
        self, pixels: Tensor, precision: torch.dtype, below: int | None = None
    ) -> Sequence[Tensor]:
        """Return the maps, without norms of their own where these are fixed.

        With `below`, only those after that level, from its map in place of pixels.
        """
        is_low = precision == torch.bfloat16 and self._is_fast_in(pixels.device)
        folding = self._usable_folding()
        if folding is not None and self._is_fixed:
            with torch.autocast(pixels.device.type, enabled=False):
                network = self._fixed_network(folding, precision, below)
                return network(pixels.bfloat16() if precision == torch.bfloat16 else pixels)
        self._fixed.clear()  # what is trained may change unseen: fused optimizers do not count
        with torch.autocast(pixels.device.type, dtype=torch.bfloat16, enabled=is_low):
            network = self.network
            if folding is not None:
                weights = folding.weights(network)
                return folding.run(pixels, weights, training=self.training, below=below)
            if below is None:
                return network(pixels)
            tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
            return self._uppers.run(network, below, tensors, pixels)

    @property
    def _is_fixed(self) -> bool:
        """Whether weights stay as they are for a while, so that folding them once pays."""
        is_trained = self.training or torch.is_grad_enabled()
        return not (is_trained or torch.compiler.is_compiling())

    def _usable_folding(self) -> Folding | None:
        """Return how norms are folded, if they can be: when their statistics do not change."""
        if not self._has_statistics or (self.training and not self._are_norms_fixed):
            return None
        weight = next(self.network.parameters())
        if weight.is_meta or isinstance(weight, FakeTensor):  # only shapes are asked for
            return None
        if self._folding is None and not torch.compiler.is_compiling():  # a trial needs hooks
            self._folding = Folding(self.network)
        return None if self._folding is None or self._folding.is_empty else self._folding

    def _fixed_network(
        self, folding: Folding, precision: torch.dtype, below: int | None
    ) -> nn.Module:
        """Return a network of its own, in bf16 if that is asked for, made anew after changes."""
        state, key = self._state(), (precision, below)
        fixed = self._fixed.get(key)
        if fixed is None or fixed.made_from != state:
            network = folding.with_weights(folding.weights(self.network))
            network = fused(network.bfloat16() if precision == torch.bfloat16 else network)
            part = network if below is None else upper_part(network, below)
            fixed = self._fixed[key] = _Fixed(state, part)
        return fixed.network

    def _state(self) -> State:
        """Return what changes with the weights: where they are, and torch's count of writes."""
        return tuple(
            (tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version)
            for part in self._parts
            for tensor in (*part._parameters.values(), *part._buffers.values())
            if tensor is not None
        )

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy has: it makes its own networks for fixed weights, and in part."""
        return {**super().__getstate__(), "_fixed": {}, "_uppers": UpperParts()}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Backbone":
        self._fixed.clear()  # they would stay behind on the old device
        self._uppers = UpperParts()
        self._can_renew = None
        return super()._apply(fn, recurse)

    def _is_fast_in(self, device: torch.device) -> bool:
        """Whether bf16 pays: on a CPU not for the backward of convolutions in groups."""
        return device.type != "cpu" or not torch.is_grad_enabled() or not self._is_slow_in_bf16


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


def frozen_parameters(network: nn.Module, freeze: int | Literal["all"]) -> list[nn.Parameter]:
    """Return the parameters of the first `freeze` stages of a timm feature extractor.

    Stages end where timm taps a feature map: the first is the stem (or the stage of stride 2),
    so 1 freezes a ResNet's stem and 2 its stem and first stage.
    """
    if freeze == "all":
        return list(network.parameters())
    if freeze == 0:
        return []
    ends_of_stages = _stage_ends(network)
    if freeze > len(ends_of_stages):
        raise ConfigError(
            f"backbone.freeze: expected at most {len(ends_of_stages)}, the stages of "
            f"{type(network).__name__}, found {freeze}; lower it, or say all"
        )
    last_module = ends_of_stages[freeze - 1]
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


def _last_level_within(network: nn.Module, freeze: int | Literal["all"]) -> int | None:
    """Return the last of the maps that the first `freeze` stages make; None if they make none."""
    info: Any = network.feature_info
    levels = len(info.out_indices)
    if freeze != "all":
        levels = sum(index < freeze for index in info.out_indices)
    return levels - 1 if levels else None


def _stage_ends(network: nn.Module) -> list[str]:
    info: Any = network.feature_info
    return [entry["module"] for entry in info.info]


def _is_within(name: str, parent: str) -> bool:
    """Whether a module lies in `parent`; timm's flat wrappers write `layers_0` for `layers.0`."""
    flat, flat_parent = name.replace(".", "_"), parent.replace(".", "_")
    return flat == flat_parent or flat.startswith(f"{flat_parent}_")
