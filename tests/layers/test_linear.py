import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.testing import assert_close

from aligndetr.layers.linear import LARGE, SMALL, Linear, PixelProduct, linear, with_relu

ONEDNN, PIXELS = "mkldnn::_linear_pointwise", "mkldnn::_convolution_pointwise"
ROWS, INNER, OUTER = 3 * SMALL // 24, 24, 40
MANY = LARGE // INNER + 1

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
    "shape",
    [(), (0,), (2, 0), (5,), (ROWS,), (2, ROWS // 2), (2, 3, ROWS // 6), (MANY,), (2, 3, MANY)],
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


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(("inner", "outer"), [(24, 40), (40, 24), (1, 40), (40, 1)])
@pytest.mark.parametrize("large", [LARGE, SMALL])
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_are_those_of_torch(
    inner: int, outer: int, large: int, relu: bool, bias: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("aligndetr.layers.linear.LARGE", large)
    torch.manual_seed(0)
    part = Linear(inner, outer, bias=bias)
    x = torch.randn(2, SMALL // inner // 2 + 1, inner, requires_grad=True)
    weights = [x, *part.parameters()]
    seen = with_relu(part, x) if relu else part(x)
    found = torch.autograd.grad(seen.square().mean(), weights)
    wide, *exact = (weight.detach().double().requires_grad_() for weight in weights)
    plain = F.linear(wide, *exact)
    expected = (plain.relu() if relu else plain).square().mean()
    for own, other in zip(found, torch.autograd.grad(expected, [wide, *exact]), strict=True):
        assert own.shape == other.shape
        assert (own - other).norm() <= 1e-5 * other.norm()


@has_onednn
@pytest.mark.parametrize("of", [0, 1, 2])
def test_the_product_of_pixels_asks_for_no_more_gradients_than_it_must(of: int):
    inputs = [rows(5), layer().weight.detach(), layer().bias.detach()]
    inputs[of].requires_grad_()
    (found,) = torch.autograd.grad(PixelProduct.apply(*inputs).sum(), inputs[of])
    (expected,) = torch.autograd.grad(F.linear(*inputs).sum(), inputs[of])
    assert_close(found, expected)


@has_onednn
@pytest.mark.parametrize("outer", [8, 40])
def test_gradients_of_the_product_of_pixels_have_gradients(outer: int):
    """Those of a penalty on gradients, against torch's."""
    torch.manual_seed(0)
    inputs = [torch.randn(*shape, requires_grad=True) for shape in ((7, 24), (outer, 24), (outer,))]

    def penalty(result: Tensor) -> Tensor:
        first = torch.autograd.grad(result.square().sum(), inputs, create_graph=True)
        return sum((gradient.square().sum() for gradient in first), torch.zeros(()))

    found = torch.autograd.grad(penalty(PixelProduct.apply(*inputs)), inputs)
    expected = torch.autograd.grad(penalty(F.linear(*inputs)), inputs)
    assert_close(found, expected, rtol=1e-4, atol=1e-2)


def test_transforms_of_torch_take_its_own_way():
    x, part = rows(2, MANY), layer()
    weight = part.weight.detach()

    def total(weight: Tensor, x: Tensor) -> Tensor:
        return linear(x, weight, part.bias, relu=True).square().mean()

    per_image, names = called(torch.func.vmap(torch.func.grad(total), in_dims=(None, 0)), weight, x)
    assert PIXELS not in names
    for image, found in zip(x, per_image, strict=True):
        weight.grad = None
        (expected,) = torch.autograd.grad(total(weight.requires_grad_(), image), weight)
        assert_close(found, expected)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
def test_derivatives_forward_take_torchs_way():
    x, part = rows(MANY), layer()
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        found = forward_ad.unpack_dual(part(dual)).tangent
    assert_close(found, part.weight.sum(1).expand(MANY, -1))


@pytest.mark.parametrize("count", [5, MANY])
def test_nan_stays_nan_in_training(count: int):
    x, part = rows(count), layer()
    x[3, 0] = float("nan")
    result = with_relu(part, x.requires_grad_())
    assert result[3].isnan().all()
    assert not result[:3].isnan().any()


@pytest.mark.parametrize("count", [5, ROWS, MANY])
@pytest.mark.parametrize("has_gradient", [True, False])
def test_nothing_may_come_out(count: int, has_gradient: bool):
    with torch.set_grad_enabled(has_gradient):
        assert linear(rows(count), torch.empty(0, INNER), None).shape == (count, 0)


@has_onednn
def test_a_result_may_be_changed_in_place():
    part, x = layer(), rows(MANY).requires_grad_()
    found = torch.autograd.grad(part(x).mul_(2).sum(), x)
    assert_close(found, torch.autograd.grad(2 * F.linear(x, part.weight, part.bias).sum(), x))


def test_weights_have_the_names_of_torchs_layer():
    assert list(layer().state_dict()) == list(nn.Linear(INNER, OUTER).state_dict())


@has_onednn
def test_onednn_computes_many_rows_and_without_a_gradient_some():
    part, torchs = layer(), {"aten::relu", "aten::relu_", "aten::addmm"}
    names: dict[tuple[int, bool], set[str]] = {}
    for count in (5, ROWS, MANY):
        for has_gradient in (True, False):
            with torch.set_grad_enabled(has_gradient):
                _, names[count, has_gradient] = called(with_relu, part, rows(count))
    assert PIXELS in names[MANY, True]
    assert "aten::addmm" not in names[MANY, True]
    for count, name in ((MANY, PIXELS), (ROWS, ONEDNN)):
        assert name in names[count, False]
        assert not torchs & names[count, False]
    for few in ((5, True), (5, False), (ROWS, True)):
        assert not {ONEDNN, PIXELS} & names[few]


@has_onednn
@torch.no_grad()
@pytest.mark.parametrize("count", [ROWS, MANY])
def test_other_types_and_a_switch_take_torchs_way(count: int, monkeypatch: pytest.MonkeyPatch):
    part, x = layer(), rows(count)
    _, half = called(layer().bfloat16(), x.bfloat16())
    _, double = called(layer().double(), x.double())
    expected = part(x)
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    result, off = called(part, x)
    assert_close(result, expected, atol=1e-5, rtol=1e-5)
    assert not {ONEDNN, PIXELS} & (half | double | off)


@pytest.mark.parametrize("count", [5, ROWS, MANY])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("relu", [False, True])
def test_under_autocast_it_is_torchs_layer(count: int, dtype: torch.dtype, relu: bool):
    """Inputs, weights and results are rounded to 8 bits each way."""
    part, x = layer(), rows(count).to(dtype).requires_grad_()
    weights = [x, *part.parameters()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result, names = called(with_relu if relu else Linear.forward, part, x)
    has_instructions = torch.cpu._is_avx512_bf16_supported()
    assert (PIXELS in names) == (has_instructions and count == MANY)
    assert ONEDNN not in names
    assert result.dtype == torch.bfloat16
    found = torch.autograd.grad(result.float().square().mean(), weights)
    exact = [weight.detach().double().requires_grad_() for weight in weights]
    plain = F.linear(*exact)
    plain = plain.relu() if relu else plain
    assert (result - plain).norm() <= 5e-3 * plain.norm()
    expected = torch.autograd.grad(plain.square().mean(), exact)
    for own, other, weight in zip(found, expected, weights, strict=True):
        assert own.dtype == weight.dtype
        assert (own - other).norm() <= 2e-2 * other.norm()


@pytest.mark.parametrize("count", [5, MANY])
@torch.no_grad()
def test_autocast_to_float16_takes_torchs_way(count: int):
    part, x = layer(), rows(count)
    with torch.autocast("cpu", dtype=torch.float16):
        result, names = called(part, x)
    assert result.dtype == torch.float16
    assert not {ONEDNN, PIXELS} & names


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
@pytest.mark.parametrize("count", [ROWS, MANY])
def test_exported_code_has_torchs_operators_alone(count: int):
    part, x = Doubled().eval(), rows(count)
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
    for count in (5, ROWS, MANY):
        part(rows(count))
    assert counter.frame_count == 1
