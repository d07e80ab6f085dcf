"""Where the decoder's queries come from."""

from typing import Literal

import torch
from torch import Tensor, nn

from aligndetr.model.encoder import token_centres
from aligndetr.model.heads import Head
from aligndetr.types import LayerOutput, Memory, Queries, QueryGroup

PROPOSAL_SIZE = 0.05
"""Width and height of a proposal on the finest level; doubled on each coarser one."""
BORDER = 0.01
"""Proposals with a coordinate this close to 0 or 1 are left out."""


class TopQueries(nn.Module):
    """Queries at the encoder's best proposals: two-stage with mixed query selection.

    Position comes from the detached proposal boxes; content is learned and the same for
    every image, or the detached memory token itself (DINO, arXiv:2203.03605, section 3.4).
    """

    def __init__(
        self, head: Head, width: int, *, count: int, content: Literal["learned", "memory"]
    ) -> None:
        super().__init__()
        self.count = count
        self.head = head
        self.project = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.content = nn.Parameter(torch.empty(count, width)) if content == "learned" else None

    def forward(self, memory: Memory) -> Queries:
        """Return the main group's queries; fewer than `count` where the image has fewer tokens."""
        proposals, is_usable = propose(memory)
        tokens = memory.tokens.masked_fill(~is_usable.unsqueeze(-1), 0.0)
        states = self.norm(self.project(tokens))
        logits = self.head.logits(states)
        count = min(self.count, states.shape[1])
        best = logits.detach().amax(-1).topk(count, dim=1).indices  # (B, Q)
        states = _take(states, best)
        boxes = (self.head.correction(states) + _take(proposals, best)).sigmoid()
        return Queries(
            content=self._content(states),
            reference=boxes.detach(),
            position=None,
            groups=(QueryGroup("main", (0, count)),),
            proposals=LayerOutput(_take(logits, best), boxes),
        )

    def _content(self, states: Tensor) -> Tensor:
        if self.content is None:
            return states.detach()
        return self.content[: states.shape[1]].expand(states.shape[0], -1, -1)


def propose(memory: Memory) -> tuple[Tensor, Tensor]:
    """Return a box a token, as logits (B, S, 4), and whether it may be used (B, S).

    Unusable ones (padding, or too near the border) are +inf, whose sigmoid is 1 with gradient 0.
    """
    centres = token_centres(memory)
    sizes = torch.cat(
        [
            centres.new_full((height * width,), PROPOSAL_SIZE * 2.0**level)
            for level, (height, width) in enumerate(memory.shapes)
        ]
    )
    sizes = sizes[None, :, None].expand(centres.shape[0], -1, 2)
    boxes = torch.cat((centres, sizes), dim=-1)
    is_usable = ((boxes > BORDER) & (boxes < 1 - BORDER)).all(-1)
    if memory.padding is not None:
        is_usable = is_usable & ~memory.padding
    logits = torch.log(boxes / (1 - boxes))
    return logits.masked_fill(~is_usable.unsqueeze(-1), float("inf")), is_usable


def _take(rows: Tensor, index: Tensor) -> Tensor:
    """Return rows (B, S, n) at index (B, Q): (B, Q, n)."""
    return rows.gather(1, index.unsqueeze(-1).expand(-1, -1, rows.shape[-1]))
