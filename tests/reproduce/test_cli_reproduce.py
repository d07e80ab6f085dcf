"""`aligndetr reproduce` on the command line: what it prints, and what it refuses."""

import json
from pathlib import Path

import pytest

from aligndetr.cli import main
from small import SMALL


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["reproduce"], "Missing argument 'TABLE"),
        (["reproduce", "9"], "expected one or more of 2, 3, 4"),
        (["reproduce", "4", "--scale", "huge"], "'huge' is not one of 'full', 'laptop'"),
        (["reproduce", "4", "--steps", "9", "--minutes-an-arm", "1"], "expected at most one of"),
        (["reproduce", "4", "--minutes-an-arm", "inf"], "expected a number of minutes, found inf"),
        (["reproduce", "4", "--check"], "expected --check with --scale full only"),
        (
            ["reproduce", "4", "--scale", "full", "--steps", "3"],
            "expected --steps with --scale laptop only",
        ),
        (
            ["reproduce", "4", "--scale", "full", "--seeds", "9"],
            "expected --seeds with --scale laptop only",
        ),
        (
            ["reproduce", "4", "--scale", "full", "--weights", "3"],
            "expected --weights with --scale laptop only",
        ),
        (
            ["reproduce", "4", "--scale", "full", "--weights", ""],
            "expected --weights with --scale laptop only",
        ),
        (["reproduce", "4", "--weights", "1,x"], "found '1,x'; write them like 1,2,4,8"),
        (["reproduce", "4", "--weights", "0"], "expected --weights N,N,..., positive numbers"),
        (["reproduce", "4", "--data", "nowhere"], "nowhere"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1


def test_full_lists_the_arms_and_their_cost(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "7", "--scale", "full"]) == 0
    text = capsys.readouterr().out
    assert "H-Deformable-DETR w/ IA-BCE" in text
    assert "V100 hours in all" in text


def test_full_as_json_has_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "table-7", "--scale", "full", "--json"]) == 0
    (plain, aligned) = json.loads(capsys.readouterr().out)
    assert plain["paper"]["AP"] == 48.7
    assert "--model align-h-deformable-detr-r50" in aligned["command"]
    assert (aligned["gpus"], aligned["epochs"]) == (8, 12)


def test_laptop_trains_and_prints_the_verdicts(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["reproduce", "fig4", "--data", str(shapes), "--out", str(tmp_path), "--steps", "1"]
    words += ["--seeds", "1", "--weights", "1", "--set", *SMALL]
    words += ["data.augmentation.short_side=64"]
    assert main([*words, "--json"]) == 0
    found = capsys.readouterr()
    (table,) = json.loads(found.out)
    assert table["claims"][0]["verdict"] in ("cannot be told", "not measured")
    assert "[2/2]" in found.err
    assert len(list(tmp_path.glob("tables/data-*/figure-4/table.md"))) == 1
    assert main(words) == 0
    assert "Pearson coefficient is higher" in capsys.readouterr().out


@pytest.mark.parametrize("scale", ["laptop", "full"])
@pytest.mark.parametrize("below", ["", "tables"])
def test_a_file_is_no_folder_for_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], scale: str, below: str
) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    assert main(["reproduce", "7", "--scale", scale, "--out", str(file / below)]) == 2
    error = capsys.readouterr().err.strip()
    expected = f"--out: expected a folder, found a file at {file}; choose another name"
    assert error.endswith(expected)
    assert len(error.splitlines()) == 1
