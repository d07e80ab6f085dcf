import math

import torch

from aligndetr.model.heads import Head
from aligndetr.model.queries import TopQueries, propose
from aligndetr.types import Memory

SHAPES = ((4, 6), (2, 3))


def memory(padding: torch.Tensor | None = None, ratios: torch.Tensor | None = None) -> Memory:
    torch.manual_seed(0)
    return Memory(
        tokens=torch.randn(2, 30, 32),
        position=torch.zeros(1, 30, 32),
        padding=padding,
        shapes=SHAPES,
        valid_ratios=torch.ones(2, 2, 2) if ratios is None else ratios,
    )


def selection(count: int = 4, content: str = "learned") -> TopQueries:
    torch.manual_seed(1)
    part = TopQueries(Head(32, 5, prior=0.01), 32, count=count, content=content)  # pyright: ignore
    for parameter in part.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return part


def test_proposals_sit_at_token_centres_and_double_in_size_with_the_level():
    logits, is_usable = propose(memory())
    boxes = logits.sigmoid()
    row = 0
    for level, (height, width) in enumerate(SHAPES):
        for y in range(height):
            for x in range(width):
                box = [(x + 0.5) / width, (y + 0.5) / height, 0.05 * 2**level, 0.05 * 2**level]
                torch.testing.assert_close(boxes[0, row], torch.tensor(box))
                row += 1
    assert is_usable.all()


def test_padded_and_border_proposals_are_infinite():
    padding = torch.zeros(2, 30, dtype=torch.bool)
    padding[1, 5] = True
    wide = Memory(
        tokens=torch.randn(1, 80, 32),
        position=torch.zeros(1, 80, 32),
        padding=None,
        shapes=((1, 80),),
        valid_ratios=torch.ones(1, 1, 2),
    )
    logits, is_usable = propose(memory(padding))
    assert logits[1, 5].tolist() == [math.inf] * 4
    assert is_usable.sum() == 59
    logits, is_usable = propose(wide)  # the first and last centres lie within 0.01 of the border
    assert (~is_usable[0]).nonzero().flatten().tolist() == [0, 79]


def test_the_best_tokens_become_queries_in_order_of_their_score():
    part, source = selection(), memory()
    out = part(source)
    assert out.proposals is not None
    assert out.reference is not None
    states = part.norm(part.project(source.tokens))
    best = part.head.classes(states).amax(-1)
    expected = best.sort(dim=1, descending=True).values[:, :4]
    torch.testing.assert_close(out.proposals.logits.amax(-1), expected)
    torch.testing.assert_close(out.reference, out.proposals.boxes)
    assert not out.reference.requires_grad
    assert out.proposals.boxes.requires_grad


def test_learned_content_is_the_same_for_every_image():
    out = selection()(memory())
    assert torch.equal(out.content[0], out.content[1])


def test_content_from_memory_is_detached_and_differs():
    out = selection(content="memory")(memory())
    assert not out.content.requires_grad
    assert not torch.equal(out.content[0], out.content[1])


def test_an_image_of_few_tokens_gives_fewer_queries():
    out = selection(count=100)(memory())
    assert out.content.shape == (2, 30, 32)
    assert out.groups[0].span == (0, 30)
