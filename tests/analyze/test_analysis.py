import json
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from aligndetr.analyze.analysis import Analysis, Settings, Source, analyze
from aligndetr.data.annotations import CocoDict
from aligndetr.errors import DatasetError
from aligndetr.evaluate.evaluator import Results, score
from analysis_cases import (
    NOTHING,
    by_image,
    fake_detections,
    found,
    iou,
    needs_oracle,
    random_case,
    truth,
)

FULL = [0.0, 0.0, 10.0, 10.0]
HALF = [0.0, 0.0, 10.0, 5.0]
FEW = Settings(replicates=20)
TOPS = ["1", "2", "3", "4", "5"]


def analyzed(results: Results, ground_truth: CocoDict, **changes: int) -> Analysis:
    return analyze(results, ground_truth, settings=Settings(**{"replicates": 20, **changes}))


def leaves(value: object) -> list[object]:
    if isinstance(value, Mapping):
        return [leaf for entry in value.values() for leaf in leaves(entry)]
    if isinstance(value, list):
        return [leaf for entry in value for leaf in leaves(entry)]
    return [value]


@pytest.mark.parametrize(
    ("results", "ground_truth"),
    [
        (NOTHING, truth([], images=0, classes=0)),
        (NOTHING, truth([])),
        (NOTHING, truth([(1, 1, FULL)], classes=1)),
        (found((1, 1, 0.5, FULL)), truth([], crowds=[(1, 1, FULL)])),
        (found((1, 1, 0.5, FULL)), truth([])),
    ],
)
def test_where_there_is_nothing_to_measure_on_there_are_nulls(results, ground_truth):
    content = analyzed(results, ground_truth).to_json()
    json.dumps(content, allow_nan=False)
    assert content["pearson"] is content["spearman"] is None
    has_objects = any(not entry["iscrowd"] for entry in ground_truth["annotations"])
    expected = 0 if has_objects else None
    assert content["br_recall"] == dict.fromkeys(TOPS, expected)
    assert content["ap"] == content["oracle_ap"] == dict.fromkeys(("AP", "AP50", "AP75"), expected)
    assert content["worst"] == []


def test_the_analysis_of_one_misranked_box_by_hand():
    results = found((1, 1, 0.9, HALF), (1, 1, 0.4, FULL))
    content = analyze(
        results, truth([(1, 1, FULL)], images=1, classes=1), source=Source("t", "d", "s"),
        settings=FEW,
    ).to_json()  # fmt: skip
    assert {name: content[name] for name in ("title", "data", "split")} == {
        "title": "t", "data": "d", "split": "s",
    }  # fmt: skip
    assert content["br_recall"] == {"1": 0, "2": 1, "3": 1, "4": 1, "5": 1}
    assert (content["mean_iou_br"], content["mean_iou_hc"]) == (1, 0.5)
    assert content["matched_pairs"] == 1
    # At IoU .5 the confident box takes the object, above it is in the way.
    assert content["ap"] == pytest.approx({"AP": 0.55, "AP50": 1, "AP75": 0.5})
    assert content["oracle_ap"] == {"AP": 1, "AP50": 1, "AP75": 1}
    assert content["ap_cost"] == pytest.approx(0.45)
    assert content["intervals"]["ap_cost"] == pytest.approx([0.45, 0.45])  # pyright: ignore
    histogram = content["histogram"]
    assert histogram["best_regressed"] == [0] * 19 + [1]  # pyright: ignore
    assert histogram["highest_confidence"] == [0] * 10 + [1] + [0] * 9  # pyright: ignore
    (small, medium, large) = content["by_size"]  # pyright: ignore
    assert (small["objects"], medium["objects"], large["objects"]) == (1, 0, 0)  # pyright: ignore
    assert content["errors"]["duplicate"] == 0  # pyright: ignore
    assert content["error_counts"]["duplicate"] == 1  # pyright: ignore
    assert len(content["worst"]) == 1  # pyright: ignore


KEYS = {
    "title", "data", "split", "images", "objects", "crowd", "predictions", "unreached", "br_recall",
    "br_recall_within", "best_iou_share", "pearson", "spearman", "matched_pairs", "mean_iou_br",
    "mean_iou_hc", "intervals", "histogram", "density", "ap", "oracle_ap", "ap_cost", "by_class",
    "by_size", "errors", "error_counts", "curves", "confusion", "calibration", "worst",
}  # fmt: skip
INTERVALS = {
    "br_recall", "br_recall_within", "best_iou_share", "pearson", "spearman", "mean_iou_br",
    "mean_iou_hc", "AP", "AP50", "AP75", "oracle_AP", "ap_cost",
}  # fmt: skip
PART = {
    "name", "objects", "br_recall", "pearson", "mean_iou_br", "mean_iou_hc", "AP", "AP50", "AP75",
    "oracle_AP", "ap_cost", "intervals",
}  # fmt: skip


