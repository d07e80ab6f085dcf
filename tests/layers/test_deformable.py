import math

import pytest
import torch

from aligndetr.layers.deformable import DeformableAttention

SHAPES = ((4, 6), (2, 3))


def module() -> DeformableAttention:
    torch.manual_seed(0)
    attention = DeformableAttention(16, 4, levels=2, points=3)
    for parameter in attention.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return attention


def bilinear(plane: torch.Tensor, x: float, y: float) -> torch.Tensor:
    """Read an (h, w, d) plane at pixel x, y, zeros outside."""
    height, width, _ = plane.shape
    total = torch.zeros(plane.shape[-1])
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < height and 0 <= column < width:
                total += plane[row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
    return total


def oracle(attention, query, reference, tokens, padding):
    """Equation 3 of Deformable DETR, a sample at a time, for one image."""
    value = attention.value(tokens)
    value[padding] = 0
    heads, levels, points = attention.heads, attention.levels, attention.points
    out = []
    for q, ref in zip(query, reference, strict=True):
        offsets = attention.offsets(q).view(heads, levels, points, 2)
        weights = attention.weights(q).view(heads, -1).softmax(-1).view(heads, levels, points)
        per_head = []
        for h in range(heads):
            total, start = torch.zeros(4), 0
            for level, (height, width) in enumerate(SHAPES):
                plane = value[start : start + height * width].view(height, width, heads, 4)[:, :, h]
                start += height * width
                for p in range(points):
                    step = offsets[h, level, p]
                    if ref.shape[-1] == 2:
                        place = ref[level] + step / torch.tensor([width, height])
                    else:
                        place = ref[level, :2] + step / points * ref[level, 2:] * 0.5
                    x, y = (place * torch.tensor([width, height]) - 0.5).tolist()
                    total = total + weights[h, level, p] * bilinear(plane, x, y)
            per_head.append(total)
        out.append(torch.cat(per_head))
    return attention.output(torch.stack(out))


@pytest.mark.parametrize("size", [2, 4])  # points and boxes as references
@torch.no_grad()
def test_equals_the_formula_sample_by_sample(size: int):
    attention = module()
    query, tokens = torch.randn(2, 5, 16), torch.randn(2, 30, 16)
    reference = torch.rand(2, 5, 2, size) * 0.8 + 0.1
    padding = torch.rand(2, 30) < 0.2
    found = attention(query, reference, tokens, SHAPES, padding)
    for image in range(2):
        expected = oracle(attention, query[image], reference[image], tokens[image], padding[image])
        torch.testing.assert_close(found[image], expected, atol=1e-5, rtol=1e-4)


def test_a_fresh_module_reads_along_one_ray_a_head():
    attention = DeformableAttention(16, 4, levels=2, points=3)
    bias = attention.offsets.bias.view(4, 2, 3, 2)
    directions = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    for point in range(3):
        for level in range(2):
            torch.testing.assert_close(
                bias[:, level, point], directions * (point + 1), atol=1e-6, rtol=0
            )
    assert attention.weights.weight.abs().max() == 0
