"""From what was found in a split to its report: one detector, or two side by side."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aligndetr.analyze.analysis import Source, analyze
from aligndetr.analyze.comparison import differences
from aligndetr.data.annotations import Annotations
from aligndetr.evaluate.evaluator import Results
from aligndetr.report.history import read_history
from aligndetr.report.write import write_report


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

    `progress` is told what is done next.

    Raises:
        DatasetError: Results are of images that the split does not have.
    """
    truth = annotations.coco_dict()
    data = str(annotations.annotation_file)
    ours, *others = (
        analyze(one.results, truth, source=Source(one.title, data, split), progress=progress)
        for one in (found, compared)
        if one is not None
    )
    content: dict[str, object] = {**ours.to_json()}
    if others:
        content["differences"] = differences(ours, others[0])
    progress("pages")
    write_report(
        content,
        out,
        folders=annotations.folders,
        comparison=others[0].to_json() if others else None,
        training=None if found.run is None else read_history(found.run),
    )
    return content
