"""The command line: each verb parses its options, calls the library and prints what it returns.

Whatever needs torch, pydantic or rich is imported inside the verbs, so that help is instant.
Results go to stdout, all else to stderr. Exit codes: 0 success, 2 a mistake that the user can
mend (one line says how), 1 a mistake of ours (a traceback), 130 interrupted.
"""

import errno
import os
import sys
import time
from collections.abc import Sequence
from typing import Annotated, cast

import typer

from aligndetr.errors import UserError
from aligndetr.verbs import analyzing, converting, presets, reproducing, results, training

USAGE_EXIT = 2
INTERRUPTED_EXIT = 130
FULL = (errno.ENOSPC, errno.EDQUOT)
LOCKED = (errno.EACCES, errno.EPERM, errno.EROFS)
# Newer typers carry their own click, older ones import it; ClickException in both.
CLICK_ERROR = cast(type[Exception], typer.BadParameter.__mro__[2])

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command("train")(training.train)
app.command("eval")(results.evaluate)
app.command("predict")(results.predict)
app.command("analyze")(analyzing.analyze)
app.command("convert")(converting.convert)
app.command("reproduce")(reproducing.reproduce)
app.command("models")(presets.models)


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
    except OSError as error:
        if error.errno not in FULL + LOCKED:
            raise
        return _refuse(_unusable(error))
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
    """Detect objects with the DETR family: train, evaluate, predict, analyse."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _unusable(error: OSError) -> str:
    """Say what the machine did not allow."""
    if error.errno in FULL:
        place = "the disk" if error.filename is None else error.filename
        return f"{place}: expected room to write, found: {error.strerror}; make room"
    return (
        f"{error.filename}: expected a file or folder that may be used, found: {error.strerror}; "
        "change its permissions, or name another"
    )


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
