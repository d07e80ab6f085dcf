import json
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from aligndetr import checkpoint
from aligndetr.checkpoint import (
    BEST_WEIGHTS,
    LAST_WEIGHTS,
    METADATA_KEY,
    load_state,
    load_weights,
    open_checkpoint,
    read_classes,
    save_weights,
    write_bytes,
    write_classes,
    write_json,
    write_text,
)
from aligndetr.config.codec import dump_config
from aligndetr.config.schema import Config, Data
from aligndetr.data.transforms import LightAugmentation
from aligndetr.errors import CheckpointError
from aligndetr.types import Classes

CONFIG = Config(name="tiny", num_classes=2, data=Data(augmentation=LightAugmentation()))
CLASSES = Classes(("cat", "Früchte, 水"), (7, 90))


def saved(path: Path, state_dict: dict[str, Tensor] | None = None) -> Path:
    save_weights(path, state_dict or {"weight": torch.arange(6.0).view(2, 3)}, CONFIG, CLASSES)
    return path


def message_of(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


def test_a_model_without_tensors_is_saved_and_loaded(tmp_path: Path):
    save_weights(tmp_path / "a.safetensors", {}, CONFIG, Classes((), ()))
    assert load_weights(tmp_path / "a.safetensors").state_dict == {}


def test_what_is_loaded_is_what_was_saved(tmp_path: Path):
    state_dict = {
        "matrix": torch.randn(3, 4),
        "transposed": torch.randn(3, 4).T,
        "half": torch.randn(5).bfloat16(),
        "count": torch.tensor(7),
        "empty": torch.zeros(0, 4),
        "parameter": nn.Parameter(torch.randn(2)),
    }
    path = saved(tmp_path / "a.safetensors", state_dict)
    loaded = load_weights(path)
    assert (loaded.config, loaded.classes, loaded.path) == (CONFIG, CLASSES, path)
    assert loaded.state_dict.keys() == state_dict.keys()
    for name, tensor in state_dict.items():
        assert loaded.state_dict[name].dtype == tensor.dtype
        assert torch.equal(loaded.state_dict[name], tensor)


def test_equal_content_gives_equal_bytes(tmp_path: Path):
    contents = {saved(tmp_path / f"{name}.safetensors").read_bytes() for name in "abc"}
    assert len(contents) == 1


def test_a_shared_tensor_is_stored_once_and_restored_as_one(tmp_path: Path):
    shared = torch.randn(100, 100)
    path = saved(tmp_path / "a.safetensors", {"head.0": shared, "head.1": shared})
    assert path.stat().st_size < 1.5 * shared.nbytes
    loaded = load_weights(path).state_dict
    assert torch.equal(loaded["head.1"], shared)
    assert loaded["head.0"].data_ptr() == loaded["head.1"].data_ptr()


def test_tensors_that_overlap_in_part_are_both_stored(tmp_path: Path):
    whole = torch.arange(10.0)
    path = saved(tmp_path / "a.safetensors", {"whole": whole, "front": whole[:4]})
    loaded = load_weights(path).state_dict
    assert torch.equal(loaded["whole"], whole)
    assert torch.equal(loaded["front"], whole[:4])


def test_a_run_folder_gives_its_best_weights_else_its_last(tmp_path: Path):
    saved(tmp_path / LAST_WEIGHTS)
    assert open_checkpoint(tmp_path).path.name == LAST_WEIGHTS
    saved(tmp_path / BEST_WEIGHTS)
    assert open_checkpoint(tmp_path).path.name == BEST_WEIGHTS
    assert open_checkpoint(tmp_path / LAST_WEIGHTS).path.name == LAST_WEIGHTS


def test_a_path_with_nothing_there_is_an_error(tmp_path: Path):
    assert "expected a run folder or a .safetensors file, found nothing" in message_of(
        tmp_path / "none"
    )


def test_a_folder_that_is_no_run_folder_is_an_error_that_says_what_was_looked_for(tmp_path: Path):
    message = message_of(tmp_path)
    assert "expected a run folder with best.safetensors or last.safetensors" in message
    assert "found an empty folder" in message
    for name in "dcba":
        (tmp_path / name).touch()
    assert "found a, b, c, ...;" in message_of(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:20],  # within the header
        lambda content: content[:-1],  # within the tensors
        lambda content: b"\x80\x02}q\x00." * 20,  # a pickle
    ],
)
def test_a_truncated_or_foreign_file_is_an_error(tmp_path: Path, damage):
    path = saved(tmp_path / "a.safetensors")
    path.write_bytes(damage(path.read_bytes()))
    message = message_of(path)
    assert "expected a safetensors file, found a truncated one or another format" in message


