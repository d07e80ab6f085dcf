"""Names of tensors in published code, and ours: patterns that are applied in their order."""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from aligndetr.errors import CheckpointError

Renames = tuple[tuple[str, str], ...]

PACKED = re.compile(r"^(.*)@(\d)of(\d)$")
"""A tensor that is one of several parts of ours: its name, which part, and of how many."""

DEFORMABLE_PARTS: Renames = (
    (r"sampling_offsets", "offsets"),
    (r"attention_weights", "weights"),
    (r"(value|output)_proj(?=\.)", r"\1"),
)

LAYER_HEADS: Renames = (
    (r"^(decoder\.)?bbox_embed\.(\d+)\.", r"decoder.heads.\2.box."),
    (r"^(decoder\.)?class_embed\.(\d+)\.", r"decoder.heads.\2.classes."),
)
"""Heads of their own for every decoder layer, and one for proposals."""

DAB_PLACES: Renames = (
    (r"^encoder\.query_scale", "encoder.scale"),
    (r"^decoder\.query_scale", "decoder.places.guide.scale"),
    (r"^decoder\.ref_anchor_head", "decoder.places.guide.size"),
    (r"^decoder\.ref_point_head", "decoder.places.positions.embed"),
)
"""What DAB-DETR knows of places, in all codes."""

IDEA_LAYERS: Renames = (
    (r"^transformer\.(encoder|decoder)", r"\1"),
    *DEFORMABLE_PARTS,
    (r"\.linear1\.", ".feedforward.expand."),
    (r"\.linear2\.", ".feedforward.contract."),
    (r"(layers\.\d+)\.activation\.", r"\1.feedforward.activation."),
    (r"^(encoder.*)self_attn\.in_proj_", r"\1attention.in_proj."),
    (r"^(encoder.*)self_attn", r"\1attention"),
    (r"^(decoder.*)self_attn\.in_proj_", r"\1self_attention.in_proj."),
    (r"^(decoder.*)self_attn", r"\1self_attention"),
    (r"^(decoder.*)cross_attn", r"\1cross_attention.attention"),
    (r"^(decoder.*layers\.\d+\.)norm3", r"\1feedforward.norm"),
)
"""Layers of Deformable DETR and IDEA's code, but for the norms of attention."""

MULTISCALE: Renames = (
    (r"^input_proj\.", "neck.projections."),
    (r"^transformer\.level_embed$", "neck.level"),
    *IDEA_LAYERS,
    (r"^(encoder\.layers\.\d+\.)norm2", r"\1feedforward.norm"),
    (r"^(decoder\.layers\.\d+\.)norm2", r"\1self_attention.norm"),
    (r"^((?:en|de)coder\.layers\.\d+\.)norm1", r"\1norm"),
    (r"^transformer\.enc_output_norm", "queries.norm"),
    (r"^transformer\.enc_output", "queries.project"),
    (r"^transformer\.pos_trans_norm", "queries.embedding.norm"),
    (r"^transformer\.pos_trans", "queries.embedding.project"),
    (r"^transformer\.reference_points\.", "queries.point.layers.0."),
    (r"^transformer\.tgt_embed\.weight", "queries.content"),
    (r"^query_embed\.weight", "queries.both"),
    (r"^transformer\.enc_out_bbox_embed", "queries.head.box"),
    (r"^transformer\.enc_out_class_embed", "queries.head.classes"),
    *LAYER_HEADS,
    (r"^decoder\.ref_point_head", "decoder.places.positions.embed"),
    (r"^decoder\.query_scale", "decoder.places.positions.scale"),
    (r"^label_enc\.", "denoising.label."),
)
"""Deformable DETR, H-Deformable-DETR and IDEA's DINO."""

DAB: Renames = (
    (r"^input_proj\.", "neck.projections.0.0."),
    (r"^refpoint_embed\.weight", "queries.boxes"),
    (r"^(decoder\.|transformer\.decoder\.)?bbox_embed\.layers", "decoder.heads.0.box.layers"),
    (r"^class_embed\.", "decoder.heads.0.classes."),
    *IDEA_LAYERS,
    (r"^(encoder\.layers\.\d+\.)norm2", r"\1feedforward.norm"),
    (r"^(encoder\.layers\.\d+\.)norm1", r"\1attention.norm"),
    (r"^(decoder\.layers\.\d+\.)norm1", r"\1self_attention.norm"),
    (r"^(decoder\.layers\.\d+\.)norm2", r"\1norm"),
    (r"\.sa_qcontent_proj", ".self_attention.query"),
    (r"\.sa_qpos_proj", ".self_attention.query_position"),
    (r"\.sa_kcontent_proj", ".self_attention.key"),
    (r"\.sa_kpos_proj", ".self_attention.key_position"),
    (r"\.sa_v_proj", ".self_attention.value"),
    (r"\.ca_qcontent_proj", ".cross_attention.attention.query"),
    (r"\.ca_qpos_sine_proj", ".cross_attention.attention.query_place"),
    (r"\.ca_qpos_proj", ".cross_attention.attention.query_position"),
    (r"\.ca_kcontent_proj", ".cross_attention.attention.key"),
    (r"\.ca_kpos_proj", ".cross_attention.attention.key_position"),
    (r"\.ca_v_proj", ".cross_attention.attention.value"),
    (r"(cross_attention\.attention)\.out_proj", r"\1.output"),
    *DAB_PLACES,
)
"""IDEA's DAB-DETR."""

