"""The published systems with deformable attention, each a few changes to its parent.

AP is that of COCO val2017 in the Align-DETR paper's Table 3 (arXiv:2304.07527), and of the system's
own paper where that has no row. Hyper-parameters are those of the authors' code, a batch that of
all devices together. docs/presets.md shows the tree.
"""

from aligndetr.config.family_dense import conditional_detr
from aligndetr.config.schema import Config, Postprocess, Training
from aligndetr.config.slots import (
    AnchorBoxQueries,
    ContrastiveDenoising,
    DeformableAttention,
    DeformableEncoder,
    ExtraGroups,
    Head,
    Neck,
    PlainDenoising,
    PointQueries,
    Position,
    TopQueries,
)
from aligndetr.config.variants import align, trained_for
from aligndetr.losses.criterion import Criterion


def deformable_detr() -> Config:
    """Deformable DETR, ResNet-50, 4 scales (arXiv:2010.04159): AP 43.8 after 50 epochs.

    Tokens and queries read a few points of every scale; 44.5 by its released code.
    `aligndetr train --model deformable-detr-r50 --data COCO --out RUN`.
    """
    parent = conditional_detr()
    decoder = {
        "feedforward": 1024,
        "self_attention": "joint",
        "cross_attention": DeformableAttention(),
        "norm": "none",
    }
    training = {"learning_rate": 2e-4, "offset_factor": 0.1}
    return parent.model_copy(
        update={
            "name": "deformable-detr-r50",
            "backbone": parent.backbone.model_copy(update={"strides": (8, 16, 32)}),
            "neck": Neck(),
            "position": Position(),
            "encoder": DeformableEncoder(feedforward=1024, dropout=0.1),
            "queries": PointQueries(content="learned", point_layers=1),
            "decoder": parent.decoder.model_copy(update=decoder),
            "head": Head(size_bias=-2.0),
            "data": parent.data.model_copy(update={"batch_size": 32}),
            "training": parent.training.model_copy(update=training),
        }
    )


def deformable_detr_refined() -> Config:
    """Deformable DETR with boxes refined from layer to layer: AP 45.4 after 50 epochs.

    The row "Deformable DETR" of the paper's Table 3; 46.2 by its released code.
    `aligndetr train --model deformable-detr-refined-r50 --data COCO --out RUN`.
    """
    parent = deformable_detr()
    decoder = {"refinement": "detached", "heads_shared": False}
    return parent.model_copy(
        update={
            "name": "deformable-detr-refined-r50",
            "decoder": parent.decoder.model_copy(update=decoder),
        }
    )


def deformable_detr_two_stage() -> Config:
    """Two-stage Deformable DETR: AP 46.2 after 50 epochs; 46.9 by its released code.

    Queries are made from the boxes of the encoder's best proposals, chosen by one logit that
    tells objects from background.
    `aligndetr train --model deformable-detr-two-stage-r50 --data COCO --out RUN`.
    """
    parent = deformable_detr_refined()
    return parent.model_copy(
        update={
            "name": "deformable-detr-two-stage-r50",
            "queries": TopQueries(
                count=300,
                content="proposal",
                position="proposal",
                chosen_by="first_class",
                supervised="all",
            ),
            "head": Head(),
            "criterion": parent.criterion.model_copy(update={"proposal_labels": "one"}),
        }
    )


def h_deformable_detr() -> Config:
    """H-Deformable-DETR, ResNet-50, 4 scales (arXiv:2207.13080): AP 48.7 after 12 epochs.

    A group of 1500 more queries in training, six for each object, and three of DINO's changes:
    learned content, look forward twice, no dropout. The Align version of the paper's Table 7 has
    IA-BCE alone: 49.3.
    `aligndetr train --model h-deformable-detr-r50 --data COCO --out RUN`.
    """
    parent = deformable_detr_two_stage()
    decoder = {"feedforward": 2048, "dropout": 0.0, "refinement": "look_forward_twice"}
    return parent.model_copy(
        update={
            "name": "h-deformable-detr-r50",
            "encoder": DeformableEncoder(),
            "queries": parent.queries.model_copy(update={"content": "learned"}),
            "decoder": parent.decoder.model_copy(update=decoder),
            "groups": ExtraGroups(),
            "data": parent.data.model_copy(update={"batch_size": 16}),
            "training": trained_for(parent.training, epochs=12, drop=11),
        }
    )


