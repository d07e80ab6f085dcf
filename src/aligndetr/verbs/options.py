"""What several verbs share: options, a count that is shown, and a detector that is opened."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aligndetr.errors import ConfigError

if TYPE_CHECKING:
    from aligndetr.api import Detector


class Device(StrEnum):
    """Where a model runs."""

    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


TrainedModel = Annotated[
    str, typer.Option("--model", metavar="RUN", help="A run folder or a .safetensors file.")
]
DataFolder = Annotated[
    Path, typer.Option("--data", metavar="DIR", help="Images and boxes: COCO, VOC or YOLO.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def open_detector(model: str, option: str = "--model") -> "Detector":
    """Return a trained detector, in a process that keeps its memory: ours, not a caller's.

    `option` is what it was named with.

    Raises:
        ConfigError: It is a preset, whose heads know nothing yet.
        CheckpointError: It cannot be used.
    """
    from aligndetr.api import Detector
    from aligndetr.config.presets import PRESETS
    from aligndetr.train.memory import keep_heap

    if model in PRESETS:
        raise ConfigError(
            f"{option}: expected a run folder or a .safetensors file, found the preset {model}, "
            f"which is not trained; make a run of it with 'aligndetr train --model {model}'"
        )
    keep_heap()
    return Detector(model)


@contextmanager
def showing() -> Generator[Callable[[str], None]]:
    """Yield a function that shows what is done, and since when, where stderr is a terminal."""
    from rich.console import Console
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)
        yield lambda text: progress.update(task, description=text)


@contextmanager
def counting(what: str) -> Generator[Callable[[int], None]]:
    """Yield a function that adds to a count that is shown."""
    with showing() as show:
        yield counted(what, show)


def counted(what: str, show: Callable[[str], None]) -> Callable[[int], None]:
    """Return a function that adds to a count, and shows it."""
    total = 0

    def add(count: int) -> None:
        nonlocal total
        total += count
        show(f"{total} {what}")

    show(f"0 {what}")
    return add
