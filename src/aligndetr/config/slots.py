"""What may stand in the slots of a network: one record a slot, a union where it has several kinds.

A slot answers one question: where do queries come from, how do they read the image, ...
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from aligndetr.settings import Settings

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Triple = tuple[float, float, float]
Activation = Literal["relu", "prelu"]
Option = bool | int | float | str | tuple[int, ...]


class Backbone(Settings):
    """A timm model that gives feature maps."""

    name: str = "resnet50.tv_in1k"
    """Any timm model that supports `features_only`; with a tag, those very weights."""
    strides: tuple[PositiveInt, ...] = (8, 16, 32)
    """Which feature maps are used, by their stride, finest first."""
    output_stride: Literal[8, 16, 32] | None = None
    """16 dilates the last stage (DC5), which then has stride 16; None leaves the model as it is."""
    options: dict[str, Option] = Field(default_factory=dict[str, Option])
    """Further arguments of the timm model, such as {drop_path_rate: 0.1}."""
    freeze: Count | Literal["all"] = 1
    """How many leading stages are not trained; 1 is the stem alone."""
    norm: Literal["frozen", "trained"] = "frozen"
    """Batch norm: with the statistics and scale of the weights, or trained."""
    pretrained: bool = True
    """Whether training starts from ImageNet weights; it never falls back to random ones."""
    weights: Path | None = None
    """A local weights file for the backbone, instead of a download."""
    mean: Triple = (0.485, 0.456, 0.406)
    """Subtracted from the pixels in [0, 1], by channel."""
    std: Triple = (0.229, 0.224, 0.225)
    """Divides the pixels after that."""


class Position(Settings):
    """Sine embedding of positions in the image (DETR, section A.4)."""

    temperature: PositiveFloat = 10000.0
    """10000 in DETR, Deformable DETR and the paper; 20 in IDEA's DINO and DAB-DETR."""
    offset: float = -0.5
    """Added to the pixel count before normalising: -0.5 takes pixel centres; 0 in DETR and IDEA's
    DINO and DAB-DETR."""


class Neck(Settings):
    """Projection of the backbone maps to the width of the transformer."""

    levels: PositiveInt = 4
    """Levels of the memory; those beyond the backbone's are made from its last map."""
    extra: Literal["convolution", "pooling"] = "convolution"
    """How: by strided convolutions (Deformable DETR), or by pooling the last level."""
    norm: Literal["group", "none"] = "group"
    """What follows a projection: group norm (Deformable DETR) or nothing (DETR)."""
    padding: Literal["masked", "seen_in_evaluation"] = "masked"
    """Whether padding is always hidden, or seen in evaluation, as in the authors' code of
    Align-DETR and detrex: there results depend on the batch."""


class DeformableEncoder(Settings):
    """Encoder of multi-scale deformable self-attention (Deformable DETR, section 4)."""

    type: Literal["deformable"] = "deformable"
    layers: Count = 6
    feedforward: PositiveInt = 2048
    points: PositiveInt = 4
    dropout: Share = 0.0


class DenseEncoder(Settings):
    """Encoder of full self-attention (DETR)."""

    type: Literal["dense"] = "dense"
    layers: Count = 6
    feedforward: PositiveInt = 2048
    dropout: Share = 0.1
    activation: Activation = "relu"
    scaled_position: bool = False
    """Whether positions are scaled by what the tokens hold (DAB-DETR, section 4.4)."""
    mixing: tuple[Count, ...] | None = None
    """Layers, from 0, that attend across all levels, where the others stay within each level
    (SMCA, section 3.4); None: all attend across."""


class RowColumnEncoder(Settings):
    """Encoder of row-column decoupled self-attention (Anchor DETR, section 3.4); one level."""

    type: Literal["row_column"] = "row_column"
    layers: Count = 6
    feedforward: PositiveInt = 1024
    dropout: Share = 0.0


class LearnedQueries(Settings):
    """A learned position for each query, and no reference (DETR)."""

    type: Literal["learned"] = "learned"
    count: PositiveInt = 100


