"""Detectors of transformers become runs that predict the same from the same pixels."""

import secrets
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from aligndetr.checkpoint import open_checkpoint
from aligndetr.convert.classes import COCO
from aligndetr.convert.convert import convert
from aligndetr.errors import CheckpointError
from aligndetr.model.build import build_model
from aligndetr.types import ImageBatch

transformers: Any = pytest.importorskip("transformers")

ROWS = 91
BACKBONES = {
    "basic": {"layer_type": "basic", "embedding_size": 16, "hidden_sizes": [8, 16, 24, 32]},
    "bottleneck": {"layer_type": "bottleneck", "hidden_sizes": [16, 32, 48, 64]},
}
DENSE = {
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 64,
    "num_queries": 12,
    "num_labels": ROWS,
}
REFINED = {"with_box_refine": True}
TWO_STAGE = {"with_box_refine": True, "two_stage": True, "two_stage_num_proposals": 14}
CASES = [
    # system, what differs from its defaults, backbone, preset
    ("Detr", {}, "basic", "detr-r50"),
    ("Detr", {"auxiliary_loss": True}, "bottleneck", "detr-r50"),
    ("ConditionalDetr", {}, "basic", "conditional-detr-r50"),
    ("ConditionalDetr", {"auxiliary_loss": True}, "basic", "conditional-detr-r50"),
    ("DabDetr", {}, "basic", "dab-detr-r50"),
    ("DeformableDetr", {}, "basic", "deformable-detr-r50"),
    ("DeformableDetr", REFINED, "bottleneck", "deformable-detr-refined-r50"),
    ("DeformableDetr", TWO_STAGE, "basic", "deformable-detr-two-stage-r50"),
]


@pytest.fixture
def seed() -> int:
    """Another one at each run; pytest shows it where a test fails."""
    drawn = secrets.randbelow(2**31)
    print(f"seed {drawn}")  # noqa: T201
    torch.manual_seed(drawn)
    return drawn


def drawn_network(system: str, options: dict[str, Any], backbone: str) -> Any:
    """A small network of transformers with no weight as it was initialised."""
    size = {"hidden_size": 32} if system == "DabDetr" else {"d_model": 32}
    config = getattr(transformers, f"{system}Config")(
        **DENSE,
        **size,
        **options,
        backbone_config=transformers.ResNetConfig(
            **BACKBONES[backbone],
            depths=[1, 2, 1, 1],
            out_features=["stage2", "stage3", "stage4"],
        ),
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
@pytest.mark.usefixtures("seed")
@torch.no_grad()
def test_predictions_from_pixels_are_equal(
    system: str, options: dict[str, Any], backbone: str, preset: str, tmp_path: Path
):
    theirs = drawn_network(system, options, backbone)
    theirs.save_pretrained(tmp_path / "theirs")
    convert(tmp_path / "theirs", tmp_path / "run")
    checkpoint = open_checkpoint(tmp_path / "run")
    assert checkpoint.config.name == preset
    assert checkpoint.classes == COCO
    ours = build_model(checkpoint.config, device=torch.device("cpu"), pretrained=False)[0]
    ours.load_state_dict(checkpoint.state_dict)
    pixels, padding = drawn_images()
    expected = theirs(pixel_values=pixels, pixel_mask=(~padding).long())
    output = ours.eval()(ImageBatch(pixels, padding, torch.tensor([[96, 128], [70, 101]])))
    rows = [*COCO.ids, *range(ROWS, expected.logits.shape[-1])]
    torch.testing.assert_close(output.main.boxes, expected.pred_boxes, atol=1e-5, rtol=0)
    torch.testing.assert_close(output.main.logits, expected.logits[..., rows], atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("seed")
def test_classes_have_the_names_of_config_json(tmp_path: Path):
    names = {0: "cell", 1: "N/A", 2: "nucleus"}
    options = {"id2label": names, "label2id": {name: label for label, name in names.items()}}
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(DENSE, "num_labels")
        theirs = drawn_network("Detr", options, "basic")
    theirs.save_pretrained(tmp_path / "theirs")
    converted = convert(tmp_path / "theirs", tmp_path / "run")
    assert converted.classes.names == ("cell", "nucleus")
    kept = theirs.class_labels_classifier.bias[[0, 2, 3]]
    assert torch.equal(converted.state_dict["decoder.heads.0.classes.bias"], kept)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"activation_function": "gelu"}, "found activation_function=gelu in its config.json"),
        ({"decoder_attention_heads": 2}, "encoder_attention_heads=4 but decoder_attention_heads=2"),
    ],
)
@pytest.mark.usefixtures("seed")
def test_a_variant_that_computes_something_else_is_refused(
    options: dict[str, Any], reason: str, tmp_path: Path
):
    with pytest.MonkeyPatch.context() as patch:
        for name in options.keys() & DENSE.keys():
            patch.delitem(DENSE, name)
        drawn_network("Detr", options, "basic").save_pretrained(tmp_path / "theirs")
    with pytest.raises(CheckpointError, match=reason):
        convert(tmp_path / "theirs", tmp_path / "run")
