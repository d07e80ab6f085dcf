import pytest
import torch

from aligndetr.model.build import build_model
from aligndetr.types import ImageBatch

CPU = torch.device("cpu")


@pytest.fixture
def model(small_config):
    torch.manual_seed(0)
    built, _ = build_model(small_config, device=CPU)
    for parameter in built.decoder.parameters():  # so that no head starts at zero
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return built


def test_training_adds_denoising_in_front(model, images, targets):
    output = model.train()(images, targets)
    assert [group.name for group in output.groups] == ["denoising", "main"]
    assert output.layers[0].logits.shape[1] == output.groups[1].span[1]
    assert output.main.logits.shape == (2, 12, 4)


@torch.no_grad()
def test_features_in_place_of_images_give_the_same(model, images):
    model.eval()
    direct, cached = model(images).main, model(model.features(images)).main
    torch.testing.assert_close(direct.boxes, cached.boxes)
    torch.testing.assert_close(direct.logits, cached.logits)


@torch.no_grad()
def test_padding_does_not_change_an_image(model):
    """The same image alone, and padded beside a larger one: the network must not notice."""
    model.eval()
    torch.manual_seed(3)
    small, large = torch.randn(3, 64, 64), torch.randn(3, 128, 128)
    pixels = torch.zeros(2, 3, 128, 128)
    pixels[0, :, :64, :64], pixels[1] = small, large
    padding = torch.zeros(2, 128, 128, dtype=torch.bool)
    padding[0, 64:] = True
    padding[0, :, 64:] = True
    both = ImageBatch(pixels, padding, torch.tensor([[64, 64], [128, 128]]))
    alone = ImageBatch(large[None], None, torch.tensor([[128, 128]]))
    batch, single = model(both).main, model(alone).main
    torch.testing.assert_close(batch.boxes[1:], single.boxes, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(batch.logits[1:], single.logits, atol=1e-4, rtol=1e-4)


def test_bfloat16_stays_close_to_float32(model, images):
    model.eval()
    with torch.no_grad():
        exact = model(images).proposals
        model.precision = torch.bfloat16
        rough = model(images).proposals
    assert rough.logits.dtype == torch.float32
    best, other = rough.logits.amax(-1).sort().values, exact.logits.amax(-1).sort().values
    assert float((best - other).abs().mean()) < 0.05
