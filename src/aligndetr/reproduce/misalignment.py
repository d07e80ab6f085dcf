"""What reproduction keeps of the analysis of an arm, and shows of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aligndetr.analyze.analysis import analyze
from aligndetr.data.annotations import CocoDict
from aligndetr.evaluate.evaluator import Results

Analysis = dict[str, Any]
KEPT = (
    "br_recall", "br_recall_within", "best_iou_share", "pearson", "spearman", "mean_iou_br",
    "mean_iou_hc", "histogram", "density", "oracle_ap", "ap_cost",
)  # fmt: skip
"""What is kept of an analysis."""
TOLERANCES = ("0.02", "0.05")


def analysis_of(results: Results, ground_truth: CocoDict) -> Analysis:
    """Return what the analysis says of misalignment."""
    whole = analyze(results, ground_truth).to_json()
    return {name: whole[name] for name in KEPT}


def metrics_of(analysis: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers that tables show, by name: br_recall_1, br_recall_1_within_0.05, ...

    Shares and coefficients are in per cent, like AP.
    """
    found: dict[str, Any] = {
        f"br_recall_{multiple}": share for multiple, share in analysis.get("br_recall", {}).items()
    }
    within = analysis.get("br_recall_within", {})
    for tolerance in TOLERANCES:
        shares = within.get(tolerance, {})
        found |= {f"br_recall_{m}_within_{tolerance}": share for m, share in shares.items()}
    found |= {name: analysis.get(name) for name in ("pearson", "spearman", "ap_cost")}
    return {name: 100 * value for name, value in found.items() if value is not None}
