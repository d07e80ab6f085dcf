import pytest
import torch

from aligndetr.boxes import inverse_sigmoid
from aligndetr.layers.attention import SelfAttention
from aligndetr.layers.basic import FeedForward
from aligndetr.layers.deformable import DeformableAttention
from aligndetr.model.decoder import Decoder, DecoderLayer, Refinement
from aligndetr.model.heads import Head
from aligndetr.types import Memory, Queries, QueryGroup

WIDTH = 16


def decoder(refinement: Refinement = "look_forward_twice", layers: int = 3) -> Decoder:
    torch.manual_seed(0)
    part = Decoder(
        [
            DecoderLayer(
                SelfAttention(WIDTH, 2),
                DeformableAttention(WIDTH, 2, levels=1, points=2),
                FeedForward(WIDTH, 16),
                WIDTH,
            )
            for _ in range(layers)
        ],
        [Head(WIDTH, 3, prior=0.01) for _ in range(layers)],
        WIDTH,
        refinement=refinement,
        eps=1e-3,
    )
    for parameter in part.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return part


def inputs() -> tuple[Queries, Memory]:
    torch.manual_seed(1)
    reference = torch.rand(1, 5, 4) * 0.6 + 0.2
    queries = Queries(
        torch.randn(1, 5, WIDTH), reference, None, (QueryGroup("main", (0, 5)),), None
    )
    memory = Memory(
        torch.randn(1, 12, WIDTH), torch.zeros(1, 12, WIDTH), None, ((3, 4),), torch.ones(1, 1, 2)
    )
    return queries, memory


def test_the_first_layer_predicts_from_the_given_reference_and_the_normalised_state():
    part, (queries, memory) = decoder(layers=1), inputs()
    (found,) = part(queries, memory)
    reference = queries.reference
    assert reference is not None
    position = part._embed(reference)
    state = part.layers[0](queries.content, position, reference[:, :, None], memory, None)
    head = part.heads[0]
    assert isinstance(head, Head)
    normal = part.norm(state)
    expected = (head.box(normal) + inverse_sigmoid(reference, eps=1e-3)).sigmoid()
    torch.testing.assert_close(found.boxes, expected)
    torch.testing.assert_close(found.logits, head.classes(normal))


@pytest.mark.parametrize(
    ("refinement", "reaches"),
    [
        ("look_forward_twice", [True, True, False]),  # one layer back, through the reference
        ("detached", [False, True, False]),
    ],
)
def test_how_far_a_box_loss_reaches_back(refinement, reaches):
    """The box head of layer 0 hears of layer 1's boxes through the reference alone."""
    part, (queries, memory) = decoder(refinement), inputs()
    part(queries, memory)[1].boxes.sum().backward()
    found = [
        any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in head.box.parameters())
        for head in part.heads
        if isinstance(head, Head)
    ]
    assert found == reaches


def test_permuting_queries_permutes_the_predictions():
    part, (queries, memory) = decoder(), inputs()
    order = torch.tensor([3, 0, 4, 1, 2])
    assert queries.reference is not None
    shuffled = Queries(
        queries.content[:, order], queries.reference[:, order], None, queries.groups, None
    )
    for before, after in zip(part(queries, memory), part(shuffled, memory), strict=True):
        torch.testing.assert_close(after.boxes, before.boxes[:, order])
        torch.testing.assert_close(after.logits, before.logits[:, order])
