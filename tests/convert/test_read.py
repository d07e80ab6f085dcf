"""Weights as others wrap them are read, and nothing else is."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from aligndetr.convert.read import read_source
from aligndetr.errors import CheckpointError

PLAIN = {"a.weight": torch.ones(2), "b.bias": torch.zeros(3)}
AVERAGED = {"a.weight": torch.full((2,), 5.0)}


class RunsCode:
    def __reduce__(self):
        return print, ("it ran",)


def saved(folder: Path, content: Any) -> Path:
    torch.save(content, folder / "file.pth")
    return folder / "file.pth"


@pytest.mark.parametrize(
    ("content", "entry", "first"),
    [
        (PLAIN, None, 1.0),
        ({"model": PLAIN, "epoch": 3}, "model", 1.0),
        ({"state_dict": PLAIN}, "state_dict", 1.0),
        ({"model": PLAIN, "ema_model": AVERAGED}, "ema_model", 5.0),  # over the others
        ({"model": PLAIN, "ema": {"module": AVERAGED}}, "ema", 5.0),
        ({"model": PLAIN, "args": argparse.Namespace(lr=0.1)}, "model", 1.0),  # as IDEA's
        ({"model": {f"module.{name}": v for name, v in PLAIN.items()}}, "model", 1.0),
    ],
)
def test_wrapped_weights_are_found(content: Any, entry: str | None, first: float, tmp_path: Path):
    source = read_source(saved(tmp_path, content))
    assert source.entry == entry
    assert source.tensors.keys() == PLAIN.keys()
    assert source.tensors["a.weight"][0] == first


def test_safetensors_are_read(tmp_path: Path):
    save_file(PLAIN, tmp_path / "file.safetensors")
    assert read_source(tmp_path / "file.safetensors").tensors.keys() == PLAIN.keys()


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_source(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_pickle_that_wants_to_run_code_is_refused(tmp_path: Path, capsys):
    path = saved(tmp_path, {"model": PLAIN, "args": RunsCode()})
    assert "found a pickle that wants to run" in refusal(path)
    assert capsys.readouterr().out == ""


def test_a_missing_file_is_told(tmp_path: Path):
    assert "found nothing; mend the path" in refusal(tmp_path / "none.pth")


def test_a_folder_without_a_configuration_is_told(tmp_path: Path):
    save_file(PLAIN, tmp_path / "model.safetensors")
    assert "expected config.json and model.safetensors" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["file.pth", "file.safetensors"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip"])
def test_a_damaged_file_is_told(name: str, content: bytes, tmp_path: Path):
    (tmp_path / name).write_bytes(content)
    assert "copy it again" in refusal(tmp_path / name)


def test_a_file_without_weights_is_told(tmp_path: Path):
    assert "found epoch; save it under one of these" in refusal(saved(tmp_path, {"epoch": 1}))
