"""The folder of a trial: its files, and what they say.

It is named after all that decides on the trial, so that arms of several tables, and later calls,
find it. It holds the training's `run/` and `log.txt`; `trained.json` when that is finished;
`measured-*.json`, one for each way of making detections. A process that works on it holds a lock
on the file `lock`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout
from pydantic import ValidationError

from aligndetr.checkpoint import LAST_WEIGHTS, METRICS_FILE, write_text
from aligndetr.config.schema import AnyConfig
from aligndetr.errors import CheckpointError
from aligndetr.reproduce.misalignment import Kept
from aligndetr.settings import Settings

TRAINED = "trained.json"
Record = TypeVar("Record", bound=Settings)


class Trained(Settings):
    """A finished training: AP in [0, 1] at its end, or the `problem` by which it diverged."""

    ap: float | None
    problem: str | None
    steps: int
    seed: int
    class_weight: float | None
    seconds: float


class Measured(Settings):
    """COCO's metrics in per cent, and what is kept of the analysis."""

    metrics: dict[str, float]
    analysis: Kept


@dataclass(frozen=True)
class Place:
    """The folder of a trial."""

    folder: Path

    @property
    def run(self) -> Path:
        """The run folder of its training."""
        return self.folder / "run"

    @property
    def weights(self) -> Path:
        """The weights at the end of the training, averaged: those that are measured."""
        return self.run / LAST_WEIGHTS

    @property
    def log(self) -> Path:
        """What training and measuring say."""
        return self.folder / "log.txt"

    def trained(self) -> Trained | None:
        """Return what is known of the training, if it is finished."""
        return _read(self.folder / TRAINED, Trained)

    def measured(self, config: AnyConfig) -> Measured | None:
        """Return what was measured with detections as `config` makes them, if it was."""
        return _read(self._measured(config), Measured)

    def write_trained(self, record: Trained) -> None:
        """Say that the training is finished."""
        _write(self.folder / TRAINED, record)

    def write_measured(self, config: AnyConfig, record: Measured) -> None:
        """Keep what was measured with detections as `config` makes them."""
        _write(self._measured(config), record)

    def curve(self) -> list[tuple[int, float]]:
        """Return steps, and AP in per cent after them; nothing where none was reached."""
        return [
            (event["step"], 100 * event["AP"])
            for event in self._events("eval")
            if event["AP"] is not None
        ]

    def images_per_second(self) -> float | None:
        """Return the highest speed of the training; None where it did not come that far."""
        speeds = (event["images_per_second"] for event in self._events("train"))
        return max(speeds, default=None)

    def _events(self, kind: str) -> list[dict[str, Any]]:
        file = self.run / METRICS_FILE
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        events = [json.loads(line) for line in lines]
        return [event for event in events if event["event"] == kind]

    def _measured(self, config: AnyConfig) -> Path:
        text = config.postprocess.model_dump_json()
        return self.folder / f"measured-{hashlib.sha256(text.encode()).hexdigest()[:8]}.json"


@contextmanager
def locked(folder: Path) -> Generator[bool]:
    """Yield whether this process has the folder for itself; another may be at work in it.

    The system holds the lock and drops it with the process, however that ends; what the file
    `lock` says, or that it is there, means nothing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock")
    is_ours = _taken(lock)
    try:
        yield is_ours
    finally:
        if is_ours:
            lock.release()


def _taken(lock: FileLock) -> bool:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True


def _write(file: Path, record: Settings) -> None:
    write_text(file, record.model_dump_json(indent=2) + "\n")


def _read(file: Path, kind: type[Record]) -> Record | None:
    if not file.is_file():
        return None
    try:
        return kind.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise CheckpointError(
            f"{file}: expected what this version of aligndetr writes there, found "
            f"{error.error_count()} other fields or values; delete it to have it made anew"
        ) from error
