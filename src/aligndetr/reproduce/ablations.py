"""Tables 4, 5, 6, 8 and B: what each part of Align-DETR does to DINO, and what others would do.

Equal arms are written alike, so that they are trained once.
"""

from __future__ import annotations

from aligndetr.reproduce.experiment import Arm, Claim, Experiment, Numbers, numbers

DINO = "dino-r50-4scale"
ALIGN = "align-dino-r50-4scale"
LOSS = "criterion.classification"


def focal(paper: Numbers, label: str = "baseline (Focal loss)") -> Arm:
    """Return the baseline: DINO."""
    return Arm("focal", label, DINO, paper=paper)


def ia_bce(paper: Numbers, key: str = "ia-bce", label: str = "w/ IA-BCE (Ours)") -> Arm:
    """Return IA-BCE alone, with one positive an object."""
    return Arm(key, label, ALIGN, ("criterion.k=1",), paper)


def aligned(paper: Numbers, key: str = "align", label: str = "Align-DETR") -> Arm:
    """Return the paper's default: IA-BCE, k = 3, alpha = 0.25, tau = 1.5."""
    return Arm(key, label, ALIGN, paper=paper)


TABLE_4 = Experiment(
    "4",
    "IA-BCE and other answers to misalignment, on DINO",
    baseline="focal",
    arms=(
        focal(numbers(49.0, 66.0, 53.5)),
        Arm(
            "iou-branch*",
            "w/ IoU branch*",
            DINO,
            ("head.iou_branch=true", "postprocess.iou_power=0"),
            numbers(49.0, 66.0, 54.0),
        ),
        Arm(
            "iou-branch",
            "w/ IoU branch",
            DINO,
            ("head.iou_branch=true", "postprocess.iou_power=0.3"),
            numbers(49.2, 66.3, 53.5),
        ),
        Arm(
            "qfl-2",
            "w/ QFL (gamma = 2)",
            DINO,
            (f"{LOSS}.type=qfl", f"{LOSS}.gamma=2"),
            numbers(47.6, 64.3, 51.8),
        ),
        Arm(
            "qfl-1",
            "w/ QFL (gamma = 1)",
            DINO,
            (f"{LOSS}.type=qfl", f"{LOSS}.gamma=1"),
            numbers(48.6, 65.7, 53.5),
        ),
        Arm("vfl", "w/ VFL", DINO, (f"{LOSS}.type=vfl",), numbers(48.7, 67.0, 52.3)),
        ia_bce(numbers(50.0, 67.8, 54.4)),
    ),
    claims=(
        Claim(("ia-bce", "focal"), "IA-BCE > focal loss"),
        Claim(("ia-bce", "iou-branch"), "IA-BCE > IoU branch"),
        Claim(("ia-bce", "vfl"), "IA-BCE > VFL"),
        Claim(("ia-bce", "qfl-1"), "IA-BCE > QFL (gamma = 1)"),
        Claim(("qfl-1", "qfl-2"), "QFL: gamma = 1 > gamma = 2"),
        Claim(("iou-branch", "focal"), "IoU branch > focal loss"),
        Claim(("focal", "vfl", "qfl-1", "qfl-2"), "focal loss > VFL > QFL 1 > QFL 2"),
    ),
)

TABLE_5 = Experiment(
    "5",
    "The components of Align-DETR",
    baseline="focal",
    arms=(
        focal(numbers(49.0, 66.0, 53.5), "neither"),
        ia_bce(numbers(50.0, 67.8, 54.2), label="IA-BCE"),
        Arm("mixed", "Mixed Matching", DINO, ("criterion.k=3",), numbers(49.1, 67.5, 53.4)),
        aligned(numbers(50.2, 67.8, 54.4), label="IA-BCE and Mixed Matching"),
    ),
    claims=(
        Claim(("ia-bce", "focal"), "IA-BCE helps"),
        Claim(("mixed", "focal"), "mixed matching helps"),
        Claim(("align", "ia-bce"), "mixed matching helps IA-BCE"),
        Claim(("align", "mixed"), "IA-BCE helps mixed matching"),
        Claim(("ia-bce", "mixed"), "IA-BCE contributes more"),
    ),
)


def _alpha(value: float, ap: float) -> Arm:
    return Arm(f"alpha-{value:g}", f"alpha = {value:g}", ALIGN, (f"{LOSS}.alpha={value:g}",),
               numbers(ap))  # fmt: skip


def _k(value: int, ap: float) -> Arm:
    return Arm(f"k-{value}", f"k = {value}", ALIGN, (f"criterion.k={value}",), numbers(ap))


