import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch
from torch import nn

from aligndetr.config.schema import Unfreezing
from aligndetr.train.budget import Budget
from aligndetr.train.state import load_state

# `Lab` is that of conftest.py.
Lab: TypeAlias = Any


@pytest.mark.slow
@pytest.mark.parametrize("is_unfrozen_later", [False, True])
def test_two_processes_step_like_one_with_the_whole_batch(
    lab: Lab, shapes: Path, monkeypatch: pytest.MonkeyPatch, is_unfrozen_later: bool
) -> None:
    steps = 1
    if is_unfrozen_later:  # one step on features, one on images
        steps = 2
        lab = lab.with_backbone(freeze="all").with_data(cache_features=True, cached_views=1)
        lab = lab.with_data(feature_folder=str(lab.folder / "features"))
        lab = lab.with_training(unfreeze=Unfreezing(at=0.5, freeze=0))
    shutil.copytree(shapes, lab.folder / "shapes")
    config = lab.with_data(batch_size=2).config.model_dump_json()
    script = Path(__file__).with_name("two_processes.py")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launch += ["--nproc-per-node", "2", str(script), str(lab.folder), config, str(steps)]
    done = subprocess.run(launch, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    written = sorted(path.name.split("-")[0] for path in (lab.folder / "features").glob("*"))
    assert written == (["train", "val", "val"] if is_unfrozen_later else [])

    monkeypatch.setattr(nn.Dropout, "forward", lambda _, tokens: tokens)
    lab.with_data(batch_size=4).fit(Budget(steps=steps), "one")
    one, two = (load_state(lab.folder / out) for out in ("one", "two"))
    assert len(two.random) == 2
    for name, state in one.weights["optimizer"]["state"].items():
        other = two.weights["optimizer"]["state"][name]
        assert torch.allclose(state["exp_avg"], other["exp_avg"], atol=1e-7)
    metrics = [(lab.folder / out / "metrics.jsonl").read_text() for out in ("one", "two")]
    evaluations = [json.loads(text.splitlines()[-1]) for text in metrics]
    assert [line["event"] for line in evaluations] == ["eval", "eval"]
    assert evaluations[0]["AP"] == pytest.approx(evaluations[1]["AP"], abs=1e-3)
