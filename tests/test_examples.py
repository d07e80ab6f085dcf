import json
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_demonstration_leaves_numbers_and_pictures(tmp_path: Path):
    out = tmp_path / "demo"
    command = [sys.executable, str(PROJECT / "examples" / "demo.py")]
    done = subprocess.run(
        [*command, "--minutes", "1.5", "--out", str(out)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "eval.json").read_text())["AP"] > 0.2
    assert len(list((out / "predictions").glob("*.png"))) == 13
    assert "sheet.png" in done.stdout
    assert "Losses by layer" in (out / "report.html").read_text()
