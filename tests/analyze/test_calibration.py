import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aligndetr.analyze.average_precision import match_as_coco
from aligndetr.analyze.calibration import Calibration, calibrate
from aligndetr.analyze.overlaps import measure_overlaps
from aligndetr.analyze.record import gather
from analysis_cases import NOTHING, by_image, found, iou, random_case, truth

FULL = [0.0, 0.0, 10.0, 10.0]
HALF = [0.0, 0.0, 10.0, 5.0]
FAR = [50.0, 50.0, 10.0, 10.0]


def calibration_of(results, ground_truth) -> Calibration:
    record = gather(results, ground_truth)
    overlaps = measure_overlaps(record)
    return calibrate(record, overlaps, match_as_coco(record, overlaps, by="confidence", area="all"))


@pytest.mark.parametrize(
    ("results", "ground_truth"),
    [
        (NOTHING, truth([], images=0, classes=0)),
        (NOTHING, truth([(1, 1, FULL)])),
        (found((1, 1, 0.5, FULL)), truth([], crowds=[(1, 1, FULL)])),  # ignored
    ],
)
def test_without_predictions_there_is_nothing_to_calibrate(results, ground_truth):
    found_bins = calibration_of(results, ground_truth)
    assert found_bins.edges == pytest.approx([index / 10 for index in range(11)])
    assert found_bins.confidence == found_bins.precision == found_bins.mean_iou == (None,) * 10
    assert found_bins.counts == (0,) * 10
    assert found_bins.ece is None


def test_bins_by_hand():
    rows = (
        (1, 1, 0.95, FULL),  # a hit
        (1, 1, 0.91, HALF),  # a duplicate of IoU .5
        (1, 1, 0.25, FAR),
        (1, 1, 1.5, FAR),  # not a probability: the last bin
    )
    bins = calibration_of(found(*rows), truth([(1, 1, FULL)]))
    assert bins.counts == (0, 0, 1, 0, 0, 0, 0, 0, 0, 3)
    assert bins.confidence[9] == pytest.approx((0.95 + 0.91 + 1.5) / 3)
    assert bins.precision[9] == pytest.approx(1 / 3)
    assert bins.mean_iou[9] == pytest.approx(0.5)
    assert (bins.confidence[2], bins.precision[2], bins.mean_iou[2]) == (0.25, 0, 0)
    assert bins.ece == pytest.approx((3.36 - 1 + 0.25) / 4)


@settings(max_examples=100)
@given(st.integers(0, 100_000))
def test_counts_scores_and_ious_are_those_of_plain_loops(seed: int):
    results, ground_truth = random_case(seed, ties=False)
    kept = [entry for entry in ground_truth["annotations"] if not entry["iscrowd"]]
    ground_truth["annotations"] = kept
    bins = calibration_of(results, ground_truth)
    scores: list[list[float]] = [[] for _ in range(10)]
    overlaps: list[list[float]] = [[] for _ in range(10)]
    for objects, predictions in by_image(results, ground_truth):
        for score, label, box in predictions:
            own = [iou(box, place) for other, place, _ in objects if other == label]
            scores[int(score * 10)].append(score)
            overlaps[int(score * 10)].append(max(own, default=0.0))
    for index in range(10):
        assert bins.counts[index] == len(scores[index])
        if scores[index]:
            mean_score = sum(scores[index]) / len(scores[index])
            mean_iou = sum(overlaps[index]) / len(overlaps[index])
            assert bins.confidence[index] == pytest.approx(mean_score)
            assert bins.mean_iou[index] == pytest.approx(mean_iou)
