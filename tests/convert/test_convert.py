"""Published detectors become runs: tensor by tensor, and prediction by prediction."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from aligndetr.api import Detector
from aligndetr.checkpoint import Checkpoint, open_checkpoint
from aligndetr.config.slots import TopQueries
from aligndetr.convert.classes import COCO
from aligndetr.convert.convert import convert
from aligndetr.errors import CheckpointError, ConfigError
from aligndetr.types import Classes
from convert import published_names as published
from convert.networks import as_detectron2, as_torchvision, small_resnet

HEADS = "heads=4"
IDS = list(COCO.ids)
WIDTH = 32

CASES = {
    # text, is the backbone detectron2's, preset, pairs of names that shapes cannot tell apart
    "deformable": (
        published.DEFORMABLE,
        False,
        "deformable-detr-refined-r50",
        {
            "transformer.encoder.layers.1.norm1.bias": "encoder.layers.1.norm.bias",
            "transformer.decoder.layers.0.norm1.bias": "decoder.layers.0.norm.bias",
            "transformer.decoder.layers.0.norm2.bias": "decoder.layers.0.self_attention.norm.bias",
            "bbox_embed.1.layers.1.weight": "decoder.heads.1.box.layers.1.weight",
        },
    ),
    "deformable, two stages": (
        published.DEFORMABLE_TWO_STAGE,
        False,
        "deformable-detr-two-stage-r50",
        {"transformer.decoder.bbox_embed.2.layers.0.bias": "queries.head.box.layers.0.bias"},
    ),
    "h-deformable": (
        published.H_DEFORMABLE,
        False,
        "h-deformable-detr-r50",
        {"query_embed.weight": "queries.content"},
    ),
    "dino": (
        published.DINO,
        False,
        "dino-r50-4scale",
        {
            "transformer.enc_out_bbox_embed.layers.1.bias": "queries.head.box.layers.1.bias",
            "transformer.tgt_embed.weight": "queries.content",
            "transformer.decoder.norm.weight": "decoder.norm.weight",
            "input_proj.3.0.weight": "neck.projections.3.0.weight",
        },
    ),
    "detrex's dino": (
        published.DETREX_DINO,
        True,
        "align-dino-r50-4scale-released",
        {
            "neck.extra_convs.0.norm.bias": "neck.projections.3.1.bias",
            "transformer.decoder.layers.1.norms.0.bias": (
                "decoder.layers.1.self_attention.norm.bias"
            ),
            "transformer.decoder.layers.1.norms.1.bias": "decoder.layers.1.norm.bias",
            "class_embed.2.bias": "queries.head.classes.bias",
        },
    ),
    "dab": (
        published.DAB,
        False,
        "dab-detr-r50",
        {
            "transformer.decoder.layers.1.sa_kpos_proj.bias": (
                "decoder.layers.1.self_attention.key_position.bias"
            ),
            "transformer.decoder.layers.1.ca_v_proj.weight": (
                "decoder.layers.1.cross_attention.attention.value.weight"
            ),
            "refpoint_embed.weight": "queries.boxes",
        },
    ),
    "detrex's dab": (
        published.DETREX_DAB,
        True,
        "align-dab-detr-r50-released",
        {
            "transformer.decoder.layers.1.attentions.1.query_pos_sine_proj.bias": (
                "decoder.layers.1.cross_attention.attention.query_place.bias"
            ),
            "transformer.encoder.query_scale.layers.1.weight": "encoder.scale.layers.1.weight",
            "anchor_box_embed.weight": "queries.boxes",
        },
    ),
}


def tensors_of(case: str) -> dict[str, Tensor]:
    text, is_detectron2s, _, _ = CASES[case]
    torch.manual_seed(0)
    named = as_detectron2 if is_detectron2s else as_torchvision
    return published.tensors_of(text) | named(small_resnet())


def saved(folder: Path, tensors: dict[str, Tensor]) -> Path:
    path = folder / "published.pth"
    torch.save({"model": tensors}, path)
    return path


def brought(folder: Path, tensors: dict[str, Tensor]) -> Checkpoint:
    convert(saved(folder, tensors), folder / "run", overrides=(HEADS,))
    return open_checkpoint(folder / "run")


def key(tensor: Tensor) -> tuple[torch.Size, bytes]:
    return tensor.shape, tensor.contiguous().numpy().tobytes()


def variants(tensor: Tensor) -> Iterator[Tensor]:
    """A tensor, its rows of COCO's classes, with the first for proposals, and two halves."""
    yield tensor
    if tensor.dim() and len(tensor) >= published.CLASSES:
        yield tensor[IDS]
        yield tensor[[0, *IDS[1:]]]
    if tensor.dim() == 2 and tensor.shape[1] == 2 * WIDTH:
        yield from tensor.split(WIDTH, dim=1)


