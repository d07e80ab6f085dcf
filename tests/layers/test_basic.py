import pytest
import torch

from aligndetr.layers.basic import CHUNK, MLP, FeedForward, by_rows


def test_mlp_of_two_widths_is_one_linear_layer():
    mlp = MLP(3, 2)
    x = torch.randn(4, 3)
    layer = mlp.layers[0]
    assert isinstance(layer, torch.nn.Linear)
    torch.testing.assert_close(mlp(x), x @ layer.weight.T + layer.bias)


def test_mlp_has_relu_between_layers_and_none_at_the_end():
    mlp = MLP(1, 1, 1)
    with torch.no_grad():
        for name, parameter in mlp.named_parameters():
            parameter.fill_(-1.0 if name.endswith("weight") else 0.0)
    torch.testing.assert_close(mlp(torch.tensor([[2.0], [-2.0]])), torch.tensor([[0.0], [-2.0]]))


def test_feedforward_normalises_the_residual_sum():
    feedforward = FeedForward(8, 16)
    out = feedforward(torch.randn(2, 3, 8))
    torch.testing.assert_close(out.mean(-1), torch.zeros(2, 3), atol=1e-5, rtol=0)


def test_feedforward_copies_no_gradient():
    """Changing a view in place makes autograd fill and copy a tensor as large as the hidden one."""
    out = FeedForward(8, 16)(torch.randn(2, 3, 8))
    nodes, names = [out.grad_fn], set[str]()
    while nodes:
        if node := nodes.pop():
            names.add(node.name())
            nodes += [following for following, _ in node.next_functions]
    assert "ReluBackward0" in names
    assert "CopySlices" not in names


WIDEST = CHUNK // 100  # so that chunks have 100 rows of one image


def test_few_rows_are_taken_at_once():
    seen: list[int] = []
    x = torch.randn(1, 200, 4)
    with torch.no_grad():
        assert torch.equal(by_rows(counting(seen), x, widest=WIDEST), x + 1)
    assert seen == [200]


@pytest.mark.parametrize(("images", "size"), [(1, 100), (3, 33), (1000, 1)])
def test_many_rows_are_taken_in_chunks_and_come_back_in_their_order(images: int, size: int):
    seen: list[int] = []
    x, y = torch.randn(images, 277, 4), torch.randn(images, 277, 2)
    with torch.no_grad():
        assert torch.equal(by_rows(counting(seen), x, widest=WIDEST), x + 1)
        found = by_rows(lambda a, b: a * b.sum(-1, keepdim=True), x, y, widest=WIDEST)
    assert sum(seen) == 277
    assert max(seen) == size
    torch.testing.assert_close(found, x * y.sum(-1, keepdim=True))


def test_with_a_gradient_rows_stay_together():
    seen: list[int] = []
    x = torch.randn(1, 850, 4)
    assert torch.equal(by_rows(counting(seen), x, widest=WIDEST), x + 1)
    assert seen == [850]


def counting(seen: list[int]):
    def plus_one(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.shape[1])
        return x + 1

    return plus_one
