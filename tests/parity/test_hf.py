"""Our networks at the weights of transformers' detectors, from the same pixels."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from aligndetr.types import Features
from parity.goldens import Golden
from parity.published import Published, weights_of

EVERY_CASE = pytest.mark.goldens("hf", "*.safetensors", has=("logits", "pred_boxes"))


def convolved(x: Tensor, weights: dict[str, Tensor], name: str, stride: int) -> Tensor:
    """Convolution and frozen norm, as transformers names them."""
    kernel = weights[f"{name}.convolution.weight"]
    x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
    mean, variance, scale, shift = (
        weights[f"{name}.normalization.{part}"]
        for part in ("running_mean", "running_var", "weight", "bias")
    )
    return F.batch_norm(x, mean, variance, scale, shift)


def maps_of(pixels: Tensor, weights: dict[str, Tensor]) -> list[Tensor]:
    """The maps of transformers' ResNet of basic blocks, an oracle of its own."""
    x = convolved(pixels, weights, "embedder.embedder", 2).relu()
    x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
    maps: list[Tensor] = []
    stage = 0
    while any(name.startswith(f"encoder.stages.{stage}.") for name in weights):
        block = 0
        while any(name.startswith(f"encoder.stages.{stage}.layers.{block}.") for name in weights):
            name = f"encoder.stages.{stage}.layers.{block}"
            stride = 2 if stage > 0 and block == 0 else 1
            y = convolved(x, weights, f"{name}.layer.0", stride).relu()
            y = convolved(y, weights, f"{name}.layer.1", 1)
            if f"{name}.shortcut.convolution.weight" in weights:
                x = convolved(x, weights, f"{name}.shortcut", stride)
            x = (x + y).relu()
            block += 1
        maps.append(x)
        stage += 1
    return maps


def features_of(golden: Golden, published: Published) -> Features:
    inputs = golden.other("hf/pixels.safetensors")
    arrays = Golden.read(weights_of(golden)).arrays
    marks = ("backbone.conv_encoder.model.", "backbone.model.")
    weights = {
        name.split(mark, 1)[1]: value.float()
        for name, value in arrays.items()
        for mark in marks
        if mark in name
    }
    levels = tuple(maps_of(inputs["pixel_values"].float(), weights))
    channels = len(published.model.backbone.channels)
    padding = ~inputs["pixel_mask"].bool()
    sizes = torch.tensor([padding.shape[1:]] * len(padding))
    return Features(levels[-channels:], padding, sizes)


@EVERY_CASE
@torch.no_grad()
def test_memory_and_predictions_equal_those_of_transformers(golden: Golden):
    published = Published(golden)
    model = published.model.eval()
    features = features_of(golden, published)
    memory = model.encoder(model.neck(features))
    expected = golden["encoder_last_hidden_state"]
    torch.testing.assert_close(memory.tokens, expected, atol=1e-5, rtol=0)
    output = model(features)
    torch.testing.assert_close(output.main.logits, golden["logits"], atol=1e-5, rtol=0)
    torch.testing.assert_close(output.main.boxes, golden["pred_boxes"], atol=1e-5, rtol=0)