def write_with_header(path: Path, header: object) -> Path:
    content = header if isinstance(header, str) else json.dumps(header)
    safetensors.torch.save_file({"a": torch.zeros(1)}, path, {METADATA_KEY: content})
    return path


def test_weights_of_others_are_an_error_that_names_the_converter(tmp_path: Path):
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(1)}, path)
    assert "without their configuration; bring it over with `aligndetr convert" in message_of(path)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ({"version": 2}, "expected format version 1, found 2; pip install --upgrade aligndetr"),
        ({"version": 1}, "expected a header of format version 1, found at config: Field required"),
        ("{", "expected a header of format version 1, found Invalid JSON"),
    ],
)
def test_a_header_that_cannot_be_read_is_an_error(tmp_path: Path, header: object, expected: str):
    assert expected in message_of(write_with_header(tmp_path / "a.safetensors", header))


def test_a_configuration_that_no_longer_parses_is_an_error(tmp_path: Path):
    text = dump_config(CONFIG) + "unheard_of: 3\n"
    header = {"version": 1, "config": text, "classes": [], "aliases": {}}
    message = message_of(write_with_header(tmp_path / "a.safetensors", header))
    assert "configuration" in message
    assert "unheard_of" in message
    assert message.endswith("was written by another version of aligndetr: use that one")


def test_load_state_takes_weights_that_fit():
    model, other = nn.Linear(2, 3), nn.Linear(2, 3)
    load_state(model, other.state_dict(), "a.safetensors")
    assert torch.equal(model.weight, other.weight)


def test_load_state_names_what_does_not_fit_and_leaves_the_model_alone():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4), nn.Linear(4, 5))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_state(model, {"0.weight": torch.zeros(9, 2), "extra": torch.tensor(1.0)}, "a.st")
    assert str(caught.value) == (
        "a.st: expected the 6 tensors of this model, found 2 (missing: 0.bias, 1.bias, 1.weight "
        "and 2 more; unexpected: extra; of another shape: 0.weight 9x2 instead of 3x2); "
        "build the model from the checkpoint's own configuration"
    )
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)


def test_classes_survive_their_file(tmp_path: Path):
    write_classes(tmp_path / "classes.json", CLASSES)
    assert read_classes(tmp_path / "classes.json") == CLASSES
    entries = json.loads((tmp_path / "classes.json").read_text(encoding="utf-8"))
    assert entries[0] == {"id": 7, "name": "cat"}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "expected a list of classes, found No such file or directory"),
        ("[", "found Invalid JSON"),
        ('{"names": []}', "found Input should be a valid"),
        ('[{"id": "x", "name": "cat"}]', "found at 0.id: Input should be a valid integer"),
    ],
)
def test_a_wrong_classes_file_is_an_error(tmp_path: Path, content: str | None, expected: str):
    path = tmp_path / "classes.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CheckpointError, match=r"classes\.json: expected a list of") as caught:
        read_classes(path)
    assert expected in str(caught.value)


def test_writing_makes_folders_replaces_and_leaves_nothing_else(tmp_path: Path):
    path = tmp_path / "a" / "b" / "c.txt"
    write_text(path, "first")
    write_text(path, "Größe")
    assert path.read_text(encoding="utf-8") == "Größe"
    assert list(path.parent.iterdir()) == [path]
    write_json(path, {"é": [1, 2.5, None]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"é": [1, 2.5, None]}


def test_names_of_files_that_are_no_text_are_written_escaped(tmp_path: Path):
    name = os.fsdecode(b"caf\xe9.png")  # Latin-1, which is not UTF-8
    write_json(tmp_path / "a.json", [name, "é"])
    assert json.loads((tmp_path / "a.json").read_bytes()) == [name, "é"]


def test_a_crash_while_writing_leaves_the_old_file(tmp_path: Path, monkeypatch):
    path = tmp_path / "a.txt"
    write_bytes(path, b"old")

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(CheckpointError, match=r"a\.txt: .* found: No space left on device; free"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_in_the_place_of_the_folder_is_an_error(tmp_path: Path):
    (tmp_path / "run").touch()
    with pytest.raises(CheckpointError, match="expected a place to write to, found:"):
        write_bytes(tmp_path / "run" / "a.txt", b"new")


def test_no_checkpoint_is_read_with_pickle():
    source = Path(checkpoint.__file__).read_text(encoding="utf-8")
    assert "torch.load" not in source
    assert "pickle" not in source
