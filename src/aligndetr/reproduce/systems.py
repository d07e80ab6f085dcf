"""Tables 2, 3 and 7: published systems, and what Align-DETR makes of them."""

from __future__ import annotations

from collections.abc import Iterator

from aligndetr.reproduce.experiment import Arm, Claim, Experiment, Numbers, numbers

SINGLE_SCALE: dict[str, dict[str, Numbers]] = {
    "r50": {
        "detr": numbers(42.0, 62.4, 44.2, 20.5, 45.8, 61.1),
        "anchor-detr": numbers(42.1, 63.1, 44.9, 22.3, 46.2, 60.0),
        "conditional-detr": numbers(40.9, 61.8, 43.3, 20.8, 44.6, 59.2),
        "dab-detr": numbers(42.2, 63.1, 44.7, 21.5, 45.7, 60.3),
        "dn-detr": numbers(44.1, 64.4, 46.7, 22.9, 48.0, 63.4),
        "align-dab-detr": numbers(46.0, 64.9, 49.5, 25.2, 50.5, 64.7),
    },
    "r101": {
        "detr": numbers(43.5, 63.8, 46.4, 21.9, 48.0, 61.8),
        "anchor-detr": numbers(43.5, 64.3, 46.6, 23.2, 47.7, 61.4),
        "conditional-detr": numbers(42.8, 63.7, 46.0, 21.7, 46.6, 60.9),
        "dab-detr": numbers(43.5, 63.9, 46.6, 23.6, 47.3, 61.5),
        "dn-detr": numbers(45.2, 65.5, 48.3, 24.1, 49.1, 65.1),
        "align-dab-detr": numbers(46.9, 65.5, 50.9, 25.6, 51.9, 66.0),
    },
    "dc5-r50": {
        "detr": numbers(43.3, 63.1, 45.9, 22.5, 47.3, 61.1),
        "anchor-detr": numbers(44.2, 64.7, 47.5, 24.7, 48.2, 60.6),
        "conditional-detr": numbers(43.8, 64.4, 46.7, 24.0, 47.6, 60.7),
        "dab-detr": numbers(44.5, 65.1, 47.7, 25.3, 48.2, 62.3),
        "dn-detr": numbers(46.3, 66.4, 49.7, 26.7, 50.0, 64.3),
        "align-dab-detr": numbers(48.3, 66.7, 52.5, 29.7, 52.8, 65.9),
    },
    "dc5-r101": {
        "detr": numbers(44.9, 64.7, 47.7, 23.7, 49.5, 62.3),
        "anchor-detr": numbers(45.1, 65.7, 48.8, 25.8, 49.4, 61.6),
        "conditional-detr": numbers(45.0, 65.5, 48.4, 26.1, 48.9, 62.8),
        "dab-detr": numbers(45.8, 65.9, 49.3, 27.0, 49.8, 63.8),
        "dn-detr": numbers(47.3, 67.5, 50.8, 28.6, 51.5, 65.0),
        "align-dab-detr": numbers(49.3, 67.4, 53.7, 30.6, 54.3, 66.4),
    },
}
"""Table 2, by backbone and system."""
LABELS = {
    "detr": "DETR",
    "anchor-detr": "Anchor DETR",
    "conditional-detr": "Conditional DETR",
    "dab-detr": "DAB-DETR",
    "dn-detr": "DN-DETR",
    "align-dab-detr": "Align-DETR",
}


def _single_scale() -> Iterator[Arm]:
    """Yield the rows of Table 2, each beside DAB-DETR on its backbone.

    With one backbone for all, a laptop has only the first six.
    """
    for backbone, rows in SINGLE_SCALE.items():
        for system, paper in rows.items():
            yield Arm(
                f"{system}-{backbone}",
                f"{LABELS[system]}-{backbone.upper()}",
                f"{system}-{backbone}",
                paper=paper,
                is_small=backbone == "r50",
                baseline=f"dab-detr-{backbone}",
            )


def _single_scale_claims() -> Iterator[Claim]:
    for backbone in SINGLE_SCALE:
        for rival in ("dab-detr", "dn-detr"):
            order = (f"align-dab-detr-{backbone}", f"{rival}-{backbone}")
            yield Claim(order, f"Align-DETR > {LABELS[rival]}, {backbone.upper()}")


