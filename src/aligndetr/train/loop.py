"""The training loop: forward, criterion, check, backward, clip, step, average, log.

`fit` sets a run up; `Trainer` is the run. Hugging Face accelerate distributes it over processes
(`accelerate launch` or `torchrun`) and accumulates gradients.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, gather_object, set_seed
from torch import Tensor
from torch.utils.data import DataLoader

from aligndetr.checkpoint import BEST_WEIGHTS, LAST_WEIGHTS, save_weights
from aligndetr.config.schema import Config
from aligndetr.data.batch import evaluation_loader, set_epoch, training_loader
from aligndetr.data.dataset import DetectionDataset
from aligndetr.errors import DatasetError
from aligndetr.evaluate.evaluator import Detect, collect, merge, score
from aligndetr.model.detector import DetectorModel
from aligndetr.train.budget import Budget
from aligndetr.train.evaluation import detect_with, trial_seconds
from aligndetr.train.features import cache_evaluation, cache_training, check_cacheable
from aligndetr.train.finite import check_gradient, check_terms
from aligndetr.train.log import RunLog
from aligndetr.train.memory import keep_heap
from aligndetr.train.optimizer import build_optimizer
from aligndetr.train.schedule import factor, set_learning_rate
from aligndetr.train.state import (
    Position,
    Saved,
    Trained,
    averaged,
    load_state,
    random_state,
    save_state,
)
from aligndetr.types import Batch

RESERVE_MARGIN = 1.3
"""The last evaluation and saving may take this much longer than estimated."""
CHORE_SHARE = 0.05
"""Share of the time that a budget in minutes leaves to evaluations on the way, and to saving."""
SAVING_SPEED = 200e6
"""Bytes a second at which a run folder is written, at least."""


def fit(
    model: DetectorModel,
    config: Config,
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
        ConfigError: the budget leaves no time, or the features cannot be cached.
        CheckpointError: there is nothing to continue.
        DivergenceError: a loss or gradient is not finite.
    """
    saved = load_state(out) if budget is None else None
    device = next(model.parameters()).device
    if device.type == "cpu":
        keep_heap()
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="no",
        gradient_accumulation_steps=config.training.accumulate,
        # Denoising has no queries, so its embedding no gradient, where a batch has no targets.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    set_seed(config.training.seed, device_specific=True)
    model.to(accelerator.device)
    with RunLog(out, is_main=accelerator.is_main_process) as log:
        loaders = open_loaders(model, config, train_data, val_data, accelerator, log)
        run = Trainer(model, config, loaders, out, accelerator=accelerator, log=log)
        if saved is None:
            assert budget is not None
            run.begin(budget, started)
        else:
            run.resume(saved, started)
        return run.train()


@dataclass(frozen=True)
class Loaders:
    """Where a run's batches come from; each process has its own share."""

    train: DataLoader[Any]
    val: DataLoader[Any] | list[Batch]
    val_data: DetectionDataset


def open_loaders(
    model: DetectorModel,
    config: Config,
    train_data: DetectionDataset,
    val_data: DetectionDataset,
    accelerator: Accelerator,
    log: RunLog,
) -> Loaders:
    """Return the loaders, of images or of cached features.

    Raises:
        DatasetError: there is no image to train on.
        ConfigError: the features cannot be cached.
    """
    data, seed = config.data, config.training.seed
    val: Any = accelerator.prepare_data_loader(
        evaluation_loader(val_data, batch_size=data.eval_batch_size, workers=data.workers)
    )
    if data.cache_features:
        check_cacheable(config)
        model.eval()
        device, views = accelerator.device, data.cached_views * len(train_data)
        with log.chore(f"caching features of {views} views", views) as report:
            cache = cache_training(
                model.features,
                train_data,
                data,
                strides=model.backbone.strides,
                device=device,
                seed=seed,
                report=report,
            )
        with log.chore(f"caching features of {len(val_data)} images", len(val_data)) as report:
            val = cache_evaluation(model.features, val, device=device, report=report)
        train: DataLoader[Any] = cache.loader(batch_size=data.batch_size, seed=seed)
    else:
        train = training_loader(
            train_data,
            batch_size=data.batch_size,
            workers=data.workers,
            seed=seed,
            keep_empty=data.keep_empty,
        )
    if len(train) == 0:
        raise DatasetError(
            f"{train_data.annotations.annotation_file}: expected images to train on, found none "
            f"(data.keep_empty={data.keep_empty}); add annotated images"
        )
    return Loaders(accelerator.prepare_data_loader(train), val, val_data)