_DETREX_LAYERS: Renames = (
    (r"^transformer\.(encoder|decoder)", r"\1"),
    (r"ffns\.0\.layers\.0\.0\.", "feedforward.expand."),
    (r"ffns\.0\.layers\.1\.", "feedforward.contract."),
    (r"ffns\.0\.(activation|layers\.0\.1)\.", "feedforward.activation."),
    (r"^(decoder.*)norms\.2", r"\1feedforward.norm"),
    (r"^(decoder.*)norms\.1", r"\1norm"),
    (r"^(decoder.*)norms\.0", r"\1self_attention.norm"),
    (r"^(encoder.*)norms\.1", r"\1feedforward.norm"),
    (r"^(encoder.*)attentions\.0\.attn\.in_proj_", r"\1attention.in_proj."),
    (r"^(encoder.*)attentions\.0\.(attn\.)?", r"\1attention."),
    (r"^(decoder.*)attentions\.0\.attn\.in_proj_", r"\1self_attention.in_proj."),
    (r"^(decoder.*)attentions\.0\.(attn\.)?", r"\1self_attention."),
    (r"^(decoder.*)attentions\.1\.", r"\1cross_attention.attention."),
)

DETREX: Renames = (
    (r"^neck\.convs\.(\d+)\.conv\.", r"neck.projections.\1.0."),
    (r"^neck\.convs\.(\d+)\.norm\.", r"neck.projections.\1.1."),
    (r"^neck\.extra_convs\.(\d+)\.conv\.", r"neck.extra.\1.0."),
    (r"^neck\.extra_convs\.(\d+)\.norm\.", r"neck.extra.\1.1."),
    (r"^transformer\.level_embeds$", "neck.level"),
    *_DETREX_LAYERS,
    *DEFORMABLE_PARTS,
    (r"^(encoder.*)norms\.0", r"\1norm"),
    (r"^transformer\.enc_output_norm", "queries.norm"),
    (r"^transformer\.enc_output", "queries.project"),
    (r"^transformer\.tgt_embed\.weight", "queries.content"),
    *LAYER_HEADS,
    (r"^decoder\.ref_point_head", "decoder.places.positions.embed"),
    (r"^label_enc\.", "denoising.label."),
)
"""detrex's DINO and the authors' Align-DETR."""

DETREX_DAB: Renames = (
    (r"^input_proj\.", "neck.projections.0.0."),
    (r"^anchor_box_embed\.weight", "queries.boxes"),
    (r"^(transformer\.decoder\.)?bbox_embed\.layers", "decoder.heads.0.box.layers"),
    (r"^class_embed\.", "decoder.heads.0.classes."),
    *_DETREX_LAYERS,
    (r"^(encoder.*)norms\.0", r"\1attention.norm"),
    (r"\.query_content_proj", ".query"),
    (r"\.query_pos_sine_proj", ".query_place"),
    (r"\.query_pos_proj", ".query_position"),
    (r"\.key_content_proj", ".key"),
    (r"\.key_pos_proj", ".key_position"),
    (r"\.value_proj", ".value"),
    (r"(cross_attention\.attention)\.out_proj", r"\1.output"),
    *DAB_PLACES,
    (r"^decoder\.post_norm_layer", "decoder.norm"),
)
"""detrex's DAB-DETR and the authors' Align-DAB-DETR."""


def renamed(name: str, renames: Renames) -> str:
    """Return our name of a published tensor."""
    for pattern, ours in renames:
        name = re.sub(pattern, ours, name)
    return name


def rename_all(tensors: Mapping[str, Tensor], renames: Renames, *, where: str) -> dict[str, Tensor]:
    """Return the tensors under our names; parts of one are joined along their rows.

    Published code saves a shared tensor under every name that it has.

    Raises:
        CheckpointError: Two names of one tensor have different values. `where` begins the message.
    """
    ours: dict[str, Tensor] = {}
    published: dict[str, str] = {}
    for theirs, value in tensors.items():
        name = renamed(theirs, renames)
        if name in ours and not torch.equal(ours[name], value):
            raise CheckpointError(
                f"{where}: expected {published[name]} and {theirs} to be one tensor, shared, found "
                "different values; a variant with a tensor for each cannot be converted"
            )
        ours[name] = value
        published[name] = theirs
    parts: dict[str, dict[int, Tensor]] = {}
    for name in list(ours):
        if packed := PACKED.match(name):
            parts.setdefault(packed[1], {})[int(packed[2])] = ours.pop(name)
    return ours | {name: _joined(found.items()) for name, found in parts.items()}


def _joined(parts: Iterable[tuple[int, Tensor]]) -> Tensor:
    return torch.cat([part for _, part in sorted(parts, key=lambda item: item[0])])
