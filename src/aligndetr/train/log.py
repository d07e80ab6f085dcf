"""What a training tells: `metrics.jsonl`, and a progress bar or plain lines on stderr."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from torch import Tensor

from aligndetr.checkpoint import write_text
from aligndetr.train.state import Position

EVERY_STEPS = 20
"""Batches that one train line of `metrics.jsonl` averages over, ..."""
EVERY_SECONDS = 10.0
"""... unless this time is over before; and the time between two plain lines."""


class Window:
    """Mean loss terms and speed over the batches since the last line."""

    def __init__(self) -> None:
        self._terms: dict[str, list[Tensor]] = {}
        self._images = 0
        self._batches = 0
        self._start = time.monotonic()

    def add(self, terms: Mapping[str, Tensor], images: int) -> None:
        """Count one batch of so many images."""
        for name, value in terms.items():
            self._terms.setdefault(name, []).append(value.detach())
        self._images += images
        self._batches += 1

    @property
    def is_empty(self) -> bool:
        """Whether no batch was counted."""
        return self._batches == 0

    @property
    def is_full(self) -> bool:
        """Whether it is time for a line."""
        return self._batches >= EVERY_STEPS or self._seconds >= EVERY_SECONDS

    def summary(self) -> dict[str, float]:
        """Return images_per_second, the loss, and each term's mean over the batches that had it."""
        sums = torch.stack([torch.stack(values).sum() for values in self._terms.values()]).tolist()
        means = {
            name: total / len(values)
            for (name, values), total in zip(self._terms.items(), sums, strict=True)
        }
        speed = self._images / max(self._seconds, 1e-9)
        return {"images_per_second": speed, "loss": sum(sums) / self._batches, **means}

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._start


class RunLog:
    """Writes `metrics.jsonl` and shows progress; silent on all processes but the main one.

    Use as a context manager around the training. On a terminal there is a progress bar; elsewhere
    a plain line about every 10 seconds.
    """

    def __init__(
        self,
        out: Path,
        *,
        is_main: bool,
        console: Console | None = None,
        send: Callable[[str, int, Mapping[str, object]], None] = lambda *_: None,
    ) -> None:
        """Write to the folder `out`; `send` is told the event, step and values of every line."""
        self._path = out / "metrics.jsonl"
        self._send = send
        self._is_main = is_main
        self._console = console or Console(stderr=True, quiet=not is_main)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not (is_main and self._console.is_terminal),
        )
        self._task = self._bar.add_task("training", total=1.0, status="")
        self._window = Window()
        self._learning_rate = self._share = 0.0
        self._line_time = time.monotonic()

    def __enter__(self) -> RunLog:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def continue_from(self, position: Position) -> None:
        """Forget the lines that an interrupted run wrote after `position`, or not to their end."""
        if self._is_main and self._path.is_file():
            lines = self._path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if _step(line) <= position.step]
            write_text(self._path, "".join(f"{line}\n" for line in kept))

    def batch(
        self,
        position: Position,
        terms: Mapping[str, Tensor],
        *,
        images: int,
        learning_rate: float,
        share: float,
    ) -> None:
        """Count a batch of `images`; now and then write the means since the last line.

        `share` of the training is done.
        """
        self._window.add(terms, images)
        self._learning_rate, self._share = learning_rate, share
        self._bar.update(self._task, completed=share, description=f"epoch {position.epoch + 1}")
        if self._window.is_full:
            self.flush(position)

    def flush(self, position: Position) -> None:
        """Write the means of the batches since the last line, if there were any."""
        if self._window.is_empty:
            return
        summary, self._window = self._window.summary(), Window()
        self._write("train", position, {"learning_rate": self._learning_rate, **summary})
        status = (
            f"loss {summary['loss']:.3f}  lr {self._learning_rate:.1e}  "
            f"{summary['images_per_second']:.1f} images/s"
        )
        self._bar.update(self._task, status=status)
        if self._bar.disable and time.monotonic() - self._line_time >= EVERY_SECONDS:
            self._line_time = time.monotonic()
            self.say(f"{self._share:4.0%}  epoch {position.epoch + 1}  {status}")

    def evaluation(
        self, position: Position, metrics: Mapping[str, object], *, is_best: bool
    ) -> None:
        """Write the metrics of the weights at `position` and show the main ones."""
        self._write("eval", position, metrics)
        shown = "  ".join(f"{name} {_percent(metrics[name])}" for name in ("AP", "AP50", "AP75"))
        best = "  (best so far)" if is_best else ""
        self.say(f"epoch {position.epoch}  step {position.step}  {shown}{best}")

    @contextmanager
    def chore(self, description: str, total: int) -> Generator[Callable[[int], None], None, None]:
        """Show a bar of its own for work on `total` images; what it yields advances it."""
        task = self._bar.add_task(description, total=total, status="")
        try:
            yield lambda images: self._bar.advance(task, images)
        finally:
            self._bar.remove_task(task)
            self._window = Window()

    def say(self, text: str) -> None:
        """Show a line on stderr, above the progress bar if there is one."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _write(self, event: str, position: Position, values: Mapping[str, object]) -> None:
        if not self._is_main:
            return
        line = {
            "event": event,
            "step": position.step,
            "epoch": position.epoch,
            "elapsed_seconds": round(position.elapsed_seconds, 3),
            **values,
        }
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._send(event, position.step, values)


def _step(line: str) -> float:
    """Return the step of a line; of one that was cut short, none that ever comes."""
    try:
        return json.loads(line)["step"]
    except ValueError:
        return math.inf


def _percent(metric: object) -> str:
    return f"{100 * metric:.1f}" if isinstance(metric, float) else "-"
