"""The one place where reproduction asks the analysis for misalignment metrics.

`aligndetr.analyze.analysis.analyze(results, ground_truth)` returns the content of analysis.json.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any, cast

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
    """Return what the analysis says of misalignment; nothing where there is no analysis."""
    analyze = _analyze()
    if analyze is None:
        return {}
    whole = analyze(results, ground_truth)
    return {name: whole[name] for name in KEPT if name in whole}


def is_available() -> bool:
    """Whether there is an analysis."""
    return _analyze() is not None


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


def _analyze() -> Callable[[Results, CocoDict], Analysis] | None:
    if find_spec("aligndetr.analyze") is None:
        return None
    module = import_module("aligndetr.analyze.analysis")
    return cast(Callable[[Results, CocoDict], Analysis], module.analyze)
