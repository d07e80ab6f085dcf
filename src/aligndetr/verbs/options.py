"""What several verbs share: options, a count that is shown, and a detector that is opened."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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


def open_detector(model: str) -> "Detector":
    """Return a trained detector, in a process that keeps its memory: ours, not a caller's."""
    from aligndetr.api import Detector
    from aligndetr.train.memory import keep_heap

    keep_heap()
    return Detector(model)


@contextmanager
def counting(what: str) -> Generator[Callable[[int], None]]:
    """Yield a function that adds to a count shown on stderr, where that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.completed} {task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda count: progress.advance(task, count)
