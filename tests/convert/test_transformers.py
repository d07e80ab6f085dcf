"""Detectors of transformers become runs that predict the same from the same pixels."""

import random
import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from aligndetr.checkpoint import open_checkpoint
from aligndetr.convert.classes import COCO
from aligndetr.convert.convert import convert, convert_source
from aligndetr.convert.read import read_source
from aligndetr.errors import CheckpointError
from aligndetr.model.build import build_model
from aligndetr.types import ImageBatch

transformers: Any = pytest.importorskip("transformers")

ROWS = 91
BACKBONES: dict[str, dict[str, Any]] = {
    "basic": {"layer_type": "basic", "embedding_size": 16, "hidden_sizes": [8, 16, 24, 32]},
    "bottleneck": {"layer_type": "bottleneck", "hidden_sizes": [16, 32, 48, 64]},
    "equal": {"layer_type": "basic", "embedding_size": 16, "hidden_sizes": [16] * 4},
}
TIMM = {"timm": {"output_stride": 32}, "timm, dilated": {"output_stride": 16}}
REFINED = {"with_box_refine": True}
TWO_STAGE = {"with_box_refine": True, "two_stage": True, "two_stage_num_proposals": 14}
CASES = [
    # system, what differs from its defaults, backbone, preset
    ("Detr", {}, "basic", "detr-r50"),
    ("Detr", {}, "timm, dilated", "detr-r50"),
    ("Detr", {"auxiliary_loss": True}, "bottleneck", "detr-r50"),
    ("Detr", {}, "equal", "detr-r50"),
    ("ConditionalDetr", {}, "basic", "conditional-detr-r50"),
    ("ConditionalDetr", {"auxiliary_loss": True}, "timm", "conditional-detr-r50"),
    ("DabDetr", {}, "timm, dilated", "dab-detr-r50"),
    ("DabDetr", {"activation_function": "relu"}, "basic", "dab-detr-r50"),
    ("DeformableDetr", {}, "basic", "deformable-detr-r50"),
    ("DeformableDetr", REFINED, "timm", "deformable-detr-refined-r50"),
    ("DeformableDetr", REFINED, "equal", "deformable-detr-refined-r50"),
    ("DeformableDetr", REFINED, "bottleneck", "deformable-detr-refined-r50"),
    ("DeformableDetr", TWO_STAGE, "basic", "deformable-detr-two-stage-r50"),
]


@pytest.fixture
def draw() -> random.Random:
    """Draws other sizes at each run; pytest shows its seed where a test fails."""
    seed = secrets.randbelow(2**31)
    print(f"seed {seed}")  # noqa: T201
    torch.manual_seed(seed)
    return random.Random(seed)


def drawn_options(draw: random.Random, system: str) -> dict[str, Any]:
    """Sizes of a small network."""
    heads = draw.choice((2, 4, 8))
    sizes = {
        "hidden_size" if system == "DabDetr" else "d_model": draw.choice((32, 64)),
        "encoder_layers": draw.choice((1, 2, 3)),
        "decoder_layers": draw.choice((2, 3)),  # of one alone DeformableDetr cannot be built
        "encoder_attention_heads": heads,
        "decoder_attention_heads": heads,
        "encoder_ffn_dim": draw.randrange(8, 64),
        "decoder_ffn_dim": draw.randrange(8, 64),
        "num_queries": draw.randrange(1, 20),
        "num_labels": ROWS,
    }
    if system == "DabDetr":
        temperature = draw.choice((20, 10000))
        sizes |= {"temperature_height": temperature, "temperature_width": temperature}
    if system == "DeformableDetr":
        sizes |= {
            "num_feature_levels": draw.choice((3, 4, 5)),
            "encoder_n_points": draw.choice((1, 2, 4)),
            "decoder_n_points": draw.choice((1, 2, 4)),
        }
    return sizes


def backbone_of(name: str, system: str) -> Any:
    stages = (2, 3, 4) if system == "DeformableDetr" else (4,)
    if name == "equal":  # channels do not tell which these are
        stages = tuple(stage - 1 for stage in stages)
    if name in TIMM:
        return transformers.TimmBackboneConfig(
            backbone="resnet18", out_indices=list(stages), **TIMM[name]
        )
    return transformers.ResNetConfig(
        **BACKBONES[name], depths=[1, 2, 1, 1], out_features=[f"stage{stage}" for stage in stages]
    )


def drawn_network(draw: random.Random, system: str, options: dict[str, Any], backbone: str) -> Any:
    """A small network of transformers with no weight as it was initialised."""
    config = getattr(transformers, f"{system}Config")(
        **{**drawn_options(draw, system), **options}, backbone_config=backbone_of(backbone, system)
    )
    network = getattr(transformers, f"{system}ForObjectDetection")(config).eval()
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif value.is_floating_point():
            value.add_(0.05 * torch.randn_like(value))
    return network


def drawn_images() -> tuple[Tensor, Tensor]:
    """Pixels of two images, and the padding of the second one."""
    padding = torch.zeros(2, 96, 128, dtype=torch.bool)
    padding[1, 70:] = True
    padding[1, :, 101:] = True
    return torch.randn(2, 3, 96, 128).masked_fill(padding[:, None], 0), padding


