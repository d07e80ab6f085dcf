"""`aligndetr convert`."""

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from aligndetr.tables import print_converted


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
