from typing import Any

import pytest
import torch
from torch import nn

from aligndetr.model.neck import Neck
from aligndetr.types import Features


def neck(levels: int = 3, **options: Any) -> Neck:
    torch.manual_seed(0)
    return Neck((8, 16), 32, levels=levels, temperature=20.0, offset=0.0, **options)


def features(padding: torch.Tensor | None = None) -> Features:
    torch.manual_seed(1)
    maps = (torch.randn(2, 8, 8, 12), torch.randn(2, 16, 4, 6))
    return Features(maps, padding, torch.tensor([[32, 48]] * 2))


@pytest.mark.parametrize(
    ("levels", "shapes"),
    [
        (2, ((8, 12), (4, 6))),
        (3, ((8, 12), (4, 6), (2, 3))),
        (4, ((8, 12), (4, 6), (2, 3), (1, 2))),
    ],
)
def test_levels_beyond_the_backbone_halve_the_size(levels, shapes):
    memory = neck(levels)(features())
    assert memory.shapes == shapes
    assert memory.tokens.shape == (2, sum(h * w for h, w in shapes), 32)
    assert memory.padding is None
    assert memory.valid_ratios.eq(1).all()


def test_tokens_run_row_by_row_through_each_level():
    part = neck()
    memory = part(features())
    projected = part.projections[0](features().levels[0])
    torch.testing.assert_close(memory.tokens[:, 12 + 5], projected[:, :, 1, 5])


def test_the_first_extra_level_comes_from_the_raw_last_map():
    part = neck()
    memory = part(features())
    extra = part.projections[2](features().levels[1])
    torch.testing.assert_close(memory.tokens[:, 96 + 24 :], extra.flatten(2).transpose(1, 2))


def test_padding_marks_tokens_and_shortens_the_valid_part():
    padding = torch.zeros(2, 32, 48, dtype=torch.bool)
    padding[1, 16:] = True
    padding[1, :, 36:] = True
    memory = neck()(features(padding))
    assert memory.padding is not None
    assert not memory.padding[0].any()
    finest = ~memory.padding[1, :96].view(8, 12)
    assert finest.sum() == 4 * 9
    assert finest[:4, :9].all()
    torch.testing.assert_close(memory.valid_ratios[1, 0], torch.tensor([0.75, 0.5]))
    torch.testing.assert_close(memory.valid_ratios[0], torch.ones(3, 2))


def test_one_position_serves_all_images_without_padding():
    memory = neck()(features())
    assert memory.position.shape[0] == 1
    padded = neck()(features(torch.zeros(2, 32, 48, dtype=torch.bool)))
    torch.testing.assert_close(padded.position, memory.position.expand(2, -1, -1))


@pytest.mark.parametrize("levels", [3, 4])
def test_levels_beyond_the_backbone_may_be_pooled(levels: int):
    part = neck(levels, extra="pooling")
    assert len(part.projections) == 2
    memory = part(features())
    level = part.projections[1](features().levels[1])
    for shape in ((2, 3), (1, 2))[: levels - 2]:
        padded = nn.functional.pad(level, (1, 1, 1, 1), value=-torch.inf)
        level = padded.unfold(2, 3, 2).unfold(3, 3, 2).amax((-2, -1))
        assert level.shape[2:] == shape
    torch.testing.assert_close(memory.tokens[:, -level[0, 0].numel() :], level.flatten(2).mT)
    assert memory.shapes[2:] == ((2, 3), (1, 2))[: levels - 2]


def test_more_maps_than_levels_leave_the_coarsest_out():
    memory = neck(1)(features())
    assert memory.shapes == ((8, 12),)
    assert memory.valid_ratios.shape == (2, 1, 2)


def test_projections_may_lack_a_norm():
    part = neck(has_norm=False)
    assert not any(isinstance(module, nn.GroupNorm) for module in part.modules())
    projection = part.projections[0]
    assert isinstance(projection, nn.Sequential)
    (convolution,) = projection
    memory = part(features())
    expected = convolution(features().levels[0]).flatten(2).mT
    torch.testing.assert_close(memory.tokens[:, :96], expected)


def test_levels_may_have_vectors_of_their_own_added_to_positions():
    part = neck()
    with_vectors = part(features()).position
    plain = neck(embeds_levels=False)
    assert plain.level is None
    difference = with_vectors - plain(features()).position
    assert part.level is not None
    for level, (start, stop) in enumerate(((0, 96), (96, 120), (120, 126))):
        expected = part.level[level].expand(1, stop - start, -1)
        torch.testing.assert_close(difference[:, start:stop], expected, atol=1e-6, rtol=1e-4)


def half_padded() -> torch.Tensor:
    padding = torch.zeros(2, 32, 48, dtype=torch.bool)
    padding[:, 16:] = True
    return padding


def test_padding_may_be_seen_in_evaluation_and_never_in_training():
    part = neck(sees_padding_in_evaluation=True)
    assert part.train()(features(half_padded())).padding is not None
    seen = part.eval()(features(half_padded()))
    assert seen.padding is None
    assert seen.valid_ratios.eq(1).all()
    torch.testing.assert_close(seen.position, part(features()).position)
    assert neck().eval()(features(half_padded())).padding is not None


@pytest.mark.parametrize(
    ("extra", "size_hw"),
    [
        ("convolution", (8, 12)),
        ("convolution", (6, 10)),
        ("convolution", (5, 7)),
        ("pooling", (8, 12)),  # of odd maps the last cells see what is beside them
    ],
)
@torch.no_grad()
def test_tokens_of_an_image_do_not_depend_on_its_padding(extra: str, size_hw: tuple[int, int]):
    """Without group norm, whose statistics are those of the whole map, as everywhere."""
    part = neck(3, extra=extra, has_norm=False)
    torch.manual_seed(2)
    coarse = tuple(-(-side // 2) for side in size_hw)
    maps = (torch.randn(1, 8, *size_hw), torch.randn(1, 16, *coarse))
    larger = (torch.zeros(1, 8, 16, 24), torch.zeros(1, 16, 8, 12))
    for level, whole in zip(maps, larger, strict=True):
        whole[..., : level.shape[2], : level.shape[3]] = level
    padding = torch.ones(1, 64, 96, dtype=torch.bool)
    padding[:, : 4 * size_hw[0], : 4 * size_hw[1]] = False
    sizes = torch.tensor([[4 * side for side in size_hw]])
    alone = part(Features(maps, None, sizes))
    found = part(Features(larger, padding, sizes))
    assert found.padding is not None
    kept = ~found.padding[0]
    torch.testing.assert_close(found.tokens[:, kept], alone.tokens)
    torch.testing.assert_close(found.position[:, kept], alone.position, atol=1e-4, rtol=1e-4)