# Layouts of other code than transformers'


@pytest.mark.parametrize("case", CASES)
def test_every_tensor_is_in_the_run_and_no_other(case: str, tmp_path: Path):
    tensors = tensors_of(case)
    checkpoint = brought(tmp_path, tensors)
    ours = {key(value): name for name, value in checkpoint.state_dict.items()}
    theirs = {key(part) for value in tensors.values() for part in variants(value)}
    lost = [
        name for name, value in tensors.items() if not any(key(v) in ours for v in variants(value))
    ]
    assert lost == [] or set(lost) <= {"label_enc.weight"}
    made = [name for identity, name in ours.items() if identity not in theirs]
    assert [name for name in made if not name.endswith("num_batches_tracked")] == []
    assert checkpoint.config.name == CASES[case][2]


@pytest.mark.parametrize("case", CASES)
def test_tensors_of_one_shape_have_their_places(case: str, tmp_path: Path):
    tensors = tensors_of(case)
    state = brought(tmp_path, tensors).state_dict
    for theirs, ours in CASES[case][3].items():
        assert torch.equal(state[ours], tensors[theirs]), theirs


def test_plain_deformable_detr_has_equal_heads(tmp_path: Path):
    tensors = published.with_shared_heads(tensors_of("deformable"))
    checkpoint = brought(tmp_path, tensors)
    assert checkpoint.config.name == "deformable-detr-r50"
    embedded = tensors["query_embed.weight"]
    assert torch.equal(checkpoint.state_dict["queries.position"], embedded[:, :WIDTH])
    assert torch.equal(checkpoint.state_dict["queries.content"], embedded[:, WIDTH:])


def test_91_rows_become_cocos_80_classes(tmp_path: Path):
    tensors = tensors_of("dino")
    checkpoint = brought(tmp_path, tensors)
    assert checkpoint.classes == COCO
    assert len(checkpoint.classes) == checkpoint.config.num_classes == 80
    bias = checkpoint.state_dict["decoder.heads.0.classes.bias"]
    assert torch.equal(bias, tensors["class_embed.0.bias"][IDS])
    labels = checkpoint.state_dict["denoising.label.weight"]
    assert torch.equal(labels, tensors["label_enc.weight"][IDS])


def test_91_rows_of_other_classes_are_kept_where_told(tmp_path: Path):
    path = saved(tmp_path, tensors_of("dino"))
    converted = convert(path, tmp_path / "run", overrides=(HEADS, "num_classes=91"))
    assert converted.config.num_classes == 91
    assert converted.classes == Classes.numbered(91)


def test_a_dilated_last_stage_is_told_by_one_setting(tmp_path: Path):
    path = saved(tmp_path, tensors_of("dab"))
    overrides = (HEADS, "backbone.output_stride=16")
    config = convert(path, tmp_path / "run", overrides=overrides).config
    assert config.backbone.output_stride == 16
    assert config.backbone.strides == (16,)
    plain = convert(path, tmp_path / "plain", overrides=(HEADS,)).config
    assert plain.backbone.strides == (32,)


def test_weights_of_half_precision_become_whole(tmp_path: Path):
    halves = {name: value.half() for name, value in tensors_of("dab").items()}
    state = brought(tmp_path, halves).state_dict
    assert {value.dtype for value in state.values()} == {torch.float32}
    assert torch.equal(state["queries.boxes"], halves["refpoint_embed.weight"].float())


