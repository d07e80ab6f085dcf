"""`aligndetr train`."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, cast

import typer

from aligndetr.errors import ConfigError
from aligndetr.tables import print_run
from aligndetr.verbs.options import Device


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
    from aligndetr.devices import is_first_process

    if is_first_process():
        print_run(run.folder, run.metrics, data)


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
