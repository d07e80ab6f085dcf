"""COCO average precision and recall, computed by faster-coco-eval.

Results travel as one float64 array (N, 7), a row a detection: image id, left, top, width, height
in pixels, score, category id. It is exact (ids up to 2^53, boxes unrounded), quick to gather from
several processes, and says nothing of batches: neither their size nor their order matters.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray

from aligndetr.data.annotations import CocoAnnotation, CocoCategory, CocoDict
from aligndetr.errors import DatasetError
from aligndetr.types import Batch, Detect, Detections

Results = NDArray[np.float64]
"""(N, 7): image id, left, top, width, height, score, category id."""

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""The twelve COCO numbers, in the order in which every COCO evaluator prints them."""


def evaluate(
    detect: Detect,
    loader: Iterable[Batch],
    ground_truth: CocoDict,
    *,
    progress: Callable[[int], None] | None = None,
) -> dict[str, object]:
    """Return `score` of what `detect` finds, with the number of `images` and the `seconds` it took.

    Every image of `ground_truth` counts: those that `loader` does not bring have no detections.
    `progress` is told how many images each batch had.
    """
    start = time.perf_counter()
    metrics = score(collect(detect, loader, progress=progress), ground_truth)
    seconds = time.perf_counter() - start
    return {**metrics, "images": len(ground_truth["images"]), "seconds": seconds}


def collect(
    detect: Detect, loader: Iterable[Batch], *, progress: Callable[[int], None] | None = None
) -> Results:
    """Return all that `detect` finds in the images of `loader`, each image once."""
    found: dict[int, Results] = {}
    with torch.no_grad():
        for batch in loader:
            for image_id, detections in zip(batch.image_ids, detect(batch.images), strict=True):
                found.setdefault(image_id, _rows(image_id, detections))
            if progress is not None:
                progress(len(batch.image_ids))
    return np.concatenate([np.empty((0, 7)), *found.values()])


def merge(parts: Sequence[Results]) -> Results:
    """Return the results of several processes as one; an image that two of them had counts once.

    Distributed samplers repeat images to make the shares even, which would change the metrics.
    """
    merged = np.empty((0, 7))
    for part in parts:
        repeated = np.isin(part[:, 0], merged[:, 0])
        merged = np.concatenate((merged, part[~repeated]))
    return merged


def results_from_coco(
    entries: Sequence[Mapping[str, Any]], where: str, *, first: int = 0
) -> Results:
    """Return COCO results, as read from the file called `where`, as an array.

    `first` is the place of the first entry in the file.

    Raises:
        DatasetError: an entry is not a COCO detection.
    """
    rows = np.empty((len(entries), 7))
    for index, entry in enumerate(entries):
        try:
            numbers = [entry["image_id"], *entry["bbox"], entry["score"], entry["category_id"]]
            if any(isinstance(number, str | bytes) for number in numbers):
                raise TypeError  # which numpy would read as numbers
            rows[index] = numbers
            np.asarray_chkfinite(rows[index])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DatasetError(
                f"{where}: entry {first + index}: expected a COCO detection (image_id, "
                f"category_id, bbox of 4 numbers, score), found {str(entry)[:80]}; "
                "write one such entry a box"
            ) from error
    return rows


def score(results: Results, ground_truth: CocoDict) -> dict[str, object]:
    """Return the twelve COCO metrics in [0, 1] and `per_class`: name -> AP, AP50 and AR100.

    A metric is None where the ground truth has no object that it could be measured on.
    Detections of a category that the ground truth does not list are left out, as in COCO.

    Args:
        results: Boxes found, as an array (see the top of this file).
        ground_truth: A COCO file's content, with the data's own ids: of all images of the split,
            whether anything was found in them or not.

    Raises:
        DatasetError: results are of images that the ground truth does not have.
    """
    categories = sorted(ground_truth["categories"], key=lambda category: category["id"])
    image_ids = [image["id"] for image in ground_truth["images"]]
    check_image_ids(results, image_ids)
    results = results[np.isin(results[:, 6], [category["id"] for category in categories])]
    if not (image_ids and categories):
        return {**dict.fromkeys(METRICS), "per_class": {}}
    shared = {"images": [{"id": image_id} for image_id in image_ids], "categories": categories}
    evaluator = COCOeval_faster(
        _index({**shared, "annotations": _objects(ground_truth["annotations"])}),
        _index({**shared, "annotations": _detections(results)}),
        "bbox",
        print_function=_say_nothing,
    )
    evaluator.run()
    metrics = (_known(value) for value in evaluator.stats)
    return {
        **dict(zip(METRICS, metrics, strict=True)),
        "per_class": _per_class(evaluator.eval, class_names(categories)),
    }


