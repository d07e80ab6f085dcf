"""The program as a user starts it: files, exit codes, one-line errors; most of it a process."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from aligndetr.cli import main
from small import SMALL


def aligndetr(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "aligndetr", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture(scope="module")
def trained(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "run"
    done = aligndetr(
        "train", "--model", "align-dino-tiny", "--data", shapes, "--out", out,
        "--epochs", "1", "--device", "cpu", "--seed", "3", "--set", *SMALL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert str(out) in done.stdout + done.stderr
    return out


def test_train_leaves_a_run_folder(trained: Path):
    for name in ("config.yaml", "classes.json", "metrics.jsonl", "best.safetensors", "state"):
        assert (trained / name).exists()


def test_eval_prints_json_alone_on_stdout(trained: Path, shapes: Path):
    done = aligndetr("eval", "--model", trained, "--data", shapes, "--json")
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)
    wanted = {"AP", "AP50", "AP75", "APs", "APm", "APl", "AR100", "per_class", "images", "seconds"}
    assert wanted <= metrics.keys()


def test_predict_writes_pictures_and_coco_results(
    trained: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "found"
    words = ["--source", shapes / "images", "--out", out, "--threshold", "0.0", "--json"]
    assert main(["predict", "--model", *map(str, [trained, *words])]) == 0
    json.loads(capsys.readouterr().out)
    results = json.loads((out / "predictions.json").read_text())
    assert {"image_id", "category_id", "bbox", "score"} == results[0].keys()
    assert len(list(out.glob("*.png"))) == 12


def test_resume_of_a_finished_run_says_so(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    copy = tmp_path / "run"
    shutil.copytree(trained, copy)
    assert main(["train", "--resume", str(copy)]) == 0
    assert "nothing is left to resume" in capsys.readouterr().err


def test_fine_tuning_starts_from_a_run(
    trained: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = ["--data", shapes, "--out", tmp_path / "r2", "--steps", "1"]
    assert main(["train", "--model", *map(str, [trained, *words])]) == 0
    assert "all weights" in capsys.readouterr().err


def broken_image(data: Path) -> str:
    image = sorted((data / "images").iterdir())[0]
    image.write_bytes(image.read_bytes()[:100])
    return image.name


def broken_json(data: Path) -> str:
    (data / "train.json").write_text('{"images": [,]}')
    return "train.json"


def no_validation(data: Path) -> str:
    (data / "val.json").unlink()
    return "val"


@pytest.mark.parametrize("spoil", [broken_image, broken_json, no_validation])
def test_spoiled_data_end_in_one_line_and_exit_code_2(
    spoil, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data = tmp_path / "data"
    shutil.copytree(shapes, data)
    word = spoil(data)
    code = main([
        "train", "--model", "align-dino-tiny", "--data", str(data), "--out", str(tmp_path / "run"),
        "--steps", "2", "--set", *SMALL, "data.cache_features=false", "backbone.freeze=0",
    ])  # fmt: skip
    assert code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert word in last


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--set", "trainig.epochs=3"), ["trainig", "did you mean 'training'"]),
        (("--set", "criterion.classification.type=focl"), ["focl", "focal"]),
        (("--minutes", "0.001"), ["--minutes", "give at least"]),
        (("--epochs", "1", "--steps", "2"), ["--epochs", "--steps"]),
        (("--config", "nowhere.yaml"), ["nowhere.yaml"]),
    ],
)
def test_a_wrong_option_ends_in_one_line_and_exit_code_2(words, expected, shapes, tmp_path, capsys):
    code = main([
        "train", "--model", "align-dino-tiny", "--data", str(shapes), "--out",
        str(tmp_path / "run"), "--set", *SMALL, *words,
    ])  # fmt: skip
    assert code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    for word in expected:
        assert word in last


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("align-dino-lit", "did you mean 'align-dino-lite'"),
        (".", "expected a run folder"),
    ],
)
def test_an_unknown_model_ends_in_one_line_and_exit_code_2(
    model, expected, shapes: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["eval", "--model", model, "--data", str(shapes)]) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert expected in shown
