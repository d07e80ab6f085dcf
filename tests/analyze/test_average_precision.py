"""COCO's AP, with our evaluator and pycocotools as oracles."""

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from aligndetr.analyze.average_precision import (
    AP,
    AREAS,
    RECALLS,
    AreaName,
    RankBy,
    Ranking,
    match_as_coco,
    order_by_class,
    rank,
)
from aligndetr.analyze.overlaps import OWN, measure_overlaps
from aligndetr.analyze.record import gather
from aligndetr.data.annotations import CocoDict
from aligndetr.evaluate.evaluator import METRICS, Results, score
from analysis_cases import NOTHING, copied, found, random_case, truth

FULL = [0.0, 0.0, 10.0, 10.0]
FAR = [50.0, 50.0, 10.0, 10.0]


def ranking(
    results: Results, ground_truth: CocoDict, *, by: RankBy = "confidence", area: AreaName = "all"
) -> Ranking:
    record = gather(results, ground_truth)
    overlaps = measure_overlaps(record)
    matches = match_as_coco(record, overlaps, by=by, area=area)
    return rank(record, order_by_class(record, overlaps, by=by), matches, area)


def ap_of(
    results: Results, ground_truth: CocoDict, *, by: RankBy = "confidence", area: AreaName = "all"
) -> AP:
    ones = np.ones((1, len(ground_truth["images"])), np.int32)
    return AP(ranking(results, ground_truth, by=by, area=area).average_precisions(ones))


def numbers(results: Results, ground_truth: CocoDict, by: RankBy = "confidence") -> list[float]:
    """Return AP, AP50, AP75 and AP of small, medium and large objects."""
    every, *sized = (ap_of(results, ground_truth, by=by, area=area) for area in AREAS)
    found = every.overall, every.at_50, every.at_75, *(ap.overall for ap in sized)
    return [float(values[0]) for values in found]


def evaluated(results: Results, ground_truth: CocoDict) -> list[float]:
    metrics = score(results, ground_truth)
    return [float("nan") if (x := metrics[name]) is None else float(str(x)) for name in METRICS[:6]]


def by_true_iou(results: Results, ground_truth: CocoDict) -> Results:
    """Return the results with scores that go down by true IoU, then confidence, then image."""
    record = gather(results, ground_truth)
    predictions = record.predictions
    order = np.lexsort((-predictions.scores, -measure_overlaps(record).iou[:, OWN]))
    scores = np.empty(len(order))
    scores[order] = np.linspace(1, 0, len(order))
    images, labels = record.image_ids[predictions.images], predictions.labels + 1
    return np.column_stack((images, predictions.boxes, scores, labels)).astype(np.float64)


@pytest.mark.parametrize("by", ["confidence", "iou"])
@pytest.mark.parametrize(
    ("results", "ground_truth"),
    [
        (NOTHING, truth([], images=0, classes=0)),
        (NOTHING, truth([])),
        (found((1, 1, 0.5, FULL)), truth([])),
        (found((1, 1, 0.5, FULL)), truth([], crowds=[(1, 1, FULL)])),
    ],
)
def test_without_objects_there_is_no_ap(results, ground_truth, by):
    assert np.isnan(numbers(results, ground_truth, by)).all()


def test_nothing_found_is_an_ap_of_0():
    assert numbers(NOTHING, truth([(1, 1, FULL)]))[:3] == [0, 0, 0]


def test_a_curve_by_hand():
    """Hit, miss, hit of two objects: precision 1 up to recall .5, then 2/3."""
    rows = (1, 1, 0.9, FULL), (1, 1, 0.8, [20.0, 20.0, 5.0, 5.0]), (1, 1, 0.7, FAR)
    once = np.ones(2, np.int32)
    curves = ranking(found(*rows), truth([(1, 1, FULL), (1, 1, FAR)])).curves(once)
    assert curves.shape == (2, 10, 101)
    assert curves[0, 0, :51].tolist() == [1] * 51
    assert curves[0, 0, 51:] == pytest.approx(np.full(50, 2 / 3))
    assert np.isnan(curves[1]).all()  # no objects of class 2
    twice = ranking(found(*rows), truth([(1, 1, FULL), (1, 1, FAR)])).curves(once * 2)
    assert np.array_equal(curves, twice, equal_nan=True)


