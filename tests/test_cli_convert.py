"""`aligndetr convert` as a user calls it, and what its runs are good for."""

import argparse
import json
import shutil
from pathlib import Path

import pytest
import torch

from aligndetr.cli import main
from convert import published_names as published
from convert.networks import as_detectron2, as_torchvision, small_resnet
from parity.goldens import HINT, Golden, goldens_dir

QUICK = (
    "heads=4",
    "precision=fp32",
    "data.augmentation.evaluation_short_side=128",
    "data.augmentation.short_sides=[96]",
    "data.augmentation.crop=0",
    "data.batch_size=2",
    "data.workers=0",
)
COCO_NAMES = {"circle": "frisbee", "square": "tv", "triangle": "pizza"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small DINO as IDEA saves it."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("published") / "checkpoint0011.pth"
    weights = published.tensors_of(published.DINO) | as_torchvision(small_resnet())
    options = argparse.Namespace(lr=1e-4, modelname="dino")
    torch.save({"model": weights, "args": options, "epoch": 11}, path)
    return path


@pytest.fixture(scope="module")
def run(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("converted") / "run"
    command = ["convert", "--from", str(checkpoint), "--out", str(out)]
    assert main([*command, "--set", *QUICK]) == 0
    return out


def test_what_was_recognised_is_said_with_the_next_commands(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "run"
    assert main(["convert", "--from", str(checkpoint), "--out", str(out), "--set", "heads=4"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.splitlines() == [
        "weights   DINO (IDEA), entry 'model' of the file",
        "system    dino-r50-4scale with width 32, 4 heads, 2 + 2 layers, 12 queries: "
        "0.1 M parameters",
        "backbone  resnet18, strides 8, 16, 32",
        "classes   80 of 91 rows: person, bicycle, car, motorcycle, ...",
        f"The run is in {out}. Next:",
        f"  aligndetr eval --model {out} --data DIR",
        f"  aligndetr predict --model {out} --source IMAGE --out {out}/predictions",
        f"  aligndetr train --model {out} --data DIR --out RUN",
    ]


def test_what_training_draws_and_what_nobody_needs_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    weights = published.tensors_of(published.DETREX_DINO) | as_detectron2(small_resnet())
    del weights["label_enc.weight"]
    torch.save({"model": weights | {"pixel_mean": torch.ones(3)}}, tmp_path / "a.pth")
    command = ["convert", "--from", str(tmp_path / "a.pth"), "--out", str(tmp_path / "run")]
    assert main([*command, "--set", "heads=4"]) == 0
    printed = capsys.readouterr().out
    assert "afresh    denoising.label.weight, which only training needs" in printed
    assert "left out  1 tensors, named in convert.json" in printed
    report = json.loads((tmp_path / "run" / "convert.json").read_text())
    assert report["left_out"] == ["pixel_mean"]


def test_a_run_is_evaluated_by_the_names_of_its_classes(
    run: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data = tmp_path / "data"
    shutil.copytree(shapes, data)
    for path in (data / "train.json", data / "val.json"):
        text = path.read_text()
        for ours, cocos in COCO_NAMES.items():
            text = text.replace(f'"{ours}"', f'"{cocos}"')
        path.write_text(text)
    capsys.readouterr()
    assert main(["eval", "--model", str(run), "--data", str(data), "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert metrics["images"] == 4
    assert set(COCO_NAMES.values()) <= metrics["per_class"].keys()


def test_a_run_predicts_and_its_results_have_cocos_ids(run: Path, shapes: Path, tmp_path: Path):
    source, out = str(shapes / "images"), tmp_path / "found"
    command = ["predict", "--model", str(run), "--source", source, "--out", str(out)]
    assert main([*command, "--threshold", "0"]) == 0
    found = json.loads((out / "predictions.json").read_text())
    assert {result["category_id"] for result in found} <= {*range(1, 91)} - {12, 26, 29, 30, 45}


def test_a_run_is_trained_on_other_classes(run: Path, shapes: Path, tmp_path: Path):
    command = ["train", "--model", str(run), "--data", str(shapes), "--out", str(tmp_path / "run")]
    assert main([*command, "--steps", "1", "--device", "cpu"]) == 0
    names = [entry["name"] for entry in json.loads((tmp_path / "run/classes.json").read_text())]
    assert names == list(COCO_NAMES)


def test_tensors_that_do_not_fit_are_told_in_one_line(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    command = ["convert", "--from", str(checkpoint), "--out", str(tmp_path / "run")]
    assert main([*command, "--set", "heads=4", "encoder.layers=3"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {checkpoint}: expected the tensors of DINO (IDEA), found ")
    report = json.loads((tmp_path / "run" / "convert.json").read_text())
    assert f"found {len(report['missing'])} missing (" in line
    assert "transformer.encoder.layers.2.linear1.weight" in report["missing"]
    assert main([*command, "--set", "heads=4"]) == 0  # nothing of it is in the way


GOLDENS = [
    # case, text of all its names, of which the case has one decoder layer more
    ("dino/small_eval", published.DINO),
    ("align/aligndetr_eval", published.DETREX_DINO),
    ("align/aligndab_eval", published.DETREX_DAB),
    ("dab/eval", published.DAB),
    ("deformable/plain", published.DEFORMABLE),
    ("deformable/twostage", published.DEFORMABLE_TWO_STAGE),
    ("hdeformable/hybrid", published.H_DEFORMABLE),
]


@pytest.mark.parametrize(("case", "text"), GOLDENS)
def test_networks_of_published_code_become_runs(case: str, text: str, tmp_path: Path):
    path = goldens_dir() / f"{case}_weights.safetensors"
    if not path.exists():
        pytest.skip(f"{path} is missing: {HINT}")
    golden = Golden.read(path)
    weights = {name.removeprefix("sd."): value for name, value in golden.arrays.items()}
    weights |= {name: weights[kept] for name, kept in golden.metadata.get("aliases", {}).items()}
    named = as_detectron2 if case.startswith("align/") else as_torchvision
    last = 48 if "dab" in case else 32
    torch.save(weights | named(small_resnet((8, 16, 24, last))), tmp_path / "weights.pth")
    command = ["convert", "--from", str(tmp_path / "weights.pth"), "--out", str(tmp_path / "run")]
    assert main([*command, "--set", "heads=4"]) == 0
    assert published.kinds_of(weights) == published.kinds_of(published.tensors_of(text))
