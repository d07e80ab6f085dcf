import pytest
import torch

from aligndetr.config.presets import get_detr
from aligndetr.config.schema import Config
from aligndetr.config.slots import Backbone, Decoder, DeformableEncoder, TopQueries
from aligndetr.types import ImageBatch, Targets


@pytest.fixture
def small_config() -> Config:
    """A whole Align-DINO that runs in milliseconds."""
    return get_detr("align-dino-lite").model_copy(
        update={
            "num_classes": 4,
            "width": 32,
            "heads": 4,
            "backbone": Backbone(name="resnet10t", pretrained=False, freeze=0, norm="trained"),
            "encoder": DeformableEncoder(layers=1, feedforward=32),
            "queries": TopQueries(count=12),
            "decoder": Decoder(layers=3, feedforward=32),
            "precision": "fp32",
        }
    )


@pytest.fixture
def images() -> ImageBatch:
    torch.manual_seed(0)
    return ImageBatch(torch.randn(2, 3, 64, 96), None, torch.tensor([[64, 96], [128, 192]]))


@pytest.fixture
def targets() -> Targets:
    torch.manual_seed(1)
    boxes = torch.rand(3, 4) * 0.3 + 0.3
    return Targets(boxes, torch.tensor([0, 3, 1]), (2, 1))
