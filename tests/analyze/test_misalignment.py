"""The definitions at the top of misalignment.py, against plain loops that follow them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aligndetr.analyze.bootstrap import number
from aligndetr.analyze.misalignment import TOLERANCES, Measures, Misalignment
from aligndetr.analyze.overlaps import measure_overlaps
from aligndetr.analyze.record import Bools, Record, gather
from aligndetr.data.annotations import CocoDict
from aligndetr.evaluate.evaluator import Results
from analysis_cases import (
    NOTHING,
    by_image,
    copied,
    fake_detections,
    found,
    iou,
    needs_oracle,
    random_case,
    truth,
)

FULL = [0.0, 0.0, 10.0, 10.0]
HALF = [0.0, 0.0, 10.0, 5.0]
MOST = [0.0, 0.0, 10.0, 9.0]
FAR = [50.0, 50.0, 10.0, 10.0]
UNKNOWN = Misalignment((None,) * 5, ((None,) * 5,) * 3, (None,) * 5, None, None)


def once(record: Record) -> np.ndarray:
    return np.ones((1, len(record.image_ids)), np.int32)


def measured(
    results: Results, ground_truth: CocoDict, part: Bools | None = None
) -> Misalignment[float | None]:
    record = gather(results, ground_truth)
    measures = Measures.of(record, measure_overlaps(record))
    return measures.sums(part).summary(once(record), number)


def mean(values: list[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def brute_force(results: Results, ground_truth: CocoDict) -> Misalignment[float | None]:
    recalled: list[list[bool]] = [[] for _ in range(5)]
    within: list[list[list[bool]]] = [[[] for _ in range(5)] for _ in TOLERANCES]
    shares: list[list[float]] = [[] for _ in range(5)]
    regressed: list[float] = []
    confident: list[float] = []
    for objects, predictions in by_image(results, ground_truth):
        for _, _, box in predictions[: len(objects)]:
            confident.append(max([iou(box, place) for _, place, _ in objects], default=0.0))
        for _, place, _ in objects:
            overlaps = [iou(box, place) for _, _, box in predictions]
            best, rank = 0.0, math.inf
            for index, overlap in enumerate(overlaps):
                if overlap > best or rank == math.inf:
                    best, rank = overlap, index
            regressed.append(best)
            for m in range(5):
                top = (m + 1) * len(objects)
                recalled[m].append(rank < top)
                for row, tolerance in zip(within, TOLERANCES, strict=True):
                    row[m].append(any(o >= best - tolerance for o in overlaps[:top]))
                if best > 0:
                    shares[m].append(max(overlaps[:top]) / best)
    return Misalignment(
        tuple(mean([float(x) for x in row]) for row in recalled),
        tuple(tuple(mean([float(x) for x in cell]) for cell in row) for row in within),
        tuple(mean(row) for row in shares),
        mean(regressed),
        mean(confident),
    )


def flat(found: Misalignment[float | None]) -> list[float | None]:
    rows = [found.br_recall, *found.br_recall_within, found.best_iou_share]
    return [*(x for row in rows for x in row), found.mean_iou_br, found.mean_iou_hc]


def same(a: Misalignment[float | None], b: Misalignment[float | None]) -> bool:
    return all(
        x == y if x is None or y is None else math.isclose(x, y, abs_tol=1e-12)
        for x, y in zip(flat(a), flat(b), strict=True)
    )


@pytest.mark.parametrize(
    ("results", "ground_truth"),
    [
        (NOTHING, truth([], images=0, classes=0)),  # no images
        (NOTHING, truth([])),  # nothing at all
        (found((1, 1, 0.5, FULL)), truth([])),  # no objects
        (found((1, 1, 0.5, FULL)), truth([], crowds=[(1, 1, FULL)])),  # only a crowd
    ],
)
def test_without_objects_there_is_nothing_to_measure(results: Results, ground_truth: CocoDict):
    assert measured(results, ground_truth) == UNKNOWN


def test_objects_of_images_without_predictions_are_not_recalled_and_count_as_iou_0():
    there, nowhere = (1, 1, FULL), (2, 1, FULL)
    found_in_one = found((1, 1, 0.5, FULL))
    result = measured(found_in_one, truth([there, nowhere]))
    assert result.br_recall == (0.5,) * 5
    assert result.br_recall_within == ((0.5,) * 5,) * 3
    assert result.best_iou_share == (1.0,) * 5
    assert (result.mean_iou_br, result.mean_iou_hc) == (0.5, 1.0)
    assert measured(NOTHING, truth([nowhere])).br_recall == (0.0,) * 5
    assert measured(NOTHING, truth([nowhere])).mean_iou_hc is None


def test_the_best_box_of_one_object_ranked_second():
    result = measured(found((1, 2, 0.9, HALF), (1, 1, 0.5, FULL)), truth([(1, 1, FULL)]))
    assert result.br_recall == (0, 1, 1, 1, 1)
    assert result.br_recall_within == ((0, 1, 1, 1, 1),) * 3
    assert result.best_iou_share == (0.5, 1, 1, 1, 1)
    assert (result.mean_iou_br, result.mean_iou_hc) == (1, 0.5)


def test_nearly_the_best_box_is_recalled_within_a_tolerance():
    boxes = [[0.0, 0.0, 10.0, height] for height in (9.6, 9.7, 10.0)]
    rows = [(1, 1, 0.9 - 0.1 * rank, box) for rank, box in enumerate(boxes)]
    result = measured(found(*rows), truth([(1, 1, FULL)]))
    assert result.br_recall == (0, 0, 1, 1, 1)
    assert result.br_recall_within[1] == (0, 0, 1, 1, 1)  # .96 and .97: 0.02 is not enough
    assert result.br_recall_within[2] == (1, 1, 1, 1, 1)
    assert result.best_iou_share == pytest.approx((0.96, 0.97, 1, 1, 1))


def test_of_equal_boxes_the_more_confident_is_the_best():
    rows = (1, 1, 0.9, FAR), (1, 1, 0.5, FULL), (1, 2, 0.7, FULL)
    assert measured(found(*rows), truth([(1, 1, FULL)])).br_recall == (0, 1, 1, 1, 1)


def test_of_equal_confidences_the_earlier_is_first():
    rows = (1, 1, 0.5, HALF), (1, 1, 0.5, FULL)
    assert measured(found(*rows), truth([(1, 1, FULL)])).br_recall[0] == 0
    assert measured(found(*rows[::-1]), truth([(1, 1, FULL)])).br_recall[0] == 1


def test_an_object_that_nothing_overlaps_has_the_most_confident_prediction():
    result = measured(found((1, 1, 0.9, FAR), (1, 1, 0.5, FAR)), truth([(1, 1, FULL)]))
    assert result.br_recall == (1,) * 5
    assert result.best_iou_share == (None,) * 5
    assert (result.mean_iou_br, result.mean_iou_hc) == (0, 0)


def test_fewer_predictions_than_objects_are_all_among_the_top():
    objects = [(1, 1, FULL), (1, 2, HALF), (1, 1, FAR)]
    result = measured(found((1, 1, 0.1, FULL)), truth(objects))
    assert result.br_recall == (1,) * 5
    assert result.mean_iou_br == pytest.approx((1 + 0.5 + 0) / 3)
    assert result.mean_iou_hc == 1


def test_crowd_regions_do_not_count_among_the_objects_of_an_image():
    rows = (1, 1, 0.9, HALF), (1, 1, 0.5, FULL)
    with_crowd = truth([(1, 1, FULL)], crowds=[(1, 1, HALF)] * 3)
    assert measured(found(*rows), with_crowd).br_recall[0] == 0


def test_one_prediction_may_be_the_best_of_two_objects():
    rows = (1, 1, 0.9, FULL), (1, 1, 0.5, FAR)
    result = measured(found(*rows), truth([(1, 1, FULL), (1, 1, MOST)]))
    assert result.br_recall[0] == 1
    assert result.mean_iou_br == pytest.approx(0.95)
    assert result.mean_iou_hc == pytest.approx(0.5)


def test_a_part_has_its_own_objects_but_the_ranks_of_the_image():
    rows = (1, 2, 0.9, FULL), (1, 1, 0.8, HALF), (1, 1, 0.7, FAR)
    ground_truth = truth([(1, 1, FULL), (1, 2, FAR)])
    first = measured(found(*rows), ground_truth, np.array([True, False]))
    second = measured(found(*rows), ground_truth, np.array([False, True]))
    assert (first.br_recall[0], second.br_recall[0], second.br_recall[1]) == (1, 0, 1)
    assert first.mean_iou_hc == pytest.approx(0.75)  # both confident boxes overlap the first object
    assert second.mean_iou_hc is None
    assert measured(found(*rows), ground_truth, np.array([False, False])) == UNKNOWN


@settings(max_examples=200)
@given(st.integers(0, 100_000), st.booleans())
def test_the_numbers_are_those_of_plain_loops(seed: int, ties: bool):
    results, ground_truth = random_case(seed, ties=ties)
    result = measured(results, ground_truth)
    assert same(result, brute_force(results, ground_truth))
    assert result.br_recall == result.br_recall_within[0]


@settings(max_examples=50)
@given(st.integers(0, 100_000))
def test_neither_order_of_images_nor_of_predictions_matters_where_scores_differ(seed: int):
    results, ground_truth = random_case(seed, ties=False)
    random = np.random.default_rng(seed)
    shuffled: CocoDict = {
        **ground_truth,
        "images": ground_truth["images"][::-1],
        "annotations": ground_truth["annotations"][::-1],
    }
    assert same(measured(random.permutation(results), shuffled), measured(results, ground_truth))


@settings(max_examples=50)
@given(st.integers(0, 100_000))
def test_weighing_images_is_copying_them(seed: int):
    results, ground_truth = random_case(seed)
    record = gather(results, ground_truth)
    weights = np.random.default_rng(seed).integers(0, 3, (1, len(record.image_ids)))
    sums = Measures.of(record, measure_overlaps(record)).sums()
    copies, copied_truth = copied(results, ground_truth, weights[0].tolist())
    weighed = sums.summary(weights.astype(np.int32), number)
    assert same(weighed, brute_force(copies, copied_truth))


@needs_oracle
def test_cocoapis_fake_detections():
    results, ground_truth = fake_detections()
    by_loops = brute_force(results, ground_truth)
    assert by_loops.br_recall == (829 / 830,) * 5
    assert by_loops.mean_iou_br == pytest.approx(0.775477648200917, abs=1e-12)
    assert by_loops.mean_iou_hc == pytest.approx(0.8626227958659883, abs=1e-12)
    assert same(measured(results, ground_truth), by_loops)
