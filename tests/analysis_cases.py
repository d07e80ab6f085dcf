"""Ground truth and predictions for the tests of the analysis, and IoU in plain Python."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from aligndetr.data.annotations import CocoDict
from aligndetr.evaluate.evaluator import Results, results_from_coco

ORACLE = Path(__file__).parents[2] / "shared" / "data" / "coco_eval_oracle"
"""COCO's own fake detections of 100 images."""
needs_oracle = pytest.mark.skipif(
    not ORACLE.is_dir(), reason="needs ../shared/data/coco_eval_oracle"
)

NOTHING: Results = np.empty((0, 7))


def truth(
    objects: list[tuple[int, int, list[float]]],
    *,
    images: int = 2,
    classes: int = 2,
    crowds: list[tuple[int, int, list[float]]] | None = None,
) -> CocoDict:
    """Return a COCO file of objects and crowd regions, each image id, category id and box.

    Images are 1, 2, ..., categories 1 "a", 2 "b", ...
    """
    every = [(*entry, 0) for entry in objects] + [(*entry, 1) for entry in crowds or []]
    return {
        "info": {},
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "height": 100, "width": 100}
            for i in range(1, images + 1)
        ],
        "annotations": [
            {
                "id": number,
                "image_id": image,
                "category_id": label,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": crowd,
            }
            for number, (image, label, box, crowd) in enumerate(every, start=1)
        ],
        "categories": [{"id": i, "name": chr(96 + i)} for i in range(1, classes + 1)],
    }


def found(*rows: tuple[int, int, float, list[float]]) -> Results:
    """Return results, each given as image id, category id, score and box."""
    return np.array([[image, *box, score, label] for image, label, score, box in rows]).reshape(
        -1, 7
    )


def random_case(seed: int, *, ties: bool = True) -> tuple[Results, CocoDict]:
    """Return a small random case: boxes on a grid and few scores, so that much is equal.

    Some images have no objects, some no predictions, some fewer predictions than objects; some
    objects are crowd regions, some are annotated with another area than that of their box.
    """
    random = np.random.default_rng(seed)
    images, classes = int(random.integers(1, 6)), int(random.integers(1, 4))
    scale = 1 if random.random() < 0.5 else 12

    def box() -> list[float]:
        numbers = random.integers([0, 0, 1, 1], [5, 5, 6, 6]).astype(float) * scale
        return (numbers if ties else numbers + random.uniform(0, 1, 4)).tolist()

    def places(most: int) -> list[tuple[int, int, list[float]]]:
        return [
            (int(random.integers(1, images + 1)), int(random.integers(1, classes + 1)), box())
            for _ in range(int(random.integers(0, most)))
        ]

    ground_truth = truth(places(14), images=images, classes=classes, crowds=places(4))
    for annotation in ground_truth["annotations"]:
        annotation["area"] *= random.choice([1.0, 0.5])
    order = random.permutation(len(ground_truth["annotations"]))
    ground_truth["annotations"] = [ground_truth["annotations"][i] for i in order]
    rows = [
        (image, label, float(random.integers(0, 6) / 5 if ties else random.random()), place)
        for image, label, place in places(30)
    ]
    return found(*rows), ground_truth


def iou(a: list[float], b: list[float]) -> float:
    """Return the IoU of two boxes, each left, top, width, height."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / (a[2] * a[3] + b[2] * b[3] - width * height)


def by_image(results: Results, ground_truth: CocoDict):
    """Yield the objects and the predictions of each image, as the definitions want them.

    Objects are (label, box, area), predictions (score, label, box), most confident first.
    """
    for image in sorted(entry["id"] for entry in ground_truth["images"]):
        objects = [
            (entry["category_id"], entry["bbox"], entry["area"])
            for entry in ground_truth["annotations"]
            if entry["image_id"] == image and not entry["iscrowd"]
        ]
        rows = [row for row in results.tolist() if row[0] == image]
        rows.sort(key=lambda row: -row[5])  # stable
        yield objects, [(row[5], int(row[6]), row[1:5]) for row in rows]


def copied(
    results: Results, ground_truth: CocoDict, weights: list[int]
) -> tuple[Results, CocoDict]:
    """Return the data with so many copies of each image, the copies with ids of their own."""
    rows, images, annotations = [NOTHING], [], []
    for image, weight in zip(ground_truth["images"], weights, strict=True):
        for copy in range(weight):
            number = image["id"] * 10 + copy
            images.append({**image, "id": number})
            own = results[results[:, 0] == image["id"]].copy()
            own[:, 0] = number
            rows.append(own)
            annotations += [
                {**entry, "image_id": number}
                for entry in ground_truth["annotations"]
                if entry["image_id"] == image["id"]
            ]
    return np.concatenate(rows), {**ground_truth, "images": images, "annotations": annotations}


@cache
def fake_detections() -> tuple[Results, CocoDict]:
    """Return cocoapi's fake detections and the objects of their images."""
    ground_truth = json.loads((ORACLE / "instances_val2014_100.json").read_text())
    entries = json.loads((ORACLE / "instances_val2014_fakebbox100_results.json").read_text())
    return results_from_coco(entries, "fake"), ground_truth
