"""Encoder, queries and decoder from a configuration: one exhaustive choice a slot."""

from typing import assert_never

from torch import nn

from aligndetr.config import slots
from aligndetr.config.schema import Config
from aligndetr.layers.attention import SelfAttention, SeparateSelfAttention
from aligndetr.layers.basic import MLP, FeedForward
from aligndetr.layers.conditional import ConditionalAttention, PlaceEmbedding
from aligndetr.layers.deformable import DeformableAttention
from aligndetr.layers.full import FullAttention, GaussianAttention
from aligndetr.layers.row_column import RowColumnAttention
from aligndetr.model.cross_attention import (
    ConditionalReading,
    DeformableReading,
    FullReading,
    GaussianReading,
    Reading,
    RowColumnReading,
)
from aligndetr.model.decoder import Decoder, DecoderLayer
from aligndetr.model.encoder import (
    DeformableEncoder,
    DeformableEncoderLayer,
    DenseEncoder,
    DenseEncoderLayer,
    Encoder,
    RowColumnEncoder,
    RowColumnEncoderLayer,
)
from aligndetr.model.groups import Layout
from aligndetr.model.heads import Head
from aligndetr.model.places import AxisEmbedding, EmbeddedPositions, GivenPositions, Places
from aligndetr.model.queries import (
    AnchorBoxQueries,
    AnchorPointQueries,
    LearnedQueries,
    PointQueries,
    ProposalEmbedding,
    QuerySource,
    TopQueries,
)


def build_encoder(config: Config, axes: AxisEmbedding) -> Encoder:
    """Return the encoder; `axes` is what row-column attention tells places by."""
    options, width, heads = config.encoder, config.width, config.heads
    layers = range(options.layers)
    dropout = options.dropout
    match options:
        case slots.DeformableEncoder():
            return DeformableEncoder(
                [
                    DeformableEncoderLayer(
                        _deformable_attention(config, points=options.points),
                        FeedForward(width, options.feedforward, dropout=dropout),
                        width,
                        dropout=dropout,
                    )
                    for _ in layers
                ]
            )
        case slots.DenseEncoder():
            return DenseEncoder(
                [_dense_layer(config, options, depth) for depth in layers],
                MLP(width, width, width) if options.scaled_position else None,
            )
        case slots.RowColumnEncoder():
            return RowColumnEncoder(
                [
                    RowColumnEncoderLayer(
                        RowColumnAttention(width, heads),
                        FeedForward(width, options.feedforward, dropout=dropout),
                        width,
                        dropout=dropout,
                    )
                    for _ in layers
                ],
                axes,
            )
        case _:
            assert_never(options)


def _dense_layer(config: Config, options: slots.DenseEncoder, depth: int) -> DenseEncoderLayer:
    dropout, activation = options.dropout, options.activation
    return DenseEncoderLayer(
        SelfAttention(config.width, config.heads, dropout=dropout),
        FeedForward(config.width, options.feedforward, dropout=dropout, activation=activation),
        mixes_levels=options.mixing is None or depth in options.mixing,
    )


def build_queries(config: Config) -> QuerySource:
    """Return where the decoder's queries come from."""
    options, width = config.queries, config.width
    layout = _layout(config)
    match options:
        case slots.LearnedQueries():
            return LearnedQueries(width, layout)
        case slots.PointQueries(content=content, point_layers=point_layers):
            return PointQueries(width, layout, content=content, point_layers=point_layers)
        case slots.AnchorPointQueries(patterns=patterns):
            return AnchorPointQueries(width, layout, patterns=patterns)
        case slots.AnchorBoxQueries(content=content, centres=centres, freeze_centres=freezes):
            return AnchorBoxQueries(
                width, layout, content=content, centres=centres, freezes_centres=freezes
            )
        case slots.TopQueries():
            is_embedded = "proposal" in (options.position, options.content)
            return TopQueries(
                _head(config, has_iou_branch=False),
                width,
                layout,
                content=options.content,
                position=options.position,
                embedding=ProposalEmbedding(width) if is_embedded else None,
                chosen_by=options.chosen_by,
                supervises_all=options.supervised == "all",
                scores_padding=options.padding == "as_scored",
            )
        case _:
            assert_never(options)


