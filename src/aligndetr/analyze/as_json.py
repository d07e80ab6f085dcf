"""The records of the analysis as plain values, as `analysis.json` has them."""

from collections.abc import Mapping, Sequence

from aligndetr.analyze.bootstrap import Interval, Number
from aligndetr.analyze.calibration import Calibration
from aligndetr.analyze.confusion import Confusion
from aligndetr.analyze.misalignment import TOLERANCES, Misalignment
from aligndetr.analyze.parts import Part, Precision
from aligndetr.analyze.worst import Found, Misaligned

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]


def plain(value: Json) -> Json:
    """Return a value of lists and dicts, as they come back from a file."""
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, str) or not isinstance(value, Sequence):
        return value
    return [plain(entry) for entry in value]


def misalignment_json(
    found: Misalignment[Number] | Misalignment[Interval],
) -> dict[str, Json]:
    """Return the numbers, or their intervals, by name."""
    return {
        "br_recall": _by_top(found.br_recall),
        "br_recall_within": {
            f"{tolerance:g}": _by_top(row)
            for tolerance, row in zip(TOLERANCES, found.br_recall_within, strict=True)
        },
        "best_iou_share": _by_top(found.best_iou_share),
        "mean_iou_br": found.mean_iou_br,
        "mean_iou_hc": found.mean_iou_hc,
    }


def precision_json(found: Precision) -> dict[str, Json]:
    """Return AP, AP50 and AP75."""
    return {"AP": found.ap, "AP50": found.ap50, "AP75": found.ap75}


def part_json(part: Part) -> dict[str, Json]:
    """Return the row of a class or a size."""
    return {
        "name": part.name,
        "objects": part.objects,
        **misalignment_json(part.misalignment),
        "pearson": part.pearson,
        **precision_json(part.precision),
        "oracle_AP": part.oracle_ap,
        "ap_cost": part.ap_cost,
        "intervals": {
            "br_recall": part.br_recall_interval,
            "pearson": part.pearson_interval,
            "AP": part.ap_interval,
            "ap_cost": part.ap_cost_interval,
        },
    }


def confusion_json(found: Confusion, classes: Sequence[str]) -> dict[str, Json]:
    """Return the confusion matrix with its names."""
    return {
        "classes": [*classes, "background"],
        "threshold": found.threshold,
        "iou": found.iou,
        "counts": found.counts.tolist(),
    }


def calibration_json(found: Calibration) -> dict[str, Json]:
    """Return the bins of the calibration."""
    return {
        "edges": found.edges,
        "confidence": found.confidence,
        "precision": found.precision,
        "mean_iou": found.mean_iou,
        "counts": found.counts,
        "ece": found.ece,
    }


def worst_json(entry: Misaligned) -> dict[str, Json]:
    """Return an entry of the gallery."""
    return {
        "image_id": entry.image_id,
        "file_name": entry.file_name,
        "object": entry.box,
        "object_class": entry.class_name,
        "confident": _found_json(entry.confident),
        "best": _found_json(entry.best),
    }


def _found_json(found: Found) -> dict[str, Json]:
    return {
        "bbox": found.bbox,
        "score": found.score,
        "iou": found.iou,
        "class": found.class_name,
        "rank": found.rank,
    }


def _by_top(values: Sequence[Json]) -> dict[str, Json]:
    return {str(multiple): value for multiple, value in enumerate(values, start=1)}
