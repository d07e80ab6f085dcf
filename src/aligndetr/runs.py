"""Runs: a run folder is made, trained into, and continued."""

import atexit
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list
from torch import distributed, nn

from aligndetr.autoconfig.apply import configure
from aligndetr.checkpoint import (
    CLASSES_FILE,
    CONFIG_FILE,
    Checkpoint,
    load_state,
    open_checkpoint,
    read_classes,
)
from aligndetr.config.codec import fields_set, load_config, overlay, override
from aligndetr.config.presets import PRESETS, get_preset
from aligndetr.config.schema import AnyConfig
from aligndetr.data.annotations import Annotations, check_same_classes
from aligndetr.data.dataset import DetectionDataset
from aligndetr.data.formats import open_split
from aligndetr.devices import LONGEST_CHORE, resolve_device
from aligndetr.errors import CheckpointError, DatasetError
from aligndetr.model.build import build_model
from aligndetr.precision import settle
from aligndetr.run_folder import Origin, held, make_run_folder, require_new
from aligndetr.train.budget import Budget
from aligndetr.train.fit import fit
from aligndetr.train.tracking import require_tracker

COMMAND_SECONDS = 3.0
"""What a command takes besides: its interpreter's start before, and its end after the training."""


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, and the metrics of its best weights (empty if none)."""

    folder: Path
    metrics: dict[str, object]


def train(
    *,
    model: str,
    data: Path,
    out: Path,
    overrides: Sequence[str] = (),
    config: Path | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    seed: int | None = None,
    device: str = "auto",
    started: float | None = None,
) -> Run:
    """Train a preset, or fine-tune a run, on a data folder.

    Args:
        model: Preset, run folder or .safetensors file. A run brings its configuration and
            weights; heads are rebuilt where its classes are others.
        data: COCO, VOC or YOLO data with a train and a val split.
        out: The run folder to make.
        overrides: Changes to the configuration, such as "backbone.freeze=all".
        config: A YAML file with any part of a configuration, laid over that of `model`.
        epochs: How long, or `steps` or `minutes`; the configuration's epochs if none is given.
        steps: Optimizer steps.
        minutes: Wall-clock time from `started` to the return of this call.
        seed: Decides on everything random.
        device: "auto", "cpu", "cuda" or "mps".
        started: `time.monotonic()` when the command began; now, if None.

    Raises:
        ConfigError: The model, the configuration, the budget or `out` cannot be used.
        DatasetError: The data cannot be used.
        CheckpointError: Weights cannot be had.
        DivergenceError: A loss became infinite or NaN.
    """
    started = time.monotonic() if started is None else started
    target = _join_processes(device)
    start = open_start(model)
    settings = get_preset(model) if start is None else start.config
    if config is not None:
        settings = overlay(settings, config)
    settings = override(settings, overrides)
    settings = _with_training(settings, epochs=epochs, seed=seed)
    require_tracker(settings.training.tracker)
    budget = _budget(settings, steps=steps, minutes=minutes, epochs=epochs)
    train_split, val_split = _open_splits(data)
    settings = settings.model_copy(update={"num_classes": len(train_split.classes)})
    if start is None and settings.training.autoconfig:
        require_new(out)  # before anything takes time
        given = fields_set(overrides, config)
        if steps is not None or epochs is not None:
            given |= {"training.epochs"}
        settings = configure(
            settings, train_split, val_split, minutes=minutes, device=target, given=given, say=say
        )
        budget = _budget(settings, steps=steps, minutes=minutes, epochs=epochs)
    _say_batches(settings)
    written, settings = settings, _with_precision(settings, target)
    torch.manual_seed(settings.training.seed)
    network, weights_origin = build_model(
        settings, device=target, pretrained=None if start is None else False
    )
    say(weights_origin if start is None else _transfer(network, start, train_split))
    origin = Origin.of(train_split, data, precision=settings.precision, device=target.type)
    with ExitStack() as stack:
        with PartialState().main_process_first():
            if PartialState().is_main_process:
                require_new(out)  # and again under the lock, whose folder it would be
                stack.enter_context(held(out, say))
                make_run_folder(out, written, train_split, origin)
        # As written: whoever opens the weights elsewhere decides anew on the arithmetic.
        metrics = fit(
            network, written, *_datasets(written, train_split, val_split), out,
            budget=budget, started=started,
        )  # fmt: skip
    return Run(out, metrics)


def resume(run: Path, *, device: str = "auto", started: float | None = None) -> Run:
    """Continue an interrupted run exactly where its state was saved last.

    Args:
        run: A run folder.
        device: "auto" is the one that the run began on.
        started: `time.monotonic()` when the command began; now, if None.

    Raises:
        CheckpointError: The folder is not a run, has no state, or was trained by another number of
            processes.
        ConfigError: There is no such device here.
        DatasetError: The data are not where they were.
    """
    started = time.monotonic() if started is None else started
    origin = Origin.read(run)
    target = _join_processes(origin.device if device == "auto" else device)
    settings = load_config(run / CONFIG_FILE)
    decided = settings
    if origin.precision != "auto":
        decided = settings.model_copy(update={"precision": origin.precision})
    train_split, val_split = _open_splits(origin.data)
    if train_split.classes != read_classes(run / CLASSES_FILE):
        raise CheckpointError(
            f"{run / CLASSES_FILE}: expected the classes of {train_split.annotation_file}, found "
            "others; the data have changed since: start a new run"
        )
    origin.require_same(train_split)
    network, _ = build_model(decided, device=target, pretrained=False)
    with held(run, say) if PartialState().is_main_process else nullcontext():
        metrics = fit(
            network, settings, *_datasets(settings, train_split, val_split), run,
            budget=None, started=started,
        )  # fmt: skip
    return Run(run, metrics)


def open_start(model: str | Path) -> Checkpoint | None:
    """Return the checkpoint that `model` names, None where it is a preset.

    Raises:
        ConfigError: It is neither.
        CheckpointError: It is a path, but nothing that can be used.
    """
    if str(model) in PRESETS:
        return None
    path = Path(model)
    if not path.exists() and path.suffix != ".safetensors":
        get_preset(str(model))  # raises, and names the closest
    return open_checkpoint(path)


def _join_processes(device: str) -> torch.device:
    """Return the device, after this process has joined the others of a distributed run there."""
    target = resolve_device(device)
    # The first state to be made decides for all that follow; alone, another device is a new start.
    if PartialState._shared_state:  # pyright: ignore[reportPrivateUsage]
        state = PartialState()
        is_elsewhere = state.device is not None and state.device.type != target.type
        if state.num_processes == 1 and is_elsewhere:
            AcceleratorState._reset_state(True)  # pyright: ignore[reportPrivateUsage]
    PartialState(cpu=target.type == "cpu", timeout=LONGEST_CHORE)
    if distributed.is_initialized():
        atexit.register(_leave_processes)
    return target


def _leave_processes() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


def say(text: str) -> None:
    """Write a line to stderr, once in a distributed run."""
    if PartialState().is_main_process:
        sys.stderr.write(f"{text}\n")


def _say_batches(config: AnyConfig) -> None:
    """Tell of how many images a step has, where several processes have a batch each."""
    processes, each = PartialState().num_processes, config.data.batch_size
    if processes > 1:
        total = processes * each * config.training.accumulate
        say(f"{processes} processes with data.batch_size={each} each: steps of {total} images")


def _with_training(config: AnyConfig, *, epochs: int | None, seed: int | None) -> AnyConfig:
    changes = {"epochs": epochs, "seed": seed}
    given = [f"training.{name}={value}" for name, value in changes.items() if value is not None]
    return override(config, given)


def _with_precision(config: AnyConfig, device: torch.device) -> AnyConfig:
    """Return the configuration with the arithmetic that `auto` means, the same in all processes.

    It is measured, hence decided once for a run: a resumed one goes on in the same.
    """
    if config.precision != "auto":
        return config
    decided = broadcast_object_list([settle(device)])[0]
    say(f"precision auto: {decided} on this {device.type}")
    return config.model_copy(update={"precision": decided})


def _budget(
    config: AnyConfig, *, epochs: int | None, steps: int | None, minutes: float | None
) -> Budget:
    if steps is None and minutes is None:
        epochs = config.training.epochs
    return Budget(epochs=epochs, steps=steps, minutes=minutes, reserve_seconds=COMMAND_SECONDS)


def _open_splits(data: Path) -> tuple[Annotations, Annotations]:
    train_split, val_split = open_split(data, "train"), open_split(data, "val")
    check_same_classes(train_split, val_split)
    for split in (train_split, val_split):
        say(f"{split.annotation_file}: {split.layout}, {len(split)} images")
        for issue in split.issues:
            say(issue)
    _require_objects(train_split, val_split)
    return train_split, val_split


def _require_objects(train_split: Annotations, val_split: Annotations) -> None:
    """Check that there is something to learn, and tell where nothing can be measured."""
    if not len(train_split.target_boxes[1]):
        raise DatasetError(
            f"{train_split.annotation_file}: expected objects to train on, found none in "
            f"{len(train_split)} images; see whether their labels are where "
            f"{train_split.layout} has them"
        )
    if not len(val_split.target_boxes[1]):
        say(f"{val_split.annotation_file}: no objects, so no AP can be measured")


def _datasets(
    config: AnyConfig, train_split: Annotations, val_split: Annotations
) -> tuple[DetectionDataset, DetectionDataset]:
    augmentation, mean, std = config.data.augmentation, config.backbone.mean, config.backbone.std
    return (
        DetectionDataset(train_split, augmentation.training(mean, std)),
        DetectionDataset(val_split, augmentation.evaluation(mean, std)),
    )


def _transfer(network: nn.Module, start: Checkpoint, split: Annotations) -> str:
    """Load the weights that fit, all but the heads of other classes; return what was done.

    Raises:
        CheckpointError: Other tensors than those of the classes do not fit.
    """
    if start.classes.names == split.classes.names:
        load_state(network, start.state_dict, str(start.path))
        return f"{start.path}: all weights, for the same {len(split.classes)} classes"
    fresh = network.state_dict()
    rebuilt = [name for name in fresh if _is_of_classes(name)]
    state = start.state_dict | {name: fresh[name] for name in rebuilt}
    load_state(network, state, str(start.path))
    return (
        f"{start.path}: weights of {len(start.classes)} classes; rebuilt {len(rebuilt)} tensors of "
        f"heads for {', '.join(split.classes.names[:5])}{', ...' * (len(split.classes) > 5)}"
    )


def _is_of_classes(name: str) -> bool:
    """Whether a tensor has a row a class: class heads and the label embedding."""
    return ".classes." in name or ".box_predictor." in name or name == "denoising.label.weight"
