"""Query groups: which queries there are, and who may attend to whom."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from aligndetr.types import QueryGroup

Span = tuple[int, int]


@dataclass(frozen=True)
class Layout:
    """How many queries a detector has: `count` main ones, and in training `groups` of `extra` more.

    The extra ones are one run in as many blocks (`QueryGroup`), each object having `copies` in
    every block. `proposals`: whether they take the encoder's next best or the same best again.
    """

    count: int
    groups: int = 0
    extra: int = 0
    copies: int = 1
    weight: float = 1.0
    proposals: Literal["next", "same"] = "next"

    @property
    def rows(self) -> int:
        """All queries of training."""
        return self.count + self.groups * self.extra

    def groups_of(self, main: int, extra: int) -> tuple[QueryGroup, ...]:
        """Return the groups of `main` queries, followed by so many in every extra group."""
        groups = [QueryGroup("main", (0, main))]
        if self.groups and extra:
            groups.append(
                QueryGroup(
                    "extra",
                    (main, main + self.groups * extra),
                    copies=self.copies * self.groups,
                    weight=self.weight,
                    blocks=self.groups,
                )
            )
        return tuple(groups)

    def here(self, *, training: bool) -> tuple[QueryGroup, ...]:
        """Return all groups in training, the main one alone in evaluation."""
        return self.groups_of(self.count, self.extra if training else 0)

    def take(self, proposals: int, *, training: bool) -> "Taken":
        """Return which of so many proposals become queries; there may be fewer than asked for."""
        main = min(self.count, proposals)
        groups = self.groups if training else 0
        free = proposals if self.proposals == "same" else (proposals - main) // max(groups, 1)
        extra = min(self.extra, free) if groups else 0
        ranks, rows = [(0, main)], [(0, main)]
        for group in range(groups if extra else 0):
            first = 0 if self.proposals == "same" else main + group * extra
            ranks.append((first, first + extra))
            row = self.count + group * self.extra
            rows.append((row, row + extra))
        return Taken(tuple(ranks), tuple(rows), self.groups_of(main, extra))


@dataclass(frozen=True)
class Taken:
    """For each query the rank of its proposal, and its row among all that could be.

    Both as runs: first and last + 1 of each.
    """

    ranks: tuple[Span, ...]
    rows: tuple[Span, ...]
    groups: tuple[QueryGroup, ...]


def last_row(groups: Sequence[QueryGroup]) -> int:
    """Return how many queries the groups have."""
    return groups[-1].span[1]


def attention_mask(groups: Sequence[QueryGroup], device: torch.device) -> Tensor | None:
    """Return (Q, Q) bool, True where the query of the row may not see that of the column.

    A query sees its own block of its own group, and the main group where its group says so.
    None when there is a single group of a single block: nothing is hidden.
    """
    if len(groups) == 1 and groups[0].blocks == 1:
        return None
    numbers = [_block_numbers(index, group, device) for index, group in enumerate(groups)]
    is_main = torch.cat([_repeat(group.name == "main", group, device) for group in groups])
    sees_main = torch.cat([_repeat(group.sees_main, group, device) for group in groups])
    block = torch.cat(numbers)
    return ~((block[:, None] == block) | (sees_main[:, None] & is_main))


def _block_numbers(index: int, group: QueryGroup, device: torch.device) -> Tensor:
    """Return one number a query, different for every block of every group."""
    size = group.span[1] - group.span[0]
    within = torch.arange(size, device=device) // max(size // group.blocks, 1)
    return within + index * 1_000_000


def _repeat(value: bool, group: QueryGroup, device: torch.device) -> Tensor:
    return torch.full((group.span[1] - group.span[0],), value, device=device)
