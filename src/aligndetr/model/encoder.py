"""Encoder: tokens attend to each other, in the ways that the family has."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from aligndetr.layers.attention import SelfAttention
from aligndetr.layers.basic import MLP, FeedForward, by_rows
from aligndetr.layers.deformable import DeformableAttention
from aligndetr.layers.row_column import RowColumnAttention
from aligndetr.model.places import AxisEmbedding
from aligndetr.types import Memory


class DeformableEncoderLayer(nn.Module):
    """Deformable self-attention and a feed-forward network, both with post-norm."""

    def __init__(
        self,
        attention: DeformableAttention,
        feedforward: FeedForward,
        width: int,
        *,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.attention = attention
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.feedforward = feedforward

    def forward(self, memory: Memory, reference: Tensor) -> Memory:
        """Return the memory with its tokens renewed; `reference` (B, S, L, 2)."""
        tokens = memory.tokens
        samples = self.attention.sample(
            tokens + memory.position, reference, tokens, memory.shapes, memory.padding
        )
        return memory.with_tokens(
            by_rows(self._renewed, tokens, samples, widest=self.feedforward.hidden)
        )

    def _renewed(self, tokens: Tensor, samples: Tensor) -> Tensor:
        read = self.attention.output(samples)
        return self.feedforward(self.norm(tokens + self.dropout(read)))


class DeformableEncoder(nn.Module):
    """Layers of deformable self-attention (Deformable DETR, section 4.1); may be empty."""

    def __init__(self, layers: list[DeformableEncoderLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, memory: Memory) -> Memory:
        """Return the encoded memory."""
        if len(self.layers) == 0:
            return memory
        reference = token_centres(memory)[:, :, None] * memory.valid_ratios[:, None]
        # In the tokens' type: a sum of two types has the wider, and is converted for the products.
        memory = replace(memory, position=memory.position.to(memory.tokens.dtype))
        for layer in self.layers:
            memory = layer(memory, reference)
        return memory


class DenseEncoderLayer(nn.Module):
    """Full self-attention and a feed-forward network, both with post-norm (DETR).

    `mixes_levels`: whether tokens attend to those of all levels or only to those of their own.
    """

    def __init__(
        self, attention: SelfAttention, feedforward: FeedForward, *, mixes_levels: bool
    ) -> None:
        super().__init__()
        self.attention = attention
        self.feedforward = feedforward
        self.mixes_levels = mixes_levels

    def forward(self, memory: Memory, position: Tensor) -> Memory:
        """Return the memory with its tokens renewed; `position` (B, S, D)."""
        sizes = [height * width for height, width in memory.shapes]
        parts = [sum(sizes)] if self.mixes_levels else sizes
        tokens, positions = memory.tokens.split(parts, dim=1), position.split(parts, dim=1)
        hidden = [None] * len(parts)
        if memory.padding is not None:
            hidden = [part[:, None, None] for part in memory.padding.split(parts, dim=1)]
        read = [self.attention(*part) for part in zip(tokens, positions, hidden, strict=True)]
        tokens = torch.cat(read, dim=1)
        return memory.with_tokens(by_rows(self.feedforward, tokens, widest=self.feedforward.hidden))


class DenseEncoder(nn.Module):
    """Layers of full self-attention; with `scale`, an MLP of the tokens scales their positions.

    The scale is one for all layers (DAB-DETR, section 4.4).
    """

    def __init__(self, layers: list[DenseEncoderLayer], scale: MLP | None = None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.scale = scale

    def forward(self, memory: Memory) -> Memory:
        """Return the encoded memory."""
        for layer in self.layers:
            scale = 1.0 if self.scale is None else self.scale(memory.tokens)
            memory = layer(memory, memory.position * scale)
        return memory


class RowColumnEncoderLayer(nn.Module):
    """Row-column self-attention and a feed-forward network, both with post-norm."""

    def __init__(
        self,
        attention: RowColumnAttention,
        feedforward: FeedForward,
        width: int,
        *,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.attention = attention
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.feedforward = feedforward

    def forward(self, memory: Memory, position: Tensor) -> Memory:
        """Return the memory with its tokens renewed; `position` (B, S, 2, D)."""
        read = read_map(self.attention, memory.tokens, position, memory)
        tokens = self.norm(memory.tokens + self.dropout(read))
        return memory.with_tokens(by_rows(self.feedforward, tokens, widest=self.feedforward.hidden))


class RowColumnEncoder(nn.Module):
    """Layers of row-column self-attention over a single level (Anchor DETR, section 3.4).

    The memory's positions become embeddings of x and of y, for these layers and the decoder's.
    """

    def __init__(self, layers: list[RowColumnEncoderLayer], axes: AxisEmbedding) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.axes = axes

    def forward(self, memory: Memory) -> Memory:
        """Return the encoded memory."""
        memory = replace(memory, position=self.axes(token_centres(memory)))
        for layer in self.layers:
            memory = layer(memory, memory.position)
        return memory


Encoder = DeformableEncoder | DenseEncoder | RowColumnEncoder


def token_centres(memory: Memory) -> Tensor:
    """Return (B, S, 2): x, y of every token's centre, in (0, 1) of the unpadded image."""
    levels: list[Tensor] = []
    for index, (height, width) in enumerate(memory.shapes):
        grid = torch.meshgrid(
            torch.arange(height, device=memory.tokens.device) + 0.5,
            torch.arange(width, device=memory.tokens.device) + 0.5,
            indexing="ij",
        )
        centres = torch.stack((grid[1], grid[0]), dim=-1).flatten(0, 1)  # (h * w, 2)
        ratios = memory.valid_ratios[:, index]  # (B, 2)
        image_wh = torch.stack((ratios[:, 0] * width, ratios[:, 1] * height), dim=-1)
        levels.append(centres / image_wh[:, None])
    return torch.cat(levels, dim=1)


def read_map(
    attention: RowColumnAttention, query: Tensor, position: Tensor, memory: Memory
) -> Tensor:
    """Return what queries (B, Q, D) at positions (B, Q, 2, D) read of a memory of one level."""
    padding = None if memory.padding is None else as_map(memory.padding, memory)
    tokens, axes = as_map(memory.tokens, memory), as_map(memory.position, memory)
    return attention(query, position, tokens, axes, padding)


def as_map(tokens: Tensor, memory: Memory) -> Tensor:
    """Return (B, S, ...) tokens of a memory of one level as (B, h, w, ...)."""
    (shape,) = memory.shapes
    return tokens.unflatten(1, shape)