class Trainer:
    """One training run: `begin` or `resume` it, then `train`."""

    def __init__(
        self,
        model: DetectorModel,
        config: Config,
        loaders: Loaders,
        out: Path,
        *,
        accelerator: Accelerator,
        log: RunLog,
    ) -> None:
        training = config.training
        average = None if training.ema is None else averaged(model, training.ema)
        self.trained = Trained(model, build_optimizer(model, training), average)
        self.position = Position()
        self._model, self._optimizer = accelerator.prepare(model, self.trained.optimizer)
        self._config = config
        self._loaders = loaders
        self._out = out
        self._accelerator = accelerator
        self._log = log
        self._step_seconds = 0.0

    def begin(self, budget: Budget, started: float) -> None:
        """Prepare the first step; minutes count from `started`."""
        self._started = started
        self._tick()
        reserve = 0.0
        if budget.minutes is not None:
            reserve = self._reserve_seconds(*self._agree(self._trial_seconds()))
        self._tick()
        self._caller_reserve = budget.reserve_seconds
        self.budget = budget.began(self.position.elapsed_seconds, reserve)

    def resume(self, saved: Saved, started: float) -> None:
        """Prepare the step after the last that was saved; its command's time has been used."""
        saved.restore(self.trained, self._accelerator.process_index)
        self.position, self.budget = saved.position, saved.budget
        self._started = started - saved.position.elapsed_seconds
        self._log.continue_from(self.position)
        self._tick()
        if self._is_over:
            self._log.say(f"{self._out}: the training is finished; nothing is left to resume")

    def train(self) -> dict[str, object]:
        """Train until the budget is used up; return the metrics of the best weights."""
        while not self._is_over:
            self._train_epoch()
            self._end_epoch()
        return dict(self.position.best or {})

    def _train_epoch(self) -> None:
        """Take the steps of an epoch, or of what the budget leaves of it."""
        training, loader = self._config.training, self._loaders.train
        self._model.train()
        set_epoch(loader, self.position.epoch)
        for index, batch in enumerate(loader):
            num_targets = self._tick(len(batch.targets))
            share = self._share(index / len(loader))
            if share >= 1:
                return
            rate = training.learning_rate * factor(training.schedule, share)
            set_learning_rate(self._optimizer, factor(training.schedule, share))
            start = time.monotonic()
            terms = self._step(batch, max(num_targets, 1.0))
            self._step_seconds = time.monotonic() - start
            images = len(batch.image_ids) * self._accelerator.num_processes
            self._log.batch(self.position, terms, images=images, learning_rate=rate, share=share)
        self.position = replace(self.position, epoch=self.position.epoch + 1)

    def _step(self, batch: Batch, num_targets: float) -> dict[str, Tensor]:
        """Add up the gradients of a batch, and step when enough of them have been."""
        accelerator = self._accelerator
        with accelerator.accumulate(self._model):
            output = self._model(batch.images, batch.targets)
            terms = self._config.criterion(output, batch.targets, num_targets=num_targets)
            check_terms(terms, batch.image_ids, step=self.position.step)
            accelerator.backward(torch.stack(list(terms.values())).sum())
            if accelerator.sync_gradients:
                self._update(batch)
        return terms

    def _update(self, batch: Batch) -> None:
        norm = self._accelerator.clip_grad_norm_(
            self._model.parameters(), self._config.training.clip_norm
        )
        assert norm is not None
        check_gradient(norm, batch.image_ids, step=self.position.step)
        self._optimizer.step()
        self._optimizer.zero_grad()
        if self.trained.average is not None:
            self.trained.average.update_parameters(self.trained.network)
        self.position = replace(self.position, step=self.position.step + 1)
