"""Sine embeddings of positions: of image tokens and of reference boxes.

A coordinate p becomes sin(p / T^(2i/n)) and cos(p / T^(2i/n)), interleaved, n features in all
(DETR, arXiv:2005.12872, section A.4).
"""

import math
from typing import Literal

import torch
from torch import Tensor

BOX_TEMPERATURE = 10000.0
"""Temperature for reference boxes: the same in every published system."""


def sine_features(coordinates: Tensor, num_features: int, temperature: float) -> Tensor:
    """Return (..., num_features) features of (...) coordinates in radians."""
    exponent = torch.arange(num_features, dtype=torch.float32, device=coordinates.device)
    exponent = 2 * torch.div(exponent, 2, rounding_mode="floor") / num_features
    angles = coordinates.unsqueeze(-1) / temperature**exponent
    return torch.stack((angles[..., 0::2].sin(), angles[..., 1::2].cos()), dim=-1).flatten(-2)


def embed_grid(valid: Tensor, width: int, *, temperature: float, offset: float) -> Tensor:
    """Return the embedding of every pixel of a feature map.

    Positions are counted over valid pixels and scaled so that the last valid one is at 2 pi.
    A column that is padding from top to bottom divides by almost 0; its values are large
    but never used.

    Args:
        valid: (B, h, w) bool, False where there is padding.
        width: D; half the features describe y, half x.
        temperature: T of the sine features.
        offset: Added to the count, which starts at 1.

    Returns:
        (B, h, w, D), the features of y first.
    """
    axes = [
        _axis_features(valid.cumsum(axis, dtype=torch.float32), axis, width, temperature, offset)
        for axis in (1, 2)
    ]
    return torch.cat(axes, dim=-1)


def embed_whole_grid(
    shape: tuple[int, int], width: int, *, temperature: float, offset: float, device: torch.device
) -> Tensor:
    """Return `embed_grid` of one map (h, w) that is valid everywhere: (1, h, w, D).

    Rows then have one embedding each, and columns too.
    """
    y, x = (
        _axis_features(
            torch.arange(1, size + 1, dtype=torch.float32, device=device),
            0, width, temperature, offset,
        )
        for size in shape
    )  # fmt: skip
    return torch.cat((y[:, None].expand(*shape, -1), x.expand(*shape, -1)), dim=-1).unsqueeze(0)


def _axis_features(
    count: Tensor, axis: int, width: int, temperature: float, offset: float
) -> Tensor:
    """Return (..., D / 2) features of pixels that are counted along an axis."""
    last = count.narrow(axis, count.shape[axis] - 1, 1)
    radians = (count + offset) / (last + 1e-6) * (2 * math.pi)
    return sine_features(radians, width // 2, temperature)


def embed_boxes(
    reference: Tensor, features_per_coordinate: int, *, order: Literal["yx", "xy"] = "yx"
) -> Tensor:
    """Return the embedding of points or boxes: (..., 2 or 4) -> (..., 2n or 4n).

    Published systems and their weights have the order y, x, width, height: only the first two
    are swapped. That of proposals in Deformable DETR is x, y, width, height.
    """
    columns = [1, 0, 2, 3] if order == "yx" else [0, 1, 2, 3]
    features = sine_features(
        reference[..., columns[: reference.shape[-1]]] * (2 * math.pi),
        features_per_coordinate,
        BOX_TEMPERATURE,
    )
    return features.flatten(-2)