def _rows(image_id: int, detections: Detections) -> Results:
    boxes = detections.boxes.cpu().double()
    scores = detections.scores.cpu().double()
    category_ids = torch.tensor(detections.classes.ids, dtype=torch.float64)
    columns = (
        torch.full_like(scores, image_id),
        boxes[:, :2],
        boxes[:, 2:] - boxes[:, :2],
        scores,
        category_ids[detections.labels.cpu()],
    )
    rows = torch.column_stack(columns)
    return rows[rows.isfinite().all(dim=1)].numpy()  # a diverged model finds nothing


def check_image_ids(results: Results, image_ids: Sequence[int], where: str = "predictions") -> None:
    """Check that the results, called `where`, are of these images alone.

    Raises:
        DatasetError: They are not.
    """
    unknown = np.setdiff1d(results[:, 0], np.array(image_ids, dtype=np.float64))
    if len(unknown):
        raise DatasetError(
            f"{where}: expected images of the ground truth, found {len(unknown)} others "
            f"(the first has id {unknown[0]:.17g}); evaluate on the data that was predicted on"
        )


def _index(dataset: dict[str, Any]) -> COCO:
    return COCO(dataset, print_function=_say_nothing)


def _objects(annotations: Iterable[CocoAnnotation]) -> list[dict[str, Any]]:
    """Return copies of the annotations, numbered from 1.

    COCO evaluators write into them, read the id 0 as "unmatched", and let equal ids overwrite
    each other.
    """
    return [
        {"area": annotation["bbox"][2] * annotation["bbox"][3], **annotation, "id": number}
        for number, annotation in enumerate(annotations, start=1)
    ]


def _detections(results: Results) -> list[dict[str, Any]]:
    return [
        {
            "id": number,
            "image_id": int(row[0]),
            "category_id": int(row[6]),
            "bbox": row[1:5],
            "area": row[3] * row[4],
            "score": row[5],
            "iscrowd": 0,
        }
        for number, row in enumerate(results.tolist(), start=1)
    ]


def _per_class(
    accumulated: Mapping[str, Any], names: Sequence[str]
) -> dict[str, dict[str, float | None]]:
    """Return the metrics of each class, over all sizes and up to 100 detections an image.

    `precision` is (IoU thresholds, recalls, classes, sizes, limits), `recall` has no recalls;
    -1 stands for "no objects".
    """
    precision = accumulated["precision"][:, :, :, 0, -1]
    recall = accumulated["recall"][:, :, 0, -1]
    return {
        name: {
            "AP": _known(precision[:, :, index].mean()),
            "AP50": _known(precision[0, :, index].mean()),
            "AR100": _known(recall[:, index].mean()),
        }
        for index, name in enumerate(names)
    }


def class_names(categories: Sequence[CocoCategory]) -> list[str]:
    """Return the class names; equal ones are told apart by their ids, all where that is not enough.

    A class may be called as another one would be with its id.
    """
    counts = Counter(category["name"] for category in categories)
    full = [f"{category['name']} ({category['id']})" for category in categories]
    named = [category["name"] for category in categories]
    short = [
        name if counts[name] == 1 else longer for name, longer in zip(named, full, strict=True)
    ]
    return short if len(set(short)) == len(short) else full


def _known(value: float) -> float | None:
    return None if value < 0 else float(value)


def _say_nothing(*_: object) -> None:
    """Swallow a message of faster-coco-eval."""