def test_what_only_training_needs_is_drawn_as_the_seed_says(tmp_path: Path):
    tensors = tensors_of("dino")
    del tensors["label_enc.weight"]
    drawn = [
        convert(saved(tmp_path, tensors), tmp_path / f"run{number}", overrides=(HEADS,))
        for number in range(2)
    ]
    assert drawn[0].fit.fresh == ("denoising.label.weight",)
    labels = [converted.state_dict["denoising.label.weight"] for converted in drawn]
    assert torch.equal(*labels)


def test_queries_without_content_of_their_own_take_it_from_the_memory(tmp_path: Path):
    tensors = tensors_of("dino")
    del tensors["transformer.tgt_embed.weight"]
    config = convert(saved(tmp_path, tensors), tmp_path / "run", overrides=(HEADS,)).config
    assert isinstance(config.queries, TopQueries)
    assert config.queries.content == "memory"


def test_queries_beyond_300_are_the_one_to_many_group_of_h_detr(tmp_path: Path):
    tensors = tensors_of("h-deformable") | {"query_embed.weight": torch.randn(312, WIDTH)}
    config = convert(saved(tmp_path, tensors), tmp_path / "run", overrides=(HEADS,)).config
    assert config.queries.count == 300
    assert config.groups is not None
    assert (config.groups.groups, config.groups.queries) == (1, 12)


@pytest.mark.parametrize("case", ["dino", "detrex's dab"])
def test_a_run_predicts(case: str, tmp_path: Path):
    brought(tmp_path, tensors_of(case))
    detector = Detector(tmp_path / "run", device="cpu")
    picture = np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)
    found = detector.predict(picture, threshold=0.0, resize=False)
    assert len(found.scores) > 0
    assert found.boxes.isfinite().all()
    assert detector.classes.names[0] == "person"


def test_the_report_names_what_was_converted(tmp_path: Path):
    brought(tmp_path, tensors_of("dino"))
    report = json.loads((tmp_path / "run" / "convert.json").read_text())
    assert report["layout"] == "DINO (IDEA)"
    assert report["entry"] == "model"
    assert (report["rows"], report["classes"]) == (91, 80)
    assert report["missing"] == report["unexpected"] == report["misshapen"] == []


def with_options(folder: Path, tensors: dict[str, Tensor], **options: object) -> Path:
    path = folder / "published.pth"
    torch.save({"model": tensors, "args": argparse.Namespace(**options)}, path)
    return path


def test_the_options_of_its_training_say_what_shapes_do_not(tmp_path: Path):
    options = {"nheads": 4, "pe_temperatureH": 30, "pe_temperatureW": 30, "dilation": True}
    config = convert(with_options(tmp_path, tensors_of("dab"), **options), tmp_path / "run").config
    assert config.heads == 4
    assert config.position.temperature == 30
    assert config.backbone.output_stride == 16


def test_the_options_say_how_queries_are_grouped(tmp_path: Path):
    tensors = tensors_of("h-deformable")
    count = len(tensors["query_embed.weight"])
    options = {"nheads": 4, "num_queries_one2one": count - 2, "look_forward_twice": False}
    config = convert(with_options(tmp_path, tensors, **options), tmp_path / "run").config
    assert config.queries.count == count - 2
    assert config.groups is not None
    assert config.groups.queries == 2
    assert config.decoder.refinement == "detached"


def test_proposals_are_counted_where_queries_have_no_content(tmp_path: Path):
    tensors = tensors_of("dino")
    del tensors["transformer.tgt_embed.weight"]
    path = with_options(tmp_path, tensors, nheads=4, two_stage_type="standard", num_queries=70)
    assert convert(path, tmp_path / "run").config.queries.count == 70


def test_refined_boxes_are_told_by_names_even_of_equal_heads(tmp_path: Path):
    tensors = tensors_of("deformable")
    shared = published.with_shared_heads(tensors)
    alike = {f"transformer.decoder.{n}": v for n, v in shared.items() if n.startswith("bbox_embed")}
    assert brought(tmp_path, shared | alike).config.name == "deformable-detr-refined-r50"


# What goes wrong


def test_options_of_another_network_are_refused(tmp_path: Path):
    path = with_options(tmp_path, tensors_of("dino"), nheads=4, transformer_activation="gelu")
    with pytest.raises(CheckpointError, match="activation_function=gelu in its args"):
        convert(path, tmp_path / "run")


