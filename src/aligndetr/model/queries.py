"""Where the decoder's queries come from."""

from typing import Literal

import torch
from torch import Tensor, nn

from aligndetr.boxes import inverse_sigmoid
from aligndetr.layers.basic import MLP
from aligndetr.layers.linear import Linear
from aligndetr.layers.position import embed_boxes
from aligndetr.model.encoder import token_centres
from aligndetr.model.groups import Layout, last_row
from aligndetr.model.heads import Head
from aligndetr.types import LayerOutput, Memory, Queries

PROPOSAL_SIZE = 0.05
"""Width and height of a proposal on the finest level; doubled on each coarser one."""
BORDER = 0.01
"""Proposals with a coordinate this close to 0 or 1 are left out."""


class LearnedQueries(nn.Module):
    """A learned position for each query, no content and no reference (DETR, section 3.2)."""

    def __init__(self, width: int, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        self.position = nn.Parameter(torch.empty(layout.rows, width))

    def draw_parameters(self) -> None:
        """Draw positions from N(0, 1)."""
        nn.init.normal_(self.position)

    def forward(self, memory: Memory) -> Queries:
        """Return the same queries for every image."""
        groups = self.layout.here(training=self.training)
        position = _for_images(self.position[: last_row(groups)], memory)
        return Queries(torch.zeros_like(position), None, position, groups, None)


class PointQueries(nn.Module):
    """A learned position for each query, from which its reference point is made.

    Conditional DETR (arXiv:2108.06152), section 3.4; Deformable DETR, section 4.1, where contents
    are learned too.
    """

    def __init__(
        self,
        width: int,
        layout: Layout,
        *,
        content: Literal["zeros", "learned"],
        point_layers: Literal[1, 2],
    ) -> None:
        super().__init__()
        self.layout = layout
        self.position = nn.Parameter(torch.empty(layout.rows, width))
        self.content = (
            nn.Parameter(torch.empty(layout.rows, width)) if content == "learned" else None
        )
        self.point = MLP(*[width] * point_layers, 2)

    def draw_parameters(self) -> None:
        """Draw positions and contents from N(0, 1)."""
        nn.init.normal_(self.position)
        if self.content is not None:
            nn.init.normal_(self.content)

    def forward(self, memory: Memory) -> Queries:
        """Return the same queries for every image."""
        groups = self.layout.here(training=self.training)
        rows = last_row(groups)
        position = _for_images(self.position[:rows], memory)
        content = torch.zeros_like(position)
        if self.content is not None:
            content = _for_images(self.content[:rows], memory)
        return Queries(content, self.point(position).float().sigmoid(), position, groups, None)


class AnchorPointQueries(nn.Module):
    """Every pattern at every one of some learned points (Anchor DETR, section 3.3).

    The points are in [0, 1] themselves, not their logits, as published.
    """

    def __init__(self, width: int, layout: Layout, *, patterns: int) -> None:
        """Take a layout whose counts are those of points."""
        super().__init__()
        self.layout = layout
        self.points = nn.Parameter(torch.empty(layout.rows, 2))
        self.patterns = nn.Parameter(torch.empty(patterns, width))

    def draw_parameters(self) -> None:
        """Spread points over the image; draw patterns from N(0, 1)."""
        nn.init.uniform_(self.points)
        nn.init.normal_(self.patterns)

    def forward(self, memory: Memory) -> Queries:
        """Return the same queries for every image."""
        patterns = len(self.patterns)
        points = self.layout.here(training=self.training)
        extra = self.layout.extra if len(points) > 1 else 0
        groups = self.layout.groups_of(self.layout.count * patterns, extra * patterns)
        blocks = (self.layout.count, *[extra] * self.layout.groups * bool(extra))
        references = self.points[: last_row(points)].split(blocks)
        reference = torch.cat([block.repeat(patterns, 1) for block in references])
        content = torch.cat([self.patterns.repeat_interleave(size, dim=0) for size in blocks])
        return Queries(
            _for_images(content, memory), _for_images(reference, memory), None, groups, None
        )


class AnchorBoxQueries(nn.Module):
    """A learned reference box for each query (DAB-DETR, section 4.2).

    Contents are zeros, one learned vector for all (DN-DETR), or learned one by one
    (DAB-Deformable-DETR).
    """

    def __init__(
        self,
        width: int,
        layout: Layout,
        *,
        content: Literal["zeros", "shared", "learned"],
        centres: Literal["normal", "uniform"],
        freezes_centres: bool,
    ) -> None:
        super().__init__()
        self.layout, self.width = layout, width
        self.centres: Literal["normal", "uniform"] = centres
        self.freezes_centres = freezes_centres
        self.boxes = nn.Parameter(torch.empty(layout.rows, 4))
        sizes = {"zeros": 0, "shared": 1, "learned": layout.rows}
        self.content = nn.Parameter(torch.empty(size, width)) if (size := sizes[content]) else None

    def draw_parameters(self) -> None:
        """Draw boxes' logits and contents from N(0, 1); centres uniformly where asked for."""
        nn.init.normal_(self.boxes)
        if self.centres == "uniform":
            with torch.no_grad():
                drawn = torch.rand_like(self.boxes[:, :2])
                self.boxes[:, :2] = inverse_sigmoid(drawn, eps=1e-3)
        if self.content is not None:
            nn.init.normal_(self.content)

    def forward(self, memory: Memory) -> Queries:
        """Return the same queries for every image."""
        groups = self.layout.here(training=self.training)
        rows = last_row(groups)
        boxes = self.boxes[:rows]
        if self.freezes_centres:
            boxes = torch.cat((boxes[:, :2].detach(), boxes[:, 2:]), dim=1)
        reference = _for_images(boxes.sigmoid(), memory)
        content = reference.new_zeros(1, self.width) if self.content is None else self.content
        content = content[:rows].expand(rows, -1)
        return Queries(_for_images(content, memory), reference, None, groups, None)


class ProposalEmbedding(nn.Module):
    """Position and content of queries, from the boxes of proposals (Deformable DETR, A.4)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.features = width // 2
        self.project = Linear(2 * width, 2 * width)
        self.norm = nn.LayerNorm(2 * width)

    def forward(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, Q, D) positions and contents for (B, Q, 4) boxes without gradient."""
        states = self.norm(self.project(embed_boxes(boxes, self.features, order="xy")))
        position, content = states.chunk(2, dim=-1)
        return position, content


class TopQueries(nn.Module):
    """Queries at the encoder's best proposals, whose boxes are their detached references.

    Two-stage Deformable DETR (arXiv:2010.04159, A.4), and with learned contents mixed query
    selection (DINO, arXiv:2203.03605, section 3.4). `embedding` makes what is said to be made from
    proposals; a position that follows from the reference is the decoder's task.
    """

    def __init__(
        self,
        head: Head,
        width: int,
        layout: Layout,
        *,
        content: Literal["learned", "memory", "proposal"] = "learned",
        position: Literal["reference", "proposal"] = "reference",
        embedding: ProposalEmbedding | None = None,
        chosen_by: Literal["best_class", "first_class"] = "best_class",
        supervises_all: bool = False,
        scores_padding: bool = False,
    ) -> None:
        super().__init__()
        self.layout = layout
        self.head = head
        self.project = Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.is_from_memory = content == "memory"
        self.gives_position = position == "proposal"
        self.content = (
            nn.Parameter(torch.empty(layout.rows, width)) if content == "learned" else None
        )
        self.embedding = embedding
        self.chosen_by: Literal["best_class", "first_class"] = chosen_by
        self.supervises_all = supervises_all
        self.scores_padding = scores_padding

    def draw_parameters(self) -> None:
        """Draw contents from N(0, 1) where positions are embedded, as in H-DETR's code."""
        if self.content is not None and self.embedding is not None:
            nn.init.normal_(self.content)

    def forward(self, memory: Memory) -> Queries:
        """Return the queries; fewer than asked for where the image has fewer tokens."""
        proposals, is_usable = propose(memory)
        # A factor: to fill rows takes several times as long. Tokens are finite.
        factor = is_usable.unsqueeze(-1).to(memory.tokens.dtype)
        supervises_all = self.supervises_all and self.training
        # Of the chosen alone, computed again, the backward pass is shorter than of all tokens.
        repeats = torch.is_grad_enabled() and not supervises_all
        with torch.set_grad_enabled(torch.is_grad_enabled() and supervises_all):
            states, logits = self._judge(memory.tokens * factor)
        if repeats and not torch.compiler.is_compiling():
            # Some versions of torch would take the weights that were converted without a gradient
            # for the chosen, too, and `project` would have none.
            torch.clear_autocast_cache()
        taken = self.layout.take(logits.shape[1], training=self.training)
        main = taken.groups[0].span[1]
        scores = self._scores(logits.detach(), memory.padding)
        order = scores.topk(max(end for _, end in taken.ranks), dim=1).indices
        best = torch.cat([order[:, start:end] for start, end in taken.ranks], dim=1)  # (B, Q)
        if repeats:
            tokens = _take(memory.tokens, best) * _take(factor, best)
            chosen, chosen_logits = self._judge(tokens)
        else:
            chosen, chosen_logits = _take(states, best), _take(logits, best)
        boxes = (self.head.correction(chosen) + _take(proposals, best)).sigmoid()
        if supervises_all:
            supervised = LayerOutput(logits, (self.head.correction(states) + proposals).sigmoid())
        else:
            supervised = LayerOutput(chosen_logits[:, :main], boxes[:, :main])
        reference = boxes.detach()
        position, content = None, chosen.detach()
        if self.embedding is not None:
            made = self.embedding(reference)
            position = made[0] if self.gives_position else None
            content = content if self.is_from_memory else made[1]
        if self.content is not None:
            rows = torch.cat([self.content[start:end] for start, end in taken.rows])
            content = _for_images(rows, memory)
        return Queries(content, reference, position, taken.groups, supervised)

    def _judge(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return states (B, S, D) of tokens (B, S, D), and their class logits (B, S, C)."""
        states = self.norm(self.project(tokens))
        return states, self.head.logits(states)

    def _scores(self, logits: Tensor, padding: Tensor | None) -> Tensor:
        """Return (B, S), by which proposals are chosen; padding comes last, unless it is scored.

        In published code all of it has the score of an empty token, which may beat the image's.
        """
        scores = logits[..., 0] if self.chosen_by == "first_class" else logits.amax(-1)
        if padding is None or self.scores_padding:
            return scores
        return scores.masked_fill(padding, float("-inf"))


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


QuerySource = LearnedQueries | PointQueries | AnchorPointQueries | AnchorBoxQueries | TopQueries


def _for_images(rows: Tensor, memory: Memory) -> Tensor:
    """Return (Q, n) rows for each of the B images."""
    return rows.expand(memory.tokens.shape[0], -1, -1)


def _take(rows: Tensor, index: Tensor) -> Tensor:
    """Return rows (B, S, n) at index (B, Q): (B, Q, n)."""
    return rows.gather(1, index.unsqueeze(-1).expand(-1, -1, rows.shape[-1]))
