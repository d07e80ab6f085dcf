"""Time the scoring of COCO results: ours against pycocotools, on the same detections.

    python benchmarks/evaluation.py [--images 500] [--detections 300] [--repeats 3] [--json]

Random objects, seven an image in 80 classes, and detections half of which lie near one. The twelve
numbers of both must be equal; then their seconds and the peak of their memory are compared.
"""

import argparse
import contextlib
import io
from functools import partial

import numpy as np

from aligndetr.data.annotations import CocoDict
from aligndetr.evaluate.evaluator import METRICS, Results, score
from tools.report import Row, against, run
from tools.turns import Call, take_turns

CLASSES, OBJECTS, SIDE = 80, 7, 640.0


def truth(images: int) -> CocoDict:
    """Return the objects of so many images."""
    random = np.random.default_rng(0)
    total = images * OBJECTS
    corners = random.uniform(0, SIDE / 2, (total, 2))
    sizes = random.uniform(8, SIDE / 2, (total, 2))
    boxes = np.concatenate((corners, sizes), axis=1).tolist()
    categories = random.integers(1, CLASSES + 1, total).tolist()
    return {
        "images": [
            {"id": i, "width": int(SIDE), "height": int(SIDE), "file_name": f"{i}.jpg"}
            for i in range(images)
        ],
        "categories": [{"id": i, "name": str(i)} for i in range(1, CLASSES + 1)],
        "annotations": [
            {
                "id": row + 1,
                "image_id": row // OBJECTS,
                "category_id": categories[row],
                "bbox": boxes[row],
                "area": boxes[row][2] * boxes[row][3],
                "iscrowd": 0,
            }
            for row in range(total)
        ],
    }


def results(ground_truth: CocoDict, each: int) -> Results:
    """Return `each` detections an image, the first half of them near objects."""
    random = np.random.default_rng(1)
    annotations = ground_truth["annotations"]
    images = len(ground_truth["images"])
    boxes = np.array([entry["bbox"] for entry in annotations]).reshape(images, OBJECTS, 4)
    labels = np.array([entry["category_id"] for entry in annotations]).reshape(images, OBJECTS)
    rows = np.empty((images, each, 7))
    rows[..., 0] = np.arange(images)[:, None]
    rows[..., 1:3] = random.uniform(0, SIDE / 2, (images, each, 2))
    rows[..., 3:5] = random.uniform(8, SIDE / 2, (images, each, 2))
    rows[..., 5] = random.uniform(0, 1, (images, each))
    rows[..., 6] = random.integers(1, CLASSES + 1, (images, each))
    near = random.integers(0, OBJECTS, (images, each // 2))
    noise = random.normal(1, 0.1, (images, each // 2, 4))
    image = np.arange(images)[:, None]
    rows[:, : each // 2, 1:5] = boxes[image, near] * noise
    rows[:, : each // 2, 6] = labels[image, near]
    return rows.reshape(-1, 7)


def make_ours(images: int, each: int) -> Call:
    """Return a call that scores with our evaluator; its value is the sum of the twelve numbers."""
    ground_truth = truth(images)
    found = results(ground_truth, each)

    def call() -> float:
        metrics = score(found, ground_truth)
        return float(sum(float(str(metrics[name])) for name in METRICS))

    return call


def make_theirs(images: int, each: int) -> Call:
    """Return the same call with pycocotools."""
    from pycocotools.coco import COCO  # in the process of this contestant alone
    from pycocotools.cocoeval import COCOeval

    ground_truth = truth(images)
    found = results(ground_truth, each)

    def call() -> float:
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO()
            coco.dataset = ground_truth
            coco.createIndex()
            # Its loadRes for arrays expects image, box, score and category in just this order.
            evaluation = COCOeval(coco, coco.loadRes(found.copy()), "bbox")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return float(evaluation.stats.sum())

    return call


def measure(options: argparse.Namespace) -> list[Row]:
    sizes = options.images, options.detections
    makers = {"ours": partial(make_ours, *sizes), "theirs": partial(make_theirs, *sizes)}
    found = take_turns(makers, repeats=options.repeats, threads=options.threads)
    ours, theirs = found["ours"], found["theirs"]
    if ours.value is None or theirs.value is None or abs(ours.value - theirs.value) > 1e-9:
        raise SystemExit(f"the metrics differ: {ours.value} and {theirs.value}")
    case = f"{options.images} images x {options.detections} detections"
    return [
        against(case, "seconds", ours.seconds, theirs.seconds, "s"),
        against(case, "peak memory", ours.peak_gib, theirs.peak_gib, "GiB"),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--detections", type=int, default=300, help="of each image")
    run(measure, __doc__ or "", peer="pycocotools", repeats=3, parser=parser)