@pytest.mark.parametrize(
    ("broken", "found"),
    [
        (lambda v: v.fill_(torch.nan), "NaN or infinity"),
        (lambda v: v.fill_(torch.inf), "NaN or infinity"),
        (lambda v: v.long(), r"torch\.int64"),
        (lambda v: v.to_sparse(), r"torch\.sparse_coo"),
        (lambda v: v.to(torch.complex64), r"torch\.complex64"),
    ],
)
def test_what_is_no_number_of_a_network_is_refused(broken, found: str, tmp_path: Path):
    name = "transformer.encoder.layers.0.norm1.weight"
    tensors = tensors_of("dino")
    tensors[name] = broken(tensors[name].clone())
    with pytest.raises(CheckpointError, match=f"{name}: expected finite real numbers.*{found}"):
        brought(tmp_path, tensors)


@pytest.mark.parametrize(
    "name", ["class_embed.0.weight", "transformer.level_embed", "backbone.0.body.conv1.weight"]
)
@pytest.mark.parametrize("axes", [0, 1])
def test_tensors_of_too_few_axes_are_refused(name: str, axes: int, tmp_path: Path):
    tensors = tensors_of("dino")
    tensors[name] = torch.ones((3,) * axes)
    with pytest.raises(CheckpointError, match=r"expected .* found|to be one tensor"):
        brought(tmp_path, tensors)


@pytest.mark.parametrize("part", ["layer1.0.conv2.weight", "layer3.0.conv1.weight"])
def test_a_backbone_without_a_part_is_not_complete(part: str, tmp_path: Path):
    tensors = tensors_of("dino")
    del tensors[f"backbone.0.body.{part}"]
    with pytest.raises(CheckpointError, match=rf"found none that is our {part}.*not complete"):
        brought(tmp_path, tensors)


def test_what_does_not_fit_is_named_and_no_run_is_made(tmp_path: Path):
    tensors = tensors_of("dino")
    del tensors["transformer.decoder.norm.bias"]
    with pytest.raises(CheckpointError, match=r"1 missing \(transformer\.decoder\.norm\.bias\)"):
        brought(tmp_path, tensors)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["convert.json"]


def test_weights_without_their_backbone_lack_it(tmp_path: Path):
    tensors = {name: v for name, v in tensors_of("dab").items() if "backbone" not in name}
    with pytest.raises(CheckpointError, match=r"\d+ missing \(backbone\.network\.conv1\.weight"):
        brought(tmp_path, tensors)


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ("many", "heads: expected a number from 1, found 'many'"),
        ("0", "heads: expected a number from 1, found '0'"),
        ("5", "heads: expected a divisor of the width 32, found 5"),
    ],
)
def test_heads_that_cannot_be_are_told(heads: str, message: str, tmp_path: Path):
    path = saved(tmp_path, tensors_of("dab"))
    with pytest.raises(ConfigError, match=message):
        convert(path, tmp_path / "run", overrides=(f"heads={heads}",))


def test_a_run_is_not_written_over(tmp_path: Path):
    tensors = tensors_of("dino")
    brought(tmp_path, tensors)
    with pytest.raises(ConfigError, match=r"expected a new folder, found a run \(config\.yaml\)"):
        brought(tmp_path, tensors)


def test_an_unknown_detector_is_told_what_is_known(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"one of these: DINO \(IDEA\); .*found conv, "):
        brought(tmp_path, {"conv": torch.ones(1)})


def test_a_file_without_a_part_that_tells_the_system_is_not_complete(tmp_path: Path):
    tensors = {name: v for name, v in tensors_of("dino").items() if ".encoder." not in name}
    with pytest.raises(CheckpointError, match=r"found none that is our encoder\..*not complete"):
        brought(tmp_path, tensors)


def test_a_shared_tensor_has_one_value(tmp_path: Path):
    tensors = tensors_of("dino")
    name = "bbox_embed.1.layers.0.bias"
    tensors[name] = tensors[name] + 1
    with pytest.raises(CheckpointError, match=rf"{name} and .*{name} to be one tensor, .*differ"):
        brought(tmp_path, tensors)
