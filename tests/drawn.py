"""Weights far from where parts start, so that no zero hides what a part computes."""

from typing import TypeVar

import torch
from torch import nn

Part = TypeVar("Part", bound=nn.Module)


def drawn(part: Part, *, std: float = 0.4, seed: int = 0) -> Part:
    """Draw every parameter of a part anew, and return it."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in part.parameters():
        nn.init.normal_(parameter, std=std, generator=generator)
    return part
