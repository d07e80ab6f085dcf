"""COCO results from files, large ones too: each box becomes a row as soon as it is read."""

import json
from pathlib import Path
from struct import Struct, error
from typing import Any

import numpy as np

from aligndetr.errors import DatasetError
from aligndetr.evaluate.evaluator import Results, results_from_coco

ROW = Struct("7d")


def is_results_file(path: Path) -> bool:
    """Whether a path names a file of results: no folder of a run, and no weights."""
    return path.suffix.lower() == ".json" or (path.is_file() and path.suffix != ".safetensors")


def read_results(path: Path) -> Results:
    """Return the COCO results of a JSON file, a list of detections, as an array.

    Needs about twice the file's size in memory: Python's own objects would need several times it.

    Raises:
        DatasetError: there is no such file, it is no JSON, or holds something else.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8-sig"), object_hook=_packed)
    except (OSError, ValueError, RecursionError) as reason:
        raise DatasetError(
            f"{path}: expected a JSON file of COCO detections, found {reason}; "
            "give a list with one entry a box"
        ) from reason
    if not isinstance(entries, list):
        raise DatasetError(
            f"{path}: expected a list of COCO detections, found something else; "
            "write one entry a box (image_id, category_id, bbox, score)"
        )
    for index, entry in enumerate(entries):
        if not isinstance(entry, bytes):
            entries[index] = results_from_coco([entry], str(path), first=index).tobytes()
    results = np.frombuffer(bytearray().join(entries)).reshape(-1, ROW.size // 8)
    for index in np.flatnonzero(~np.isfinite(results).all(axis=1)).tolist():
        raise DatasetError(
            f"{path}: entry {index}: expected finite numbers, found {results[index].tolist()} "
            "(image, box, score, class); leave such boxes out"
        )
    return results


def _packed(entry: dict[str, Any]) -> bytes | dict[str, Any]:
    """Return a detection as the bytes of its row, anything else as it is."""
    try:
        numbers = entry["image_id"], *entry["bbox"], entry["score"], entry["category_id"]
        return ROW.pack(*numbers)
    except (KeyError, TypeError, OverflowError, error):
        return entry
