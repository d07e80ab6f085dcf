import torch

from aligndetr.layers.basic import MLP, FeedForward


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
