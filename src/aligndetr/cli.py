"""The command line: each verb parses its options, calls the library and prints what it returns.

Whatever needs torch, pydantic or rich is imported inside the verbs, so that help is instant.
Results go to stdout, all else to stderr. Exit codes: 0 success, 2 a mistake that the user can
mend (one line says how), 1 a mistake of ours (a traceback), 130 interrupted.
"""

import os
import re
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from aligndetr.cli_reproduce import reproduce
from aligndetr.errors import ConfigError, UserError
from aligndetr.tables import (
    print_converted,
    print_costs,
    print_found,
    print_json,
    print_metrics,
    print_models,
    print_run,
)

if TYPE_CHECKING:
    from aligndetr.config.presets import PresetInfo
    from aligndetr.cost import Cost, Size

USAGE_EXIT = 2
INTERRUPTED_EXIT = 130
SMALLEST_SIDE = 64
"""Pixels of an image whose cost can be asked for."""
# Newer typers carry their own click, older ones import it; ClickException in both.
CLICK_ERROR = cast(type[Exception], typer.BadParameter.__mro__[2])

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(reproduce)


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; a mistake of ours raises."""
    started = time.monotonic()
    words = expand_sets(sys.argv[1:] if arguments is None else arguments)
    try:
        code = app(words, prog_name="aligndetr", standalone_mode=False, obj=started) or 0
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED_EXIT
    except UserError as error:
        return _refuse(str(error))
    except CLICK_ERROR as error:
        return _refuse(_usage(cast(typer.BadParameter, error)))
    if code == INTERRUPTED_EXIT:
        typer.echo("interrupted", err=True)
    return code


def expand_sets(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with `--set a=1 b=2` written as `--set a=1 --set b=2`.

    A `--set` takes all words up to the next that starts with "-".
    """
    expanded: list[str] = []
    setting = False
    for word in arguments:
        if word.startswith("-"):
            setting = word == "--set"
        elif setting and expanded[-1] != "--set":
            expanded.append("--set")
        expanded.append(word)
    return expanded


def _print_version(wanted: bool) -> None:
    if wanted:
        from aligndetr import __version__

        typer.echo(f"aligndetr {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def aligndetr(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - its callback does the work
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Detect objects with the DETR family: train, evaluate, predict."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def train(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Option(metavar="PRESET|RUN", help="What to train: a preset, or a run to fine-tune."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Images and boxes to train on: COCO, VOC or YOLO."),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="RUN", help="The run folder to make.")] = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Continue this run exactly; takes no other option."),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Length in epochs.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Length in optimizer steps.")
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(metavar="N", min=0, help="Length of the whole command, by the clock."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML file laid over the model's options.")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=C ...", help="Change fields of the configuration."),
    ] = None,
    device: Annotated[
        Device | None, typer.Option(help="Where to train; by default the fastest.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="S", min=0, help="Seed of all that is random.")
    ] = None,
) -> None:
    """Train a detector, or continue a run.

    Of --epochs, --steps and --minutes at most one; the preset's epochs if none.
    """
    given = _given(context)
    started = cast(float, context.obj)
    if resume is not None:
        _require_alone("--resume", given)
        from aligndetr.api import resume as resume_run

        with redirect_stdout(sys.stderr):
            run = resume_run(resume, started=started)
    else:
        if model is None or data is None or out is None:
            raise ConfigError(_missing(given))
        _require_at_most_one(("--epochs", "--steps", "--minutes"), given)
        from aligndetr.api import train as train_run

        with redirect_stdout(sys.stderr):
            run = train_run(
                model=model,
                data=data,
                out=out,
                overrides=tuple(assignments or ()),
                config=config,
                epochs=epochs,
                steps=steps,
                minutes=minutes,
                seed=seed,
                device=device.value if device else "auto",
                started=started,
            )
    print_run(run.folder, run.metrics, data)


@app.command("eval")
def evaluate(
    model: TrainedModel,
    data: DataFolder,
    split: Annotated[str, typer.Option(metavar="NAME", help="Which part of the data.")] = "val",
    as_json: AsJson = False,
) -> None:
    """Measure a trained detector: the 12 COCO numbers, and AP by class."""
    from aligndetr.api import Detector

    with redirect_stdout(sys.stderr):
        detector = Detector(model)
        with _counting("images evaluated") as progress:
            metrics = detector.evaluate(data, split=split, progress=progress)
    if as_json:
        print_json(metrics)
    else:
        print_metrics(metrics)


@app.command()
def predict(
    model: TrainedModel,
    source: Annotated[
        str, typer.Option(metavar="IMG|DIR|GLOB", help="An image, a folder, or a quoted pattern.")
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Where pictures and predictions.json go.")
    ],
    threshold: Annotated[
        float, typer.Option(min=0, max=1, metavar="S", help="Lowest score that counts.")
    ] = 0.3,
    as_json: AsJson = False,
) -> None:
    """Find objects in images: pictures with boxes, and COCO results."""
    from aligndetr.api import Detector

    with redirect_stdout(sys.stderr):
        detector = Detector(model)
        with _counting("images searched") as progress:
            found = detector.predict_folder(source, out, threshold=threshold, progress=progress)
    if as_json:
        print_json(found)
    else:
        print_found(found, out)


