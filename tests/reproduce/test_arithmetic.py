"""All arms of a folder run in one arithmetic."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from aligndetr import precision
from aligndetr.errors import ConfigError
from aligndetr.reproduce.arithmetic import arithmetic_of


def measuring(dtype: torch.dtype) -> Callable[..., torch.dtype]:
    return lambda *_: dtype


def test_it_is_measured_once_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    monkeypatch.setattr(precision, "resolve_precision", measuring(torch.bfloat16))
    assert arithmetic_of(one) == "bf16"
    monkeypatch.setattr(precision, "resolve_precision", measuring(torch.float32))
    assert arithmetic_of(one) == "bf16"
    assert arithmetic_of(other) == "fp32"


def test_a_file_that_says_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "precision.txt").write_text("fp8")
    with pytest.raises(ConfigError, match="expected fp32 or bf16, found 'fp8'; correct it"):
        arithmetic_of(tmp_path)