def _tau(value: float, ap: float) -> Arm:
    return Arm(
        f"tau-{value:g}", f"tau = {value:g}", ALIGN, (f"criterion.tau={value:g}",), numbers(ap)
    )


TABLE_6A = Experiment(
    "6a",
    "The share alpha of the score in the target",
    baseline="alpha-0.25",
    arms=(_alpha(0, 50.0), _alpha(0.25, 50.2), _alpha(0.5, 49.2), _alpha(0.75, 47.6)),
    claims=(
        Claim(("alpha-0.25", "alpha-0.5", "alpha-0.75"), "alpha should be small: .25 > .5 > .75"),
        Claim(("alpha-0.25", "alpha-0"), "alpha = .25 > 0"),
    ),
)
TABLE_6B = Experiment(
    "6b",
    "The positives k of an object",
    baseline="k-3",
    arms=(_k(1, 50.0), _k(2, 50.1), _k(3, 50.2), _k(4, 50.2)),
    claims=(Claim(("k-3", "k-2", "k-1"), "k = 3 > 2 > 1"), Claim(("k-4", "k-1"), "k = 4 > 1")),
)
TABLE_6C = Experiment(
    "6c",
    "The temperature tau of prime sample weighting",
    baseline="tau-1.5",
    arms=(_tau(1.5, 50.2), _tau(3, 50.1), _tau(6, 50.0), _tau(9, 49.7)),
    claims=(Claim(("tau-1.5", "tau-3", "tau-6", "tau-9"), "tau = 1.5 > 3 > 6 > 9"),),
)

TABLE_8 = Experiment(
    "8",
    "Prime sample weighting",
    baseline="k-1",
    arms=(
        ia_bce(numbers(50.0, 67.8, 54.5), "k-1", "k = 1"),
        Arm(
            "k-2-unweighted",
            "k = 2",
            ALIGN,
            ("criterion.k=2", "criterion.tau=null"),
            numbers(49.6, 66.6, 53.8),
        ),
        Arm(
            "k-2",
            "k = 2, PS Weighting",
            ALIGN,
            ("criterion.k=2",),
            numbers(50.1, 67.5, 54.2),
        ),
        Arm(
            "k-3-unweighted",
            "k = 3",
            ALIGN,
            ("criterion.k=3", "criterion.tau=null"),
            numbers(49.7, 66.7, 53.9),
        ),
        aligned(numbers(50.2, 67.8, 54.4), "k-3", "k = 3, PS Weighting"),
    ),
    claims=(
        Claim(("k-2", "k-2-unweighted"), "k = 2: weighted > unweighted"),
        Claim(("k-3", "k-3-unweighted"), "k = 3: weighted > unweighted"),
        Claim(("k-3", "k-1"), "k = 3 weighted > k = 1"),
        Claim(("k-1", "k-3-unweighted"), "k = 1 > k = 3 unweighted"),
    ),
)


def _variant(key: str, w_pos: str, w_neg: str, paper: Numbers) -> Arm:
    """Return a row of Table B, which differ in nothing else: IA-BCE too is without its clamp."""
    overrides = (
        "criterion.k=1",
        f"{LOSS}.type=ia_bce_variant",
        f"{LOSS}.w_pos='{w_pos}'",
        f"{LOSS}.w_neg='{w_neg}'",
    )
    return Arm(key, f"w_pos = {w_pos}, w_neg = {w_neg}", ALIGN, overrides, paper)


TABLE_B = Experiment(
    "B",
    "Variants of IA-BCE",
    baseline="focal",
    arms=(
        focal(numbers(49.0, 66.6, 53.5), "w_pos = (1-s)^2, w_neg = 0 (focal loss)"),
        _variant("1-0", "1", "0", numbers(47.5, 67.6, 51.1)),
        _variant("t-0", "t", "0", numbers(48.0, 67.6, 51.8)),
        _variant("far-far", "(t-s)^2", "(t-s)^2", numbers(49.6, 67.1, 54.0)),
        _variant("far-hard", "(t-s)^2", "(1-t)s^2", numbers(49.8, 66.2, 54.5)),
        _variant("ia-bce", "t", "1-t", numbers(50.0, 67.8, 54.5)),
    ),
    claims=(
        Claim(("ia-bce", "t-0", "1-0"), "IA-BCE cannot be simplified: IA-BCE > t, 0 > 1, 0"),
        Claim(("ia-bce", "far-far"), "IA-BCE > (t-s)^2, (t-s)^2"),
        Claim(("ia-bce", "far-hard"), "IA-BCE > (t-s)^2, (1-t)s^2"),
        Claim(("focal", "t-0"), "focal loss > t, 0"),
    ),
)