@app.command()
def convert(
    checkpoint: Annotated[
        Path,
        typer.Option("--from", metavar="CHECKPOINT", help="A file, or a save_pretrained folder."),
    ],
    out: Annotated[Path, typer.Option(metavar="RUN", help="The run folder to make.")],
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=C ...", help="Say what the weights cannot tell."),
    ] = None,
) -> None:
    """Make a run of published weights: DINO, DAB-DETR, Deformable DETR, Align-DETR, transformers'.

    The system and its sizes are recognised; docs/convert.md says what has to be told.
    """
    from aligndetr.convert.convert import convert as convert_weights

    with redirect_stdout(sys.stderr):
        converted = convert_weights(checkpoint, out, overrides=tuple(assignments or ()))
    print_converted(converted, out)


@app.command()
def models(
    model: Annotated[
        str | None, typer.Option(metavar="PRESET", help="Show this one alone.")
    ] = None,
    cost: Annotated[
        bool,
        typer.Option("--cost", help="Count parameters and multiply-adds; a minute for all."),
    ] = False,
    size: Annotated[
        str, typer.Option(metavar="HxW", help="Size of the image whose multiply-adds are counted.")
    ] = "800x1333",
    as_json: AsJson = False,
) -> None:
    """List the presets that `train --model` knows, and what they cost."""
    from dataclasses import asdict

    from aligndetr.config.presets import describe, list_presets

    presets = list_presets() if model is None else [describe(model)]
    if cost:
        _print_costs(presets, _size(size), as_json=as_json)
    elif as_json:
        print_json([asdict(preset) for preset in presets])
    else:
        print_models(presets)


def _print_costs(presets: "list[PresetInfo]", size_hw: "Size", *, as_json: bool) -> None:
    from dataclasses import asdict

    from aligndetr.config.presets import get_preset
    from aligndetr.cost import costs

    counted: list[Cost] = []
    with _counting("networks counted") as progress:
        wanted = ((get_preset(preset.name), preset.gflops) for preset in presets)
        for cost in costs(wanted, size_hw):
            counted.append(cost)
            progress(1)
    if as_json:
        print_json(
            [
                {**asdict(preset), "cost": asdict(cost)}
                for preset, cost in zip(presets, counted, strict=True)
            ]
        )
    else:
        print_costs(presets, counted)


def _size(text: str) -> "Size":
    sides = re.fullmatch(r"(\d+)x(\d+)", text)
    if sides is None or min(int(side) for side in sides.groups()) < SMALLEST_SIDE:
        raise ConfigError(
            f"aligndetr models: expected --size HxW, each at least {SMALLEST_SIDE} pixels, "
            f"found {text!r}; write it like 800x1333"
        )
    return int(sides[1]), int(sides[2])


def _refuse(message: str) -> int:
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    return USAGE_EXIT


def _usage(error: typer.BadParameter) -> str:
    message = error.format_message().rstrip(".").split(", unable to parse")[0]
    for theirs, ours in (("Input should be", "expected"), ("Value error, ", "")):
        message = message.replace(theirs, ours)
    found = _refused_value(error)
    if repr(found) not in message and found is not None:
        message += f", found {found!r}"
    command = error.ctx.command_path if error.ctx else "aligndetr"
    return f"{command}: {message}; see '{command} --help'"


def _refused_value(error: typer.BadParameter) -> object:
    """Return the value that could not be used, which newer typers leave out of their message."""
    from pydantic import ValidationError

    cause = error.__cause__
    return cause.errors()[0]["input"] if isinstance(cause, ValidationError) else None


def _given(context: typer.Context) -> list[str]:
    """Return the options that the user gave to a verb, none of which has a default."""
    values = cast(Mapping[str, object], context.params)
    options = {str(option.name): option.opts[0] for option in context.command.params}
    return [options[name] for name, value in values.items() if value not in (None, [], ())]


def _require_alone(option: str, given: Sequence[str]) -> None:
    others = [name for name in given if name != option]
    if others:
        raise ConfigError(
            f"aligndetr train: expected {option} alone, found {', '.join(others)} too; "
            "a resumed run keeps its own settings: leave the others out"
        )


def _require_at_most_one(options: Sequence[str], given: Sequence[str]) -> None:
    found = [name for name in options if name in given]
    if len(found) > 1:
        raise ConfigError(
            f"aligndetr train: expected at most one of {', '.join(options)}, "
            f"found {' and '.join(found)}; leave all but one out"
        )


def _missing(given: Sequence[str]) -> str:
    absent = [name for name in ("--model", "--data", "--out") if name not in given]
    return (
        "aligndetr train: expected --model, --data and --out (or --resume alone), "
        f"found no {', '.join(absent)}; see 'aligndetr train --help'"
    )


@contextmanager
def _counting(what: str) -> Generator[Callable[[int], None]]:
    """Yield a function that adds to a count shown on stderr, where that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.completed} {task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda count: progress.advance(task, count)
