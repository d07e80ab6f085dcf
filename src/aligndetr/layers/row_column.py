"""Row-column decoupled attention: along the rows of a map, then along its columns.

Anchor DETR (arXiv:2109.07107), section 3.4. With h x w tokens it keeps Q * (h + w) weights a
head, where full attention has Q * h * w.
"""

import torch
from torch import Tensor, nn

from aligndetr.layers.attention import merge_heads, split_heads
from aligndetr.layers.linear import Linear


class RowColumnAttention(nn.Module):
    """Each query weighs the columns of the map by x and its rows by y."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_x, self.query_y = Linear(width, width), Linear(width, width)
        self.key_x, self.key_y = Linear(width, width), Linear(width, width)
        self.value, self.output = Linear(width, width), Linear(width, width)
        nn.init.zeros_(self.output.bias)

    def forward(
        self, query: Tensor, position: Tensor, tokens: Tensor, axes: Tensor, padding: Tensor | None
    ) -> Tensor:
        """Read the map.

        Args:
            query: (B, Q, D) content.
            position: (B, Q, 2, D) embeddings of its x and of its y.
            tokens: (B, h, w, D).
            axes: (B, h, w, 2, D) embeddings of the tokens' x and y.
            padding: (B, h, w) bool, True at the right and the bottom where there is no image.

        Returns:
            (B, Q, D).
        """
        along_x = self._weights(
            self.query_x(query + position[:, :, 0]),
            self.key_x(_mean(tokens + axes[..., 0, :], padding, axis=1)),  # (B, w, D)
            None if padding is None else padding.all(dim=1),
        )
        along_y = self._weights(
            self.query_y(query + position[:, :, 1]),
            self.key_y(_mean(tokens + axes[..., 1, :], padding, axis=2)),  # (B, h, D)
            None if padding is None else padding.all(dim=2),
        )
        value = self.value(tokens).unflatten(-1, (self.heads, -1))  # (B, h, w, heads, d)
        rows = torch.einsum("bnqw,bhwnd->bnqhd", along_x, value)
        return self.output(merge_heads(torch.einsum("bnqh,bnqhd->bnqd", along_y, rows)))

    def _weights(self, query: Tensor, key: Tensor, padding: Tensor | None) -> Tensor:
        query, key = split_heads(query, self.heads), split_heads(key, self.heads)
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        if padding is not None:
            scores = scores.masked_fill(padding[:, None, None], float("-inf"))
        return scores.softmax(-1)


def _mean(tokens: Tensor, padding: Tensor | None, *, axis: int) -> Tensor:
    """Return the mean of (B, h, w, D) over an axis; padding does not count.

    The authors' code counts it, so that its results depend on what shares a batch.
    """
    if padding is None:
        return tokens.mean(dim=axis)
    valid = ~padding.unsqueeze(-1)
    count = valid.sum(dim=axis).clamp(min=1)
    return (tokens * valid).sum(dim=axis) / count
