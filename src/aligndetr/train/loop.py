"""The training loop: forward, criterion, check, backward, clip, step, average, log.

Hugging Face accelerate distributes it over processes (`accelerate launch` or `torchrun`) and
accumulates gradients. Processes act alike because they decide on numbers that they agreed on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, distributed
from torch.utils.data import DataLoader

from aligndetr.analyze.alignment import alignment
from aligndetr.checkpoint import BEST_WEIGHTS, LAST_WEIGHTS, save_weights
from aligndetr.config.schema import AnyConfig
from aligndetr.data.annotations import Annotations
from aligndetr.data.batch import set_epoch
from aligndetr.devices import LONGEST_CHORE
from aligndetr.errors import DatasetError
from aligndetr.evaluate.evaluator import Results, collect, merge, score
from aligndetr.losses.criterion import total_loss
from aligndetr.model.build import Network
from aligndetr.model.postprocess import detect_with
from aligndetr.train.budget import Budget, Pace
from aligndetr.train.caching import EvaluationBatches
from aligndetr.train.evaluation import trial_seconds
from aligndetr.train.finite import FiniteCheck
from aligndetr.train.log import RunLog
from aligndetr.train.optimizer import build_optimizer
from aligndetr.train.pictures import draw_sheet, drawing_seconds, write_sheet
from aligndetr.train.schedule import factor, set_learning_rate
from aligndetr.train.state import Average, Position, Saved, Trained, random_state, save_state
from aligndetr.types import Batch, Detect

CHORE_SHARE = 0.05
"""Share of its time that a budget in minutes leaves to evaluations on the way, and to saving."""
LAST_CHORE = 0.9
"""Share of the training from which on they are left to its end."""
CLOSING_MARGIN = 1.3
"""The last evaluation and saving may take this much longer than estimated, ..."""
CLOSING_SLACK_SECONDS = 1.0
"""... and this much on top."""
SAVE_SECONDS = 60.0
"""Between two evaluations, the time after which an epoch's end is saved."""
SAVING_SPEED = 200e6
"""Bytes a second at which weights and state are written, at least."""


@dataclass(frozen=True)
class Loaders:
    """Where a run's batches come from, each process's own share; `truth` is what `val` shows.

    `release` frees the memory that they take; there are no batches after that.
    """

    train: DataLoader[Any]
    val: EvaluationBatches
    truth: Annotations
    release: Callable[[], None] = lambda: None


