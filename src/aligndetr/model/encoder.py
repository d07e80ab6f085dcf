"""Encoder: tokens of all levels attend to each other through deformable attention."""

import torch
from torch import Tensor, nn

from aligndetr.layers.basic import FeedForward
from aligndetr.layers.deformable import DeformableAttention
from aligndetr.types import Memory


class DeformableEncoderLayer(nn.Module):
    """Deformable self-attention and a feed-forward network, both with post-norm."""

    def __init__(
        self, attention: DeformableAttention, feedforward: FeedForward, width: int
    ) -> None:
        super().__init__()
        self.attention = attention
        self.norm = nn.LayerNorm(width)
        self.feedforward = feedforward

    def forward(self, memory: Memory, reference: Tensor) -> Memory:
        """Return the memory with its tokens renewed; `reference` (B, S, L, 2)."""
        tokens = memory.tokens
        read = self.attention(
            tokens + memory.position, reference, tokens, memory.shapes, memory.padding
        )
        return memory.with_tokens(self.feedforward(self.norm(tokens + read)))


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
        for layer in self.layers:
            memory = layer(memory, reference)
        return memory


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
        size_wh = memory.valid_ratios.new_tensor([width, height])
        levels.append(centres / (memory.valid_ratios[:, index, None] * size_wh))
    return torch.cat(levels, dim=1)
