"""`aligndetr analyze` as a user calls it: runs, foreign results, two side by side, mistakes."""

import json
from pathlib import Path

import pytest

from aligndetr.api import Detector, analyze
from aligndetr.cli import main
from aligndetr.errors import DatasetError
from aligndetr.verbs.options import counted


@pytest.fixture
def foreign(shapes: Path, tmp_path: Path) -> Path:
    """Results of a detector that is not ours: every object but one, a little off."""
    truth = json.loads((shapes / "val.json").read_text())
    path = tmp_path / "results.json"
    entries = [
        {
            "image_id": one["image_id"],
            "category_id": one["category_id"],
            "bbox": [one["bbox"][0] + 1, *one["bbox"][1:]],
            "score": 0.9,
        }
        for one in truth["annotations"][1:]
    ]
    path.write_text(json.dumps(entries))
    return path


def arguments(shapes: Path, out: Path, *more: object) -> list[str]:
    return ["analyze", "--data", str(shapes), "--out", str(out), *map(str, more)]


def test_a_run_is_analysed_with_the_history_of_its_training(
    shapes: Path, small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(arguments(shapes, tmp_path / "out", "--model", small_run)) == 0
    shown = capsys.readouterr().out
    assert "AP that misalignment costs" in shown
    assert str(tmp_path / "out" / "report.html") in shown
    page = (tmp_path / "out" / "report.html").read_text()
    assert "The training" in page
    content = json.loads((tmp_path / "out" / "analysis.json").read_text())
    assert content["ap"]["AP"] == pytest.approx(Detector(small_run).evaluate(shapes)["AP"])


def test_foreign_results_are_analysed_and_printed_as_json(
    shapes: Path, foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(arguments(shapes, tmp_path / "out", "--predictions", foreign, "--json")) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["title"] == str(foreign)
    assert content["predictions"] == content["objects"] - 1
    assert set(content["br_recall"]) == {"1", "2", "3", "4", "5"}
    assert "The training" not in (tmp_path / "out" / "report.html").read_text()


def test_images_are_counted_and_stages_named(shapes: Path, small_run: Path, tmp_path: Path):
    stages: list[str] = []
    show = counted("images searched", stages.append)
    analyze(small_run, shapes, out=tmp_path / "out", progress=show, stage=stages.append)
    assert stages[0] == "0 images searched"
    assert stages.index("4 images searched") < stages.index("overlaps") < stages.index("errors")
    assert stages[-1] == "pages"


def test_two_detectors_stand_side_by_side(
    shapes: Path, small_run: Path, foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    more = ("--predictions", foreign, "--compare", small_run)
    assert main(arguments(shapes, out, *more)) == 0
    assert "difference, 95 %" in capsys.readouterr().out
    content = json.loads((out / "analysis.json").read_text())
    assert content["differences"]["AP"][0] > 0  # the ground truth's boxes against four steps'
    assert content["compared"]["ap"]["AP"] < content["ap"]["AP"]
    assert str(small_run) in (out / "report.html").read_text()


def test_what_is_compared_with_is_read_before_anything_is_searched(
    shapes: Path, small_run: Path, tmp_path: Path
):
    (tmp_path / "other.json").write_text(
        json.dumps([{"image_id": 9999, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 0.5}])
    )
    searched: list[int] = []
    with pytest.raises(DatasetError, match=r"other\.json: expected images of the ground truth"):
        analyze(
            small_run,
            shapes,
            out=tmp_path / "out",
            compare=tmp_path / "other.json",
            progress=searched.append,
        )
    assert searched == []


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ([], "expected one of --model and --predictions, found neither"),
        (["--model", "a", "--predictions", "b.json"], "found both"),
        (["--predictions", "no.txt"], "expected a JSON file of COCO results, found none at no.txt"),
        (
            ["--model", "a", "--compare", "align-detr-r50"],
            "--compare: expected a run folder or a .safetensors file, found the preset",
        ),
        (["--model", "a", "--compare", "no.json"], "--compare: expected a run folder, a .safetens"),
    ],
)
def test_mistakes_are_one_line(
    more: list[str],
    words: str,
    shapes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    assert main(arguments(shapes, tmp_path / "out", *more)) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert words in error
    assert not (tmp_path / "out").exists()


def test_results_of_other_images_are_refused(
    shapes: Path, foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    entries = json.loads(foreign.read_text())
    foreign.write_text(json.dumps([{**entries[0], "image_id": 999}]))
    assert main(arguments(shapes, tmp_path / "out", "--predictions", foreign)) == 2
    assert "expected images of the ground truth" in capsys.readouterr().err


def test_results_are_known_whatever_their_file_is_called(
    shapes: Path, foreign: Path, tmp_path: Path
):
    named = foreign.rename(tmp_path / "results.bbox")
    assert main(arguments(shapes, tmp_path / "out", "--predictions", named)) == 0


def test_results_of_unknown_classes_alone_are_refused(
    shapes: Path, foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    entries = [{**one, "category_id": 77} for one in json.loads(foreign.read_text())]
    foreign.write_text(json.dumps(entries))
    assert main(arguments(shapes, tmp_path / "out", "--predictions", foreign)) == 2
    assert "found none of them, but 77" in capsys.readouterr().err


def test_boxes_of_unknown_classes_are_left_out_and_counted(
    shapes: Path, foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    first, *others = json.loads(foreign.read_text())
    foreign.write_text(json.dumps([{**first, "category_id": 77}, *others]))
    assert main(arguments(shapes, tmp_path / "out", "--predictions", foreign)) == 0
    assert "1 boxes of unknown category ids are left out" in capsys.readouterr().err


def test_an_out_that_is_a_file_is_refused_before_any_work(
    shapes: Path, foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    out.write_text("mine")
    assert main(arguments(shapes, out, "--predictions", foreign)) == 2
    assert "--out: expected a folder to write to" in capsys.readouterr().err
    assert out.read_text() == "mine"
