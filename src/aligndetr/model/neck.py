"""From backbone maps to the memory: one width, more levels, positions, padding."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aligndetr.layers.position import embed_grid, embed_whole_grid
from aligndetr.types import Features, Memory

NORM_GROUPS = 32
"""Groups of the group norm, as in Deformable DETR."""


class MapNorm(nn.GroupNorm):
    """Group norm; its backward takes four times as long on a CPU if channels come last."""

    def forward(self, input: Tensor) -> Tensor:
        """Return (B, C, H, W)."""
        goes_back = torch.is_grad_enabled() and input.device.type == "cpu"
        return super().forward(input.contiguous() if goes_back else input)


class Neck(nn.Module):
    """Project every level to width D, add coarser ones, and flatten all into tokens.

    The first extra level is a strided convolution of the last backbone map itself, each
    further one of the level before it (Deformable DETR, section A.2); or all are pooled.
    """

    def __init__(
        self,
        channels: Sequence[int],
        width: int,
        *,
        levels: int,
        temperature: float,
        offset: float,
        extra: Literal["convolution", "pooling"] = "convolution",
        has_norm: bool = True,
        embeds_levels: bool = True,
        sees_padding_in_evaluation: bool = False,
    ) -> None:
        """Take the channels of the backbone maps; see `config.slots.Neck` for the options.

        `embeds_levels`: whether a learned vector a level is added to positions.
        """
        super().__init__()
        self.width, self.temperature, self.offset = width, temperature, offset
        self.levels = levels
        self.sees_padding_in_evaluation = sees_padding_in_evaluation
        projections = [
            _projection(count, width, stride=1, has_norm=has_norm) for count in channels[:levels]
        ]
        if extra == "convolution":
            for index in range(levels - len(channels)):
                source = channels[-1] if index == 0 else width
                projections.append(_projection(source, width, stride=2, has_norm=has_norm))
        self.projections = nn.ModuleList(projections)
        self.level = nn.Parameter(torch.randn(levels, width)) if embeds_levels else None

    def forward(self, features: Features) -> Memory:
        """Return the memory of the images, tokens of all levels finest first."""
        maps = self._project(features.levels)
        is_ignored = self.sees_padding_in_evaluation and not self.training
        padding = None if is_ignored else features.padding
        masks = [_shrink(padding, level) for level in maps]
        positions = [self._embed(level, mask) for level, mask in zip(maps, masks, strict=True)]
        if self.level is not None:
            positions = [
                position + vector for position, vector in zip(positions, self.level, strict=True)
            ]
        return Memory(
            tokens=torch.cat([level.flatten(2).transpose(1, 2) for level in maps], dim=1),
            position=torch.cat([position.flatten(1, 2) for position in positions], dim=1),
            padding=_join([mask for mask in masks if mask is not None]),
            shapes=tuple((level.shape[2], level.shape[3]) for level in maps),
            valid_ratios=torch.stack(
                [_valid_ratio(level, mask) for level, mask in zip(maps, masks, strict=True)], dim=1
            ),
        )

    def _project(self, levels: Sequence[Tensor]) -> list[Tensor]:
        maps = [
            projection(level) for projection, level in zip(self.projections, levels, strict=False)
        ]
        source = levels[-1]
        for projection in self.projections[len(levels) :]:
            source = projection(source)
            maps.append(source)
        while len(maps) < self.levels:
            maps.append(F.max_pool2d(maps[-1], kernel_size=3, stride=2, padding=1))
        return maps

    def _embed(self, level: Tensor, mask: Tensor | None) -> Tensor:
        options = {"temperature": self.temperature, "offset": self.offset}
        if mask is not None:
            return embed_grid(~mask, self.width, **options)
        shape = (level.shape[2], level.shape[3])  # one embedding serves every image
        return embed_whole_grid(shape, self.width, device=level.device, **options)


def _projection(channels: int, width: int, *, stride: int, has_norm: bool) -> nn.Sequential:
    kernel = 1 if stride == 1 else 3
    convolution = nn.Conv2d(channels, width, kernel, stride=stride, padding=kernel // 2)
    nn.init.xavier_uniform_(convolution.weight)
    bias = convolution.bias
    assert bias is not None
    nn.init.zeros_(bias)
    norm = (MapNorm(NORM_GROUPS, width),) if has_norm else ()
    return nn.Sequential(convolution, *norm)


def _shrink(padding: Tensor | None, level: Tensor) -> Tensor | None:
    """Return the image mask (B, H, W) at the size of a level, by its nearest lower pixel."""
    if padding is None:
        return None
    return F.interpolate(padding[None].float(), size=level.shape[2:])[0].bool()


def _valid_ratio(level: Tensor, mask: Tensor | None) -> Tensor:
    """Return (B, 2): the share of the level's width and height that is image."""
    if mask is None:
        return torch.ones(level.shape[0], 2, device=level.device)
    valid = ~mask
    width = valid[:, 0, :].sum(1) / valid.shape[2]
    height = valid[:, :, 0].sum(1) / valid.shape[1]
    return torch.stack((width, height), dim=-1)


def _join(masks: Sequence[Tensor]) -> Tensor | None:
    return torch.cat([mask.flatten(1) for mask in masks], dim=1) if masks else None
