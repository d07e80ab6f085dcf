"""Prime weights: how much the secondary positives of an object count."""

import torch
from torch import Tensor

from aligndetr.kernels.grouped import rank_within


def prime_weight(group: Tensor, quality: Tensor, tau: float) -> Tensor:
    """Return the weight w = exp(-rank / tau) (P,) of each pair among those of its object.

    Rank 0 is the pair of highest quality, so the best positive always has weight 1.
    Align-DETR (arXiv:2304.07527), section 3.4, eqs. 6 and 7.

    Args:
        group: (P,) int64, the same for all pairs of an object.
        quality: (P,) without gradient.
        tau: Temperature: the smaller, the less secondary positives count.

    Raises:
        ValueError: `tau` is not positive.
    """
    if tau <= 0:
        raise ValueError(f"prime_weight: expected a positive tau, found {tau}")
    return torch.exp(-rank_within(group, quality).to(quality.dtype) / tau)
