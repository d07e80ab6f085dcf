from pathlib import Path

import pytest

from aligndetr.errors import ConfigError
from aligndetr.runs import train
from aligndetr.train import tracking
from small import SMALL


def test_a_run_without_a_tracker_has_no_files_of_one(small_run: Path):
    assert list(small_run.rglob("events.out.*")) == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of tensorboard's own imports
def test_tensorboard_gets_the_numbers_of_the_log(shapes: Path, tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    overrides = (*SMALL, "training.tracker=tensorboard")
    train(model="align-dino-tiny", data=shapes, out=tmp_path / "run", steps=2, overrides=overrides)
    (folder,) = {path.parent for path in (tmp_path / "run").rglob("events.out.*")}
    events = EventAccumulator(str(folder))
    events.Reload()
    assert {"train/loss", "eval/AP"} <= set(events.scalars.Keys())
    assert [event.step for event in events.Scalars("eval/AP")] == [2]


def test_a_tracker_whose_package_is_missing_is_refused(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tracking, "is_tensorboard_available", lambda: False)
    overrides = (*SMALL, "training.tracker=tensorboard")
    with pytest.raises(ConfigError, match=r"training.tracker: .*aligndetr\[track\]"):
        train(model="align-dino-tiny", data=shapes, out=tmp_path / "run", overrides=overrides)
    assert not (tmp_path / "run").exists()
