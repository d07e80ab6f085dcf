import torch
from torch import nn

from aligndetr.layers.attention import SelfAttention, attend


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
