"""What `analysis.json` holds, as frozen records; each key may be missing or null.

Numbers are in [0, 1] unless said. Keys of "by top" are "1" to "5": the m of the m * N most
confident predictions of an image with N objects. An interval is 95 %, by bootstrap over images.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from aligndetr.errors import DatasetError


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _whole(value: object) -> object:
    is_whole = isinstance(value, list | tuple) and all(_finite(end) is not None for end in value)
    return value if is_whole else None


Number = Annotated[float | None, BeforeValidator(_finite)]
Interval = Annotated[tuple[float, float] | None, BeforeValidator(_whole)]
ByTop = dict[str, Number]
Box = tuple[float, float, float, float]
"""Left, top, width, height in pixels."""


class Part(BaseModel):
    """A part of the analysis: null is the same as missing, what is not known here is ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        return {key: value for key, value in data.items() if value is not None}


class Precision(Part):
    """Average precision over all IoU thresholds, and at two of them."""

    AP: Number = None
    AP50: Number = None
    AP75: Number = None


class Intervals(Part):
    """Intervals of the numbers of the same names."""

    br_recall: dict[str, Interval] = {}
    br_recall_within: dict[str, dict[str, Interval]] = {}
    pearson: Interval = None
    spearman: Interval = None
    mean_iou_br: Interval = None
    mean_iou_hc: Interval = None
    AP: Interval = None
    oracle_ap: Interval = Field(default=None, validation_alias="oracle_AP")
    ap_cost: Interval = None


class SliceIntervals(Part):
    """Intervals of one slice; of the recall, among the N most confident."""

    br_recall: Interval = None
    pearson: Interval = None
    AP: Interval = None
    ap_cost: Interval = None


class Differences(Part):
    """Intervals of this analysis minus another, from the same images drawn for both."""

    br_recall: Interval = None
    pearson: Interval = None
    AP: Interval = None
    AP50: Interval = None
    AP75: Interval = None
    oracle_ap: Interval = Field(default=None, validation_alias="oracle_AP")
    ap_cost: Interval = None
    mean_iou_br: Interval = None
    mean_iou_hc: Interval = None


class Slice(Part):
    """The measures of one class or one size of objects."""

    name: str = ""
    objects: int = 0
    br_recall: ByTop = {}
    pearson: Number = None
    mean_iou_br: Number = None
    mean_iou_hc: Number = None
    AP: Number = None
    AP50: Number = None
    AP75: Number = None
    oracle_ap: Number = Field(default=None, validation_alias="oracle_AP")
    ap_cost: Number = None
    intervals: SliceIntervals = SliceIntervals()


class Histogram(Part):
    """Boxes by their IoU: the best-regressed of each object, and the most confident."""

    edges: tuple[float, ...] = ()
    best_regressed: tuple[int, ...] = ()
    highest_confidence: tuple[int, ...] = ()


class Density(Part):
    """Matched pairs by confidence (rows, low to high) and IoU (columns)."""

    edges: tuple[float, ...] = ()
    counts: tuple[tuple[int, ...], ...] = ()


class Curve(Part):
    """Precision at 101 recalls, by IoU threshold ("0.5", "0.75")."""

    name: str = ""
    recall: tuple[float, ...] = ()
    precision: dict[str, tuple[Number, ...] | None] = {}


class Confusion(Part):
    """What it is (rows) by what was found (columns); the last of `classes` is the background."""

    classes: tuple[str, ...] = ()
    threshold: Number = None
    iou: Number = None
    counts: tuple[tuple[int, ...], ...] = ()


class Calibration(Part):
    """Predictions by their confidence: how sure, and how right."""

    edges: tuple[float, ...] = ()
    confidence: tuple[Number, ...] = ()
    precision: tuple[Number, ...] = ()
    mean_iou: tuple[Number, ...] = ()
    counts: tuple[int, ...] = ()
    ece: Number = None


class Found(Part):
    """One prediction; its class is called `label` here; rank 1 is the image's most confident."""

    bbox: Box = (0.0, 0.0, 0.0, 0.0)
    score: Number = None
    iou: Number = None
    label: str = Field(default="", validation_alias="class")
    rank: int | None = None


class Misaligned(Part):
    """An object whose most confident prediction is a bad box, and the best one was ranked low."""

    image_id: int = 0
    file_name: str = ""
    object: Box = (0.0, 0.0, 0.0, 0.0)
    object_class: str = ""
    confident: Found = Found()
    best: Found = Found()


class AnalysisRecord(Part):
    """All of `analysis.json` that the report shows."""

    title: str = "predictions"
    data: str = ""
    split: str = ""
    images: int | None = None
    objects: int | None = None
    crowd: int | None = None
    predictions: int | None = None
    br_recall: ByTop = {}
    br_recall_within: dict[str, ByTop] = {}
    best_iou_share: ByTop = {}
    pearson: Number = None
    spearman: Number = None
    matched_pairs: int | None = None
    mean_iou_br: Number = None
    mean_iou_hc: Number = None
    intervals: Intervals = Intervals()
    differences: Differences = Differences()
    histogram: Histogram = Histogram()
    density: Density = Density()
    ap: Precision = Precision()
    oracle_ap: Precision = Precision()
    ap_cost: Number = None
    by_class: tuple[Slice, ...] = ()
    by_size: tuple[Slice, ...] = ()
    errors: dict[str, Number] = {}
    error_counts: dict[str, int | None] = {}
    curves: tuple[Curve, ...] = ()
    confusion: Confusion = Confusion()
    calibration: Calibration = Calibration()
    worst: tuple[Misaligned, ...] = ()


def to_record(content: Mapping[str, object], where: str = "analysis") -> AnalysisRecord:
    """Return the record of an analysis in JSON's form; `where` is named in the error.

    Raises:
        DatasetError: a value is of another kind than it should be.
    """
    try:
        return AnalysisRecord.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise DatasetError(
            f"{where}: expected an analysis, found at {place}: {first['msg']}; "
            "write it again with `aligndetr analyze`"
        ) from error


def read_analysis(path: Path) -> dict[str, object]:
    """Return the content of an `analysis.json`.

    Raises:
        DatasetError: the file is not there or holds something else.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DatasetError(
            f"{path}: expected the analysis.json of `aligndetr analyze`, found: {reason}; "
            "mend the path"
        ) from error
    if not isinstance(content, dict):
        raise DatasetError(
            f"{path}: expected the analysis.json of `aligndetr analyze`, found a "
            f"{type(content).__name__}; mend the path"
        )
    to_record(content, str(path))
    return content
