import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aligndetr.analyze.confusion import confusion_matrix
from aligndetr.analyze.record import gather
from analysis_cases import NOTHING, by_image, found, iou, random_case, truth

FULL = [0.0, 0.0, 10.0, 10.0]
MOST = [0.0, 0.0, 10.0, 9.0]
FAR = [50.0, 50.0, 10.0, 10.0]


def counts_of(results, ground_truth, **options: float) -> list[list[int]]:
    return confusion_matrix(gather(results, ground_truth), **options).counts.tolist()


def brute_force(results, ground_truth, threshold: float, least: float) -> list[list[int]]:
    """Return the counts of data without crowd regions."""
    size = len(ground_truth["categories"]) + 1
    counts = [[0] * size for _ in range(size)]
    for objects, predictions in by_image(results, ground_truth):
        predictions = [entry for entry in predictions if entry[0] >= threshold]
        while True:
            pairs = [
                (iou(box, place), truth_label == label, -index, -thing)
                for index, (_, label, box) in enumerate(predictions)
                if predictions[index][1] > 0
                for thing, (truth_label, place, _) in enumerate(objects)
                if truth_label > 0 and iou(box, place) >= least
            ]
            if not pairs:
                break
            _, _, index, thing = max(pairs)
            counts[objects[-thing][0] - 1][predictions[-index][1] - 1] += 1
            objects[-thing] = (0, *objects[-thing][1:])  # taken
            predictions[-index] = (0.0, 0, predictions[-index][2])
        for label, _, _ in objects:
            counts[label - 1][-1] += label > 0
        for _, label, _ in predictions:
            counts[-1][label - 1] += label > 0
    return counts


def test_nothing_is_confused_with_nothing():
    assert counts_of(NOTHING, truth([], images=0, classes=0)) == [[0]]
    assert counts_of(NOTHING, truth([])) == [[0] * 3] * 3


def test_a_matrix_by_hand():
    rows = (
        (1, 1, 0.9, FULL),  # the cat
        (1, 1, 0.8, FAR),  # the dog, as a cat
        (1, 2, 0.7, [30.0, 30.0, 5.0, 5.0]),  # nothing, as a dog
        (1, 2, 0.2, [70.0, 70.0, 5.0, 5.0]),  # not sure enough for the second dog
    )
    ground_truth = truth([(1, 1, FULL), (1, 2, FAR), (1, 2, [70.0, 70.0, 5.0, 5.0])])
    assert counts_of(found(*rows), ground_truth) == [[1, 0, 0], [1, 0, 1], [0, 1, 0]]
    assert counts_of(found(*rows), ground_truth, threshold=0.2)[1] == [1, 1, 0]


def test_the_best_overlap_goes_first_and_of_equal_ones_that_of_the_right_class():
    ground_truth = truth([(1, 1, FULL)])
    better_but_less_sure = found((1, 2, 0.9, MOST), (1, 1, 0.5, FULL))
    assert counts_of(better_but_less_sure, ground_truth) == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]
    same_box = found((1, 2, 0.9, FULL), (1, 1, 0.5, FULL))
    assert counts_of(same_box, ground_truth) == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_the_least_iou_can_be_chosen():
    results, ground_truth = found((1, 1, 0.9, MOST)), truth([(1, 1, FULL)])
    assert counts_of(results, ground_truth, iou=0.9) == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert counts_of(results, ground_truth, iou=0.95) == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize(("label", "expected"), [(1, 0), (2, 1)])
def test_boxes_in_a_crowd_region_of_their_class_are_left_out(label: int, expected: int):
    results = found((1, label, 0.9, FULL))
    counts = counts_of(results, truth([], crowds=[(1, 1, [0.0, 0.0, 99.0, 99.0])]))
    assert np.sum(counts) == expected


@settings(max_examples=200)
@given(st.integers(0, 100_000), st.booleans())
def test_the_matrix_is_that_of_plain_loops(seed: int, ties: bool):
    results, ground_truth = random_case(seed, ties=ties)
    kept = [entry for entry in ground_truth["annotations"] if not entry["iscrowd"]]
    ground_truth["annotations"] = kept
    found_counts = counts_of(results, ground_truth, threshold=0.4, iou=0.3)
    assert found_counts == brute_force(results, ground_truth, 0.4, 0.3)
