import errno
import json
import shutil
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from filelock import FileLock

from aligndetr import precision, runs
from aligndetr.checkpoint import load_weights
from aligndetr.config.codec import load_config
from aligndetr.data.shapes import shapes_dataset
from aligndetr.errors import CheckpointError, ConfigError, DatasetError
from aligndetr.run_folder import held
from aligndetr.runs import open_start, resume, train
from small import SMALL


def test_a_run_folder_holds_all_that_it_promises(small_run: Path):
    for name in ("config.yaml", "metrics.jsonl", "best.safetensors", "last.safetensors"):
        assert (small_run / name).is_file()
    assert (small_run / "state" / "training.pt").is_file()
    classes = json.loads((small_run / "classes.json").read_text())
    assert [entry["name"] for entry in classes] == ["circle", "square", "triangle"]
    config = load_config(small_run / "config.yaml")
    assert config.num_classes == 3
    assert config.width == 32
    lines = [json.loads(line) for line in (small_run / "metrics.jsonl").read_text().splitlines()]
    assert {line["event"] for line in lines} == {"train", "eval"}


def test_a_folder_with_a_run_is_never_overwritten(shapes: Path, small_run: Path):
    before = (small_run / "best.safetensors").read_bytes()
    with pytest.raises(ConfigError, match=r"--out: expected a new folder, found a run .*--resume"):
        train(model="align-dino-tiny", data=shapes, out=small_run, steps=1, overrides=SMALL)
    assert (small_run / "best.safetensors").read_bytes() == before


def test_a_config_file_lies_over_the_preset_and_set_over_both(shapes: Path, tmp_path: Path):
    (tmp_path / "mine.yaml").write_text("width: 64\ntraining:\n  learning_rate: 5e-4\n")
    train(
        model="align-dino-tiny",
        data=shapes,
        out=tmp_path / "run",
        steps=1,
        config=tmp_path / "mine.yaml",
        overrides=SMALL,
        seed=7,
    )
    config = load_config(tmp_path / "run" / "config.yaml")
    assert config.training.learning_rate == 5e-4
    assert config.training.seed == 7
    assert config.width == 32


def test_an_interrupted_run_continues_to_the_same_weights(shapes: Path, tmp_path: Path):
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    changes = (*SMALL, "training.schedule={type: step, milestones: []}")
    train(model="align-dino-tiny", data=shapes, out=whole, epochs=2, overrides=changes)
    train(model="align-dino-tiny", data=shapes, out=halved, epochs=1, overrides=changes)
    state = halved / "state" / "training.pt"
    saved = torch.load(state, weights_only=True)
    # As if the run of two epochs had been stopped after the first.
    saved["budget"]["epochs"], saved["position"]["is_finished"] = 2, False
    torch.save(saved, state)
    resume(halved)
    one, other = load_weights(whole / "last.safetensors"), load_weights(halved / "last.safetensors")
    assert all(torch.equal(one.state_dict[key], other.state_dict[key]) for key in one.state_dict)


def test_a_run_goes_on_in_the_precision_that_it_began_in(shapes: Path, tmp_path: Path, monkeypatch):
    run = tmp_path / "run"
    monkeypatch.setattr(precision, "resolve_precision", lambda *_: torch.bfloat16)
    train(
        model="align-dino-tiny",
        data=shapes,
        out=run,
        epochs=1,
        overrides=(*SMALL, "precision=auto"),
    )
    assert load_config(run / "config.yaml").precision == "auto"  # other machines decide anew
    for weights in ("best", "last"):
        assert load_weights(run / f"{weights}.safetensors").config.precision == "auto"

    monkeypatch.setattr(precision, "resolve_precision", lambda *_: torch.float32)
    used = []
    monkeypatch.setattr(
        runs, "build_model", lambda settings, **_: used.append(settings.precision) or 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        resume(run)
    assert used == ["bf16"]


def test_two_trainings_do_not_share_a_folder(small_run: Path, shapes: Path, tmp_path: Path):
    out = tmp_path / "run"
    with (
        held(out, print),
        pytest.raises(ConfigError, match=r"no training is writing to, found one"),
    ):
        train(model="align-dino-tiny", data=shapes, out=out, steps=1, overrides=SMALL)
    assert [path.name for path in out.rglob("*") if path.is_file()] in ([], ["lock"])
    shutil.copytree(small_run, tmp_path / "copy")
    with held(tmp_path / "copy", print), pytest.raises(ConfigError, match="wait for its end"):
        resume(tmp_path / "copy")
    resume(tmp_path / "copy")  # now that it is free


@pytest.mark.parametrize("failure", [OSError(errno.ENOLCK, "No locks"), NotImplementedError("No")])
def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch, failure: Exception):
    def failing(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(FileLock, "acquire", failing)
    said: list[str] = []
    with held(tmp_path / "run", said.append):
        assert (tmp_path / "run" / "state").is_dir()
    assert "cannot be locked" in said[0]


def test_a_session_may_train_on_another_device_than_before(monkeypatch: pytest.MonkeyPatch):
    runs._join_processes("cpu")
    assert PartialState().device == torch.device("cpu")
    PartialState().device = torch.device("cuda", 0)  # as if that were where it had trained
    assert runs._join_processes("cpu") == torch.device("cpu")
    assert PartialState().device == torch.device("cpu")


@pytest.mark.parametrize("folder", ["nothing", "."])
def test_resuming_what_is_no_run_says_so(tmp_path: Path, folder: str):
    with pytest.raises(CheckpointError, match="--resume: expected a run folder"):
        resume(tmp_path / folder)


def test_resuming_after_the_classes_changed_is_refused(shapes: Path, tmp_path: Path):
    data = tmp_path / "data"
    shutil.copytree(shapes, data)
    train(model="align-dino-tiny", data=data, out=tmp_path / "run", steps=1, overrides=SMALL)
    for split in ("train.json", "val.json"):
        text = (data / split).read_text().replace('"circle"', '"disc"')
        (data / split).write_text(text)
    with pytest.raises(CheckpointError, match="the data have changed since"):
        resume(tmp_path / "run")


def test_fine_tuning_keeps_all_weights_for_the_same_classes(
    shapes: Path, small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    train(model=str(small_run), data=shapes, out=tmp_path / "run", steps=1)
    assert "all weights, for the same 3 classes" in capsys.readouterr().err


def test_fine_tuning_rebuilds_the_heads_for_other_classes(
    small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data = shapes_dataset(tmp_path / "data", train=4, val=2, size=64)
    for split in ("train.json", "val.json"):
        content = json.loads((data / split).read_text())
        content["categories"].append({"id": 99, "name": "star"})
        (data / split).write_text(json.dumps(content))
    changes = ("training.learning_rate=1e-12", "data.batch_size=2")
    train(model=str(small_run), data=data, out=tmp_path / "run", steps=1, overrides=changes)
    assert "rebuilt" in capsys.readouterr().err
    old, new = (
        load_weights(small_run / "best.safetensors"),
        load_weights(tmp_path / "run/best.safetensors"),
    )
    assert new.config.num_classes == 4
    assert new.classes.names[-1] == "star"
    torch.testing.assert_close(
        new.state_dict["decoder.places.positions.embed.layers.0.weight"],
        old.state_dict["decoder.places.positions.embed.layers.0.weight"],
        atol=1e-6,
        rtol=0,
    )
    assert new.state_dict["decoder.heads.0.classes.weight"].shape[0] == 4


def copied(shapes: Path, target: Path) -> Path:
    shutil.copytree(shapes, target)
    return target


def without_objects(file: Path) -> None:
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"annotations": []}))


