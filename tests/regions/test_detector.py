"""The region detector against torchvision's own, and alone against in a batch."""

from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import MultiScaleRoIAlign

from aligndetr.config.regions import Proposals, RegionHead
from aligndetr.config.schema import Data, RegionConfig
from aligndetr.config.slots import Backbone
from aligndetr.data.batch import collate
from aligndetr.data.transforms import LightAugmentation, Sample
from aligndetr.model.build import build_model
from aligndetr.regions.detector import LOSSES, AnchorGrid, RegionDetector
from aligndetr.train.features import CachedView, collate_views
from aligndetr.types import Features, ImageBatch, RegionOutput, Targets, boxes_in_pixels

CPU = torch.device("cpu")
SIZES, COUNT = (16, 32, 64, 128), 50


def config_of(name: str = "resnet10t", **changes: Any) -> RegionConfig:
    config = RegionConfig(
        name="small",
        num_classes=4,
        width=16,
        backbone=Backbone(name=name, strides=(8, 16, 32), pretrained=False, freeze=0),
        proposals=Proposals(sizes=SIZES, count=COUNT, training_count=COUNT),
        head=RegionHead(hidden=32, samples=64),
        data=Data(augmentation=LightAugmentation()),
        precision="fp32",
    )
    return config.model_copy(update=changes)


def build(config: RegionConfig) -> RegionDetector:
    """Return a detector that finds something: its last layers are larger than at the start."""
    torch.manual_seed(0)
    model, _ = build_model(config, device=CPU)
    for name, parameter in model.named_parameters():
        if name.endswith(("cls_logits.weight", "cls_score.weight", "bbox_pred.weight")):
            parameter.data.mul_(20)
    return model.eval()


@pytest.fixture(scope="module")
def model() -> RegionDetector:
    return build(config_of())


def samples(*sizes: tuple[int, int]) -> list[Sample]:
    """Return random images, and in each a box of a third of it."""
    generator = torch.Generator().manual_seed(5)
    return [
        Sample(
            torch.randn(3, *size, generator=generator),
            torch.tensor([[0.4, 0.5, 0.3, 0.35]]),
            torch.tensor([row % 4]),
            row,
            size,
        )
        for row, size in enumerate(sizes)
    ]


def images_of(*sizes: tuple[int, int]) -> ImageBatch:
    images = collate(samples(*sizes)).images
    assert isinstance(images, ImageBatch)
    return images


def assert_alike(output: RegionOutput, other: RegionOutput, *, atol: float = 1e-4) -> None:
    for one, another in zip(output.boxes, other.boxes, strict=True):
        torch.testing.assert_close(one, another, atol=atol, rtol=0)
    for one, another in zip(output.scores, other.scores, strict=True):
        torch.testing.assert_close(one, another, atol=atol, rtol=0)
    assert [labels.tolist() for labels in output.labels] == [
        labels.tolist() for labels in other.labels
    ]


# Against torchvision


class Maps(nn.Module):
    """Backbone and pyramid of a detector as torchvision wants them."""

    def __init__(self, detector: RegionDetector, width: int) -> None:
        super().__init__()
        self.network, self.pyramid, self.out_channels = (
            detector.backbone.network,
            detector.pyramid,
            width,
        )

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        return self.pyramid({str(i): level for i, level in enumerate(self.network(pixels))})