@pytest.mark.parametrize(("system", "options", "backbone", "preset"), CASES)
@pytest.mark.filterwarnings("ignore:You'd better set embed_dim")  # of DeformableDetr's own kernel
@torch.no_grad()
def test_predictions_from_pixels_are_equal(
    system: str,
    options: dict[str, Any],
    backbone: str,
    preset: str,
    draw: random.Random,
    tmp_path: Path,
):
    theirs = drawn_network(draw, system, options, backbone)
    theirs.save_pretrained(tmp_path / "theirs")
    convert(tmp_path / "theirs", tmp_path / "run", overrides=("precision=fp32",))
    checkpoint = open_checkpoint(tmp_path / "run")
    assert checkpoint.config.name == preset
    assert checkpoint.classes == COCO
    ours = build_model(checkpoint.config, device=torch.device("cpu"), pretrained=False)[0]
    ours.load_state_dict(checkpoint.state_dict)
    pixels, padding = drawn_images()
    if system == "DeformableDetr":  # which multiplies rounding; the others know single alone
        theirs, ours, pixels = theirs.double(), ours.double(), pixels.double()
    expected = theirs(pixel_values=pixels, pixel_mask=(~padding).long())
    output = ours.eval()(ImageBatch(pixels, padding, torch.tensor([[96, 128]] * 2)))
    rows = [*COCO.ids, *range(ROWS, expected.logits.shape[-1])]
    torch.testing.assert_close(output.main.boxes, expected.pred_boxes, atol=1e-5, rtol=0)
    torch.testing.assert_close(output.main.logits, expected.logits[..., rows], atol=1e-5, rtol=0)


@pytest.mark.parametrize("system", ["Detr", "ConditionalDetr", "DabDetr", "DeformableDetr"])
@pytest.mark.filterwarnings("ignore:You'd better set embed_dim")
def test_names_in_memory_mean_what_those_in_files_do(
    system: str, draw: random.Random, tmp_path: Path
):
    theirs = drawn_network(draw, system, {}, "basic")
    theirs.save_pretrained(tmp_path)
    saved = read_source(tmp_path)
    assert theirs.state_dict().keys() != saved.tensors.keys()
    in_memory = convert_source(replace(saved, tensors=theirs.state_dict()))
    in_file = convert_source(saved)
    assert in_memory.fit.problems == in_file.fit.problems == ""
    assert in_memory.config == in_file.config
    for name, value in in_file.state_dict.items():
        assert torch.equal(in_memory.state_dict[name], value), name


def test_classes_have_the_names_of_config_json(draw: random.Random, tmp_path: Path):
    names = {0: "cell", 1: "N/A", 2: "nucleus"}
    labels = {name: label for label, name in names.items()}
    options = {"num_labels": 3, "id2label": names, "label2id": labels}
    theirs = drawn_network(draw, "Detr", options, "basic")
    theirs.save_pretrained(tmp_path / "theirs")
    converted = convert(tmp_path / "theirs", tmp_path / "run")
    assert converted.classes.names == ("cell", "nucleus")
    kept = theirs.class_labels_classifier.bias[[0, 2, 3]]
    assert torch.equal(converted.state_dict["decoder.heads.0.classes.bias"], kept)


@pytest.mark.filterwarnings("ignore:You'd better set embed_dim")
def test_refinement_is_what_config_json_says(draw: random.Random, tmp_path: Path):
    theirs = drawn_network(draw, "DeformableDetr", REFINED, "basic")
    with torch.no_grad():
        for heads in (theirs.class_embed, theirs.bbox_embed):
            for head in heads:
                head.load_state_dict(heads[0].state_dict())
    theirs.save_pretrained(tmp_path / "theirs")
    converted = convert(tmp_path / "theirs", tmp_path / "run")
    assert converted.config.name == "deformable-detr-refined-r50"


@pytest.mark.parametrize("content", [None, "{broken"])
def test_without_config_json_the_rest_is_not_guessed(
    content: str | None, draw: random.Random, tmp_path: Path
):
    drawn_network(draw, "Detr", {}, "basic").save_pretrained(tmp_path / "theirs")
    config = tmp_path / "theirs" / "config.json"
    if content is None:
        config.unlink()
    else:
        config.write_text(content)
    with pytest.raises(
        CheckpointError, match=r"expected the config\.json .* none that can be read"
    ):
        convert(tmp_path / "theirs" / "model.safetensors", tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"activation_function": "gelu"}, "found activation_function=gelu in its config.json"),
        (
            {"decoder_attention_heads": 1},
            r"encoder_attention_heads=\d but decoder_attention_heads=1",
        ),
        ({"position_embedding_type": "learned"}, r"unexpected \(model\.position_embedding\."),
    ],
)
def test_a_variant_that_is_none_of_ours_is_refused(
    options: dict[str, Any], reason: str, draw: random.Random, tmp_path: Path
):
    drawn_network(draw, "Detr", options, "basic").save_pretrained(tmp_path / "theirs")
    with pytest.raises(CheckpointError, match=reason):
        convert(tmp_path / "theirs", tmp_path / "run")
