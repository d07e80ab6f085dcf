"""The operator, whichever way it is computed: `portable` is the other path to the same numbers."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import Tensor

from aligndetr.kernels import deformable_attention, deformable_cpu, portable

Path = Callable[[], AbstractContextManager[None]]


@pytest.fixture(params=[0, deformable_cpu.CACHED], autouse=True)
def layout(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let values that are read often be copied by heads, however small, or never."""
    monkeypatch.setattr(deformable_cpu, "CACHED", request.param)


BOTH_PATHS = pytest.mark.parametrize("path", [nullcontext, portable])
LEVELS = ((3, 4), (1, 1))


def random_call(B=2, Q=5, H=2, D=4, P=2, shapes=LEVELS, dtype=torch.float32, seed=0, spread=1.6):
    """Value, shapes, locations (some of them outside) and weights."""
    generator = torch.Generator().manual_seed(seed)
    tokens = sum(height * width for height, width in shapes)
    points = (B, Q, H, len(shapes), P)
    value = torch.randn(B, tokens, H, D, generator=generator, dtype=dtype)
    locations = torch.rand(*points, 2, generator=generator, dtype=dtype)
    weights = torch.randn(points, generator=generator, dtype=dtype)
    return value, shapes, (locations - 0.5) * spread + 0.5, weights


def with_gradients(call, path: Path = nullcontext) -> tuple[Tensor, ...]:
    """The output and the gradients of value, locations and weights for some output gradient."""
    value, shapes, locations, weights = call
    leaves = [tensor.detach().requires_grad_() for tensor in (value, locations, weights)]
    with path():
        output = deformable_attention(leaves[0], shapes, leaves[1], leaves[2])
    gradient = (torch.arange(output.numel()) % 7 - 3).to(output.dtype).view(output.shape)
    return output, *torch.autograd.grad(output, leaves, gradient)


def one_sample(image: Tensor, x: float, y: float) -> Tensor:
    """Attention of weight 1 to one point of one image (h, w)."""
    value = image.reshape(1, -1, 1, 1)
    locations = torch.tensor([x, y], dtype=image.dtype).reshape(1, 1, 1, 1, 1, 2)
    return deformable_attention(
        value, [tuple(image.shape)], locations, value.new_ones(1, 1, 1, 1, 1)
    ).squeeze()


def by_hand(value, shapes, locations, weights) -> Tensor:
    """The definition, pixel after pixel: each adds by how near it is, up to one pixel away."""
    B, Q, H, L, P = weights.shape
    output = value.new_zeros(B, Q, H, value.shape[-1])
    for b, q, h, level, p in torch.cartesian_prod(*map(torch.arange, (B, Q, H, L, P))).tolist():
        height, width = shapes[level]
        begin = sum(math.prod(shape) for shape in shapes[:level])
        x, y = (locations[b, q, h, level, p] * locations.new_tensor([width, height]) - 0.5).tolist()
        for row in range(height):
            for column in range(width):
                near = max(0.0, 1 - abs(x - column)) * max(0.0, 1 - abs(y - row))
                pixel = value[b, begin + row * width + column, h]
                output[b, q, h] += weights[b, q, h, level, p] * near * pixel
    return output.flatten(2)


@BOTH_PATHS
@pytest.mark.parametrize(
    "sizes",
    [
        {"B": 0},  # no images
        {"Q": 0},  # no queries
        {"P": 0},  # nothing to read
        {"D": 0},  # no channels
    ],
)
def test_nothing_in_gives_zeros_of_the_right_shape(path, sizes) -> None:
    call = random_call(**sizes)
    value, _, _, weights = call
    output, *gradients = with_gradients(call, path)
    assert output.shape == (*weights.shape[:2], weights.shape[2] * value.shape[3])
    assert not output.any()
    for gradient, tensor in zip(gradients, (value, *call[2:]), strict=True):
        assert gradient.shape == tensor.shape
        assert not gradient.any()


