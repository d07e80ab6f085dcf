import math

import pytest
import torch
from torch import Tensor

from aligndetr.layers.row_column import RowColumnAttention
from drawn import drawn

HEADS, WIDTH = 2, 8
SHAPE = (3, 4)


def attention() -> RowColumnAttention:
    return drawn(RowColumnAttention(WIDTH, HEADS))


def inputs(shape: tuple[int, int] = SHAPE) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    query, position = torch.randn(2, 5, WIDTH), torch.randn(2, 5, 2, WIDTH)
    return query, position, torch.randn(2, *shape, WIDTH), torch.randn(2, *shape, 2, WIDTH)


def head_of(x: Tensor, head: int) -> Tensor:
    return x.chunk(HEADS, dim=-1)[head]


def oracle(
    part: RowColumnAttention, query: Tensor, position: Tensor, tokens: Tensor, axes: Tensor
) -> Tensor:
    """What one query reads of one (h, w, D) map: a softmax over columns, then one over rows."""
    height, width = tokens.shape[:2]
    columns = [
        sum((tokens[row, column] + axes[row, column, 0] for row in range(height)), torch.zeros(()))
        / height
        for column in range(width)
    ]
    rows = [
        sum(
            (tokens[row, column] + axes[row, column, 1] for column in range(width)), torch.zeros(())
        )
        / width
        for row in range(height)
    ]
    read: list[Tensor] = []
    for head in range(HEADS):
        x = head_of(part.query_x(query + position[0]), head)
        y = head_of(part.query_y(query + position[1]), head)
        size = math.sqrt(len(x))
        across = torch.stack([x @ head_of(part.key_x(key), head) / size for key in columns])
        down = torch.stack([y @ head_of(part.key_y(key), head) / size for key in rows])
        across, down = across.exp() / across.exp().sum(), down.exp() / down.exp().sum()
        total = torch.zeros(WIDTH // HEADS)
        for row in range(height):
            for column in range(width):
                value = head_of(part.value(tokens[row, column]), head)
                total = total + down[row] * across[column] * value
        read.append(total)
    return part.output(torch.cat(read))


@torch.no_grad()
def test_every_query_weighs_columns_and_then_rows():
    part, (query, position, tokens, axes) = attention(), inputs()
    found = part(query, position, tokens, axes, None)
    for image in range(2):
        for row in range(5):
            expected = oracle(
                part, query[image, row], position[image, row], tokens[image], axes[image]
            )
            torch.testing.assert_close(found[image, row], expected)


@pytest.mark.parametrize(("rows", "columns"), [(3, 4), (2, 4), (3, 2), (1, 1)])
def test_padding_equals_cutting_it_off(rows: int, columns: int):
    part, (query, position, tokens, axes) = attention(), inputs()
    padding = torch.ones(2, *SHAPE, dtype=torch.bool)
    padding[:, :rows, :columns] = False
    expected = part(query, position, tokens[:, :rows, :columns], axes[:, :rows, :columns], None)
    torch.testing.assert_close(part(query, position, tokens, axes, padding), expected)


def test_each_image_has_its_own_padding():
    part, (query, position, tokens, axes) = attention(), inputs()
    padding = torch.zeros(2, *SHAPE, dtype=torch.bool)
    padding[1, 2:] = True
    found = part(query, position, tokens, axes, padding)
    torch.testing.assert_close(found[:1], part(query, position, tokens, axes, None)[:1])
    alone = part(query[1:], position[1:], tokens[1:, :2], axes[1:, :2], None)
    torch.testing.assert_close(found[1:], alone)


def test_padding_gets_no_gradient():
    part, (query, position, tokens, axes) = attention(), inputs()
    padding = torch.zeros(2, *SHAPE, dtype=torch.bool)
    padding[:, :, 3] = True
    part(query, position, tokens.requires_grad_(), axes, padding).sum().backward()
    assert tokens.grad is not None
    assert tokens.grad.isfinite().all()
    assert tokens.grad[padding].abs().max() == 0
    assert tokens.grad[~padding].abs().min() > 0


def test_permuting_queries_permutes_the_result():
    part, (query, position, tokens, axes) = attention(), inputs()
    order = torch.tensor([3, 0, 4, 1, 2])
    found = part(query[:, order], position[:, order], tokens, axes, None)
    torch.testing.assert_close(found, part(query, position, tokens, axes, None)[:, order])
