"""From what was found in a split to its report: one detector, or two side by side."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from aligndetr.analyze.analysis import Source, analyze
from aligndetr.analyze.comparison import differences
from aligndetr.data.annotations import Annotations
from aligndetr.data.images import read_image
from aligndetr.drawing import picture_from_pixels
from aligndetr.errors import DatasetError
from aligndetr.evaluate.evaluator import Results, check_image_ids
from aligndetr.report.gallery import Pictures
from aligndetr.report.history import read_history
from aligndetr.report.write import write_report

COMPARED = (
    "title", "ap", "oracle_ap", "ap_cost", "br_recall", "br_recall_within", "best_iou_share",
    "pearson", "spearman", "mean_iou_br", "mean_iou_hc",
)  # fmt: skip
"""What `analysis.json` keeps of the other detector; its differences have intervals."""


@dataclass(frozen=True, eq=False)
class Found:
    """What a detector found: its name, its results, and the folder of its training if known."""

    title: str
    results: Results
    run: Path | None = None


def report_on(
    found: Found,
    annotations: Annotations,
    out: Path,
    *,
    split: str,
    compared: Found | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, object]:
    """Write the report of what was found, beside what another found; return the analysis.

    `progress` is told what is done next. What was found is as `check_found` wants it.
    """
    truth = annotations.coco_dict()
    subjects = [found] if compared is None else [found, compared]
    data = str(annotations.annotation_file)
    ours, *others = (
        analyze(one.results, truth, source=Source(one.title, data, split), progress=progress)
        for one in subjects
    )
    content: dict[str, object] = {**ours.to_json()}
    theirs = None
    for other in others:
        theirs = other.to_json()
        content["differences"] = differences(ours, other)
        content["compared"] = {name: theirs[name] for name in COMPARED}
    progress("pages")
    write_report(
        content,
        out,
        pictures=pictures_of(annotations),
        comparison=theirs,
        training=None if found.run is None else read_history(found.run),
    )
    return content


def pictures_of(annotations: Annotations) -> Pictures:
    """Return a function from an image's id to its picture, turned as its annotations expect."""
    places = {image_id: index for index, image_id in enumerate(annotations.image_ids)}

    def picture(image_id: int) -> Image.Image | None:
        index = places[image_id]
        height, width = annotations.images.sizes[index].tolist()
        try:
            return picture_from_pixels(read_image(annotations.path(index), (height, width)))
        except DatasetError:
            return None

    return picture


def check_found(found: Found, annotations: Annotations) -> None:
    """Check that results are of a split; say on stderr how many boxes of no class are left out.

    Raises:
        DatasetError: They are of other images, or of other classes alone.
    """
    check_image_ids(found.results, annotations.image_ids, found.title)
    known = annotations.classes.ids
    is_known = np.isin(found.results[:, 6], known)
    listed = f"{', '.join(map(str, known[:5]))}{', ...' if len(known) > 5 else ''}"
    if len(is_known) and not is_known.any():
        raise DatasetError(
            f"{found.title}: expected category ids of {annotations.annotation_file} ({listed}), "
            f"found none of them, but {int(found.results[0, 6])}; write the ids of that file"
        )
    if not is_known.all():
        sys.stderr.write(
            f"{found.title}: {(~is_known).sum()} boxes of unknown category ids are left out "
            f"(known: {listed})\n"
        )
