"""The tensors of published detectors by name and shape, in a small size; no code of theirs is here.

One line has a tensor, or several with `{0,1}` in their names. `linear`, `norm` and `conv` are a
weight with its bias, `tensor` is itself. Width 32, 4 heads, 4 points, 2 + 2 layers, 12 queries.
"""

import re
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

CLASSES = 91

_DEFORMABLE_LAYERS = """
transformer.encoder.layers.{0,1}.self_attn.sampling_offsets linear 128x32
transformer.encoder.layers.{0,1}.self_attn.attention_weights linear 64x32
transformer.encoder.layers.{0,1}.self_attn.{value_proj,output_proj} linear 32x32
transformer.encoder.layers.{0,1}.linear1 linear 48x32
transformer.encoder.layers.{0,1}.linear2 linear 32x48
transformer.encoder.layers.{0,1}.norm{1,2} norm 32
transformer.decoder.layers.{0,1}.cross_attn.sampling_offsets linear 128x32
transformer.decoder.layers.{0,1}.cross_attn.attention_weights linear 64x32
transformer.decoder.layers.{0,1}.cross_attn.{value_proj,output_proj} linear 32x32
transformer.decoder.layers.{0,1}.self_attn.in_proj_weight tensor 96x32
transformer.decoder.layers.{0,1}.self_attn.in_proj_bias tensor 96
transformer.decoder.layers.{0,1}.self_attn.out_proj linear 32x32
transformer.decoder.layers.{0,1}.linear1 linear 64x32
transformer.decoder.layers.{0,1}.linear2 linear 32x64
transformer.decoder.layers.{0,1}.norm{1,2,3} norm 32
transformer.level_embed tensor 4x32
input_proj.0.0 linear 32x16x1x1
input_proj.1.0 linear 32x24x1x1
input_proj.2.0 linear 32x40x1x1
input_proj.3.0 linear 32x40x3x3
input_proj.{0,1,2,3}.1 norm 32
"""
_PROPOSALS = """
transformer.enc_output linear 32x32
transformer.enc_output_norm norm 32
"""
_SEPARATE_HEADS = """
{,transformer.decoder.}class_embed.{0,1,2} linear 91x32
{,transformer.decoder.}bbox_embed.{0,1,2}.layers.{0,1} linear 32x32
{,transformer.decoder.}bbox_embed.{0,1,2}.layers.2 linear 4x32
transformer.pos_trans linear 64x64
transformer.pos_trans_norm norm 64
"""
_SHARED_HEADS = """
class_embed.{0,1} linear 91x32
bbox_embed.{0,1}.layers.{0,1} linear 32x32
bbox_embed.{0,1}.layers.2 linear 4x32
"""