class Trainer:
    """One training run: `begin` or `resume` it, then `train`."""

    def __init__(
        self,
        model: Network,
        config: AnyConfig,
        parts: Sequence[Loaders],
        out: Path,
        *,
        accelerator: Accelerator,
        log: RunLog,
    ) -> None:
        """Take what there is to train on: once, or before and after the backbone is unfrozen."""
        training = config.training
        average = None if training.ema is None else Average(model, training.ema)
        self.trained = Trained(model, build_optimizer(model, training), average)
        self.position = Position()
        self.budget = Budget(epochs=training.epochs)
        self._model, self._optimizer = accelerator.prepare(model, self.trained.optimizer)
        self._parameters = list(self._model.parameters())  # going through modules takes a while
        self._config, self._out = config, out
        self._loaders, self._last_loaders = parts[0], parts[-1]
        self._accelerator, self._log = accelerator, log
        is_cpu = accelerator.device.type == "cpu"
        self._finite = FiniteCheck(self.trained.optimizer, waits=is_cpu)
        self._started = time.monotonic()
        self._lap_seconds, self._pace = 0.0, Pace()
        self._saved_at = 0.0
        self._talk: Any = None  # the group that agrees on numbers: of all, over the CPU
        if accelerator.num_processes > 1 and not is_cpu:
            self._talk = distributed.new_group(backend="gloo", timeout=LONGEST_CHORE)

    def begin(self, budget: Budget, started: float) -> None:
        """Prepare the first step; minutes count from `started`.

        Raises:
            ConfigError: The budget leaves no time for training.
        """
        self._started = started
        closing_seconds = 0.0
        if budget.minutes is not None:
            closing_seconds = self._closing_seconds(self._agree(self._try_evaluation())[0])
        self._tick()
        self.budget = budget.began(self.position.elapsed_seconds, closing_seconds=closing_seconds)

    def resume(self, saved: Saved, started: float) -> None:
        """Prepare the step after the saved one; the time that it was saved at is used up."""
        saved.restore(self.trained, self._accelerator.process_index)
        self.position, self.budget = saved.position, saved.budget
        if self.position.is_unfrozen and not self.position.is_finished:
            self._unfreeze()
        self._started = started - saved.position.elapsed_seconds
        self._saved_at = saved.position.elapsed_seconds
        self._log.continue_from(self.position)
        self._tick()
        if self.position.is_finished:
            self._log.say(f"{self._out}: this training is finished; nothing is left to resume")

    def train(self) -> dict[str, object]:
        """Train until the budget is used up; return the metrics of the best weights."""
        while not self.position.is_finished:
            self._train_epoch()
            self._end_epoch()
        return dict(self.position.best or {})

    def _train_epoch(self) -> None:
        """Take the steps of an epoch, or of what the budget leaves of it.

        A budget in steps or minutes also ends an epoch where the backbone is to be unfrozen.
        """
        if self._unfreezes_at(self._share(0.0)):
            self._unfreeze()
        training, loader = self._config.training, self._loaders.train
        self._model.train()
        set_epoch(loader, self.position.epoch)
        for index, batch in enumerate(loader):
            num_targets = self._tick(len(batch.targets), ends_step=index > 0)
            share = self._share(index / len(loader))
            if share >= 1:
                self.position = replace(self.position, is_finished=True)
                return
            if self._cuts_epoch_at(share):
                self._unfreeze()
                self.position = replace(self.position, epoch=self.position.epoch + 1)
                return
            rate = factor(training.schedule, share)
            set_learning_rate(self.trained.optimizer, rate)
            terms = self._step(batch, num_targets)
            self._log.batch(
                self.position,
                terms,
                images=len(batch.image_ids) * self._accelerator.num_processes,
                learning_rate=rate * training.learning_rate,
                share=share,
            )
        self._tick(ends_step=True)
        is_finished = self._share(1.0) >= 1
        epoch = self.position.epoch + 1
        self.position = replace(self.position, epoch=epoch, is_finished=is_finished)

    def _cuts_epoch_at(self, share: float) -> bool:
        """Whether the backbone is unfrozen within the epoch, as far as no gradient is pending."""
        is_between_steps = self._accelerator.sync_gradients
        return self.budget.epochs is None and is_between_steps and self._unfreezes_at(share)

    def _unfreezes_at(self, share: float) -> bool:
        unfreezing = self._config.training.unfreeze
        return unfreezing is not None and not self.position.is_unfrozen and share >= unfreezing.at

    def _unfreeze(self) -> None:
        """Train the backbone too from now on; cached features that will not hold are let go."""
        self._log.say("training the upper stages of the backbone from now on")
        for network in (self.trained.network, self.trained.evaluated):
            cast(Network, network).backbone.unfreeze()
        if self._loaders is not self._last_loaders:
            self._loaders.release()
            self._loaders = self._last_loaders
        closing_seconds = self._pace.slowdown * self.budget.closing_seconds
        self.budget = replace(self.budget, closing_seconds=closing_seconds)
        self._pace = Pace()  # steps are longer for another reason
        self.position = replace(self.position, is_unfrozen=True)

    def _step(self, batch: Batch, num_targets: float) -> dict[str, Tensor]:
        """Add up the gradients of a batch; update the weights when enough batches have been."""
        with self._accelerator.accumulate(self._model):
            output = self._model(batch.images, batch.targets)
            terms = self._config.criterion(output, batch.targets, num_targets=max(num_targets, 1.0))
            self._finite.note(terms, batch.image_ids, step=self.position.step)
            self._accelerator.backward(total_loss(terms))
            if self._accelerator.sync_gradients:
                self._update()
        return terms

    def _update(self) -> None:
        limit = self._config.training.clip_norm
        norm = self._accelerator.clip_grad_norm_(self._parameters, limit)
        assert norm is not None
        self._finite.conclude(norm, step=self.position.step)
        self._optimizer.step()
        self._optimizer.zero_grad()
        if self.trained.average is not None:
            self.trained.average.update_parameters(self.trained.network)
        self.position = replace(self.position, step=self.position.step + 1)

    def _end_epoch(self) -> None:
        """Evaluate and save, where that is due."""
        self._finite.settle()
        self._log.flush(self.position)
        if self._evaluation_is_due:
            self._evaluate()
        if self._saving_is_due:
            self._save()
        self._tick()

    @property
    def _evaluation_is_due(self) -> bool:
        """At the end; before, after every so many epochs, where a budget in minutes can bear it."""
        if self.position.is_finished:
            return self.position.evaluated_step != self.position.step
        return self._ends_period and (
            self._is_affordable(self.position.evaluation_seconds, self.budget.closing_seconds)
        )

    @property
    def _saving_is_due(self) -> bool:
        """When evaluations are, and where these are rare and epochs short, every minute."""
        if self.position.is_finished:
            return True
        is_time = self.position.elapsed_seconds - self._saved_at >= SAVE_SECONDS
        return (self._ends_period or is_time) and (
            self._is_affordable(self.position.saving_seconds, self._saving_seconds)
        )

    @property
    def _ends_period(self) -> bool:
        return self.position.epoch % self._config.training.evaluate_every == 0

    def _is_affordable(self, spent_seconds: float, seconds: float) -> bool:
        """Whether all such work stays in its small share, far from the end; minutes only."""
        if self.budget.minutes is None:
            return True
        end = self.position.elapsed_seconds + seconds
        share = self.budget.progress(self.position.step, self.position.epoch, end)
        return share < LAST_CHORE and spent_seconds + seconds <= CHORE_SHARE * end

    def _evaluate(self) -> None:
        """Measure the weights on the validation images; keep them if they are the best so far."""
        start = time.monotonic()
        with (
            self._log.chore("evaluating", len(self._loaders.truth)) as report,
            torch.random.fork_rng(devices=[]),  # so that training does not depend on it
        ):
            results = collect(self._detect(), self._loaders.val, progress=report)
        results, truth = merge(gather_object([results])), self._loaders.truth.coco_dict()
        metrics = {**score(results, truth), **alignment(results, truth)}
        self._draw(results)
        seconds = self._agree(time.monotonic() - start)[0]
        metrics |= {"images": len(self._loaders.truth), "seconds": seconds}
        # Of equal ones the later: where no AP can be measured, or none is above 0 yet.
        is_best = self.position.best is None or _ap(metrics) >= _ap(self.position.best)
        self.position = replace(
            self.position,
            evaluation_seconds=self.position.evaluation_seconds + seconds,
            evaluated_step=self.position.step,
            best=metrics if is_best else self.position.best,
        )
        self._tick()
        is_measured = self.position.is_unfrozen or self._config.training.unfreeze is None
        if self.budget.minutes is not None and is_measured:
            closing_seconds = self._closing_seconds(seconds)
            self.budget = replace(self.budget, closing_seconds=closing_seconds)
            self._pace.restart()
        self._log.evaluation(self.position, metrics, is_best=is_best)
        if is_best:
            self._save_weights(BEST_WEIGHTS)

    def _draw(self, results: Results) -> None:
        """Leave a picture of what was found; one that cannot be made is no reason to stop."""
        if self._accelerator.is_main_process:
            try:
                sheet = draw_sheet(results, self._loaders.truth)
                write_sheet(sheet, self._out, self.position.step)
            except (OSError, DatasetError) as error:
                self._log.say(f"no picture of the predictions: {error}")

    def _save(self) -> None:
        """Write the last weights, and what resumes the run."""
        start = time.monotonic()
        random = gather_object([random_state()])
        self._save_weights(LAST_WEIGHTS)
        if self._accelerator.is_main_process:
            save_state(
                self._out, self.trained, position=self.position, budget=self.budget, random=random
            )
        seconds = self.position.saving_seconds + self._agree(time.monotonic() - start)[0]
        self.position = replace(self.position, saving_seconds=seconds)
        self._saved_at = self.position.elapsed_seconds

    def _save_weights(self, name: str) -> None:
        if self._accelerator.is_main_process:
            weights, classes = self.trained.evaluated.state_dict(), self._loaders.truth.classes
            save_weights(self._out / name, weights, self._config, classes)

    def _detect(self) -> Detect:
        classes, options = self._loaders.truth.classes, self._config.postprocess
        device = self._accelerator.device
        return detect_with(self.trained.evaluated, classes, options, device=device)

    def _try_evaluation(self) -> float:
        """Return about how long the last evaluation takes, its backbone trained if it will be."""
        val, truth = self._last_loaders.val, self._last_loaders.truth
        backbone = cast(Network, self.trained.evaluated).backbone
        is_frozen = backbone.is_frozen
        backbone.is_frozen = is_frozen and self._config.training.unfreeze is None
        seconds = trial_seconds(self._detect(), val, batches=len(val), images=len(truth))
        backbone.is_frozen = is_frozen
        return seconds + drawing_seconds(truth)

    def _closing_seconds(self, evaluation_seconds: float) -> float:
        seconds = evaluation_seconds + self._saving_seconds
        return CLOSING_MARGIN * seconds + CLOSING_SLACK_SECONDS

    @property
    def _saving_seconds(self) -> float:
        """About how long saving takes: weights (twice, for best), average, two of the optimizer."""
        weights = self.trained.network.state_dict().values()
        return 5 * sum(weight.numel() * weight.element_size() for weight in weights) / SAVING_SPEED

    def _share(self, epoch_fraction: float) -> float:
        """Return the share of the training that is done, were one more step as long as the last.

        Where steps have become slower, the last evaluation will be, too, and must begin earlier.
        """
        position = self.position
        delay_seconds = (self._pace.slowdown - 1) * self.budget.closing_seconds
        return self.budget.progress(
            position.step,
            position.epoch + epoch_fraction,
            position.elapsed_seconds + self._lap_seconds + delay_seconds,
        )

    def _tick(self, num_targets: float = 0.0, *, ends_step: bool = False) -> float:
        """Note the time, also as that of a step; return the mean of targets over the processes."""
        before = self.position.elapsed_seconds
        elapsed_seconds, mean = self._agree(time.monotonic() - self._started, num_targets)
        self.position = replace(self.position, elapsed_seconds=elapsed_seconds)
        if ends_step:
            self._lap_seconds = elapsed_seconds - before
            self._pace.add(self._lap_seconds)
        return mean

    def _agree(self, *values: float) -> list[float]:
        """Return the mean of each value over all processes."""
        if self._accelerator.num_processes == 1:
            return list(values)
        numbers = torch.tensor(values, dtype=torch.float64)  # of the CPU: no GPU is waited for
        distributed.all_reduce(numbers, group=self._talk)
        return (numbers / self._accelerator.num_processes).tolist()


def _ap(metrics: Mapping[str, object]) -> float:
    """Return the AP; -1 where it could not be measured."""
    return ap if isinstance(ap := metrics["AP"], float) else -1.0
