import pytest
import torch
from torch import Tensor, nn

from aligndetr.layers.attention import SelfAttention, SeparateSelfAttention, attend
from naive import attend_naively, heads_of, joined


def twin(attention: SelfAttention, width: int) -> nn.MultiheadAttention:
    """Return torch's own attention with the same weights: an independent oracle."""
    other = nn.MultiheadAttention(width, attention.heads, batch_first=True)
    other.in_proj_weight.data.copy_(attention.in_proj.weight)
    other.in_proj_bias.data.copy_(attention.in_proj.bias)
    other.out_proj.load_state_dict(attention.out_proj.state_dict())
    return other


def test_self_attention_equals_torchs_with_position_in_queries_and_keys():
    torch.manual_seed(0)
    attention = SelfAttention(16, 4)
    x, position = torch.randn(2, 5, 16), torch.randn(2, 5, 16)
    blocked = torch.rand(5, 5) < 0.4
    blocked.fill_diagonal_(False)
    mixed, _ = twin(attention, 16)(x + position, x + position, x, attn_mask=blocked)
    expected = attention.norm(x + mixed)
    torch.testing.assert_close(attention(x, position, blocked), expected, atol=1e-5, rtol=1e-4)


def test_a_blocked_query_receives_no_gradient():
    query = torch.randn(1, 2, 3, 4)
    key = torch.randn(1, 2, 3, 4)
    value = torch.randn(1, 2, 3, 4, requires_grad=True)
    blocked = torch.tensor([[False, False, True]] * 3)
    attend(query, key, value, blocked).sum().backward()
    assert value.grad is not None
    assert value.grad[:, :, 2].abs().max() == 0
    assert value.grad[:, :, :2].abs().min() > 0


def test_permuting_queries_permutes_the_result():
    torch.manual_seed(0)
    attention = SelfAttention(8, 2)
    x, position = torch.randn(1, 6, 8), torch.randn(1, 6, 8)
    order = torch.randperm(6)
    permuted = attention(x[:, order], position[:, order], None)
    torch.testing.assert_close(permuted, attention(x, position, None)[:, order])


def test_bfloat16_with_a_mask_equals_float32():
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, 7, 8).bfloat16() for _ in range(3))
    blocked = torch.rand(7, 7) < 0.4
    blocked.fill_diagonal_(False)
    found = attend(query, key, value, blocked)
    expected = attend(query.float(), key.float(), value.float(), blocked)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, atol=0.03, rtol=0.03)


@torch.no_grad()
def test_separate_self_attention_has_projections_of_its_own_for_positions():
    torch.manual_seed(0)
    attention = SeparateSelfAttention(8, 2)
    x, position = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    blocked = torch.rand(5, 5) < 0.4
    blocked.fill_diagonal_(False)
    mixed = attend_naively(
        heads_of(attention.query(x) + attention.query_position(position), 2),
        heads_of(attention.key(x) + attention.key_position(position), 2),
        heads_of(attention.value(x), 2),
        blocked.expand(2, 2, 5, 5),
    )
    expected = attention.norm(x + attention.out_proj(joined(mixed)))
    torch.testing.assert_close(attention(x, position, blocked), expected)


@pytest.mark.parametrize("kind", [SelfAttention, SeparateSelfAttention])
def test_dropout_acts_in_training_alone(kind: type[SelfAttention]):
    torch.manual_seed(0)
    attention, without = kind(8, 2, dropout=0.5), kind(8, 2)
    without.load_state_dict(attention.state_dict())
    x, position = torch.randn(1, 6, 8), torch.randn(1, 6, 8)
    torch.testing.assert_close(attention.eval()(x, position, None), without(x, position, None))
    attention.train()
    assert not torch.equal(attention(x, position, None), attention(x, position, None))


def random_parts() -> tuple[Tensor, Tensor, Tensor]:
    """Two images, three heads, four queries, five tokens; values wider than keys."""
    torch.manual_seed(0)
    return torch.randn(2, 3, 4, 6), torch.randn(2, 3, 5, 6), torch.randn(2, 3, 5, 8)


@pytest.mark.parametrize(
    "shape",
    [
        (4, 5),  # one mask for all
        (2, 1, 1, 5),  # padding of each image
        (2, 3, 4, 5),
    ],
)
@pytest.mark.parametrize("has_bias", [False, True])
def test_attention_leaves_out_what_is_blocked_and_adds_the_bias(shape: tuple[int, ...], has_bias):
    query, key, value = random_parts()
    blocked = torch.rand(shape) < 0.4
    blocked[..., 0] = False  # something is left to see
    bias = torch.randn(2, 3, 4, 5) if has_bias else None
    expected = attend_naively(query, key, value, blocked.expand(2, 3, 4, 5), bias)
    torch.testing.assert_close(attend(query, key, value, blocked, bias=bias), expected)


def test_attention_with_a_bias_alone():
    query, key, value = random_parts()
    bias = torch.randn(4, 5)
    expected = attend_naively(query, key, value, bias=bias.expand(2, 3, 4, 5))
    torch.testing.assert_close(attend(query, key, value, None, bias=bias), expected)


def test_a_bias_in_bfloat16_equals_that_in_float32():
    query, key, value = (part.bfloat16() for part in random_parts())
    bias = torch.randn(2, 3, 4, 5)
    found = attend(query, key, value, None, bias=bias)
    expected = attend_naively(query.float(), key.float(), value.float(), bias=bias)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, atol=0.05, rtol=0.05)


def test_the_bias_gets_its_gradient():
    query, key, value = (part.double() for part in random_parts())
    bias = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    blocked = torch.zeros(4, 5, dtype=torch.bool)
    blocked[:, 2] = True
    found = attend(query, key, value, blocked, bias=bias).square().sum()
    expected = attend_naively(query, key, value, blocked.expand(2, 3, 4, 5), bias).square().sum()
    (gradient,) = torch.autograd.grad(found, bias)
    torch.testing.assert_close(gradient, *torch.autograd.grad(expected, bias))
    assert gradient[..., 2].abs().max() == 0
