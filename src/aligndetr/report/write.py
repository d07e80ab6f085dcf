"""The report of an analysis as files: `report.html`, `analysis.json`, and figures for papers."""

import json
from collections.abc import Mapping
from pathlib import Path

from aligndetr.checkpoint import write_text
from aligndetr.report.content import to_record
from aligndetr.report.gallery import Pictures
from aligndetr.report.history import History
from aligndetr.report.page import page

REPORT_FILE = "report.html"
ANALYSIS_FILE = "analysis.json"


def write_report(
    analysis: Mapping[str, object],
    out: Path,
    *,
    pictures: Pictures | None = None,
    comparison: Mapping[str, object] | None = None,
    training: History | None = None,
) -> Path:
    """Write `report.html`, `analysis.json` and PNGs into a folder; return the path of the page.

    Args:
        analysis: The content of `analysis.json`; keys that are missing leave their section out.
        out: A folder, made if it is missing.
        pictures: From an image id to its picture, for the gallery.
        comparison: Another analysis of the same data, shown beside as B. Intervals of the
            differences A - B are those of `analysis["differences"]`, where it has them.
        training: What the run wrote while it trained.

    Raises:
        DatasetError: a value in an analysis is of another kind than it should be.
        CheckpointError: the folder cannot be written to.
    """
    from aligndetr.report.figures import write_figures  # matplotlib takes half a second

    record = to_record(analysis)
    other = None if comparison is None else to_record(comparison, "comparison")
    write_text(out / ANALYSIS_FILE, _as_json(analysis))
    write_text(out / REPORT_FILE, page(record, pictures=pictures, other=other, history=training))
    write_figures(record, out, other=other)
    return out / REPORT_FILE


def _as_json(content: Mapping[str, object]) -> str:
    """Return JSON with one key a line: small, and differences of two files can be read."""
    lines = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in content.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"
