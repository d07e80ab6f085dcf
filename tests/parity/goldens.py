"""Where the parity tests find their cases: arrays that published implementations computed."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

PROJECT = Path(__file__).parents[2]
HINT = "set ALIGNDETR_GOLDENS to the folder of published cases"


def goldens_dir() -> Path:
    """The folder named by ALIGNDETR_GOLDENS, or the one beside the project."""
    return Path(os.environ.get("ALIGNDETR_GOLDENS", PROJECT.parent / "shared" / "goldens"))


def arrays_in(path: Path) -> set[str]:
    """The names of a file's arrays."""
    with safe_open(path, "pt") as file:
        return set(file.keys())


@dataclass(frozen=True)
class Golden:
    """One case: its arrays, and its configuration from the file's own metadata."""

    path: Path
    arrays: dict[str, Tensor]
    metadata: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> "Golden":
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        return cls(path, load_file(path), {key: _parsed(text) for key, text in metadata.items()})

    def other(self, name: str) -> "Golden":
        """The case of another file, named from the folder of all goldens."""
        path = goldens_dir() / name
        return Golden.read(path) if path.exists() else pytest.skip(f"{path} is missing: {HINT}")

    def __getitem__(self, name: str) -> Tensor:
        return self.arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self.arrays


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
