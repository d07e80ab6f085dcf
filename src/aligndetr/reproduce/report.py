"""What an outcome looks like as text: `table.md` beside `table.json` and the picture."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from aligndetr.checkpoint import write_json, write_text
from aligndetr.reproduce.experiment import Arm, Claim
from aligndetr.reproduce.outcome import Outcome
from aligndetr.reproduce.pictures import draw
from aligndetr.reproduce.statistics import Difference, summary

SHOWN = {
    "AP": "AP",
    "AP50": "AP50",
    "AP75": "AP75",
    "br_recall_1": "BR@N",
    "br_recall_1_within_0.02": "BR@N within .02",
    "br_recall_1_within_0.05": "BR@N within .05",
    "pearson": "Pearson",
}
"""The metrics of a table, and how it calls them; table.json has all."""


def write_report(outcome: Outcome, out: Path) -> Path:
    """Write table.md, table.json and the picture of an outcome; return their folder.

    Data of equal names are told apart by their digest.
    """
    data = f"{outcome.data.name}-{outcome.data.digest}"
    folder = out / "tables" / data / outcome.experiment.folder
    write_json(folder / "table.json", outcome.as_json())
    write_text(folder / "table.md", markdown(outcome))
    draw(outcome, folder)
    return folder


def markdown(outcome: Outcome) -> str:
    """Return the table, what the paper claims of it, and how to read it."""
    experiment = outcome.experiment
    lines = [f"# {experiment.heading}: {experiment.title}", "", *_told(outcome), ""]
    lines += _table(outcome)
    lines += _differences(outcome)
    if experiment.claims:
        lines += ["", "| the paper's order | paper | here | verdict |", "|---|---|---|---|"]
        lines += [_claim_row(outcome, claim) for claim in experiment.claims]
    return "\n".join([*lines, ""])


def _told(outcome: Outcome) -> Iterator[str]:
    seeds = max((len(arm.by_seed) for arm in outcome.arms), default=0)
    steps = sorted({arm.steps for arm in outcome.arms})
    arithmetic = sorted({arm.config.precision for arm in outcome.arms})
    yield (
        f"Laptop scale, {outcome.data.name} ({outcome.data.images} images to train on), "
        f"{' or '.join(str(count) for count in steps)} steps in {' and '.join(arithmetic)}, "
        f"{seeds} paired {'seed' if seeds == 1 else 'seeds'}. "
        "Per cent; mean ± standard deviation over seeds; "
        f"Δ is the paired difference to {_label(outcome, outcome.experiment.baseline)!r} with its "
        "95 % t interval."
    )
    baselines = {outcome.experiment.baseline_of(arm.key) for arm in outcome.experiment.arms}
    if others := sorted(baselines - {outcome.experiment.baseline}):
        labels = ", ".join(_label(outcome, key) for key in others)
        yield f"Rows on other backbones are compared with the baseline on theirs: {labels}."
    if any(arm.is_at_edge for arm in outcome.arms):
        yield "A class weight with a star is at the end of the grid."


def _table(outcome: Outcome) -> Iterator[str]:
    metrics = [name for name in SHOWN if name in outcome.metrics]
    names = ["arm", "class weight", "paper AP", "paper Δ", "AP", "Δ AP"]
    names += [SHOWN[name] for name in metrics if name != "AP"]
    yield "| " + " | ".join(names) + " |"
    yield "|" + "---|" * len(names)
    for arm in outcome.experiment.arms:
        cells = [_label_in_table(arm), _weight(outcome, arm), *_paper(outcome, arm)]
        cells += [_summary(outcome, arm, "AP"), spelled(outcome.to_baseline(arm.key, "AP"))]
        cells += [_summary(outcome, arm, name) for name in metrics if name != "AP"]
        yield "| " + " | ".join(cells) + " |"


def _differences(outcome: Outcome) -> Iterator[str]:
    """Yield a table of the paired differences of all shown metrics, if arms are compared."""
    metrics = [name for name in SHOWN if name in outcome.metrics]
    arms = [found.arm for found in outcome.arms if found.arm.key != outcome.experiment.baseline]
    if not (metrics and arms):
        return
    yield ""
    yield "| Δ [interval] | " + " | ".join(SHOWN[name] for name in metrics) + " |"
    yield "|" + "---|" * (1 + len(metrics))
    for arm in arms:
        cells = [spelled(outcome.to_baseline(arm.key, name)) for name in metrics]
        yield "| " + " | ".join([_label_in_table(arm), *cells]) + " |"


def _weight(outcome: Outcome, arm: Arm) -> str:
    ours = outcome.arm(arm.key)
    if ours is None or ours.weight is None:
        return "-"
    return f"{ours.weight:g}{'*' * ours.is_at_edge}"


def _paper(outcome: Outcome, arm: Arm) -> tuple[str, str]:
    experiment = outcome.experiment
    baseline = experiment.arm(experiment.baseline_of(arm.key)).paper.get("AP")
    ap = arm.paper.get("AP")
    if ap is None or baseline is None:
        return ("-" if ap is None else f"{ap:.1f}"), "-"
    return f"{ap:.1f}", f"{ap - baseline:+.1f}"


def _summary(outcome: Outcome, arm: Arm, metric: str) -> str:
    ours = outcome.arm(arm.key)
    found = None if ours is None else summary(ours.values(metric))
    if found is None:
        return "-"
    spread = "" if found.deviation is None else f" ± {found.deviation:.1f}"
    return f"{found.mean:.1f}{spread}"


def spelled(found: Difference | None) -> str:
    """Return a difference with its interval, if it has one."""
    if found is None:
        return "-"
    if found.low is None or found.high is None:
        return f"{found.mean:+.1f}"
    return f"{found.mean:+.1f} [{found.low:+.1f}, {found.high:+.1f}]"


def _claim_row(outcome: Outcome, claim: Claim) -> str:
    pairs = list(pairwise(claim.order))
    here = ", ".join(spelled(outcome.between(*pair, claim.metric)) for pair in pairs)
    text = claim.text if claim.metric == "AP" else f"{claim.text} ({claim.metric})"
    paper = ", ".join(_paper_difference(outcome, claim, *pair) for pair in pairs)
    return f"| {text} | {paper} | {here} | {outcome.judged(claim)} |"


def _paper_difference(outcome: Outcome, claim: Claim, better: str, worse: str) -> str:
    ours, theirs = (outcome.experiment.arm(key).paper.get(claim.metric) for key in (better, worse))
    return "-" if ours is None or theirs is None else f"{ours - theirs:+.1f}"


def _label(outcome: Outcome, key: str) -> str:
    return outcome.experiment.arm(key).label


def _label_in_table(arm: Arm) -> str:
    return arm.label.replace("|", "\\|")