def test_resuming_after_the_data_changed_is_refused(shapes: Path, small_run: Path, tmp_path: Path):
    data, run = copied(shapes, tmp_path / "data"), tmp_path / "run"
    shutil.copytree(small_run, run)
    origin = run / "state" / "origin.json"
    content = json.loads(origin.read_text())
    origin.write_text(json.dumps(content | {"data": str(data), "images": 5}))
    with pytest.raises(CheckpointError, match=r"expected the 5 images .* began with, found 8"):
        resume(run)


def test_nothing_to_learn_is_refused(shapes: Path, tmp_path: Path):
    data = copied(shapes, tmp_path / "data")
    without_objects(data / "train.json")
    with pytest.raises(DatasetError, match="expected objects to train on, found none in 8 images"):
        train(model="align-dino-tiny", data=data, out=tmp_path / "run", steps=1)
    assert not (tmp_path / "run").exists()


def test_nothing_to_measure_is_told(shapes: Path, tmp_path: Path, capsys):
    data = copied(shapes, tmp_path / "data")
    without_objects(data / "val.json")
    train(model="align-dino-tiny", data=data, out=tmp_path / "run", steps=1, overrides=SMALL)
    assert "no objects, so no AP can be measured" in capsys.readouterr().err


def test_a_training_that_saved_nothing_may_be_started_again(shapes: Path, tmp_path: Path):
    data, run = copied(shapes, tmp_path / "data"), tmp_path / "run"
    image = sorted((data / "images").iterdir())[0]
    whole = image.read_bytes()
    image.write_bytes(whole[:100])
    with pytest.raises(DatasetError, match=image.name):
        train(model="align-dino-tiny", data=data, out=run, steps=1, overrides=SMALL)
    assert (run / "config.yaml").is_file()
    image.write_bytes(whole)
    train(model="align-dino-tiny", data=data, out=run, steps=1, overrides=SMALL)
    assert (run / "best.safetensors").is_file()


@pytest.mark.parametrize("name", ["config.yaml", "classes.json", "metrics.jsonl"])
def test_files_of_the_user_are_never_overwritten(shapes: Path, tmp_path: Path, name: str):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigError, match=f"found a folder with another {name}"):
        train(model="align-dino-tiny", data=shapes, out=tmp_path, steps=1, overrides=SMALL)
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize("content", ["{", "{}", "[]"])
def test_a_damaged_origin_is_refused(tmp_path: Path, content: str):
    origin = tmp_path / "state" / "origin.json"
    origin.parent.mkdir()
    origin.write_text(content)
    with pytest.raises(CheckpointError, match="expected where a run's data are, found a damaged"):
        resume(tmp_path)


def test_train_and_val_of_other_classes_are_refused(shapes: Path, tmp_path: Path):
    data = tmp_path / "data"
    shutil.copytree(shapes, data)
    text = (data / "val.json").read_text().replace('"circle"', '"disc"')
    (data / "val.json").write_text(text)
    with pytest.raises(DatasetError, match="disc"):
        train(model="align-dino-tiny", data=data, out=tmp_path / "run", steps=1)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("model", "error", "words"),
    [
        ("align-dino-lit", ConfigError, "did you mean 'align-dino-lite'"),
        ("runs/none.safetensors", CheckpointError, "none.safetensors"),
    ],
)
def test_a_model_that_is_neither_preset_nor_run(model, error, words):
    with pytest.raises(error, match=words):
        open_start(model)
