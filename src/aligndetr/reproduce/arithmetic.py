"""In which arithmetic all arms of an output folder run.

`precision: auto` is a measurement, which may fall out otherwise in every process: paired arms would
differ in more than their loss. So it is taken once a folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from filelock import FileLock

from aligndetr.checkpoint import write_text
from aligndetr.devices import resolve_device
from aligndetr.errors import ConfigError
from aligndetr.precision import settle

Arithmetic = Literal["fp32", "bf16"]
FILE = "precision.txt"
"""Below the output folder: one word."""


def arithmetic_of(out: Path) -> Arithmetic:
    """Return what `auto` means for all trainings in a folder, measured at the first call.

    Raises:
        ConfigError: The folder's file says something else.
    """
    out.mkdir(parents=True, exist_ok=True)
    file = out / FILE
    with FileLock(file.with_suffix(".lock")):  # for the milliseconds of the measurement
        if not file.is_file():
            write_text(file, f"{settle(resolve_device('auto'))}\n")
        found = file.read_text(encoding="utf-8").strip()
    match found:
        case "fp32" | "bf16":
            return found
        case _:
            raise ConfigError(
                f"{file}: expected fp32 or bf16, found {found[:20]!r}; correct it to that of the "
                "trainings in the folder, or choose another --out"
            )
