"""Attention one query of one head at a time: an oracle for every kind of attention."""

import math

import torch
from torch import Tensor


def attend_naively(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    blocked: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Return (B, heads, Q, e) for (B, heads, Q, d) queries, (.., S, d) keys and (.., S, e) values.

    `blocked` and `bias` are (B, heads, Q, S).
    """
    images, heads, queries, size = query.shape
    found = value.new_zeros(images, heads, queries, value.shape[-1])
    for image in range(images):
        for head in range(heads):
            for row in range(queries):
                weights: list[Tensor] = []
                for column in range(key.shape[2]):
                    product = (query[image, head, row] * key[image, head, column]).sum()
                    score = product / math.sqrt(size)
                    if bias is not None:
                        score = score + bias[image, head, row, column]
                    hidden = blocked is not None and bool(blocked[image, head, row, column])
                    weights.append(score.exp() * (0.0 if hidden else 1.0))
                shares = torch.stack(weights) / torch.stack(weights).sum()
                found[image, head, row] = (shares[:, None] * value[image, head]).sum(dim=0)
    return found


def heads_of(x: Tensor, heads: int) -> Tensor:
    """Return (B, Q, D) as (B, heads, Q, D / heads), each head a run of features."""
    return torch.stack(x.chunk(heads, dim=-1), dim=1)


def joined(x: Tensor) -> Tensor:
    """Return (B, heads, Q, d) as (B, Q, heads * d)."""
    return torch.cat(x.unbind(1), dim=-1)
