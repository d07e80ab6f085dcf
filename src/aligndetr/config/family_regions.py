"""Faster R-CNN with a feature pyramid: the yardstick that is not a DETR, large and small."""

from aligndetr.config.laptop import align_dino_lite
from aligndetr.config.regions import Proposals, RegionHead
from aligndetr.config.schema import CosineSchedule, Data, RegionConfig, StepSchedule, Training
from aligndetr.data.transforms import DetrAugmentation


def faster_rcnn() -> RegionConfig:
    """Faster R-CNN FPN, ResNet-50 (arXiv:1506.01497, 1612.03144): AP 42.0 after 108 epochs.

    The network is torchvision's, augmentation and length are those of DETR's comparison ("+" in
    arXiv:2005.12872, Table 1), where the row of the Align-DETR paper's Table 3 comes from. That one
    had GIoU for its box loss, and SGD; here AdamW, with mmdetection's rate and decay for it.
    `aligndetr train --model faster-rcnn-r50-fpn --data COCO --out RUN`.
    """
    return RegionConfig(
        name="faster-rcnn-r50-fpn",
        data=Data(augmentation=DetrAugmentation()),
        training=Training(
            epochs=108,
            backbone_factor=1.0,
            weight_decay=0.1,
            clip_norm=10.0,
            # 60k and 20k iterations before the end of 810k (arXiv:1811.08883, section 4.1).
            schedule=StepSchedule(milestones=(75 / 81, 79 / 81), warmup=0.001),
        ),
    )


def faster_rcnn_lite() -> RegionConfig:
    """A small Faster R-CNN to compare `align-dino-lite` with: its backbone, images and training.

    The learning rate falls from 8e-4 to 0: with its rival's, AP was .47 instead of .50 on BCCD.
    Anchor boxes are three times the stride, not eight: on 205 pictures of blood cells (BCCD), after
    150 steps, that gave AP .52; two times gave .43, four times .50.
    """
    rival = align_dino_lite()
    return RegionConfig(
        name="faster-rcnn-lite",
        width=rival.width,
        backbone=rival.backbone,
        proposals=Proposals(sizes=(24, 48, 96, 192), count=300, training_count=500),
        head=RegionHead(hidden=256, samples=128),
        data=rival.data,
        training=rival.training.model_copy(
            update={"learning_rate": 8e-4, "schedule": CosineSchedule()}
        ),
    )
