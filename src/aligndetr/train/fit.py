"""Setting up a training run: loaders, feature caches, accelerate, and a new or continued state."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, set_seed

from aligndetr.checkpoint import load_state as load_weights_into
from aligndetr.config.schema import AnyConfig
from aligndetr.data.batch import evaluation_loader, training_loader
from aligndetr.data.dataset import DetectionDataset
from aligndetr.model.build import Network
from aligndetr.train.budget import Budget
from aligndetr.train.caching import Caching, let_go
from aligndetr.train.features import Deadline, check_renewable
from aligndetr.train.log import RunLog
from aligndetr.train.loop import Loaders, Trainer
from aligndetr.train.memory import keep_heap
from aligndetr.train.state import STATE_FILE, load_state
from aligndetr.train.tracking import track

CACHE_SHARE = 0.25
"""Share of a budget in minutes after which no more views are cached than must be."""


def fit(
    model: Network,
    config: AnyConfig,
    train_data: DetectionDataset,
    val_data: DetectionDataset,
    out: Path,
    *,
    budget: Budget | None,
    started: float,
) -> dict[str, object]:
    """Train `model` in place and return the metrics of the best weights.

    Writes `metrics.jsonl`, `best.safetensors`, `last.safetensors` and `state/` to `out`.
    With `training.ema` the averaged weights are evaluated and written, not those of the model.

    Args:
        model: On the device that it is trained on.
        config: What the model was built from, and how to train it.
        train_data: With the transform of training.
        val_data: With the transform of evaluation.
        out: Run folder, which exists.
        budget: How long to train; None continues the run in `out` exactly, with its own budget.
        started: `time.monotonic()` at the start of the command; a budget in minutes counts
            from there.

    Raises:
        ConfigError: The budget leaves no time, or the features cannot be cached.
        CheckpointError: There is nothing to continue.
        DivergenceError: A loss or gradient is not finite.
    """
    saved = load_state(out) if budget is None else None
    device = next(model.parameters()).device
    if device.type == "cpu":
        keep_heap()
    tracker = config.training.tracker
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        log_with=None if tracker == "none" else tracker,
        project_dir=out,
        mixed_precision="no",
        gradient_accumulation_steps=config.training.accumulate,
        # Denoising has no queries, so its embedding no gradient, where a batch has no targets.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    if saved is not None:
        saved.require_processes(accelerator.num_processes)
    set_seed(config.training.seed, device_specific=True)
    model.to(accelerator.device)
    if saved is not None:  # before any feature is cached
        load_weights_into(model, saved.weights["network"], str(out / STATE_FILE))
    if tracker != "none":
        accelerator.init_trackers(tracker)
    send = partial(track, accelerator)
    with RunLog(out, is_main=accelerator.is_main_process, send=send) as log:
        limit = budget if saved is None else saved.budget
        minutes = None if limit is None else limit.minutes
        deadline = None
        if minutes is not None:
            used_seconds = 0.0 if saved is None else saved.position.elapsed_seconds
            deadline = Deadline.of(
                started, 60 * minutes - used_seconds, views_share=CACHE_SHARE,
                is_resumed=saved is not None,
            )  # fmt: skip
        parts = open_loaders(
            model, config, train_data, val_data, accelerator=accelerator, log=log,
            deadline=deadline, is_unfrozen=saved is not None and saved.position.is_unfrozen,
        )  # fmt: skip
        run = Trainer(model, config, parts, out, accelerator=accelerator, log=log)
        if saved is None:
            assert budget is not None
            run.begin(budget, started)
        else:
            run.resume(saved, started)
        metrics = run.train()
    for tracking in accelerator.trackers:  # `end_training` would end the processes' group, too
        tracking.finish()
    return metrics


def open_loaders(
    model: Network,
    config: AnyConfig,
    train_data: DetectionDataset,
    val_data: DetectionDataset,
    *,
    accelerator: Accelerator,
    log: RunLog,
    deadline: Deadline | None,
    is_unfrozen: bool,
) -> list[Loaders]:
    """Return the loaders of each part of the training that is still to come.

    Of images or of features, whose cache is short of views at `deadline`; of both, one after the
    other, where the backbone is trained later and not yet, and features would not hold.

    Raises:
        DatasetError: There is no image to train on.
        ConfigError: The features cannot be cached.
    """
    data, truth = config.data, val_data.annotations
    train = training_loader(
        train_data,
        batch_size=data.batch_size,
        workers=data.workers,
        seed=config.training.seed,
        keep_empty=data.keep_empty,
        pad_to=data.pad_to,
        processes=accelerator.num_processes,
    )
    val = evaluation_loader(val_data, batch_size=data.eval_batch_size, workers=data.workers)
    val = accelerator.prepare_data_loader(val)
    parts: list[Loaders] = []
    unfreezing = config.training.unfreeze
    is_renewed = unfreezing is not None and unfreezing.keep_features
    if is_renewed:
        check_renewable(model)
    if data.cache_features and (is_renewed or not is_unfrozen):
        is_trained = is_unfrozen or config.backbone.freeze != "all"
        caching = Caching(model, config, accelerator.device, log, deadline, is_trained)
        views, features = caching.loaders(train, val)
        release = partial(let_go, views, features)
        parts.append(Loaders(accelerator.prepare_data_loader(views), features, truth, release))
    if not parts or (unfreezing is not None and not is_renewed):
        parts.append(Loaders(accelerator.prepare_data_loader(train), val, truth))
    return parts
