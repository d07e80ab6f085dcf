"""What a configuration may say: the network's slots (slots.py), its losses, data and training."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from aligndetr.config.regions import Proposals, RegionHead
from aligndetr.config.slots import (
    Backbone,
    ContrastiveDenoising,
    Count,
    Decoder,
    DeformableEncoder,
    Denoising,
    Encoder,
    ExtraGroups,
    Head,
    Neck,
    Position,
    Queries,
    Share,
    TopQueries,
)
from aligndetr.data.transforms import Augmentation
from aligndetr.losses.criterion import Criterion
from aligndetr.losses.regions import RegionCriterion
from aligndetr.settings import Settings

LARGEST_SEED = 2**32 - 2**16
"""numpy takes 32 bits; the processes of a distributed run add their rank."""


class Postprocess(Settings):
    """How predictions become detections."""

    top: PositiveInt = 300
    """Detections of an image: the best (query, class) pairs by score."""
    scores: Literal["sigmoid", "softmax"] = "sigmoid"
    """One score a class, each by itself, or shares of one with "no object", of which each query
    answers with its best (DETR)."""
    iou_power: Share = 0.3
    """w in the score s^(1 - w) u^w of models with an IoU branch (Table 4); 0 does not fuse."""
    nms_iou: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Drop a box that overlaps a better one of its class by more; None keeps all, as DETR does."""


class StepSchedule(Settings):
    """Learning rate x `factor` at each of `milestones`, given as shares of the training."""

    type: Literal["step"] = "step"
    milestones: tuple[Share, ...] = (11 / 12,)
    factor: PositiveFloat = 0.1
    warmup: Share = 0.0
    """Share of the training in which the rate rises linearly from 0."""


class CosineSchedule(Settings):
    """Learning rate falls as half a cosine to `floor` times its start."""

    type: Literal["cosine"] = "cosine"
    floor: Share = 0.0
    warmup: Share = 0.05
    """Share of the training in which the rate rises linearly from 0."""


class Data(Settings):
    """How images reach the model."""

    augmentation: Augmentation
    batch_size: PositiveInt = 16
    """Images of one optimizer step on one device, before accumulation."""
    eval_batch_size: PositiveInt = 8
    workers: Count = 2
    """Processes that load and augment images; 0 does it in the main one."""
    keep_empty: bool = True
    """Whether images without objects are trained on (the authors' code drops them)."""
    pad_to: tuple[PositiveInt, PositiveInt] | None = None
    """Height and width that every training batch is padded to, so that all have one shape, as
    `compile` likes it; null makes each as large as it must be."""
    cache_features: bool = False
    """Compute the frozen backbone's maps once and train on them; needs backbone.freeze=all, or a
    frozen stage that gives one of the maps: those of trained stages are made from it."""
    cached_views: PositiveInt = 4
    """How many augmented views of each image the cache holds."""
    cache_seed: Count | None = None
    """Decides on the cached views; null takes the training's own seed. Runs of several seeds that
    give it find each other's views in `feature_folder`, and still draw from them in their order."""
    feature_folder: str | None = None
    """Keep the cache in files below this folder: for sets larger than memory, and for later runs
    on the same images, augmentation and backbone, which find it there."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.pad_to is not None and self.cache_features:
            raise ValueError(
                "pad_to: expected null with cache_features, whose maps have the size of their "
                f"image, found {list(self.pad_to)}; leave it out, or set cache_features=false"
            )
        return self


class Unfreezing(Settings):
    """When a backbone that is frozen as a whole begins to be trained, and how much of it."""

    at: Share = 0.5
    """Share of the training that is done with all of it frozen, on cached features if there are;
    a training in epochs goes on to the end of the one under way."""
    freeze: Count = 3
    """Leading stages that stay frozen for good, counted as in `backbone.freeze`."""
    keep_features: bool = False
    """Go on with the cached features, of which those of trained stages are made anew, instead of
    pictures: no pictures to load, but no new views of them either."""


class Training(Settings):
    """Optimisation: AdamW with the groups that the DETR family uses."""

    epochs: PositiveInt = 12
    learning_rate: PositiveFloat = 1e-4
    backbone_factor: PositiveFloat = 0.1
    """Learning rate of the backbone, as a factor of the others'."""
    offset_factor: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Learning rate of the layers that make sampling offsets and reference points, as a factor:
    0.1 in Deformable DETR and H-DETR."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """Decay of matrices and convolutions; norms and biases of norms have none."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    clip_norm: PositiveFloat = 0.1
    """Gradients are scaled down to this L2 norm."""
    schedule: Annotated[StepSchedule | CosineSchedule, Field(discriminator="type")] = StepSchedule()
    accumulate: PositiveInt = 1
    """Batches whose gradients are added up before a step."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of the averaged weights that are evaluated and saved as best; None has none."""
    unfreeze: Unfreezing | None = None
    """Train the upper stages of the backbone too in the last part of the training, with the rate
    that `backbone_factor` gives; needs `backbone.freeze=all`."""
    recompute: bool = False
    """Keep only the inputs of encoder and decoder layers for the backward pass, which computes the
    rest again: less memory, more time."""
    autoconfig: bool = False
    """Let data, machine and minutes decide on image size, queries, cache and epochs before a
    training from this preset; what --set or --config gives stays as it is."""
    evaluate_every: PositiveInt = 1
    """Epochs between evaluations; a budget in minutes evaluates less often, and at its end."""
    tracker: Literal["none", "tensorboard"] = "none"
    """Who else gets the numbers of `metrics.jsonl`; TensorBoard's files go to the run folder."""
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED)


