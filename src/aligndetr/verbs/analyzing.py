"""`aligndetr analyze`."""

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aligndetr.errors import ConfigError, DatasetError
from aligndetr.tables import print_analysis, print_json
from aligndetr.verbs.options import AsJson, DataFolder, counted, open_detector, showing

if TYPE_CHECKING:
    from aligndetr.api import Detector


def analyze(
    data: DataFolder,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Where report.html and analysis.json go.")
    ],
    model: Annotated[
        str | None, typer.Option(metavar="RUN", help="A run folder or a .safetensors file.")
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="COCO results (JSON) of any detector, instead."),
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(metavar="RUN|FILE", help="Another run or file of results, shown beside."),
    ] = None,
    split: Annotated[str, typer.Option(metavar="NAME", help="Which part of the data.")] = "val",
    as_json: AsJson = False,
) -> None:
    """See misalignment: how far the most confident boxes are from being the best ones."""
    if (model is None) == (predictions is None):
        found = "neither" if model is None else "both"
        raise ConfigError(
            f"aligndetr analyze: expected one of --model and --predictions, found {found}; "
            "give a run of ours, or a JSON file of COCO results"
        )
    from aligndetr import api

    if predictions is not None and not predictions.is_file():
        raise DatasetError(
            f"--predictions: expected a JSON file of COCO results, found none at {predictions}; "
            "give the file that your detector wrote"
        )
    with redirect_stdout(sys.stderr), showing() as show:
        compared = None if compare is None else _compared(compare)
        subject = predictions if model is None else open_detector(model)
        assert subject is not None
        content = api.analyze(
            subject, data, out=out, split=split, compare=compared,
            progress=counted("images searched", show), stage=show,
        )  # fmt: skip
    if as_json:
        print_json(content)
    else:
        print_analysis(content, out)


def _compared(named: str) -> "Detector | Path":
    """Return what another detector has found, in a file, or a detector that can be asked."""
    from aligndetr.config.presets import PRESETS
    from aligndetr.evaluate.files import is_results_file

    path = Path(named)
    if not path.exists() and named not in PRESETS:
        raise ConfigError(
            "--compare: expected a run folder, a .safetensors file or a JSON file of COCO "
            f"results, found nothing at {named}; mend the path"
        )
    return path if is_results_file(path) else open_detector(named, "--compare")
