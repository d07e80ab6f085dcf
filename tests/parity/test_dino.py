"""Our model at published weights: every layer's predictions, denoising and the losses of DINO.

Runs on the forward cases of `dino/` that have two encoder and three decoder layers, shared heads
and learned content; each case's configuration is read from its own metadata.
"""

import re

import pytest
import torch
from torch import Tensor, nn

from aligndetr.layers.attention import SelfAttention
from aligndetr.layers.basic import FeedForward
from aligndetr.layers.deformable import DeformableAttention
from aligndetr.losses.box import BoxLoss
from aligndetr.losses.criterion import Criterion
from aligndetr.losses.matching import Matcher
from aligndetr.model.decoder import Decoder, DecoderLayer
from aligndetr.model.denoising import ContrastiveDenoising, Noise
from aligndetr.model.detector import DetectorModel
from aligndetr.model.encoder import DeformableEncoder, DeformableEncoderLayer
from aligndetr.model.groups import attention_mask
from aligndetr.model.heads import Head
from aligndetr.model.neck import Neck
from aligndetr.model.queries import TopQueries
from aligndetr.types import DetectorOutput, Features, Targets

RENAMES = (
    (r"^input_proj\.", "neck.projections."),
    (r"^transformer\.level_embed", "neck.level"),
    (r"^label_enc\.", "denoising.label."),
    (r"^transformer\.enc_output_norm", "queries.norm"),
    (r"^transformer\.enc_output", "queries.project"),
    (r"^transformer\.tgt_embed\.weight", "queries.content"),
    (r"^transformer\.enc_out_bbox_embed", "queries.head.box"),
    (r"^transformer\.enc_out_class_embed", "queries.head.classes"),
    (r"^(transformer\.decoder\.)?bbox_embed\.(\d+)", r"decoder.heads.\2.box"),
    (r"^(transformer\.decoder\.)?class_embed\.(\d+)", r"decoder.heads.\2.classes"),
    (r"^transformer\.", ""),
    (r"ref_point_head", "position"),
    (r"sampling_offsets", "offsets"),
    (r"attention_weights", "weights"),
    (r"(value|output)_proj", r"\1"),
    (r"linear1", "feedforward.expand"),
    (r"linear2", "feedforward.contract"),
    (r"^(encoder.*)self_attn", r"\1attention"),
    (r"^(encoder.*)norm2", r"\1feedforward.norm"),
    (r"^(encoder.*)norm1", r"\1norm"),
    (r"^(decoder.*)self_attn\.in_proj_", r"\1self_attention.in_proj."),
    (r"^(decoder.*)self_attn", r"\1self_attention"),
    (r"^(decoder.*)cross_attn", r"\1cross_attention"),
    (r"^(decoder.*)norm3", r"\1feedforward.norm"),
    (r"^(decoder.*)norm2", r"\1self_attention.norm"),
    (r"^(decoder.*)norm1", r"\1norm"),
)
"""Names of IDEA's DINO, and ours, applied in this order."""


def renamed(name: str) -> str:
    for pattern, ours in RENAMES:
        name = re.sub(pattern, ours, name)
    return name


def state_dict_of(weights) -> dict[str, Tensor]:
    state = {renamed(key[3:]): value.float() for key, value in weights.arrays.items()}
    aliases = weights.metadata.get("aliases", {})
    shared = {renamed(name): state[renamed(kept)] for name, kept in aliases.items()}
    return state | shared


def build(config, state: dict[str, Tensor]) -> DetectorModel:
    width, heads, hidden = config["hidden_dim"], config["nheads"], config["dim_feedforward"]
    levels, classes = config["num_feature_levels"], config["num_classes"]

    def attention() -> DeformableAttention:
        return DeformableAttention(width, heads, levels=levels, points=config["enc_n_points"])

    def feedforward() -> FeedForward:
        return FeedForward(width, hidden)

    model = DetectorModel(
        backbone=nn.Identity(),  # pyright: ignore[reportArgumentType]
        neck=Neck(
            [state[f"neck.projections.{level}.0.weight"].shape[1] for level in range(3)],
            width,
            levels=levels,
            temperature=config["pe_temperatureH"],
            offset=0.0,
        ),
        encoder=DeformableEncoder(
            [
                DeformableEncoderLayer(attention(), feedforward(), width)
                for _ in range(config["enc_layers"])
            ]
        ),
        queries=TopQueries(
            Head(width, classes, prior=0.01), width, count=config["num_queries"], content="learned"
        ),
        denoising=ContrastiveDenoising(
            width,
            state["denoising.label.weight"].shape[0],
            queries=config["dn_number"],
            label_noise=config["dn_label_noise_ratio"],
            box_noise=config["dn_box_noise_scale"],
            eps=1e-3,
        ),
        decoder=Decoder(
            [
                DecoderLayer(SelfAttention(width, heads), attention(), feedforward(), width)
                for _ in range(config["dec_layers"])
            ],
            [Head(width, classes, prior=0.01)] * config["dec_layers"],
            width,
            refinement="look_forward_twice",
            eps=1e-3,
        ),
    )
    model.load_state_dict(state)
    return model


