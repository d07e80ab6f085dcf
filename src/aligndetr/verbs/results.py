"""`aligndetr eval` and `aligndetr predict`: what a trained detector finds."""

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from aligndetr.tables import print_found, print_json, print_metrics
from aligndetr.verbs.options import AsJson, DataFolder, TrainedModel, counting, open_detector


def evaluate(
    model: TrainedModel,
    data: DataFolder,
    split: Annotated[str, typer.Option(metavar="NAME", help="Which part of the data.")] = "val",
    as_json: AsJson = False,
) -> None:
    """Measure a trained detector: the 12 COCO numbers, and AP by class."""
    with redirect_stdout(sys.stderr):
        detector = open_detector(model)
        with counting("images evaluated") as progress:
            metrics = detector.evaluate(data, split=split, progress=progress)
    if as_json:
        print_json(metrics)
    else:
        print_metrics(metrics)


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
    with redirect_stdout(sys.stderr):
        detector = open_detector(model)
        with counting("images searched") as progress:
            found = detector.predict_folder(source, out, threshold=threshold, progress=progress)
    if as_json:
        print_json(found)
    else:
        print_found(found, out)
