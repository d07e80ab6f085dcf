"""Deformable attention by `grid_sample`: any device, any dtype, differentiable, exportable."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def forward(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Return deformable attention (B, Q, H * D) in the value's dtype.

    Half precision is sampled and summed in float32: it cannot tell the points of a wide level
    apart.

    Args:
        value: (B, S, H, D).
        shapes: (height, width) of each of the L levels.
        locations: (B, Q, H, L, P, 2).
        weights: (B, Q, H, L, P).
    """
    B, _, H, D = value.shape
    dtype = torch.promote_types(torch.promote_types(value.dtype, locations.dtype), torch.float32)
    rows = value.to(dtype).permute(0, 2, 3, 1).flatten(0, 1)  # (B, S, H, D) -> (B * H, D, S)
    grid = 2 * locations.to(dtype).transpose(1, 2).flatten(0, 1) - 1  # (B * H, Q, L, P, 2)
    levels = rows.split([height * width for height, width in shapes], dim=-1)
    sampled = [
        F.grid_sample(level.unflatten(-1, shape), grid[:, :, index], align_corners=False)
        for index, (level, shape) in enumerate(zip(levels, shapes, strict=True))
    ]  # L x (B * H, D, Q, P)
    shares = weights.to(dtype).transpose(1, 2).flatten(0, 1).flatten(2)  # (B * H, Q, L * P)
    output = (torch.cat(sampled, dim=-1) * shares.unsqueeze(1)).sum(dim=-1)  # (B * H, D, Q)
    return output.view(B, H * D, locations.shape[1]).transpose(1, 2).to(value.dtype)