def features_of(case) -> Features:
    levels = tuple(case[f"feat{level}"] for level in range(3))
    return Features(levels, case["mask"].bool(), case["img_sizes"])


def model_of(case) -> DetectorModel:
    weights = case.other("dino/small_eval_weights.safetensors")
    return build(case.metadata["config"], state_dict_of(weights))


@torch.no_grad()
@pytest.mark.goldens("dino", "small_eval*[!s].safetensors")
def test_every_layer_and_the_proposals_equal_dinos(golden):
    output = model_of(golden).eval()(features_of(golden))
    for depth, layer in enumerate(output.layers):
        torch.testing.assert_close(layer.logits, golden["logits"][depth], atol=1e-5, rtol=0)
        torch.testing.assert_close(layer.boxes, golden["pred_boxes"][depth], atol=1e-5, rtol=0)
    proposals = output.proposals
    assert proposals is not None
    torch.testing.assert_close(proposals.logits, golden["interm_logits"], atol=1e-5, rtol=0)
    torch.testing.assert_close(proposals.boxes, golden["interm_boxes"], atol=1e-5, rtol=0)


def targets_of(case) -> Targets:
    return Targets(case["gt_boxes"], case["gt_labels"], tuple(case["gt_sizes"].tolist()))


def noise_of(case, label_noise: float) -> Noise:
    """The recorded draws; the file has new labels only where a label was to change."""
    chance = case["dn_rand_p"].flatten()
    label = torch.zeros(len(chance), dtype=torch.int64)
    label[chance < label_noise * 0.5] = case["dn_new_label"]
    return Noise(chance, label, case["dn_rand_sign01"] * 2.0 - 1.0, case["dn_rand_part"])


def trained_output(case) -> DetectorOutput:
    model = model_of(case).train()
    noise = noise_of(case, case.metadata["config"]["dn_label_noise_ratio"])
    return model(features_of(case), targets_of(case), noise)


@pytest.mark.goldens("dino", "small_train.safetensors")
def test_denoising_queries_and_their_predictions_equal_dinos(golden):
    output = trained_output(golden)
    mask = attention_mask(output.groups, torch.device("cpu"))
    assert mask is not None
    assert torch.equal(mask, golden["dn_attn_mask"].bool())
    for depth, layer in enumerate(output.layers):
        for group, prefix in zip(output.groups, ("dn_", ""), strict=True):
            part = layer.span(*group.span)
            boxes = golden["dn_boxes" if prefix else "pred_boxes"][depth]
            logits = golden[f"{prefix}logits"][depth]
            torch.testing.assert_close(part.boxes, boxes, atol=1e-5, rtol=0)
            torch.testing.assert_close(part.logits, logits, atol=1e-5, rtol=0)


@pytest.mark.goldens("dino", "small_train.safetensors")
def test_the_losses_equal_dinos(golden):
    """The default criterion is DINO's; the published IoU and GIoU have an epsilon."""
    criterion = Criterion(box=BoxLoss(eps=1e-6), matcher=Matcher(eps=1e-6), iou_eps=1e-6)
    losses = criterion(trained_output(golden), targets_of(golden))
    layers = golden.metadata["config"]["dec_layers"]
    groups = {"proposals": "_interm"}
    for depth in range(layers):
        suffix = "" if depth == layers - 1 else f"_{depth}"
        groups |= {f"main.{depth}": suffix, f"denoising.{depth}": f"_dn{suffix}"}
    terms = {"class": ("loss_ce", 1.0), "l1": ("loss_bbox", 5.0), "giou": ("loss_giou", 2.0)}
    for ours, suffix in groups.items():
        for term, (published, weight) in terms.items():
            expected = golden[f"loss.{published}{suffix}"] * weight
            torch.testing.assert_close(losses[f"{ours}.{term}"], expected, atol=0, rtol=1e-4)