class Config(Settings):
    """Everything that decides what is trained and how: a detector of the DETR family."""

    type: Literal["detr"] = "detr"
    name: str
    """The preset that this came from."""
    num_classes: PositiveInt = 80
    width: PositiveInt = 256
    """Channels of tokens and queries."""
    heads: PositiveInt = 8
    """Attention heads."""
    backbone: Backbone = Backbone()
    neck: Neck = Neck()
    position: Position = Position()
    encoder: Encoder = DeformableEncoder()
    queries: Queries = TopQueries()
    decoder: Decoder = Decoder()
    denoising: Denoising | None = ContrastiveDenoising()
    groups: ExtraGroups | None = None
    """Queries of training only, as in H-DETR and Group DETR."""
    head: Head = Head()
    postprocess: Postprocess = Postprocess()
    criterion: Criterion = Criterion()
    data: Data
    training: Training = Training()
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the transformer; losses and boxes are always fp32. auto: bf16 where
    the device has it and is faster with it."""
    compile: bool = False
    """Let torch.compile translate backbone, encoder and decoder layers at their first use."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for problem in (
            *self._size_problems(),
            *self._class_problems(),
            *self._place_problems(),
        ):
            raise ValueError(problem)
        self.criterion.layer_k(self.decoder.layers)
        return self

    @property
    def has_softmax(self) -> bool:
        """Whether classes and "no object" share one distribution, and there is a column more."""
        return self.criterion.classification.type == "softmax"

    def _size_problems(self) -> Iterator[str]:
        yield from _freezing_problems(self.backbone, self.training)
        if self.width % self.heads:
            yield (
                f"heads: expected a divisor of the width {self.width}, found {self.heads}; change "
                "one of the two"
            )
        mixing = self.encoder.mixing if self.encoder.type == "dense" else None
        if mixing and max(mixing) >= self.encoder.layers:
            yield (
                f"encoder.mixing: expected layers of 0 to {self.encoder.layers - 1}, found "
                f"{list(mixing)}; name others, or add layers"
            )

    def _class_problems(self) -> Iterator[str]:
        if self.has_softmax and self.queries.type == "top":
            yield (
                'criterion.classification.type: softmax makes "no object" a class, by which '
                "queries of type 'top' cannot be chosen; choose another"
            )
        scores = "softmax" if self.has_softmax else "sigmoid"
        if self.postprocess.scores != scores:
            yield (
                f"postprocess.scores: expected {scores} with the loss "
                f"{self.criterion.classification.type}, found {self.postprocess.scores}; change "
                "one of the two"
            )
        if self.has_softmax != (self.criterion.matcher.score.type == "softmax"):
            yield (
                f"criterion.matcher.score.type: expected a cost of {scores} scores with the loss "
                f"{self.criterion.classification.type}, found {self.criterion.matcher.score.type}; "
                "change one of the two"
            )

    def _place_problems(self) -> Iterator[str]:
        """Yield what is wrong between queries and those who ask for their places."""
        queries, decoder = self.queries, self.decoder
        attention, cross = decoder.cross_attention, decoder.cross_attention.type
        is_given = queries.type in ("learned", "points") or (
            queries.type == "top" and queries.position == "proposal"
        )
        has_boxes = queries.type in ("anchor_boxes", "top")
        if queries.type == "learned" and (cross != "full" or decoder.refinement != "none"):
            yield (
                "decoder: expected cross_attention.type=full and refinement=none with queries of "
                "type 'learned', which have no reference; choose other queries"
            )
        if is_given != (decoder.position == "given"):
            expected = "given" if is_given else "embedded or scaled"
            yield (
                f"decoder.position: expected {expected} with queries of type {queries.type!r}, "
                f"found {decoder.position}; change one of the two"
            )
        if self.denoising is not None and (is_given or not has_boxes):
            yield (
                "denoising: expected queries whose position follows from a reference box "
                f"(anchor_boxes, or top with position=reference), found {queries.type!r}; set "
                "denoising=null"
            )
        if attention.type == "conditional" and attention.has_size and not has_boxes:
            yield (
                "decoder.cross_attention.has_size: expected queries with reference boxes, found "
                f"{queries.type!r}; set it to false"
            )
        is_by_axis = (self.encoder.type == "row_column", cross == "row_column")
        if any(is_by_axis) and not (all(is_by_axis) and self.neck.levels == 1):
            yield (
                "encoder.type, decoder.cross_attention.type: expected row_column for both, with "
                "neck.levels=1, or for neither"
            )