def torchvision_of(detector: RegionDetector, config: RegionConfig, short_side: int) -> FasterRCNN:
    """Return torchvision's detector with the same weights; it leaves images as they are."""
    theirs = FasterRCNN(
        Maps(detector, config.width),
        min_size=short_side,
        max_size=10_000,
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
        rpn_anchor_generator=AnchorGenerator(
            tuple((size,) for size in SIZES), ((0.5, 1.0, 2.0),) * 4
        ),
        rpn_pre_nms_top_n_train=COUNT,
        rpn_pre_nms_top_n_test=COUNT,
        rpn_post_nms_top_n_train=COUNT,
        rpn_post_nms_top_n_test=COUNT,
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2"], 7, 2),
        box_head=TwoMLPHead(config.width * 49, config.head.hidden),
        box_predictor=FastRCNNPredictor(config.head.hidden, config.num_classes + 1),
        box_batch_size_per_image=config.head.samples,
    )
    theirs.rpn.load_state_dict(detector.proposals.state_dict())
    heads = detector.heads.state_dict()
    theirs.roi_heads.load_state_dict(
        {name.replace("box_head.0.", "box_head."): tensor for name, tensor in heads.items()}
    )
    return theirs.train(detector.training)


@torch.no_grad()
def test_what_is_found_is_what_torchvision_finds(model: RegionDetector) -> None:
    images = images_of((128, 192), (128, 192))
    output = model(images)
    theirs = torchvision_of(model, config_of(), 128)(list(images.pixels))
    for row, found in enumerate(theirs):
        assert len(found["scores"]) > 5
        pixels = boxes_in_pixels(output.boxes[row], torch.tensor([128, 192]))
        torch.testing.assert_close(pixels, found["boxes"], atol=1e-3, rtol=0)
        torch.testing.assert_close(output.scores[row], found["scores"])
        assert torch.equal(output.labels[row], found["labels"] - 1)


def test_losses_are_those_of_torchvision() -> None:
    """So small that all anchor boxes and proposals are trained on, and nothing is drawn."""
    model = build(config_of()).train()
    batch = collate(samples((64, 64), (64, 64)))
    ours = model(batch.images, batch.targets).losses
    boxes = boxes_in_pixels(batch.targets.boxes, torch.tensor([64, 64])).unsqueeze(1)
    objects = [
        {"boxes": box, "labels": label.view(1) + 1}
        for box, label in zip(boxes, batch.targets.labels, strict=True)
    ]
    images = cast(ImageBatch, batch.images)
    theirs = torchvision_of(model, config_of(), 64)(list(images.pixels), objects)
    torch.testing.assert_close(ours, {LOSSES[name]: theirs[name] for name in theirs})


# Whatever shares a batch


@pytest.mark.parametrize("name", ["resnet10t", "tf_efficientnet_lite0"])
@torch.no_grad()
def test_an_image_is_found_alike_whatever_shares_its_batch(name: str) -> None:
    """Sizes are no multiples of any stride; lite0 pads by the size of what it gets."""
    model = build(config_of(name))
    together = model(images_of((75, 102), (128, 90), (75, 102)))
    batch = images_of((75, 102), (128, 90), (75, 102))
    for row, (height, width) in enumerate(((75, 102), (128, 90), (75, 102))):
        pixels = batch.pixels[row : row + 1, :, :height, :width]
        alone = model(ImageBatch(pixels, None, batch.sizes[row : row + 1]))
        assert len(alone.scores[0]) > 3
        one = (together.boxes[row],), (together.scores[row],), (together.labels[row],)
        assert_alike(RegionOutput({}, *one), alone)


@torch.no_grad()
def test_cached_features_give_what_images_give(model: RegionDetector) -> None:
    sizes = (75, 102), (64, 90)
    views = [
        CachedView(
            tuple(level[0] for level in model.features(prepared(sample)).levels),
            sample.size,
            sample.boxes,
            sample.labels,
            sample.image_id,
            torch.tensor(sample.size),
        )
        for sample in samples(*sizes)
    ]
    assert_alike(model(collate_views(views).images), model(images_of(*sizes)))
    alone = collate_views(views[:1]).images
    assert alone.padding is None
    assert_alike(model(alone), model(images_of(sizes[0])))


def prepared(sample: Sample) -> ImageBatch:
    return ImageBatch(sample.pixels[None], None, torch.tensor([sample.size]))


