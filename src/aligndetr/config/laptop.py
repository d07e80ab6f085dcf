"""Presets for small machines: the same code with a light backbone, fewer layers and queries."""

from aligndetr.config.family_deformable import dino
from aligndetr.config.schema import Config, CosineSchedule, Data, Postprocess, Training
from aligndetr.config.slots import (
    Backbone,
    ContrastiveDenoising,
    Decoder,
    DeformableEncoder,
    Encoder,
    ExtraGroups,
    Neck,
    Position,
    Queries,
    TopQueries,
)
from aligndetr.config.variants import align
from aligndetr.data.transforms import LightAugmentation


def align_dino_lite() -> Config:
    """A small Align-DINO for a laptop: frozen EfficientNet-Lite0, 128 wide, 1 + 3 layers.

    Features of the frozen backbone are computed once and kept; see docs/own-data.md. The
    reasons for its values are in docs/laptop.md: of those that differ from the paper's, one
    positive an object and twice the class loss gave AP50 +.03 after three minutes on 205 pictures
    of blood cells (BCCD), no duplicates above IoU 0.8 another +.02 after ten, a learning rate of
    1.4e-3 that falls to a fifth AP +.03 after 250 steps against 8e-4 that falls to 0, batches of 4
    AP +.02 against half as many steps with 8.
    """
    parent = align(dino(), k=1)
    criterion = parent.criterion.model_copy(update={"class_weight": 2.0})
    return parent.model_copy(
        update={
            "name": "align-dino-lite",
            "width": 128,
            "heads": 4,
            "backbone": Backbone(
                name="tf_efficientnet_lite0",
                freeze="all",
                mean=(0.5, 0.5, 0.5),
                std=(0.5, 0.5, 0.5),
            ),
            "position": Position(temperature=20.0),
            "neck": Neck(levels=3),
            "encoder": DeformableEncoder(layers=1, feedforward=512),
            "queries": TopQueries(count=100),
            "decoder": Decoder(layers=3, feedforward=512),
            "denoising": ContrastiveDenoising(queries=30),
            "criterion": criterion,
            "postprocess": Postprocess(nms_iou=0.8),
            "data": Data(
                augmentation=LightAugmentation(short_side=288, max_side=384),
                batch_size=4,
                eval_batch_size=8,
                cache_features=True,
                cached_views=16,
            ),
            "training": Training(
                epochs=40,
                learning_rate=1.4e-3,
                clip_norm=1.0,
                schedule=CosineSchedule(floor=0.2),
                ema=0.99,
                autoconfig=True,
            ),
        }
    )


def align_dino_tiny() -> Config:
    """The smallest Align-DINO: 128-pixel images, no encoder; for a demonstration in minutes."""
    parent = align_dino_lite()
    return parent.model_copy(
        update={
            "name": "align-dino-tiny",
            "encoder": DeformableEncoder(layers=0, feedforward=512),
            "data": parent.data.model_copy(
                update={
                    "augmentation": LightAugmentation(short_side=128, max_side=128),
                    "batch_size": 16,
                    "eval_batch_size": 16,
                    "cached_views": 2,
                }
            ),
            "training": parent.training.model_copy(
                update={
                    "learning_rate": 1.2e-3,
                    "schedule": CosineSchedule(),
                    "autoconfig": False,
                }
            ),
        }
    )


def align_dino_small() -> Config:
    """A middle-sized Align-DINO for one GPU, or an hour on a CPU: ConvNeXt-Nano, 192 wide, 2 + 4.

    A backbone of 15.6 M parameters, trained on ImageNet-12k and fine-tuned here from its second
    stage on, at 640 pixels. Its values are between those of `align-dino-lite` and of the paper;
    no training has confirmed them yet.
    """
    parent = align_dino_lite()
    return parent.model_copy(
        update={
            "name": "align-dino-small",
            "width": 192,
            "heads": 6,
            "backbone": Backbone(name="convnext_nano.in12k_ft_in1k", freeze=1),
            "encoder": DeformableEncoder(layers=2, feedforward=768),
            "queries": TopQueries(count=300),
            "decoder": Decoder(layers=4, feedforward=768),
            "denoising": ContrastiveDenoising(),
            "data": Data(
                augmentation=LightAugmentation(short_side=480, max_side=640, zoom=(0.5, 1.6)),
                batch_size=8,
                eval_batch_size=8,
            ),
            "training": parent.training.model_copy(
                update={
                    "epochs": 36,
                    "learning_rate": 4e-4,
                    "schedule": CosineSchedule(),
                    "ema": 0.998,
                }
            ),
        }
    )


def shrunk(config: Config) -> Config:
    """Return any system at the size of `align-dino-tiny`, to compare systems on a laptop.

    What makes the system stays: its attention, queries, refinement, groups and losses. Width,
    layers, queries and images become small, the backbone a frozen EfficientNet-Lite0 whose features
    are kept, the recipe that of `align-dino-tiny`. Single-scale systems read stride 16.
    """
    tiny = align_dino_tiny()
    levels = 1 if config.neck.levels == 1 else 3
    is_pooled = config.neck.extra == "pooling"
    strides = {1: (16,), 3: (8, 16) if is_pooled else (8, 16, 32)}[levels]
    slots = {
        "neck": config.neck.model_copy(update={"levels": levels}),
        "backbone": tiny.backbone.model_copy(update={"strides": strides}),
        "encoder": _small_encoder(config.encoder),
        "queries": _small_queries(config.queries),
        "decoder": config.decoder.model_copy(
            update={"layers": 3, "feedforward": 512, "dropout": 0.0}
        ),
        "groups": config.groups and _small_groups(config.groups),
    }
    others = {"width": tiny.width, "heads": tiny.heads, "data": tiny.data}
    return config.model_copy(
        update=slots
        | others
        | {
            "postprocess": config.postprocess.model_copy(update={"top": 100}),
            "training": tiny.training.model_copy(
                update={"offset_factor": config.training.offset_factor}
            ),
        }
    )


def _small_encoder(encoder: Encoder) -> Encoder:
    """Return one layer, or two where layers are of two kinds (SMCA)."""
    changes: dict[str, object] = {"layers": 1, "feedforward": 512, "dropout": 0.0}
    if encoder.type == "dense" and encoder.mixing is not None:
        changes |= {"layers": 2, "mixing": (1,)}
    return encoder.model_copy(update=changes)


def _small_queries(queries: Queries) -> Queries:
    """Return about 100 queries."""
    patterns = queries.patterns if queries.type == "anchor_points" else 1
    return queries.model_copy(update={"count": 100 // patterns})


def _small_groups(groups: ExtraGroups) -> ExtraGroups:
    """Return a group of 300 more queries, or three of 100."""
    if groups.groups == 1:
        return groups.model_copy(update={"queries": 300})
    return groups.model_copy(update={"groups": 3, "queries": 100, "weight": 3.0})
