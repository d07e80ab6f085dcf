"""Time the analysis of a detector on data of the size of COCO val.

    python benchmarks/analysis.py [--images 5000] [--detections 300] [--repeats 1] [--json]

Random objects, seven an image in 80 classes, and detections half of which lie near one, most of low
score. They are written to a JSON file of COCO results. What is timed is all that is computed from
it: reading, misalignment, AP, errors, bootstrap intervals; and compiling, where that is new.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from aligndetr.analyze.analysis import analyze
from aligndetr.evaluate.evaluator import Results
from aligndetr.evaluate.files import read_results
from evaluation import results, truth
from tools.report import Row, run
from tools.turns import Call, take_turns

LIMIT_SECONDS, LIMIT_GIB = 60.0, 2.0
"""What the analysis of COCO val may take."""


def write(found: Results, path: Path) -> None:
    """Write COCO results as most tools do, with two digits of a pixel, an image at a time."""
    with path.open("w", encoding="utf-8") as file:
        separator = "["
        for rows in np.array_split(found, max(len(found) // 1000, 1)):
            for image, left, top, width, height, score, label in rows.tolist():
                entry = {
                    "image_id": int(image),
                    "category_id": int(label),
                    "bbox": [round(number, 2) for number in (left, top, width, height)],
                    "score": score,
                }
                file.write(separator + json.dumps(entry))
                separator = ", "
        file.write("]")


def make(path: Path, images: int) -> Call:
    """Return the call that analyses a file."""
    ground_truth = truth(images)

    def call() -> float | None:
        return analyze(read_results(path), ground_truth).precision.ap

    return call


def with_low_scores(found: Results) -> Results:
    """Return the results with scores as detectors have them: most of them low."""
    found = found.copy()
    found[:, 5] **= 4
    return found


def measure(options: argparse.Namespace) -> list[Row]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "predictions.json"
        write(with_low_scores(results(truth(options.images), options.detections)), path)
        size = path.stat().st_size / 1e6
        makers = {"ours": partial(make, path, options.images)}
        outcome = take_turns(
            makers, repeats=options.repeats, threads=options.threads, warm_up=options.warm_up
        )["ours"]
    case = f"{options.images} images x {options.detections} detections, {size:.0f} MB"
    return [
        Row(case, "seconds", outcome.seconds, "s", LIMIT_SECONDS, LIMIT_SECONDS / outcome.seconds),
        Row(case, "peak memory", outcome.peak_gib, "GiB", LIMIT_GIB, LIMIT_GIB / outcome.peak_gib),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=300, help="of each image")
    parser.add_argument("--warm-up", type=int, default=0, help="calls that do not count")
    run(measure, __doc__ or "", peer="limit", repeats=1, parser=parser)
