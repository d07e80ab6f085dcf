"""Attention among queries and from queries to tokens, with masks and biases."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aligndetr.layers.linear import Linear, linear


class SelfAttention(nn.Module):
    """Residual multi-head self-attention with post-norm.

    The positional embedding is added to queries and keys, not to values (DETR).
    """

    def __init__(self, width: int, heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj = Linear(width, 3 * width)
        self.out_proj = Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.in_proj.bias)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, position: Tensor, blocked: Tensor | None) -> Tensor:
        """Let queries attend to each other.

        Args:
            x: (B, Q, D).
            position: (B, Q, D).
            blocked: bool, broadcast to (B, heads, Q, Q): True where the query of the row may not
                see that of the column; None blocks nothing.

        Returns:
            (B, Q, D).
        """
        query, key, value = self._project(x, position)
        drop = self.dropout.p if self.training else 0.0
        mixed = merge_heads(attend(query, key, value, blocked, dropout=drop))
        return self.norm(x + self.dropout(self.out_proj(mixed)))

    def _project(self, x: Tensor, position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        width = x.shape[-1]
        weight, bias = self.in_proj.weight, self.in_proj.bias
        query_key = linear(x + position, weight[: 2 * width], bias[: 2 * width])
        value = linear(x, weight[2 * width :], bias[2 * width :])
        query, key = query_key.chunk(2, dim=-1)
        heads = self.heads
        return split_heads(query, heads), split_heads(key, heads), split_heads(value, heads)


class SeparateSelfAttention(nn.Module):
    """Residual self-attention whose contents and positions have projections of their own.

    Conditional DETR (arXiv:2108.06152), in every decoder layer.
    """

    def __init__(self, width: int, heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.query_position = Linear(width, width), Linear(width, width)
        self.key, self.key_position = Linear(width, width), Linear(width, width)
        self.value = Linear(width, width)
        self.out_proj = Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, position: Tensor, blocked: Tensor | None) -> Tensor:
        """Let queries attend to each other; arguments and result as in `SelfAttention`."""
        query = split_heads(self.query(x) + self.query_position(position), self.heads)
        key = split_heads(self.key(x) + self.key_position(position), self.heads)
        value = split_heads(self.value(x), self.heads)
        drop = self.dropout.p if self.training else 0.0
        mixed = merge_heads(attend(query, key, value, blocked, dropout=drop))
        return self.norm(x + self.dropout(self.out_proj(mixed)))


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Return (B, Q, D) as (B, heads, Q, D / heads)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """Return (B, heads, Q, d) as (B, Q, heads * d)."""
    return x.transpose(1, 2).flatten(2)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    blocked: Tensor | None,
    *,
    bias: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Return softmax(q k^T / sqrt(d) + bias) v, with `blocked` pairs left out.

    Args:
        query: (B, heads, Q, d).
        key: (B, heads, S, d).
        value: (B, heads, S, e).
        blocked: bool, broadcast to (B, heads, Q, S), or None.
        bias: Broadcast likewise, or None.
        dropout: Share of the pairs that are dropped.

    Returns:
        (B, heads, Q, e).
    """
    if blocked is None and bias is None:
        return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
    bias = _biased(bias, blocked, query.dtype)
    if query.device.type == "cpu" and query.dtype == torch.bfloat16 and dropout == 0:
        return _attend_by_products(query, key, value, bias)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout)


def _biased(bias: Tensor | None, blocked: Tensor | None, dtype: torch.dtype) -> Tensor:
    if blocked is None:
        assert bias is not None
        return bias.to(dtype)
    base = torch.zeros_like(blocked, dtype=dtype) if bias is None else bias.to(dtype)
    return base.masked_fill(blocked, float("-inf"))


def _attend_by_products(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """Return the same from batched matrix products.

    On a CPU in bf16 their backward takes a quarter of the fused one's time at 200 queries, and
    no more of it at 1,000.
    """
    images, heads, queries, size = query.shape
    scores = torch.baddbmm(
        bias.expand(images, heads, queries, key.shape[2]).flatten(0, 1),
        query.flatten(0, 1),
        key.flatten(0, 1).transpose(1, 2),
        alpha=size**-0.5,
    )
    mixed = scores.softmax(-1) @ value.flatten(0, 1)
    return mixed.unflatten(0, (images, heads))
