"""Prime weights: how much the secondary positives of an object count."""

import torch
from torch import Tensor


def rank_within(group: Tensor, score: Tensor) -> Tensor:
    """Return each entry's place (P,) int64 in its group by descending score, 0 for the best.

    Groups (P,) int64 may have any sizes and lie in any order; ties go to the earlier entry.
    """
    order = score.argsort(descending=True, stable=True)
    order = order[group[order].argsort(stable=True)]
    group = group[order]
    place = torch.arange(len(group), device=group.device)
    is_first = torch.ones_like(group, dtype=torch.bool)
    is_first[1:] = group[1:] != group[:-1]
    first = torch.where(is_first, place, 0).cummax(dim=0).values
    return torch.empty_like(place).scatter_(0, order, place - first)


def prime_weight(group: Tensor, quality: Tensor, tau: float) -> Tensor:
    """Return the weight w = exp(-rank / tau) (P,) of each pair among those of its object.

    Rank 0 is the pair of highest quality, so the best positive always has weight 1.
    Align-DETR (arXiv:2304.07527), section 3.4, eqs. 6 and 7.

    Args:
        group: (P,) int64, the same for all pairs of an object.
        quality: (P,) without gradient.
        tau: Temperature: the smaller, the less secondary positives count.
    """
    return torch.exp(-rank_within(group, quality).to(quality.dtype) / tau)
