import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[1] / "examples" / "demo.py"


def demo(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(DEMO), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_demonstration_removes_nothing_but_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    photo = tmp_path / "photo.png"
    photo.touch()
    monkeypatch.setattr(sys, "argv", ["demo.py", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(DEMO), run_name="__main__")
    assert f"expected a new folder, found {tmp_path}" in capsys.readouterr().err
    assert photo.exists()


@pytest.mark.slow
def test_the_demonstration_leaves_numbers_and_pictures(tmp_path: Path):
    out = tmp_path / "demo"
    done = demo("--steps", "150", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "eval.json").read_text())["AP"] > 0.2
    assert len(list((out / "predictions").glob("*.png"))) == 13
    assert "sheet.png" in done.stdout
    assert "Losses by layer" in (out / "report.html").read_text()
