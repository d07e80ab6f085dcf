"""Query groups: who may attend to whom."""

from collections.abc import Sequence

import torch
from torch import Tensor

from aligndetr.types import QueryGroup


def attention_mask(groups: Sequence[QueryGroup], device: torch.device) -> Tensor | None:
    """Return (Q, Q) bool, True where the query of the row may not see that of the column.

    A query sees its own block of its own group, and the main group where its group says so.
    None when there is a single group of a single block: nothing is hidden.
    """
    if len(groups) == 1 and groups[0].blocks == 1:
        return None
    block = torch.cat([_block_numbers(index, group) for index, group in enumerate(groups)])
    is_main = torch.cat([_repeat(group.name == "main", group) for group in groups])
    sees_main = torch.cat([_repeat(group.sees_main, group) for group in groups])
    visible = (block[:, None] == block) | (sees_main[:, None] & is_main)
    return ~visible.to(device)


def _block_numbers(index: int, group: QueryGroup) -> Tensor:
    """Return one number a query, different for every block of every group."""
    size = group.span[1] - group.span[0]
    within = torch.arange(size) // max(size // group.blocks, 1)
    return within + index * 1_000_000


def _repeat(value: bool, group: QueryGroup) -> Tensor:
    return torch.full((group.span[1] - group.span[0],), value)
