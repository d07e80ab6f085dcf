import numpy as np
import pytest

from aligndetr.analyze.analysis import Analysis, Settings, analyze
from aligndetr.analyze.comparison import differences
from aligndetr.evaluate.evaluator import Results
from analysis_cases import NOTHING, found, truth

BOX = [0.0, 0.0, 10.0, 10.0]
TRUTH = truth([(image, 1, BOX) for image in (1, 2, 3)], images=3, classes=1)


def analyzed(results: Results, replicates: int = 50) -> Analysis:
    return analyze(results, TRUTH, settings=Settings(replicates=replicates))


def test_a_detector_does_not_differ_from_itself():
    one = analyzed(found(*((image, 1, 0.5, BOX) for image in (1, 2, 3))))
    assert differences(one, one)["AP"] == (0.0, 0.0)
    assert differences(one, one)["br_recall"] == (0.0, 0.0)


def test_what_does_not_exist_has_no_interval():
    nothing = analyzed(NOTHING)
    assert differences(nothing, nothing)["pearson"] is None


def test_a_replicate_has_the_same_images_in_both():
    """One finds all, the other all but those of image 1: they differ by how often 1 is drawn."""
    every = analyzed(found(*((image, 1, 0.5, BOX) for image in (1, 2, 3))))
    some = analyzed(found(*((image, 1, 0.5, BOX) for image in (2, 3))))
    share = every.replicates["mean_iou_br"] - some.replicates["mean_iou_br"]
    assert set(np.round(share * 3, 9)) <= {0.0, 1.0, 2.0, 3.0}
    low, high = np.quantile(share, [0.025, 0.975])
    assert differences(every, some)["mean_iou_br"] == pytest.approx((low, high))


def test_analyses_of_other_settings_are_refused():
    with pytest.raises(ValueError, match="expected analyses of the same images with equal"):
        differences(analyzed(NOTHING), analyzed(NOTHING, replicates=3))