def test_each_image_has_an_equal_share_of_the_losses() -> None:
    """So small that all anchor boxes and proposals are trained on, and nothing is drawn."""
    model = build(config_of()).train()
    batch = collate(samples((64, 64), (40, 64)))
    features = model.features(cast(ImageBatch, batch.images))
    together = model(features, batch.targets).losses
    each = [
        model(
            Features(
                tuple(
                    level[row : row + 1, :, : -(-height // stride)]
                    for level, stride in zip(features.levels, (8, 16, 32), strict=True)
                ),
                None,
                features.sizes[row : row + 1],
                (height, 64),
            ),
            Targets(batch.targets.boxes[row : row + 1], batch.targets.labels[row : row + 1], (1,)),
        ).losses
        for row, height in enumerate((64, 40))
    ]
    for name, value in together.items():
        torch.testing.assert_close(value, (each[0][name] + each[1][name]) / 2)


# Training


def test_training_needs_targets() -> None:
    model = build(config_of()).train()
    with pytest.raises(ValueError, match="expected targets in training mode, found none"):
        model(images_of((64, 64)))


def test_images_without_objects_train() -> None:
    config = config_of()
    model = build(config).train()
    empty = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), (0, 0))
    losses = config.criterion(model(images_of((64, 96), (96, 64)), empty), empty)
    torch.stack(list(losses.values())).sum().backward()
    assert all(bool(value.isfinite()) for value in losses.values())
    assert losses["proposals.box"] == losses["regions.box"] == 0
    assert losses["proposals.objectness"] > 0


def test_every_trained_parameter_gets_a_gradient() -> None:
    config = config_of()
    model = build(config).train()
    batch = collate(samples((64, 96), (96, 64)))
    losses = config.criterion(model(batch.images, batch.targets), batch.targets)
    torch.stack(list(losses.values())).sum().backward()
    idle = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    ]
    assert idle == []


@pytest.mark.slow
def test_a_batch_is_learnt_by_heart() -> None:
    config = config_of()
    torch.manual_seed(0)
    model, _ = build_model(config, device=CPU)
    batch = collate(samples((64, 96), (96, 64)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model.train()
    for _ in range(300):
        losses = config.criterion(model(batch.images, batch.targets), batch.targets)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
    output = model.eval()(batch.images)
    for row in range(2):
        assert output.labels[row][0] == batch.targets.labels[row]
        torch.testing.assert_close(
            output.boxes[row][0], batch.targets.boxes[row], atol=0.05, rtol=0
        )


def test_bfloat16_stays_close_to_float32() -> None:
    images = images_of((128, 192))
    exact, rough = build(config_of()), build(config_of(precision="bf16"))
    with torch.no_grad():
        one, other = exact(images), rough(images)
    assert other.boxes[0].dtype == other.scores[0].dtype == torch.float32
    torch.testing.assert_close(other.scores[0][:5], one.scores[0][:5], atol=0.05, rtol=0)


# Parts


def test_anchor_boxes_stand_at_fixed_strides() -> None:
    grid = AnchorGrid((8, 16), (1.0,), (8, 16))
    images = ImageList(torch.zeros(2, 3, 9, 17), [(9, 17)] * 2)
    one, other = grid(images, [torch.zeros(2, 1, 2, 3), torch.zeros(2, 1, 1, 2)])
    fine = [[x - 4, y - 4, x + 4, y + 4] for y in (0, 8) for x in (0, 8, 16)]
    coarse = [[x - 8, -8, x + 8, 8] for x in (0, 16)]
    assert one.tolist() == other.tolist() == [*fine, *coarse]


def test_full_size_has_the_parameters_of_the_paper() -> None:
    config = RegionConfig(name="full", data=Data(augmentation=LightAugmentation()))
    model, _ = build_model(config, device=CPU, pretrained=False)
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(
        42e6, abs=0.5e6
    )
    classes = [name for name in model.state_dict() if "box_predictor." in name]
    assert [tuple(model.state_dict()[name].shape) for name in classes] == [
        (81, 1024),
        (81,),
        (324, 1024),
        (324,),
    ]