class PointQueries(Settings):
    """A learned position for each query, and a reference point made from it."""

    type: Literal["points"] = "points"
    count: PositiveInt = 300
    content: Literal["zeros", "learned"] = "zeros"
    """Zeros in Conditional DETR, learned in Deformable DETR."""
    point_layers: Literal[1, 2] = 2
    """Linear layers that make the point: 2 in Conditional DETR, 1 in Deformable DETR."""


class AnchorPointQueries(Settings):
    """Learned reference points, each with all of some learned patterns (Anchor DETR)."""

    type: Literal["anchor_points"] = "anchor_points"
    count: PositiveInt = 300
    """Points; there are `count` x `patterns` queries."""
    patterns: PositiveInt = 3


class AnchorBoxQueries(Settings):
    """Learned reference boxes (DAB-DETR)."""

    type: Literal["anchor_boxes"] = "anchor_boxes"
    count: PositiveInt = 300
    content: Literal["zeros", "shared", "learned"] = "zeros"
    """Zeros in DAB-DETR, one vector for all in DN-DETR, one a query in DAB-Deformable-DETR."""
    centres: Literal["normal", "uniform"] = "normal"
    """How centres are drawn at the start: as logits from N(0, 1), or uniformly over the image."""
    freeze_centres: bool = False
    """Whether centres stay where they were drawn; they are trained in all published weights."""


class TopQueries(Settings):
    """Queries at the encoder's best proposals (two-stage Deformable DETR; DINO, section 3.4)."""

    type: Literal["top"] = "top"
    count: PositiveInt = 900
    content: Literal["learned", "memory", "proposal"] = "learned"
    """Learned and the same for every image, the memory token itself, or made from the proposal's
    box (Deformable DETR)."""
    position: Literal["reference", "proposal"] = "reference"
    """Whether the position follows from each layer's reference box (DINO) or, once and for all,
    from the proposal's box (Deformable DETR, H-Deformable-DETR)."""
    chosen_by: Literal["best_class", "first_class"] = "best_class"
    """The logit that orders proposals: the largest, or the first, which then tells objects from
    background (Deformable DETR, H-Deformable-DETR; see criterion.proposal_labels)."""
    supervised: Literal["chosen", "all"] = "chosen"
    """Which proposals have losses: those that became queries, or one for each token."""
    padding: Literal["last", "as_scored"] = "last"
    """Whether padding is chosen after all of the image, or by the score of an empty token, as in
    published code: there results depend on the batch."""


class FullAttention(Settings):
    """Every query reads every token (DETR)."""

    type: Literal["full"] = "full"


class ConditionalAttention(Settings):
    """Attention to content and to places, side by side in every head (Conditional DETR)."""

    type: Literal["conditional"] = "conditional"
    has_size: bool = False
    """Whether places are weighed by width and height of the reference box (DAB-DETR)."""
    padding: Literal["masked", "seen"] = "masked"
    """Whether padded tokens are hidden; detrex and the authors of Align-DETR leave them visible."""


class GaussianAttention(Settings):
    """Full attention times a Gaussian around the reference of every head (SMCA)."""

    type: Literal["gaussian"] = "gaussian"
    smoothness: PositiveFloat = 8.0
    """The larger, the wider the Gaussians at the start; in squared cells of the level."""


class RowColumnAttention(Settings):
    """Attention along rows, then along columns (Anchor DETR); one level."""

    type: Literal["row_column"] = "row_column"


class DeformableAttention(Settings):
    """Every query reads a few points of every level (Deformable DETR)."""

    type: Literal["deformable"] = "deformable"
    points: PositiveInt = 4


CrossAttention = Annotated[
    FullAttention
    | ConditionalAttention
    | GaussianAttention
    | RowColumnAttention
    | DeformableAttention,
    Field(discriminator="type"),
]


