"""Running a trial: train it, or continue it, or find it finished; and measure it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from aligndetr.checkpoint import BEST_WEIGHTS, STATE_FOLDER, load_weights
from aligndetr.checkpoint import load_state as load_weights_into
from aligndetr.config.schema import AnyConfig
from aligndetr.data.formats import open_split
from aligndetr.devices import resolve_device
from aligndetr.evaluate.evaluator import METRICS, collect, score
from aligndetr.evaluate.loading import split_loader
from aligndetr.model.build import build_model
from aligndetr.model.postprocess import detect_with
from aligndetr.reproduce.misalignment import analysis_of, metrics_of
from aligndetr.reproduce.pairing import write_start
from aligndetr.reproduce.places import Measured, Place, Trained
from aligndetr.reproduce.small import TUNING_SEED, DataSet, Trial, is_fused
from aligndetr.runs import Run, resume, train
from aligndetr.train.finite import DivergenceError
from aligndetr.train.state import STATE_FILE
from aligndetr.types import Detect


def train_trial(trial: Trial, data: DataSet, place: Place) -> Trained:
    """Return AP and seconds of the trial's training, which is done if it was not.

    An interrupted one goes on where its state was saved last, or else from its start. One that
    diverges is finished, without AP.
    """
    if (done := place.trained()) is not None:
        return done
    start, problem, ap = time.monotonic(), None, None
    with _logged(place.log):
        try:
            is_begun = (place.run / STATE_FILE).is_file()
            run = resume(place.run) if is_begun else _begin(trial, data, place)
            ap = run.metrics.get("AP")
        except DivergenceError as error:
            problem = str(error)
    _tidy(trial, place)
    done = Trained(
        ap=ap if isinstance(ap, float) else None,
        problem=problem,
        steps=trial.steps,
        seed=trial.seed,
        class_weight=trial.weight,
        seconds=time.monotonic() - start,
    )
    place.write_trained(done)
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
    if (done := place.trained()) is None or done.problem is not None:
        return {}
    found = place.measured(config)
    if found is None:
        with _logged(place.log):
            found = _measured(config, data, place)
        place.write_measured(config, found)
    return found.metrics | metrics_of(found.analysis)


def tuned_ap(trial: Trial, data: DataSet, place: Place) -> float | None:
    """Return the AP in per cent of a finished trial, by which its class weight is judged.

    It is that of the arm's own detections: arms that fuse scores otherwise share a training, whose
    own AP is that of the usual way. None where it diverged.
    """
    if is_fused(trial.config):
        return measure_trial(trial.config, data, place).get("AP")
    done = place.trained()
    assert done is not None, "weights are chosen after their trials"
    return None if done.ap is None else 100 * done.ap


def opened(weights: Path, config: AnyConfig) -> tuple[Detect, AnyConfig]:
    """Return a trained detector that makes detections as `config` says, and its own options."""
    checkpoint, device = load_weights(weights), resolve_device("auto")
    network, _ = build_model(checkpoint.config, device=device, pretrained=False)
    load_weights_into(network, checkpoint.state_dict, str(weights))
    detect = detect_with(network, checkpoint.classes, config.postprocess, device=device)
    return detect, checkpoint.config


def _measured(config: AnyConfig, data: DataSet, place: Place) -> Measured:
    detect, options = opened(place.weights, config)
    annotations = open_split(data.folder, "val")
    results, truth = collect(detect, split_loader(options, annotations)), annotations.coco_dict()
    metrics = score(results, truth)
    known = {name: metrics[name] for name in METRICS}
    return Measured(
        metrics={n: 100 * value for n, value in known.items() if isinstance(value, float)},
        analysis=analysis_of(results, truth),
    )


@contextmanager
def _logged(file: Path) -> Generator[None]:
    """Let what is said on the way go to a file: the progress of many trainings is one line each."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        yield
