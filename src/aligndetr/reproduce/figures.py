"""Figures 1, 4, A and B: the systems they show. The paper prints few of their numbers.

Of Figure 1 its text says that 45 % and 48 % of DINO's best-regressed samples are among the top N
and 2N; nothing else can be read from the figures to more than a guess.
"""

from __future__ import annotations

from aligndetr.reproduce.ablations import ALIGN, DINO, aligned, focal, ia_bce
from aligndetr.reproduce.experiment import Arm, Claim, Experiment, numbers

FIGURE_1 = Experiment(
    "fig1",
    "Recall of best-regressed samples, with focal loss and with IA-BCE",
    baseline="focal",
    arms=(focal({"br_recall_1": 45.0, "br_recall_2": 48.0}, "DINO, focal loss"), ia_bce({})),
    claims=(
        Claim(("ia-bce", "focal"), "IA-BCE recalls more among the top N", "br_recall_1"),
        Claim(("ia-bce", "focal"), "IA-BCE recalls more among the top 2N", "br_recall_2"),
    ),
    picture="recall",
)
FIGURE_4 = Experiment(
    "fig4",
    "Confidence against IoU of matched predictions, DINO and Align-DETR",
    baseline="focal",
    arms=(focal({}, "DINO"), aligned({})),
    claims=(Claim(("align", "focal"), "Align-DETR's Pearson coefficient is higher", "pearson"),),
    picture="density",
)
FIGURE_A = Experiment(
    "figA",
    "AP over the training, DINO and Align-DETR, 1x and 2x",
    baseline="dino",
    arms=(
        Arm("dino", "DINO, 1x", DINO, paper=numbers(49.0)),
        Arm("align", "Align-DETR, 1x", ALIGN, paper=numbers(50.2)),
        Arm("dino-24", "DINO, 2x", f"{DINO}-24ep", paper=numbers(50.4), length=2),
        Arm("align-24", "Align-DETR, 2x", f"{ALIGN}-24ep", paper=numbers(51.3), length=2),
    ),
    claims=(
        Claim(("align", "dino"), "Align-DETR > DINO at the end, 1x"),
        Claim(("align-24", "dino-24"), "Align-DETR > DINO at the end, 2x"),
    ),
    picture="curves",
)
FIGURE_B = Experiment(
    "figB",
    "Predictions of Align-DETR with a score of at least 0.2, beside the targets",
    baseline="align",
    arms=(aligned({}),),
    claims=(),
    picture="boxes",
)