class Decoder(Settings):
    """Decoder: self-attention of the queries, cross-attention to the memory, refinement."""

    layers: PositiveInt = 6
    feedforward: PositiveInt = 2048
    dropout: Share = 0.0
    activation: Activation = "relu"
    self_attention: Literal["joint", "separate"] = "joint"
    """One projection for the sum of content and position (DETR), or one each (Conditional DETR)."""
    cross_attention: CrossAttention = DeformableAttention()
    position: Literal["given", "embedded", "scaled"] = "embedded"
    """Positions of the queries: given with them; embedded from each layer's reference (DAB-DETR,
    DINO); or that, scaled by the state after the first layer (DAB-Deformable-DETR)."""
    refinement: Literal["none", "detached", "look_forward_twice"] = "look_forward_twice"
    """Whether each layer starts from the boxes of the one before, and whether its box loss also
    reaches that one (DINO, section 3.5)."""
    norm: Literal["none", "before_heads", "between_layers"] = "before_heads"
    """Whether states are normalised once more before the prediction heads (not in Deformable DETR);
    or also before the next layer, twice before the last heads, as in transformers'
    ConditionalDetr with auxiliary losses."""
    heads_shared: bool = False
    """One prediction head for all decoder layers (IDEA's DINO) or one each (detrex)."""
    inverse_sigmoid_eps: PositiveFloat = 1e-3
    """1e-3 in DINO, DAB-DETR and detrex; 1e-5 in Deformable DETR, H-DETR and transformers."""


class ContrastiveDenoising(Settings):
    """Noised targets as extra queries in training, with negatives (DINO, section 3.3)."""

    type: Literal["contrastive"] = "contrastive"
    queries: PositiveInt = 100
    """Positive queries to aim at; the number of blocks follows from the fullest image."""
    label_noise: Share = 0.5
    """Half of this share of the labels is replaced by random ones."""
    box_noise: NonNegativeFloat = 1.0
    """Corners move by up to this many half sizes; those of negatives by up to twice that."""
    blocks_below: Count = 0
    """Where twice `queries` is below this number, it is the number of blocks itself: 100 in
    IDEA's DINO, 0 elsewhere."""


class PlainDenoising(Settings):
    """Noised targets as extra queries in training (DN-DETR, arXiv:2203.01305, section 4)."""

    type: Literal["plain"] = "plain"
    blocks: PositiveInt = 5
    """How often every target is noised anew."""
    label_noise: Share = 0.2
    """This share of the labels is replaced by random ones."""
    box_noise: NonNegativeFloat = 0.4
    """Centres move by up to this many half sizes, sizes change by up to this share."""


class ExtraGroups(Settings):
    """More queries in training, which the main ones do not see."""

    groups: PositiveInt = 1
    """Groups that are matched each on its own."""
    queries: PositiveInt = 1500
    """Queries of each."""
    copies: PositiveInt = 6
    """How many queries of a group answer for each target."""
    weight: PositiveFloat = 1.0
    """Of their losses, where the mean of all groups counts 1."""
    proposals: Literal["next", "same"] = "next"
    """Of queries of type `top`: those that follow the main group's (H-DETR), or the best again
    for each group (Group DETR)."""


class Head(Settings):
    """Prediction heads."""

    prior: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Score of every class before training (RetinaNet, section 4.1)."""
    size_bias: float = 0.0
    """Start of width and height, as logits, of the first layer's boxes beside their references:
    -2 in Deformable DETR and those that follow it, but for two stages."""
    iou_branch: bool = False
    """Whether every decoder layer also predicts its boxes' IoU (IoU-Net, arXiv:1807.11590)."""


Encoder = Annotated[
    DeformableEncoder | DenseEncoder | RowColumnEncoder, Field(discriminator="type")
]
Queries = Annotated[
    TopQueries | LearnedQueries | PointQueries | AnchorPointQueries | AnchorBoxQueries,
    Field(discriminator="type"),
]
Denoising = Annotated[ContrastiveDenoising | PlainDenoising, Field(discriminator="type")]