DEFORMABLE = f"""{_DEFORMABLE_LAYERS}{_SHARED_HEADS}
query_embed.weight tensor 12x64
transformer.reference_points linear 2x32
"""
DEFORMABLE_TWO_STAGE = f"{_DEFORMABLE_LAYERS}{_PROPOSALS}{_SEPARATE_HEADS}"
H_DEFORMABLE = f"""{_DEFORMABLE_LAYERS}{_PROPOSALS}{_SEPARATE_HEADS}
query_embed.weight tensor 12x32
"""
DINO = f"""{_DEFORMABLE_LAYERS}{_PROPOSALS}{_SHARED_HEADS}
transformer.decoder.class_embed.{{0,1}} linear 91x32
transformer.decoder.bbox_embed.{{0,1}}.layers.{{0,1}} linear 32x32
transformer.decoder.bbox_embed.{{0,1}}.layers.2 linear 4x32
transformer.enc_out_class_embed linear 91x32
transformer.enc_out_bbox_embed.layers.{{0,1}} linear 32x32
transformer.enc_out_bbox_embed.layers.2 linear 4x32
transformer.decoder.norm norm 32
transformer.decoder.ref_point_head.layers.0 linear 32x64
transformer.decoder.ref_point_head.layers.1 linear 32x32
transformer.tgt_embed.weight tensor 12x32
label_enc.weight tensor 92x32
"""
DETREX_DINO = """
transformer.encoder.layers.{0,1}.attentions.0.sampling_offsets linear 128x32
transformer.encoder.layers.{0,1}.attentions.0.attention_weights linear 64x32
transformer.encoder.layers.{0,1}.attentions.0.{value_proj,output_proj} linear 32x32
transformer.encoder.layers.{0,1}.ffns.0.layers.0.0 linear 48x32
transformer.encoder.layers.{0,1}.ffns.0.layers.1 linear 32x48
transformer.encoder.layers.{0,1}.norms.{0,1} norm 32
transformer.decoder.layers.{0,1}.attentions.0.attn.in_proj_weight tensor 96x32
transformer.decoder.layers.{0,1}.attentions.0.attn.in_proj_bias tensor 96
transformer.decoder.layers.{0,1}.attentions.0.attn.out_proj linear 32x32
transformer.decoder.layers.{0,1}.attentions.1.sampling_offsets linear 128x32
transformer.decoder.layers.{0,1}.attentions.1.attention_weights linear 64x32
transformer.decoder.layers.{0,1}.attentions.1.{value_proj,output_proj} linear 32x32
transformer.decoder.layers.{0,1}.ffns.0.layers.0.0 linear 64x32
transformer.decoder.layers.{0,1}.ffns.0.layers.1 linear 32x64
transformer.decoder.layers.{0,1}.norms.{0,1,2} norm 32
transformer.decoder.norm norm 32
transformer.decoder.ref_point_head.layers.0 linear 32x64
transformer.decoder.ref_point_head.layers.1 linear 32x32
transformer.enc_output linear 32x32
transformer.enc_output_norm norm 32
transformer.level_embeds tensor 4x32
transformer.tgt_embed.weight tensor 12x32
{,transformer.decoder.}class_embed.{0,1,2} linear 80x32
{,transformer.decoder.}bbox_embed.{0,1,2}.layers.{0,1} linear 32x32
{,transformer.decoder.}bbox_embed.{0,1,2}.layers.2 linear 4x32
neck.convs.0.conv linear 32x16x1x1
neck.convs.1.conv linear 32x24x1x1
neck.convs.2.conv linear 32x40x1x1
neck.extra_convs.0.conv linear 32x40x3x3
neck.convs.{0,1,2}.norm norm 32
neck.extra_convs.0.norm norm 32
label_enc.weight tensor 80x32
"""
DAB = """
transformer.encoder.layers.{0,1}.self_attn.in_proj_weight tensor 96x32
transformer.encoder.layers.{0,1}.self_attn.in_proj_bias tensor 96
transformer.encoder.layers.{0,1}.self_attn.out_proj linear 32x32
transformer.encoder.layers.{0,1}.linear1 linear 48x32
transformer.encoder.layers.{0,1}.linear2 linear 32x48
transformer.encoder.layers.{0,1}.norm{1,2} norm 32
transformer.encoder.layers.{0,1}.activation.weight tensor 1
transformer.encoder.query_scale.layers.{0,1} linear 32x32
transformer.decoder.layers.{0,1}.sa_{qcontent,qpos,kcontent,kpos,v}_proj linear 32x32
transformer.decoder.layers.{0,1}.self_attn.out_proj linear 32x32
transformer.decoder.layers.{0,1}.ca_{qcontent,qpos_sine,kcontent,kpos,v}_proj linear 32x32
transformer.decoder.layers.0.ca_qpos_proj linear 32x32
transformer.decoder.layers.{0,1}.cross_attn.out_proj linear 32x32
transformer.decoder.layers.{0,1}.linear1 linear 64x32
transformer.decoder.layers.{0,1}.linear2 linear 32x64
transformer.decoder.layers.{0,1}.norm{1,2,3} norm 32
transformer.decoder.layers.{0,1}.activation.weight tensor 1
transformer.decoder.norm norm 32
transformer.decoder.query_scale.layers.{0,1} linear 32x32
transformer.decoder.ref_anchor_head.layers.0 linear 32x32
transformer.decoder.ref_anchor_head.layers.1 linear 2x32
transformer.decoder.ref_point_head.layers.0 linear 32x64
transformer.decoder.ref_point_head.layers.1 linear 32x32
{,transformer.decoder.}bbox_embed.layers.{0,1} linear 32x32
{,transformer.decoder.}bbox_embed.layers.2 linear 4x32
class_embed linear 91x32
refpoint_embed.weight tensor 12x4
input_proj linear 32x40x1x1
"""
DETREX_DAB = """
transformer.encoder.layers.{0,1}.attentions.0.attn.in_proj_weight tensor 96x32
transformer.encoder.layers.{0,1}.attentions.0.attn.in_proj_bias tensor 96
transformer.encoder.layers.{0,1}.attentions.0.attn.out_proj linear 32x32
transformer.encoder.layers.{0,1}.ffns.0.layers.0.0 linear 48x32
transformer.encoder.layers.{0,1}.ffns.0.layers.1 linear 32x48
transformer.encoder.layers.{0,1}.ffns.0.{activation,layers.0.1}.weight tensor 1
transformer.encoder.layers.{0,1}.norms.{0,1} norm 32
transformer.encoder.query_scale.layers.{0,1} linear 32x32
transformer.decoder.layers.{0,1}.attentions.{0,1}.query_content_proj linear 32x32
transformer.decoder.layers.{0,1}.attentions.{0,1}.key_{content,pos}_proj linear 32x32
transformer.decoder.layers.{0,1}.attentions.{0,1}.{value,out}_proj linear 32x32
transformer.decoder.layers.{0,1}.attentions.0.query_pos_proj linear 32x32
transformer.decoder.layers.0.attentions.1.query_pos_proj linear 32x32
transformer.decoder.layers.{0,1}.attentions.1.query_pos_sine_proj linear 32x32
transformer.decoder.layers.{0,1}.ffns.0.layers.0.0 linear 64x32
transformer.decoder.layers.{0,1}.ffns.0.layers.1 linear 32x64
transformer.decoder.layers.{0,1}.ffns.0.{activation,layers.0.1}.weight tensor 1
transformer.decoder.layers.{0,1}.norms.{0,1,2} norm 32
transformer.decoder.post_norm_layer norm 32
transformer.decoder.query_scale.layers.{0,1} linear 32x32
transformer.decoder.ref_anchor_head.layers.0 linear 32x32
transformer.decoder.ref_anchor_head.layers.1 linear 2x32
transformer.decoder.ref_point_head.layers.0 linear 32x64
transformer.decoder.ref_point_head.layers.1 linear 32x32
{,transformer.decoder.}bbox_embed.layers.{0,1} linear 32x32
{,transformer.decoder.}bbox_embed.layers.2 linear 4x32
class_embed linear 80x32
anchor_box_embed.weight tensor 12x4
input_proj linear 32x40x1x1
"""