def _layout(config: Config) -> Layout:
    count, extra = config.queries.count, config.groups
    if extra is None:
        return Layout(count)
    return Layout(
        count,
        groups=extra.groups,
        extra=extra.queries,
        copies=extra.copies,
        weight=extra.weight,
        proposals=extra.proposals,
    )


def build_decoder(config: Config, axes: AxisEmbedding) -> Decoder:
    """Return the decoder; `axes` is what row-column attention tells places by."""
    options, width = config.decoder, config.width
    # Later heads correct boxes, where there is refinement; a shared one serves all.
    first = _head(config, size_bias=config.head.size_bias)
    if options.heads_shared:
        heads = [first] * options.layers
    else:
        heads = [first, *(_head(config) for _ in range(options.layers - 1))]
    return Decoder(
        [_decoder_layer(config, depth) for depth in range(options.layers)],
        heads,
        _places(config, axes),
        None if options.norm == "none" else nn.LayerNorm(width),
        refinement=options.refinement,
        norms_between=options.norm == "between_layers",
        eps=options.inverse_sigmoid_eps,
    )


def _decoder_layer(config: Config, depth: int) -> DecoderLayer:
    options, width = config.decoder, config.width
    attention = SelfAttention if options.self_attention == "joint" else SeparateSelfAttention
    return DecoderLayer(
        attention(width, config.heads, dropout=options.dropout),
        _cross_attention(config, is_first=depth == 0),
        FeedForward(
            width, options.feedforward, dropout=options.dropout, activation=options.activation
        ),
        width,
        dropout=options.dropout,
    )


def _cross_attention(config: Config, *, is_first: bool) -> Reading:
    options, dropout = config.decoder.cross_attention, config.decoder.dropout
    width, heads = config.width, config.heads
    match options:
        case slots.FullAttention():
            return FullReading(FullAttention(width, heads, dropout=dropout))
        case slots.GaussianAttention(smoothness=smoothness):
            levels = config.neck.levels
            return GaussianReading(
                GaussianAttention(
                    width, heads, levels=levels, smoothness=smoothness, dropout=dropout
                )
            )
        case slots.ConditionalAttention(padding=padding):
            attention = ConditionalAttention(width, heads, is_first=is_first, dropout=dropout)
            return ConditionalReading(attention, sees_padding=padding == "seen")
        case slots.RowColumnAttention():
            return RowColumnReading(RowColumnAttention(width, heads))
        case slots.DeformableAttention(points=points):
            return DeformableReading(_deformable_attention(config, points=points))
        case _:
            assert_never(options)


def _places(config: Config, axes: AxisEmbedding) -> Places:
    """Return how layers are told where their queries are."""
    width, decoder = config.width, config.decoder
    if decoder.position == "given":
        positions = GivenPositions()
    else:
        positions = EmbeddedPositions(
            width,
            coordinates=2 if config.queries.type == "anchor_points" else 4,
            is_scaled=decoder.position == "scaled",
        )
    cross = decoder.cross_attention
    guide = None
    if cross.type == "conditional":
        guide = PlaceEmbedding(width, has_size=cross.has_size)
    elif cross.type == "row_column":
        guide = axes
    return Places(positions, guide, on_padded=cross.type == "deformable")


def _head(config: Config, *, size_bias: float = 0.0, has_iou_branch: bool | None = None) -> Head:
    """Return a head; without a reference to start from, it starts as torch draws it (DETR)."""
    has_branch = config.head.iou_branch if has_iou_branch is None else has_iou_branch
    is_softmax = config.has_softmax
    head = Head(
        config.width,
        config.num_classes + is_softmax,
        prior=None if is_softmax else config.head.prior,
        has_iou_branch=has_branch,
    )
    if config.queries.type != "learned":
        head.start_at_reference(size_bias)
    return head


def _deformable_attention(config: Config, *, points: int) -> DeformableAttention:
    return DeformableAttention(config.width, config.heads, levels=config.neck.levels, points=points)