def test_ranking_by_true_iou_mends_a_misranked_box():
    rows = (1, 1, 0.9, FAR), (1, 1, 0.1, FULL)
    ground_truth = truth([(1, 1, FULL)])
    assert ap_of(found(*rows), ground_truth).overall[0] == pytest.approx(0.5)
    assert ap_of(found(*rows), ground_truth, by="iou").overall[0] == 1


def test_at_most_100_boxes_of_a_class_count_in_an_image():
    rows = [(1, 1, 1 - index / 1000, FAR) for index in range(100)]
    results, ground_truth = found(*rows, (1, 1, 0.1, FULL)), truth([(1, 1, FULL)])
    assert ap_of(results, ground_truth).overall[0] == 0
    assert ap_of(results, ground_truth, by="iou").overall[0] == 1  # the best 100 by IoU
    assert ap_of(results[1:], ground_truth).overall[0] == pytest.approx(0.01)


@settings(max_examples=200)
@given(st.integers(0, 100_000), st.booleans())
def test_ap_is_our_evaluators(seed: int, ties: bool):
    results, ground_truth = random_case(seed, ties=ties)
    expected = evaluated(results, ground_truth)
    assert numbers(results, ground_truth) == pytest.approx(expected, abs=1e-9, nan_ok=True)


@settings(max_examples=100)
@given(st.integers(0, 100_000), st.booleans())
def test_oracle_ap_is_our_evaluators_with_true_ious_for_scores(seed: int, ties: bool):
    results, ground_truth = random_case(seed, ties=ties)
    expected = evaluated(by_true_iou(results, ground_truth), ground_truth)
    found_numbers = numbers(results, ground_truth, "iou")
    assert found_numbers == pytest.approx(expected, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("seed", range(8))
def test_ap_is_that_of_pycocotools(seed: int):
    results, ground_truth = random_case(seed)
    entries = [
        {"image_id": int(row[0]), "bbox": row[1:5], "score": row[5], "category_id": int(row[6])}
        for row in results.tolist()
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = json.loads(json.dumps(ground_truth))
        coco.createIndex()
        detections = coco.loadRes(entries)  # pyright: ignore[reportArgumentType]
        evaluator = COCOeval(coco, detections, "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    expected = [np.nan if value < 0 else value for value in evaluator.stats[:6]]
    assert numbers(results, ground_truth) == pytest.approx(expected, abs=1e-9, nan_ok=True)


@settings(max_examples=60)
@given(st.integers(0, 100_000), st.sampled_from(["confidence", "iou"]), st.sampled_from([*AREAS]))
def test_weighing_images_is_copying_them(seed: int, by: RankBy, area: AreaName):
    results, ground_truth = random_case(seed, ties=False)
    images = len(ground_truth["images"])
    weights = np.random.default_rng(seed).integers(0, 3, (2, images)).astype(np.int32)
    values = AP(ranking(results, ground_truth, by=by, area=area).average_precisions(weights))
    for row, ap in zip(weights, values.overall, strict=True):
        expected = ap_of(*copied(results, ground_truth, row.tolist()), by=by, area=area)
        assert ap == pytest.approx(expected.overall[0], abs=1e-9, nan_ok=True)


def test_the_ap_of_a_class_is_that_of_the_class_alone():
    results, ground_truth = random_case(4)
    ap = ap_of(results, ground_truth)
    per_class = score(results, ground_truth)["per_class"]
    for label, category in enumerate(ground_truth["categories"]):
        expected = per_class[category["name"]]["AP"]  # pyright: ignore[reportIndexIssue]
        assert ap.of_class(label).overall[0] == pytest.approx(
            np.nan if expected is None else expected, abs=1e-9, nan_ok=True
        )


def test_threads_do_not_change_a_bit():
    results, ground_truth = random_case(33, ties=False)
    images = len(ground_truth["images"])
    weights = np.random.default_rng(0).integers(0, 3, (40, images)).astype(np.int32)
    alone = ranking(results, ground_truth).average_precisions(weights)
    torch.set_num_threads(2)
    try:
        together = ranking(results, ground_truth).average_precisions(weights)
    finally:
        torch.set_num_threads(1)
    assert np.array_equal(alone, together, equal_nan=True)


def test_recalls_are_cocos():
    assert RECALLS.tolist() == np.linspace(0.0, 1.0, 101).tolist()