TABLE_2 = Experiment(
    "2",
    "Align-DETR on DAB-DETR, and other single-scale systems",
    baseline="dab-detr-r50",
    arms=tuple(_single_scale()),
    claims=tuple(_single_scale_claims()),
)

TABLE_3 = Experiment(
    "3",
    "Align-DETR on DINO, and other multi-scale systems",
    baseline="dino",
    arms=(
        Arm(
            "faster-rcnn",
            "Faster RCNN-FPN, 108 epochs",
            "faster-rcnn-r50-fpn",
            paper=numbers(42.0, 62.1, 45.5, 26.6, 45.5, 53.4),
        ),
        Arm("smca", "SMCA, 50", "smca-r50", paper=numbers(43.7, 63.6, 47.2, 24.2, 47.0, 60.4)),
        Arm(
            "deformable-detr",
            "Deformable DETR, 50",
            "deformable-detr-refined-r50",
            paper=numbers(45.4, 64.7, 49.0, 26.8, 48.3, 61.7),
        ),
        Arm(
            "dn-deformable-12",
            "DN-DETR, 12",
            "dn-deformable-detr-r50-12ep",
            paper=numbers(43.4, 61.9, 47.2, 24.8, 46.8, 59.4),
        ),
        Arm(
            "dab-deformable",
            "DAB-Deformable-DETR, 50",
            "dab-deformable-detr-r50",
            paper=numbers(46.9, 66.0, 50.8, 30.1, 50.4, 62.5),
        ),
        Arm(
            "dn-deformable",
            "DN-Deformable-DETR, 50",
            "dn-deformable-detr-r50",
            paper=numbers(48.6, 67.4, 52.7, 31.0, 52.0, 63.7),
            is_small=False,  # but for its length the row of 12 epochs
        ),
        Arm("dino", "DINO, 12", "dino-r50-4scale", paper=numbers(49.0, 66.6, 53.5, 32.0, 52.3, 63)),
        Arm(
            "dino-24",
            "DINO, 24",
            "dino-r50-4scale-24ep",
            paper=numbers(50.4, 68.3, 54.8, 33.3, 53.7, 64.8),
            length=2,
        ),
        Arm(
            "group-detr",
            "GROUP-DETR, 12",
            "group-detr-r50",
            paper=numbers(49.8, None, None, 32.4, 53.0, 64.2),
        ),
        Arm(
            "h-detr",
            "H-Deformable-DETR, 12",
            "h-deformable-detr-r50",
            paper=numbers(48.7, 66.4, 52.9, 31.2, 51.5, 63.5),
        ),
        Arm(
            "align",
            "Align-DETR, 12",
            "align-dino-r50-4scale",
            paper=numbers(50.2, 67.8, 54.4, 32.9, 53.3, 65.0),
        ),
        Arm(
            "align-24",
            "Align-DETR, 24",
            "align-dino-r50-4scale-24ep",
            paper=numbers(51.3, 68.2, 56.1, 35.5, 55.1, 65.6),
            length=2,
        ),
    ),
    claims=(
        Claim(("align", "dino"), "Align-DETR > DINO, 1x"),
        Claim(("align-24", "dino-24"), "Align-DETR > DINO, 2x"),
        Claim(("align", "group-detr"), "Align-DETR > Group-DETR"),
        Claim(("align", "h-detr"), "Align-DETR > H-DETR"),
        Claim(("align", "smca"), "Align-DETR > SMCA"),
        Claim(("align", "deformable-detr"), "Align-DETR > Deformable DETR"),
        Claim(("align", "faster-rcnn"), "Align-DETR > Faster RCNN-FPN"),
    ),
)

TABLE_7 = Experiment(
    "7",
    "IA-BCE on H-Deformable-DETR",
    baseline="h-detr",
    arms=(
        Arm(
            "h-detr",
            "H-Deformable-DETR",
            "h-deformable-detr-r50",
            paper=numbers(48.7, 66.4, 52.9),
        ),
        Arm(
            "h-detr-ia-bce",
            "H-Deformable-DETR w/ IA-BCE",
            "align-h-deformable-detr-r50",
            paper=numbers(49.3, 67.2, 53.7),
        ),
    ),
    claims=(Claim(("h-detr-ia-bce", "h-detr"), "with IA-BCE > without"),),
)
