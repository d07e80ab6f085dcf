"""The two numbers of misalignment that a training writes at each evaluation."""

import numpy as np

from aligndetr.analyze.bootstrap import Number, number
from aligndetr.analyze.misalignment import Measures
from aligndetr.analyze.overlaps import measure_overlaps
from aligndetr.analyze.pairs import match_pairs, pearson
from aligndetr.analyze.record import gather
from aligndetr.data.annotations import CocoDict
from aligndetr.evaluate.evaluator import Results


def alignment(results: Results, ground_truth: CocoDict) -> dict[str, Number]:
    """Return BR recall among the top N, and Pearson's coefficient of confidence and IoU.

    Keys: `br_recall_1`, `pearson`; both as in the whole analysis (`analysis.py`), which takes
    many times as long.

    Raises:
        DatasetError: Results are of images that the ground truth does not have.
    """
    record = gather(results, ground_truth)
    once = np.ones((1, len(record.image_ids)), np.int32)
    recalls = Measures.of(record, measure_overlaps(record)).sums().values(once)[:, 0]
    return {
        "br_recall_1": number(recalls),
        "pearson": number(pearson(match_pairs(record), once)),
    }