def dab_deformable_detr() -> Config:
    """DAB-Deformable-DETR, ResNet-50, 4 scales (arXiv:2201.12329): AP 46.9 after 50 epochs.

    Deformable DETR with learned boxes as queries. The paper's number is that of a version with
    dense attention in the decoder; as here, its authors' code gives 48.7.
    `aligndetr train --model dab-deformable-detr-r50 --data COCO --out RUN`.
    """
    parent = deformable_detr_refined()
    decoder = {
        "feedforward": 2048,
        "dropout": 0.0,
        "position": "scaled",
        "inverse_sigmoid_eps": 1e-3,
    }
    return parent.model_copy(
        update={
            "name": "dab-deformable-detr-r50",
            "encoder": DeformableEncoder(),
            "queries": AnchorBoxQueries(content="learned"),
            "decoder": parent.decoder.model_copy(update=decoder),
            "criterion": Criterion(),
            "data": parent.data.model_copy(update={"batch_size": 16}),
            "training": trained_for(Training(), epochs=50, drop=40),
        }
    )


def dn_deformable_detr() -> Config:
    """DN-Deformable-DETR, ResNet-50, 4 scales (arXiv:2203.01305): AP 48.6 after 50 epochs.

    DAB-Deformable-DETR with noised targets as further queries; 43.4 after 12 epochs. The numbers
    are those of a version with dense attention in the decoder; as here, its authors' code gives
    49.5.
    `aligndetr train --model dn-deformable-detr-r50 --data COCO --out RUN`.
    """
    return dab_deformable_detr().model_copy(
        update={"name": "dn-deformable-detr-r50", "denoising": PlainDenoising()}
    )


def dino() -> Config:
    """DINO, ResNet-50, 4 scales (arXiv:2203.03605): AP 49.0 after 12 epochs, 50.4 after 24.

    As the authors of Align-DETR and detrex run it: heads of their own for every layer,
    position temperature 10000 with pixel centres, 80 classes, stem frozen, batch 16,
    rate x 0.1 at epoch 11. All else is the default of every slot.
    `aligndetr train --model dino-r50-4scale --data COCO --out RUN`.
    """
    parent = dn_deformable_detr()
    decoder = {
        "position": "embedded",
        "refinement": "look_forward_twice",
        "norm": "before_heads",
    }
    return parent.model_copy(
        update={
            "name": "dino-r50-4scale",
            "backbone": parent.backbone.model_copy(update={"freeze": 1}),
            "queries": TopQueries(),
            "decoder": parent.decoder.model_copy(update=decoder),
            "denoising": ContrastiveDenoising(),
            "head": Head(),
            "postprocess": Postprocess(),
            "data": parent.data.model_copy(update={"keep_empty": False}),
            "training": trained_for(parent.training, epochs=12, drop=11),
        }
    )


def dino_5scale() -> Config:
    """DINO with a fifth scale, of stride 4: AP 49.4 after 12 epochs.

    `aligndetr train --model dino-r50-5scale --data COCO --out RUN`.
    """
    parent = dino()
    return parent.model_copy(
        update={
            "name": "dino-r50-5scale",
            "backbone": parent.backbone.model_copy(update={"strides": (4, 8, 16, 32)}),
            "neck": Neck(levels=5),
        }
    )


def align_dino_released() -> Config:
    """Align-DETR on DINO, as its authors released it: AP 50.3; k = 2, proposals included.

    `aligndetr train --model align-dino-r50-4scale-released --data COCO --out RUN`.
    """
    config = align(dino(), k=2, proposal_k=2)
    return config.model_copy(update={"name": "align-dino-r50-4scale-released"})


def group_detr() -> Config:
    """Group DETR on DINO, ResNet-50, 4 scales (arXiv:2207.13085): AP 49.8 after 12 epochs.

    In training ten more groups of queries, each matched on its own and blind to the others.
    `aligndetr train --model group-detr-r50 --data COCO --out RUN`.
    """
    return dino().model_copy(
        update={
            "name": "group-detr-r50",
            "queries": TopQueries(count=300),
            "groups": ExtraGroups(groups=10, queries=300, copies=1, weight=10.0, proposals="same"),
        }
    )
