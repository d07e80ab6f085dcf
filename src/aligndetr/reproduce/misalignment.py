"""What reproduction keeps of the analysis of an arm, and shows of it."""

from __future__ import annotations

from aligndetr.analyze.analysis import Settings as AnalysisSettings
from aligndetr.analyze.analysis import analyze
from aligndetr.analyze.bootstrap import Number
from aligndetr.analyze.misalignment import TOLERANCES
from aligndetr.data.annotations import CocoDict
from aligndetr.evaluate.evaluator import Results
from aligndetr.settings import Settings

WITHOUT_INTERVALS = AnalysisSettings(replicates=0)
"""Intervals here are over seeds, not over pictures."""


class Kept(Settings):
    """The numbers of an analysis that are kept; None where there was nothing to measure on.

    Recalls and shares are for N, 2N, ...; `br_recall_within` has them for each tolerance. IoUs of
    best-regressed and of highest-confidence samples are counted in equal bins of [0, 1], `density`
    in as many of confidence (rows) and of IoU.
    """

    br_recall: tuple[Number, ...]
    br_recall_within: tuple[tuple[Number, ...], ...]
    best_iou_share: tuple[Number, ...]
    mean_iou_br: Number
    mean_iou_hc: Number
    pearson: Number
    spearman: Number
    ap_cost: Number
    best_regressed: tuple[int, ...]
    highest_confidence: tuple[int, ...]
    density: tuple[tuple[int, ...], ...]


def analysis_of(results: Results, ground_truth: CocoDict) -> Kept:
    """Return what the analysis says of misalignment."""
    found = analyze(results, ground_truth, settings=WITHOUT_INTERVALS)
    numbers, drawn = found.misalignment, found.distributions
    return Kept(
        br_recall=numbers.br_recall,
        br_recall_within=numbers.br_recall_within,
        best_iou_share=numbers.best_iou_share,
        mean_iou_br=numbers.mean_iou_br,
        mean_iou_hc=numbers.mean_iou_hc,
        pearson=found.correlation.pearson,
        spearman=found.correlation.spearman,
        ap_cost=found.ap_cost,
        best_regressed=drawn.best_regressed,
        highest_confidence=drawn.highest_confidence,
        density=tuple(tuple(row) for row in drawn.density.tolist()),
    )


def metrics_of(kept: Kept) -> dict[str, float]:
    """Return the numbers that tables show, by name: br_recall_1, br_recall_1_within_0.05, ...

    Shares and coefficients are in per cent, like AP.
    """
    named = {f"br_recall_{m}": share for m, share in enumerate(kept.br_recall, start=1)}
    for tolerance, shares in zip(TOLERANCES, kept.br_recall_within, strict=True):
        if tolerance:  # without one it is the recall itself
            within = f"within_{tolerance:g}"
            named |= {f"br_recall_{m}_{within}": s for m, s in enumerate(shares, start=1)}
    named |= {"pearson": kept.pearson, "spearman": kept.spearman, "ap_cost": kept.ap_cost}
    return {name: 100 * value for name, value in named.items() if value is not None}
