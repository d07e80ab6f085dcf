import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.testing import assert_close

from aligndetr.layers.linear import SMALL, Linear, linear, with_relu

ONEDNN = "mkldnn::_linear_pointwise"
ROWS, INNER, OUTER = 3 * SMALL // 24, 24, 40

has_onednn = pytest.mark.skipif(
    not (torch.backends.mkldnn.is_available() and torch.cpu._is_avx512_supported()),
    reason="oneDNN is taken on CPUs with AVX-512",
)


def layer(*, bias: bool = True) -> Linear:
    torch.manual_seed(0)
    return Linear(INNER, OUTER, bias=bias)


def rows(*shape: int) -> Tensor:
    return torch.randn(*shape, INNER, generator=torch.Generator().manual_seed(1))


def called(function, *arguments, **named) -> tuple[Tensor, set[str]]:
    """Return a result and the names of the operators that ran for it."""
    with profile(activities=[ProfilerActivity.CPU]) as record:
        result = function(*arguments, **named)
    return result, {event.key for event in record.key_averages()}


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(
    "shape", [(), (0,), (2, 0), (5,), (ROWS,), (2, ROWS // 2), (2, 3, ROWS // 6)]
)
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_the_formula_with_a_gradient_and_without(shape, relu: bool, bias: bool):
    part, x = layer(bias=bias), rows(*shape)
    expected = x.double() @ part.weight.double().T + (part.bias.double() if bias else 0)
    expected = (expected.clamp(min=0) if relu else expected).float()
    found = linear(x, part.weight, part.bias, relu=relu)
    assert_close(found, expected, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        found = with_relu(part, x) if relu else part(x)
        assert_close(found, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_steps_between_numbers_do_not_matter():
    part, x = layer(), rows(ROWS, 2)
    assert_close(part(x[:, 0]), part(x[:, 0].contiguous()))
    assert_close(part(x.transpose(0, 1)), part(x.transpose(0, 1).contiguous()))
    wide = torch.randn(OUTER, 2 * INNER)
    assert_close(linear(x, wide[:, ::2], None), x @ wide[:, ::2].T, atol=1e-5, rtol=1e-5)


def test_gradients_are_those_of_torch():
    part, x = layer(), rows(2, 7).requires_grad_()
    found = torch.autograd.grad(with_relu(part, x).square().sum(), [x, *part.parameters()])
    plain = F.relu(F.linear(x, part.weight, part.bias)).square().sum()
    for own, other in zip(found, torch.autograd.grad(plain, [x, *part.parameters()]), strict=True):
        assert_close(own, other)


def test_weights_have_the_names_of_torchs_layer():
    assert list(layer().state_dict()) == list(nn.Linear(INNER, OUTER).state_dict())


@has_onednn
def test_onednn_computes_many_rows_without_a_gradient_alone():
    part, x = layer(), rows(ROWS)
    with torch.no_grad():
        _, many = called(with_relu, part, x)
        _, few = called(with_relu, part, x[:5])
    _, trained = called(with_relu, part, x)
    assert ONEDNN in many
    assert not {"aten::relu", "aten::relu_", "aten::addmm"} & many
    assert ONEDNN not in few | trained


@has_onednn
@torch.no_grad()
def test_other_types_autocast_and_a_switch_take_torchs_way(monkeypatch: pytest.MonkeyPatch):
    part, x = layer(), rows(ROWS)
    _, half = called(layer().bfloat16(), x.bfloat16())
    _, double = called(layer().double(), x.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result, cast = called(part, x)
    assert result.dtype == torch.bfloat16
    expected = part(x)
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    result, off = called(part, x)
    assert_close(result, expected, atol=1e-5, rtol=1e-5)
    assert ONEDNN not in half | double | cast | off


def test_a_layer_that_wraps_another_has_relu_after_all_that_it_does():
    class Adapted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base = layer()

        def forward(self, x: Tensor) -> Tensor:
            return self.base(x) - 1

    part, x = Adapted(), rows(4)
    assert_close(with_relu(part, x), (part.base(x) - 1).clamp(min=0))


class Doubled(nn.Module):
    """What is exported and compiled: a layer, and one with ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = layer()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + with_relu(self.layer, x)


@torch.no_grad()
def test_exported_code_has_torchs_operators_alone():
    part, x = Doubled().eval(), rows(ROWS)
    traced = torch.export.export(part, (x,))
    names = {str(node.target) for node in traced.graph.nodes if node.op == "call_function"}
    assert any("linear" in name for name in names)
    assert not any("mkldnn" in name for name in names)
    assert_close(traced.module()(x), part(x), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_compiled_code_does_not_depend_on_the_number_of_rows():
    torch.compiler.reset()
    counter = CompileCounter()
    part = torch.compile(Doubled().eval(), dynamic=True, backend=counter)
    for count in (5, ROWS):
        part(rows(count))
    assert counter.frame_count == 1