@BOTH_PATHS
@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (0.25, 0.25, 1.0),  # centre of the first pixel
        (0.75, 0.75, 4.0),  # centre of the last pixel
        (0.5, 0.25, 1.5),  # between two columns
        (0.25, 0.5, 2.0),  # between two rows
        (0.5, 0.5, 2.5),  # between all four
        (0.0, 0.25, 0.5),  # left edge: half of the pixel is outside
        (1.0, 1.0, 1.0),  # corner: a quarter of the pixel
        (-0.25, 0.25, 0.0),  # a pixel away from the edge pixel's centre
        (1.25, 0.5, 0.0),
        (1e30, -1e30, 0.0),  # further than integers reach
    ],
)
def test_a_sample_is_the_bilinear_mean_with_zeros_outside(path, x, y, expected) -> None:
    image = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    with path():
        assert one_sample(image, x, y).item() == pytest.approx(expected, abs=1e-6)


@BOTH_PATHS
def test_every_head_level_and_point_adds_up_as_defined(path) -> None:
    value, shapes, locations, weights = random_call(dtype=torch.float64)
    with path():
        output = deformable_attention(value, shapes, locations, weights)
    expected = by_hand(value, shapes, locations, weights)
    torch.testing.assert_close(output, expected)


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"B": 1, "Q": 1, "H": 1, "D": 1, "P": 1, "shapes": ((1, 1),)},  # all ones
        {"D": 5, "P": 3, "H": 3, "shapes": ((2, 3), (5, 1), (1, 7))},  # nothing a power of two
        {"Q": 200, "D": 5, "P": 3, "H": 3, "shapes": ((2, 3), (5, 1), (1, 7))},  # many reads a cell
        {"Q": 11, "shapes": ((60, 80), (1, 1))},  # few reads a cell
    ],
)
def test_the_kernel_agrees_with_grid_sample_in_output_and_gradients(sizes) -> None:
    for seed in range(3):
        call = random_call(seed=seed, **sizes)
        found, expected = with_gradients(call), with_gradients(call, portable)
        for ours, theirs in zip(found, expected, strict=True):
            scale = max(1.0, theirs.abs().max().item())
            torch.testing.assert_close(ours / scale, theirs / scale, rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_finite_differences() -> None:
    value, shapes, locations, weights = random_call(B=1, Q=3, dtype=torch.float64)
    leaves = [tensor.requires_grad_() for tensor in (value, locations, weights)]
    assert torch.autograd.gradcheck(
        lambda value, locations, weights: deformable_attention(value, shapes, locations, weights),
        leaves,
    )


@BOTH_PATHS
def test_a_location_moves_by_pixels_of_its_level(path) -> None:
    # value = column + 10 * row: one pixel to the right adds 1, and a level has 8 of them.
    ramp = torch.arange(8.0) + 10 * torch.arange(4.0)[:, None]
    locations = torch.tensor([0.4, 0.55]).reshape(1, 1, 1, 1, 1, 2).requires_grad_()
    with path():
        output = deformable_attention(
            ramp.reshape(1, 32, 1, 1), [(4, 8)], locations, torch.full((1, 1, 1, 1, 1), 3.0)
        )
    output.sum().backward()
    assert locations.grad is not None
    assert locations.grad.flatten().tolist() == pytest.approx([3 * 8 * 1, 3 * 4 * 10], rel=1e-5)


@BOTH_PATHS
def test_a_sample_far_outside_has_no_gradient(path) -> None:
    value, shapes, locations, weights = random_call()
    for gradient in with_gradients((value, shapes, locations + 7, weights), path):
        assert not gradient.any()


@BOTH_PATHS
def test_a_nan_location_makes_only_its_own_query_and_head_nan(path) -> None:
    value, shapes, locations, weights = random_call()
    expected = deformable_attention(value, shapes, locations, weights)
    locations[1, 2, 1, 0, 0, 0] = torch.nan
    with path():
        output = deformable_attention(value, shapes, locations, weights)
    assert output[1, 2, 4:].isnan().all()
    expected[1, 2, 4:] = output[1, 2, 4:] = 0
    torch.testing.assert_close(output, expected)


def test_strides_do_not_matter() -> None:
    call = random_call(Q=40)
    value, shapes, locations, weights = call
    strided = (
        value.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
        shapes,
        locations.repeat_interleave(2, dim=1)[:, ::2],
        weights.expand(3, *weights.shape)[1],
    )
    for found, expected in zip(with_gradients(strided), with_gradients(call), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        assert found.is_contiguous()


@pytest.mark.parametrize("steps", ["none", "two"])
def test_tensors_that_repeat_or_skip_numbers_are_read_right(steps) -> None:
    value, shapes, locations, weights = random_call()
    if steps == "none":
        strided = [tensor.new_tensor(0.3).expand(tensor.shape) for tensor in (value, weights)]
    else:
        strided = [torch.stack((tensor, tensor), dim=-1)[..., 0] for tensor in (value, weights)]
    packed = [tensor.contiguous() for tensor in strided]
    found, *_ = with_gradients((strided[0], shapes, locations, strided[1]))
    expected, *_ = with_gradients((packed[0], shapes, locations, packed[1]))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_the_gradient_of_a_sum_is_read_right() -> None:
    value, shapes, locations, weights = random_call()
    leaves = [tensor.requires_grad_() for tensor in (value, locations, weights)]
    output = deformable_attention(leaves[0], shapes, leaves[1], leaves[2])
    found = torch.autograd.grad(output.sum(), leaves, retain_graph=True)  # one number, repeated
    expected = torch.autograd.grad(output, leaves, torch.ones_like(output))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@BOTH_PATHS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(path, dtype) -> None:
    value, shapes, locations, weights = random_call()
    low = (value.to(dtype), shapes, locations, weights.to(dtype))
    high = (low[0].float(), shapes, locations, low[3].float())
    for found, expected in zip(with_gradients(low, path), with_gradients(high), strict=True):
        assert found.dtype == (torch.float32 if found.dim() == 6 else dtype)
        torch.testing.assert_close(found.float(), expected, rtol=1e-2, atol=1e-2)


def test_one_double_makes_the_sums_double() -> None:
    value, shapes, locations, weights = random_call(dtype=torch.float64)
    found = deformable_attention(value, shapes, locations.float().double(), weights)
    mixed = deformable_attention(value, shapes, locations.float(), weights)
    torch.testing.assert_close(mixed, found, rtol=0, atol=0)


@BOTH_PATHS
def test_autocast_changes_nothing_but_the_inputs(path) -> None:
    call = random_call()
    with torch.autocast("cpu", torch.bfloat16):
        found = with_gradients(call, path)
    for ours, expected in zip(found, with_gradients(call), strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("queries", [5, 400])  # read as it lies, and from a copy by heads
def test_bfloat16_values_are_read_as_they_are_and_results_rounded_once(queries) -> None:
    value, shapes, locations, weights = random_call(Q=queries)
    value = value.bfloat16()
    found = with_gradients((value, shapes, locations, weights))
    wide = with_gradients((value.float(), shapes, locations, weights))
    for ours, expected in zip(found[:2], wide[:2], strict=True):
        assert ours.dtype == torch.bfloat16
        assert torch.equal(ours, expected.bfloat16())
    for ours, expected in zip(found[2:], wide[2:], strict=True):
        torch.testing.assert_close(ours, expected)


def test_other_devices_take_the_portable_path() -> None:
    value, shapes, locations, weights = random_call()
    output = deformable_attention(
        value.to("meta"), shapes, locations.to("meta"), weights.to("meta")
    )
    assert output.shape == (2, 5, 8)


def test_portable_ends_with_its_context_and_nests() -> None:
    def used_kernels() -> bool:
        return "deformable" in str(with_gradients(random_call())[0].grad_fn)

    def fail() -> None:
        with portable():
            with portable():
                assert not used_kernels()
            assert not used_kernels()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert used_kernels()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # by opcheck
@pytest.mark.parametrize("seed", [0, 1])
def test_the_operator_keeps_the_rules_of_torch_library(seed) -> None:
    value, shapes, locations, weights = random_call(seed=seed, Q=3 + 40 * seed)
    leaves = [tensor.requires_grad_() for tensor in (value, locations, weights)]
    sizes = [size for shape in shapes for size in shape]
    operators = torch.ops.aligndetr
    torch.library.opcheck(
        operators.deformable_attention.default, (leaves[0], sizes, leaves[1], leaves[2])
    )
    inputs = (value.detach(), sizes, locations.detach(), weights.detach())
    gradient = torch.ones_like(operators.deformable_attention(*inputs))
    torch.library.opcheck(operators.deformable_attention_backward.default, (gradient, *inputs))


def test_a_compiled_function_has_no_graph_break() -> None:
    value, shapes, locations, weights = random_call()

    def double(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return 2 * deformable_attention(value, shapes, locations, weights)

    compiled = torch.compile(double, backend="aot_eager", fullgraph=True)
    leaves = [tensor.requires_grad_() for tensor in (value, locations, weights)]
    found, expected = compiled(*leaves), double(*leaves)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found.sum(), leaves), torch.autograd.grad(expected.sum(), leaves)
    )


class Attention(torch.nn.Module):
    """What an exporter takes."""

    def forward(self, value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return deformable_attention(value, LEVELS, locations, weights)


@pytest.mark.parametrize(
    ("path", "operator"),
    [(nullcontext, "aligndetr.deformable_attention"), (portable, "aten.grid_sampler")],
)
def test_an_exported_graph_has_the_operator_of_its_path(path, operator) -> None:
    value, _, locations, weights = random_call()
    queries = torch.export.Dim("queries", min=2)
    with path():
        program = torch.export.export(
            Attention(),
            (value, locations, weights),
            dynamic_shapes=(None, {1: queries}, {1: queries}),
        )
    names = [str(node.target) for node in program.graph.nodes]
    assert any(name.startswith(operator) for name in names)
    assert path is nullcontext or not any(name.startswith("aligndetr") for name in names)
    longer = random_call(Q=9)
    torch.testing.assert_close(
        program.module()(longer[0], *longer[2:]), deformable_attention(*longer)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda v, s, p, w: (v, ((3, 4),), p, w),
            r"expected 12 tokens in value for levels \(\(3, 4\),\), found 13",
        ),
        (
            lambda v, s, p, w: (v, ((-3, -4), (1, 1)), p, w),
            r"expected shapes as \(height, width\) above 0, found \(\(-3, -4\), \(1, 1\)\)",
        ),
        (
            lambda v, s, p, w: (v.flatten(2), s, p, w),
            r"expected value \(B, S, H, D\) and locations .*, found \(2, 13, 8\) and \(2, 5, 2, 2",
        ),
        (
            lambda v, s, p, w: (v, s, p, w[:, 1:]),
            r"expected locations \(2, 5, 2, 2, 2, 2\) and weights \(2, 5, 2, 2, 2\), found .*"
            r" and \(2, 4, 2, 2, 2\)",
        ),
        (
            lambda v, s, p, w: (v[:, :, :1], s, p, w),
            r"expected locations \(2, 5, 1, 2, 2, 2\) .* found \(2, 5, 2, 2, 2, 2\)",
        ),
    ],
)
def test_shapes_that_do_not_fit_are_refused(change, message) -> None:
    with pytest.raises(ValueError, match=f"deformable_attention: {message}"):
        deformable_attention(*change(*random_call()))


def test_a_second_derivative_is_refused_and_had_by_the_other_path():
    value, shapes, locations, weights = random_call(dtype=torch.float64)

    def second() -> Tensor:
        leaves = [tensor.detach().requires_grad_() for tensor in (value, weights)]
        output = deformable_attention(leaves[0], shapes, locations, leaves[1])
        (first,) = torch.autograd.grad(output.square().sum(), leaves[0], create_graph=True)
        return torch.autograd.grad(first.square().sum(), leaves[1])[0]

    with pytest.raises(RuntimeError, match="no second derivative"):
        second()
    with portable():
        assert second().abs().sum() > 0