class RegionConfig(Settings):
    """Everything that decides what is trained and how: a region detector (Faster R-CNN)."""

    type: Literal["regions"] = "regions"
    name: str
    """The preset that this came from."""
    num_classes: PositiveInt = 80
    width: PositiveInt = 256
    """Channels of the feature pyramid."""
    backbone: Backbone = Backbone(strides=(4, 8, 16, 32), freeze=2)
    proposals: Proposals = Proposals()
    head: RegionHead = RegionHead()
    postprocess: Postprocess = Postprocess(top=100, scores="softmax", nms_iou=0.5)
    criterion: RegionCriterion = RegionCriterion()
    data: Data
    training: Training = Training()
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of pyramid and heads; their last layers, losses and boxes are always fp32."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for problem in self._problems():
            raise ValueError(problem)
        return self

    def _problems(self) -> Iterator[str]:
        yield from _freezing_problems(self.backbone, self.training)
        strides, sizes = self.backbone.strides, self.proposals.sizes
        if any(2 * fine != coarse for fine, coarse in pairwise(strides)):
            yield (
                "backbone.strides: expected each to be twice the one before, found "
                f"{list(strides)}; leave none out"
            )
        if self.backbone.output_stride is not None:
            yield (
                "backbone.output_stride: expected null, for a pyramid halves its levels, found "
                f"{self.backbone.output_stride}; leave it out"
            )
        if len(sizes) != len(strides) + 1:
            yield (
                f"proposals.sizes: expected {len(strides) + 1}, one for each of backbone.strides "
                f"and one more, found {len(sizes)}; give as many"
            )
        if self.postprocess.scores != "softmax":
            yield (
                'postprocess.scores: expected softmax, for "no object" is a class of a region '
                f"detector, found {self.postprocess.scores}; change it"
            )


def _freezing_problems(backbone: Backbone, training: Training) -> Iterator[str]:
    if training.unfreeze is not None and backbone.freeze != "all":
        yield (
            f"training.unfreeze: expected backbone.freeze=all, found {backbone.freeze}, which "
            "is trained from the start; leave one of the two out"
        )


AnyConfig = Annotated[Config | RegionConfig, Field(discriminator="type")]
"""A configuration of either kind."""
