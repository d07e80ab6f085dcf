"""Running a trial: train it, or continue it, or find it finished; and measure it.

The folder of a trial is named after all that decides on it, so that arms of several tables, and
later calls, find it. It holds the training's `run/` and `log.txt`; `trained.json` when that is
finished; `measured-*.json`, one for each way of making detections. A process that works on it
holds a lock on the file `lock`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from aligndetr.checkpoint import (
    BEST_WEIGHTS,
    LAST_WEIGHTS,
    METRICS_FILE,
    STATE_FOLDER,
    load_weights,
    write_json,
)
from aligndetr.checkpoint import load_state as load_weights_into
from aligndetr.config.schema import AnyConfig
from aligndetr.data.batch import evaluation_loader
from aligndetr.data.dataset import DetectionDataset
from aligndetr.data.formats import open_split
from aligndetr.devices import resolve_device
from aligndetr.evaluate.evaluator import METRICS, collect, score
from aligndetr.model.build import build_model
from aligndetr.model.postprocess import detect_with
from aligndetr.reproduce import misalignment
from aligndetr.reproduce.pairing import write_start
from aligndetr.reproduce.small import TUNING_SEED, DataSet, Trial, is_fused
from aligndetr.runs import Run, resume, train
from aligndetr.train.finite import DivergenceError
from aligndetr.train.state import STATE_FILE
from aligndetr.types import Detect

TRAINED = "trained.json"


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

    def trained(self) -> Mapping[str, Any] | None:
        """Return AP and seconds of the finished training, if it is."""
        return _read(self.folder / TRAINED)

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


def train_trial(trial: Trial, data: DataSet, place: Place) -> Mapping[str, Any]:
    """Return AP and seconds of the trial's training, which is done if it was not.

    An interrupted one goes on where its state was saved last, or else from its start. One that
    diverges is finished, without AP.
    """
    if (done := place.trained()) is not None:
        return done
    start, problem = time.monotonic(), None
    metrics: Mapping[str, Any] = {}
    with _logged(place.folder / "log.txt"):
        try:
            is_begun = (place.run / STATE_FILE).is_file()
            metrics = (resume(place.run) if is_begun else _begin(trial, data, place)).metrics
        except DivergenceError as error:
            problem = str(error)
    _tidy(trial, place)
    done = {
        "AP": metrics.get("AP"),
        "problem": problem,
        "steps": trial.steps,
        "seed": trial.seed,
        "class_weight": trial.weight,
        "seconds": time.monotonic() - start,
    }
    write_json(place.folder / TRAINED, done)
    return done


def _tidy(trial: Trial, place: Place) -> None:
    """Remove what is of no further use: of most trainings that choose weights only the AP is."""
    shutil.rmtree(place.run / STATE_FOLDER, ignore_errors=True)
    (place.run / BEST_WEIGHTS).unlink(missing_ok=True)
    if trial.seed == TUNING_SEED and not is_fused(trial.config):
        place.weights.unlink(missing_ok=True)


def _begin(trial: Trial, data: DataSet, place: Place) -> Run:
    shutil.rmtree(place.run, ignore_errors=True)
    start = place.folder / "start.safetensors"
    write_start(start, trial.trained_config(data), data)
    try:
        return train(
            model=str(start), data=data.folder, out=place.run, steps=trial.steps, seed=trial.seed
        )
    finally:
        start.unlink(missing_ok=True)


def measure_trial(config: AnyConfig, data: DataSet, place: Place) -> dict[str, float]:
    """Return the metrics of a finished trial in per cent, measured if they were not.

    `config` says how its predictions become detections. The analysis is kept beside them. There
    are none of one that diverged.
    """
    if (done := place.trained()) is None or done["problem"] is not None:
        return {}
    file = place.folder / f"measured-{_digest(config)}.json"
    found = _read(file)
    if found is None:
        with _logged(place.folder / "log.txt"):
            found = _measured(config, data, place)
        write_json(file, found)
    return found["metrics"] | misalignment.metrics_of(found["analysis"])


def tuned_ap(trial: Trial, data: DataSet, place: Place) -> float | None:
    """Return the AP in per cent of a finished trial, by which its class weight is judged.

    It is that of the arm's own detections: arms that fuse scores otherwise share a training, whose
    own AP is that of the usual way. None where it diverged.
    """
    if is_fused(trial.config):
        return measure_trial(trial.config, data, place).get("AP")
    done = place.trained()
    assert done is not None, "weights are chosen after their trials"
    return None if done["AP"] is None else 100 * done["AP"]


def analysis_of_trial(config: AnyConfig, place: Place) -> Mapping[str, Any]:
    """Return the analysis of a measured trial; nothing where there was none."""
    return (_read(place.folder / f"measured-{_digest(config)}.json") or {}).get("analysis", {})


def opened(weights: Path, config: AnyConfig) -> tuple[Detect, AnyConfig]:
    """Return a trained detector that makes detections as `config` says, and its own options."""
    checkpoint, device = load_weights(weights), resolve_device("auto")
    network, _ = build_model(checkpoint.config, device=device, pretrained=False)
    load_weights_into(network, checkpoint.state_dict, str(weights))
    options = config.postprocess
    return detect_with(
        network.eval(), checkpoint.classes, options, device=device
    ), checkpoint.config


def _measured(config: AnyConfig, data: DataSet, place: Place) -> dict[str, Any]:
    detect, options = opened(place.weights, config)
    annotations = open_split(data.folder, "val")
    transform = options.data.augmentation.evaluation(options.backbone.mean, options.backbone.std)
    loader = evaluation_loader(
        DetectionDataset(annotations, transform),
        batch_size=options.data.eval_batch_size,
        workers=options.data.workers,
    )
    results, truth = collect(detect, loader), annotations.coco_dict()
    metrics = score(results, truth)
    known = {name: metrics[name] for name in METRICS}
    return {
        "metrics": {n: 100 * value for n, value in known.items() if isinstance(value, float)},
        "analysis": misalignment.analysis_of(results, truth),
    }


def _digest(config: AnyConfig) -> str:
    return hashlib.sha256(config.postprocess.model_dump_json().encode()).hexdigest()[:8]


def _read(file: Path) -> dict[str, Any] | None:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


@contextmanager
def _logged(file: Path) -> Generator[None]:
    """Let what is said on the way go to a file: the progress of many trainings is one line each."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        yield
