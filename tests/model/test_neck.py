import pytest
import torch

from aligndetr.model.neck import Neck
from aligndetr.types import Features


def neck(levels: int = 3) -> Neck:
    torch.manual_seed(0)
    return Neck((8, 16), 32, levels=levels, temperature=20.0, offset=0.0)


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