def test_the_content_has_the_documented_keys_and_shapes():
    content = analyzed(*random_case(1)).to_json()
    assert set(content) == KEYS
    assert set(content["intervals"]) == INTERVALS  # pyright: ignore
    assert list(content["br_recall_within"]) == ["0", "0.02", "0.05"]  # pyright: ignore
    parts = [*content["by_class"], *content["by_size"]]  # pyright: ignore
    assert all(set(part) >= PART for part in parts)  # pyright: ignore
    assert all(
        set(part["intervals"]) == {"br_recall", "pearson", "AP", "ap_cost"}  # pyright: ignore
        for part in parts
    )
    density, confusion = content["density"], content["confusion"]
    assert np.shape(density["counts"]) == (50, 50)  # pyright: ignore
    assert len(density["edges"]) == 51  # pyright: ignore
    assert np.sum(density["counts"]) == content["matched_pairs"]  # pyright: ignore
    assert confusion["classes"][-1] == "background"  # pyright: ignore
    assert np.shape(confusion["counts"]) == (len(confusion["classes"]),) * 2  # pyright: ignore
    for curve in content["curves"]:  # pyright: ignore
        assert set(curve) == {"name", "recall", "precision"}  # pyright: ignore
        assert set(curve["precision"]) == {"0.5", "0.75"}  # pyright: ignore


@settings(max_examples=30)
@given(st.integers(0, 100_000))
def test_a_file_holds_finite_numbers_and_comes_back_as_it_was(seed: int):
    content = analyzed(*random_case(seed)).to_json()
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert {type(leaf) for leaf in leaves(content)} <= {int, float, str, type(None)}
    assert sum(content["histogram"]["best_regressed"]) == content["objects"]  # pyright: ignore


@settings(max_examples=15)
@given(st.integers(0, 100_000))
def test_neither_order_of_images_nor_of_predictions_matters_where_scores_differ(seed: int):
    results, ground_truth = random_case(seed, ties=False)
    shuffled = np.random.default_rng(seed).permutation(results)
    turned: CocoDict = {**ground_truth, "images": ground_truth["images"][::-1]}
    first, second = (
        leaves(analyzed(*case).to_json()) for case in ((results, ground_truth), (shuffled, turned))
    )
    for a, b in zip(first, second, strict=True):
        assert a == (pytest.approx(b, abs=1e-12) if isinstance(b, float) else b)


def test_the_same_seed_gives_the_same_intervals_in_any_number_of_threads():
    case = random_case(33)
    first = analyzed(*case).to_json()
    torch.set_num_threads(2)
    try:
        assert analyzed(*case).to_json() == first
    finally:
        torch.set_num_threads(1)
    assert analyzed(*case, seed=1).to_json()["intervals"] != first["intervals"]


def test_progress_is_told():
    stages: list[str] = []
    analyze(*random_case(1), settings=FEW, progress=stages.append)
    assert stages == ["overlaps", "matching", "average precision", "errors", "classes and sizes"]


def test_predictions_of_other_images_are_an_error():
    with pytest.raises(DatasetError, match="expected images of the ground truth, found 1 others"):
        analyze(found((9, 1, 0.5, FULL)), truth([(1, 1, FULL)]))


@needs_oracle
def test_cocoapis_fake_detections():
    """The numbers were found by the loops of test_misalignment.py and by those below."""
    results, ground_truth = fake_detections()
    content = analyzed(results, ground_truth).to_json()
    assert {name: content[name] for name in ("images", "objects", "crowd", "predictions")} == {
        "images": 100, "objects": 830, "crowd": 9, "predictions": 734,
    }  # fmt: skip
    assert content["br_recall"] == pytest.approx(dict.fromkeys(TOPS, 829 / 830))
    assert content["mean_iou_br"] == pytest.approx(0.775477648200917, abs=1e-12)
    assert content["mean_iou_hc"] == pytest.approx(0.8626227958659883, abs=1e-12)
    assert content["unreached"] == 25
    assert content["matched_pairs"] == 734
    assert content["pearson"] == pytest.approx(0.02177155477042469, abs=1e-12)
    assert content["pearson"] == pytest.approx(correlation(results, ground_truth), abs=1e-9)
    metrics = score(results, ground_truth)
    for name in ("AP", "AP50", "AP75"):
        assert content["ap"][name] == pytest.approx(metrics[name], abs=1e-9)  # pyright: ignore
    for row, name in zip(content["by_size"], ("APs", "APm", "APl"), strict=True):  # pyright: ignore
        assert row["AP"] == pytest.approx(metrics[name], abs=1e-9)  # pyright: ignore


def correlation(results: Results, ground_truth: CocoDict) -> float:
    """Return Pearson's coefficient of the pairs of all images."""
    scores: list[float] = []
    overlaps: list[float] = []
    for objects, predictions in by_image(results, ground_truth):
        if not objects or not predictions:
            continue
        table = [[iou(box, place) for _, _, box in predictions] for _, place, _ in objects]
        for row, column in zip(*linear_sum_assignment(1 - np.array(table)), strict=True):
            if table[row][column] > 0:
                scores.append(predictions[column][0])
                overlaps.append(table[row][column])
    return float(np.corrcoef(scores, overlaps)[0, 1])