def tensors_of(text: str) -> dict[str, Tensor]:
    """Random tensors of these names and shapes; names of one tensor are given the same values."""
    tensors: dict[str, Tensor] = {}
    for line in text.split("\n"):
        if line:
            pattern, kind, sizes = line.split()
            shape = tuple(int(size) for size in sizes.split("x"))
            parts = {"": shape} if kind == "tensor" else {".weight": shape, ".bias": shape[:1]}
            for name in expand(pattern):
                tensors |= {
                    f"{name}{part}": 0.1 * torch.randn(size) for part, size in parts.items()
                }
    for alias, name in (("transformer.decoder.", ""), (".activation.", ".layers.0.1.")):
        tensors = {key: tensors.get(key.replace(alias, name), tensors[key]) for key in tensors}
    return tensors


def expand(pattern: str) -> Iterator[str]:
    """The names that a pattern such as `layers.{0,1}.norm` stands for."""
    found = re.search(r"\{([^}]*)\}", pattern)
    if found is None:
        yield pattern
        return
    for word in found[1].split(","):
        yield from expand(pattern[: found.start()] + word + pattern[found.end() :])


def with_shared_heads(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors where every decoder layer predicts with the weights of the first."""
    firsts = {name: re.sub(r"((?:class|bbox)_embed)\.\d+", r"\1.0", name) for name in tensors}
    return {name: tensors[firsts[name]] for name in tensors}


def kinds_of(names: Iterable[str]) -> set[str]:
    """The names without their numbers, which count layers."""
    return {re.sub(r"\.\d+(?=\.)", ".*", name) for name in names}
