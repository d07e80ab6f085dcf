"""The published systems with dense attention, each a few changes to its parent.

AP is that of COCO val2017 in the Align-DETR paper's Table 2 (arXiv:2304.07527; SMCA: Table 3).
Hyper-parameters are those of the authors' code, a batch that of all devices together. Their other
backbones are functions of `variants.py`; docs/presets.md shows the tree.
"""

from aligndetr.config.schema import Config, Data, Postprocess, Training
from aligndetr.config.slots import (
    AnchorBoxQueries,
    AnchorPointQueries,
    Backbone,
    ConditionalAttention,
    Decoder,
    DenseEncoder,
    FullAttention,
    GaussianAttention,
    Head,
    LearnedQueries,
    Neck,
    PlainDenoising,
    PointQueries,
    Position,
    RowColumnAttention,
    RowColumnEncoder,
)
from aligndetr.config.variants import align, trained_for
from aligndetr.data.transforms import DetrAugmentation
from aligndetr.losses.classification import SoftmaxCE
from aligndetr.losses.costs import SoftmaxCost
from aligndetr.losses.criterion import Criterion
from aligndetr.losses.matching import Matcher


def detr() -> Config:
    """DETR, ResNet-50 (arXiv:2005.12872): AP 42.0 after 500 epochs.

    Learned queries without a place, full attention, "no object" as one more class.
    `aligndetr train --model detr-r50 --data COCO --out RUN`.
    """
    return Config(
        name="detr-r50",
        backbone=Backbone(strides=(32,), freeze=2),
        neck=Neck(levels=1, norm="none"),
        position=Position(offset=0.0),
        encoder=DenseEncoder(),
        queries=LearnedQueries(),
        decoder=Decoder(
            dropout=0.1,
            cross_attention=FullAttention(),
            position="given",
            refinement="none",
            heads_shared=True,
            inverse_sigmoid_eps=1e-5,
        ),
        denoising=None,
        postprocess=Postprocess(top=100, scores="softmax"),
        criterion=Criterion(
            classification=SoftmaxCE(), matcher=Matcher(score=SoftmaxCost(), class_cost=1.0)
        ),
        data=Data(augmentation=DetrAugmentation(), batch_size=64),
        training=trained_for(Training(), epochs=500, drop=400),
    )


def conditional_detr() -> Config:
    """Conditional DETR, ResNet-50 (arXiv:2108.06152): AP 40.9 after 50 epochs.

    Queries have a reference point; attention weighs content and places side by side; focal loss.
    `aligndetr train --model conditional-detr-r50 --data COCO --out RUN`.
    """
    parent = detr()
    decoder = {"self_attention": "separate", "cross_attention": ConditionalAttention()}
    return parent.model_copy(
        update={
            "name": "conditional-detr-r50",
            "queries": PointQueries(),
            "decoder": parent.decoder.model_copy(update=decoder),
            "postprocess": Postprocess(top=100),
            "criterion": Criterion(class_weight=2.0),
            "data": parent.data.model_copy(update={"batch_size": 16}),
            "training": trained_for(parent.training, epochs=50, drop=40),
        }
    )


def smca() -> Config:
    """SMCA, ResNet-50, 3 scales (arXiv:2101.07448): AP 43.7 after 50 epochs.

    Full attention times a Gaussian around a place of each head. Two encoder layers within each
    scale, one across all, two within.
    `aligndetr train --model smca-r50 --data COCO --out RUN`.
    """
    parent = conditional_detr()
    decoder = {"self_attention": "joint", "cross_attention": GaussianAttention()}
    return parent.model_copy(
        update={
            "name": "smca-r50",
            "backbone": parent.backbone.model_copy(update={"strides": (16, 32)}),
            "neck": Neck(levels=3, extra="pooling", norm="none"),
            "encoder": DenseEncoder(layers=5, mixing=(2,)),
            "decoder": parent.decoder.model_copy(update=decoder),
            "postprocess": Postprocess(),
        }
    )


def anchor_detr() -> Config:
    """Anchor DETR, ResNet-50 (arXiv:2109.07107): AP 42.1 after 50 epochs.

    Queries are learned points, each with three patterns; attention along rows, then columns.
    `aligndetr train --model anchor-detr-r50 --data COCO --out RUN`.
    """
    parent = conditional_detr()
    decoder = {
        "feedforward": 1024,
        "dropout": 0.0,
        "self_attention": "joint",
        "cross_attention": RowColumnAttention(),
        "position": "embedded",
        "norm": "none",
    }
    return parent.model_copy(
        update={
            "name": "anchor-detr-r50",
            "neck": Neck(levels=1),
            "position": Position(),
            "encoder": RowColumnEncoder(),
            "queries": AnchorPointQueries(),
            "decoder": parent.decoder.model_copy(update=decoder),
            "head": Head(size_bias=-2.0),
            "data": parent.data.model_copy(update={"batch_size": 8}),
        }
    )


def dab_detr() -> Config:
    """DAB-DETR, ResNet-50 (arXiv:2201.12329): AP 42.2 after 50 epochs.

    Queries are learned boxes, refined from layer to layer; attention minds their size. Its code
    lets the box loss of a layer reach the layer before, ahead of DINO.
    `aligndetr train --model dab-detr-r50 --data COCO --out RUN`.
    """
    return conditional_detr().model_copy(
        update={
            "name": "dab-detr-r50",
            "position": Position(temperature=20.0, offset=0.0),
            "encoder": DenseEncoder(dropout=0.0, activation="prelu", scaled_position=True),
            "queries": AnchorBoxQueries(),
            "decoder": Decoder(
                activation="prelu",
                self_attention="separate",
                cross_attention=ConditionalAttention(has_size=True),
                heads_shared=True,
            ),
            "postprocess": Postprocess(),
            "criterion": Criterion(),
        }
    )


def align_dab_detr_released() -> Config:
    """Align-DETR on DAB-DETR as its authors released it: AP 46.0 after 50 epochs in the paper.

    Their code has k = 2 where the paper has 3, draws the centres of boxes uniformly, trains all
    but the stem, drops empty images, and lets attention read padding.
    `aligndetr train --model align-dab-detr-r50-released --data COCO --out RUN`.
    """
    parent = align(dab_detr(), k=2)
    decoder = {"cross_attention": ConditionalAttention(has_size=True, padding="seen")}
    return parent.model_copy(
        update={
            "name": "align-dab-detr-r50-released",
            "backbone": parent.backbone.model_copy(update={"freeze": 1}),
            "queries": AnchorBoxQueries(centres="uniform"),
            "decoder": parent.decoder.model_copy(update=decoder),
            "data": parent.data.model_copy(update={"keep_empty": False}),
        }
    )


def dn_detr() -> Config:
    """DN-DETR, ResNet-50 (arXiv:2203.01305): AP 44.1 after 50 epochs.

    Noised targets are further queries in training; all other queries have one content.
    `aligndetr train --model dn-detr-r50 --data COCO --out RUN`.
    """
    return dab_detr().model_copy(
        update={
            "name": "dn-detr-r50",
            "queries": AnchorBoxQueries(content="shared"),
            "denoising": PlainDenoising(),
        }
    )
