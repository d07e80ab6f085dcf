import contextlib
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from aligndetr.data.annotations import CocoDict
from aligndetr.errors import DatasetError
from aligndetr.evaluate.evaluator import (
    METRICS,
    Results,
    class_names,
    collect,
    evaluate,
    merge,
    results_from_coco,
    score,
)
from aligndetr.types import Batch, Classes, Detections, Features, ImageBatch, Targets

CLASSES = Classes(("cat", "dog", "bird"), (3, 90, 17))
NOTHING: Results = np.empty((0, 7))
ORACLE = Path(__file__).parents[3] / "shared" / "data" / "coco_eval_oracle"


def random_ground_truth(*, images: int = 12, seed: int = 0) -> CocoDict:
    """Return objects of all sizes, some of them crowds; class 17 has none, image 100 neither."""
    random = np.random.default_rng(seed)
    annotations = []
    for number in range(1, 8 * images):
        width, height = np.exp(random.uniform(np.log(8), np.log(300), 2))
        left, top = random.uniform(0, 400, 2)
        annotations.append(
            {
                "id": number,
                "image_id": int(random.integers(101, 100 + images)),
                "category_id": int(random.choice([3, 90])),
                "bbox": [left, top, width, height],
                "area": width * height * random.uniform(0.5, 1),
                "iscrowd": int(random.random() < 0.1),
            }
        )
    return {
        "info": {},
        "images": [
            {"id": 100 + index, "file_name": f"{index}.jpg", "height": 600, "width": 800}
            for index in range(images)
        ],
        "annotations": annotations,
        "categories": [
            {"id": number, "name": name}
            for number, name in zip(CLASSES.ids, CLASSES.names, strict=True)
        ],
    }


def noisy_results(ground_truth: CocoDict, *, seed: int = 1) -> Results:
    """Return two jittered boxes for every object, some of another class, some of equal score."""
    random = np.random.default_rng(seed)
    rows = []
    for annotation in [*ground_truth["annotations"]] * 2:
        box = np.array(annotation["bbox"]) * random.normal(1, 0.05, 4)
        label = annotation["category_id"] if random.random() < 0.8 else 17
        rows.append((annotation["image_id"], *box, round(random.random(), 1), label))
    return np.array(rows)


def pycocotools_metrics(results: Results, ground_truth: CocoDict) -> list[float | None]:
    entries = [
        {
            "image_id": int(row[0]),
            "bbox": list(row[1:5]),
            "score": row[5],
            "category_id": int(row[6]),
        }
        for row in results.tolist()
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = json.loads(json.dumps(ground_truth))
        truth.createIndex()
        evaluator = COCOeval(truth, truth.loadRes(entries), "bbox")  # pyright: ignore[reportArgumentType]
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return [None if value < 0 else float(value) for value in evaluator.stats]


def detections_of(image_id: int, results: Results) -> Detections:
    """Return the float32 detections of one image, in the order of the results."""
    rows = torch.from_numpy(results[results[:, 0] == image_id]).float()
    labels = [CLASSES.ids.index(int(number)) for number in rows[:, 6].tolist()]
    return Detections(
        boxes=torch.cat((rows[:, 1:3], rows[:, 1:3] + rows[:, 3:5]), dim=1),
        scores=rows[:, 5],
        labels=torch.tensor(labels, dtype=torch.int64),
        classes=CLASSES,
        image_size=(600, 800),
    )


def batches(image_ids: list[int], batch_size: int) -> Iterator[Batch]:
    """Yield batches whose pixels carry the image's id, so that a fake detector can look it up."""
    for start in range(0, len(image_ids), batch_size):
        chunk = tuple(image_ids[start : start + batch_size])
        pixels = torch.tensor(chunk).view(-1, 1, 1, 1).expand(-1, 3, 2, 2).float()
        images = ImageBatch(pixels, None, torch.tensor([[600, 800]] * len(chunk)))
        empty = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), (0,) * len(chunk))
        yield Batch(images, empty, chunk)


def detector(results: Results):
    def detect(images: ImageBatch | Features) -> list[Detections]:
        assert isinstance(images, ImageBatch)
        assert not torch.is_grad_enabled()
        return [detections_of(int(number), results) for number in images.pixels[:, 0, 0, 0]]

    return detect


def test_nothing_found_scores_zero():
    metrics = score(NOTHING, random_ground_truth())
    assert [metrics[name] for name in METRICS] == [0] * 12
    assert metrics["per_class"] == {
        "cat": {"AP": 0, "AP50": 0, "AR100": 0},
        "bird": {"AP": None, "AP50": None, "AR100": None},  # ascending ids: 3, 17, 90
        "dog": {"AP": 0, "AP50": 0, "AR100": 0},
    }


def test_without_objects_every_metric_is_none():
    empty: CocoDict = {**random_ground_truth(), "annotations": []}
    for results in (NOTHING, noisy_results(random_ground_truth())):
        metrics = score(results, empty)
        assert [metrics[name] for name in METRICS] == [None] * 12
        assert metrics["per_class"]["cat"]["AP"] is None  # pyright: ignore[reportIndexIssue]


def test_without_images_every_metric_is_none():
    empty: CocoDict = {"info": {}, "images": [], "annotations": [], "categories": []}
    assert score(NOTHING, empty) == {**dict.fromkeys(METRICS), "per_class": {}}


def test_perfect_boxes_score_one_and_absent_sizes_none():
    ground_truth = random_ground_truth()
    for annotation in ground_truth["annotations"]:
        annotation["area"], annotation["iscrowd"] = 1e5, 0
    rows = [
        (annotation["image_id"], *annotation["bbox"], 0.5, annotation["category_id"])
        for annotation in ground_truth["annotations"]
    ]
    metrics = score(np.array(rows), ground_truth)
    assert metrics["AP"] == pytest.approx(1, abs=1e-12)
    assert (metrics["APs"], metrics["APm"], metrics["ARs"]) == (None, None, None)


@pytest.mark.parametrize("seed", range(4))
def test_all_twelve_metrics_are_those_of_pycocotools(seed: int):
    ground_truth = random_ground_truth(seed=seed)
    results = noisy_results(ground_truth, seed=seed + 50)
    metrics = score(results, ground_truth)
    found = [metrics[name] for name in METRICS]
    assert found == pytest.approx(pycocotools_metrics(results, ground_truth), abs=1e-9)
    assert 0.05 < found[0] < 0.95  # pyright: ignore[reportOperatorIssue]


def test_the_metrics_of_a_class_are_those_of_pycocotools_on_it_alone():
    ground_truth = random_ground_truth()
    results = noisy_results(ground_truth)
    per_class = score(results, ground_truth)["per_class"]
    for category in ground_truth["categories"]:
        alone: CocoDict = {
            **ground_truth,
            "categories": [category],
            "annotations": [
                annotation
                for annotation in ground_truth["annotations"]
                if annotation["category_id"] == category["id"]
            ],
        }
        expected = pycocotools_metrics(results[results[:, 6] == category["id"]], alone)
        found = per_class[category["name"]]  # pyright: ignore[reportIndexIssue]
        for name in ("AP", "AP50", "AR100"):
            assert found[name] == pytest.approx(expected[METRICS.index(name)], abs=1e-9)


@pytest.mark.skipif(not ORACLE.is_dir(), reason="needs ../shared/data/coco_eval_oracle")
def test_the_published_result_of_cocoapi_is_reached():
    ground_truth = json.loads((ORACLE / "instances_val2014_100.json").read_text())
    entries = json.loads((ORACLE / "instances_val2014_fakebbox100_results.json").read_text())
    results = results_from_coco(entries, "fake")
    metrics = score(results, ground_truth)
    found = [metrics[name] for name in METRICS]
    published = [0.505, 0.697, 0.573, 0.586, 0.519, 0.501, 0.387, 0.594, 0.595, 0.640, 0.566, 0.564]
    assert found == pytest.approx(published, abs=5.001e-4)
    assert found == pytest.approx(pycocotools_metrics(results, ground_truth), abs=1e-9)


def test_annotation_ids_do_not_matter():
    """COCO's own evaluation takes the id 0 for "unmatched" and drops equal ids."""
    ground_truth = random_ground_truth()
    results = noisy_results(ground_truth)
    zero: CocoDict = {
        **ground_truth,
        "annotations": [{**annotation, "id": 0} for annotation in ground_truth["annotations"]],
    }
    assert score(results, zero) == score(results, ground_truth)


def test_the_ground_truth_is_not_changed():
    ground_truth = random_ground_truth()
    before = json.dumps(ground_truth)
    score(noisy_results(ground_truth), ground_truth)
    assert json.dumps(ground_truth) == before


def test_classes_of_one_name_are_told_apart():
    ground_truth = random_ground_truth()
    ground_truth["categories"] = [{"id": number, "name": "cell"} for number in (3, 90)]
    per_class = score(noisy_results(ground_truth), ground_truth)["per_class"]
    assert list(per_class) == ["cell (3)", "cell (90)"]  # pyright: ignore[reportArgumentType]


def test_a_class_may_be_called_as_another_with_its_id():
    named = [(12, "cat"), (13, "cat"), (14, "cat (12)")]
    names = class_names([{"id": number, "name": name} for number, name in named])
    assert names == ["cat (12)", "cat (13)", "cat (12) (14)"]


def test_a_fractional_class_is_none_of_the_ground_truths():
    ground_truth = random_ground_truth()
    results = noisy_results(ground_truth)
    expected = score(results, ground_truth)
    other = results.copy()
    other[:, 6] += 0.5
    assert score(np.concatenate((results, other)), ground_truth) == expected


def test_batches_neither_by_size_nor_by_order_change_the_metrics():
    ground_truth = random_ground_truth()
    results = noisy_results(ground_truth)
    image_ids = [image["id"] for image in ground_truth["images"]]

    def metrics(image_ids: list[int], batch_size: int) -> dict[str, object]:
        found = evaluate(detector(results), batches(image_ids, batch_size), ground_truth)
        return {name: value for name, value in found.items() if name != "seconds"}

    expected = metrics(image_ids, 1)
    assert metrics(image_ids, 5) == expected
    assert metrics(image_ids[::-1], 3) == expected
    assert metrics([*image_ids, *image_ids[:4]], 4) == expected  # a sampler that wraps around


def test_evaluate_reports_images_seconds_and_progress():
    ground_truth = random_ground_truth()
    seen: list[int] = []
    image_ids = [image["id"] for image in ground_truth["images"]]
    found = evaluate(detector(NOTHING), batches(image_ids, 5), ground_truth, progress=seen.append)
    assert set(found) == {*METRICS, "per_class", "images", "seconds"}
    assert found["images"] == 12
    assert 0 < found["seconds"] < 60  # pyright: ignore[reportOperatorIssue]
    assert seen == [5, 5, 2]


def test_images_that_the_loader_leaves_out_count_as_nothing_found():
    ground_truth = random_ground_truth()
    results = noisy_results(ground_truth)
    found = evaluate(detector(results), batches([101, 102], 2), ground_truth)
    part = results[np.isin(results[:, 0], [101, 102])].astype(np.float32).astype(np.float64)
    assert found["AP"] == pytest.approx(score(part, ground_truth)["AP"], abs=1e-5)
    assert found["images"] == 12


def test_an_empty_loader_collects_nothing():
    assert collect(detector(NOTHING), []).shape == (0, 7)


def test_collected_boxes_are_exact_and_carry_the_ids_of_the_data():
    results = np.array([[7, 0.1, 0.2, 30.3, 40.4, 0.123456789, 90]])
    (row,) = collect(detector(results), batches([7], 1))
    expected = detections_of(7, results)
    left, top, right, bottom = expected.boxes[0].double().tolist()
    score_found = float(expected.scores[0])
    assert row.tolist() == [7, left, top, right - left, bottom - top, score_found, 90]


def test_what_is_not_a_number_is_no_detection():
    results = noisy_results(random_ground_truth())
    results[::2, 5] = np.nan
    results[1::4, 1] = np.inf
    found = collect(detector(results), batches([*range(100, 112)], 4))
    assert len(found) == len(results[3::4])


def test_merged_parts_count_every_image_once():
    results = noisy_results(random_ground_truth())
    parts = [results[results[:, 0] < 106], results[results[:, 0] >= 104]]
    merged = merge(parts)
    assert sorted(merged.tolist()) == sorted(results.tolist())
    assert merge([]).shape == (0, 7)


def test_results_of_unknown_images_are_an_error():
    with pytest.raises(DatasetError, match=r"found 1 others \(the first has id 5\); evaluate on"):
        score(np.array([[5, 0, 0, 1, 1, 0.5, 3]]), random_ground_truth())
    with pytest.raises(DatasetError, match=r"found 1 others \(the first has id 1\.5\); evaluate"):
        score(np.array([[1.5, 0, 0, 1, 1, 0.5, 3]]), random_ground_truth())


def test_coco_results_are_read():
    assert results_from_coco([], "a.json").shape == (0, 7)
    entry = {"image_id": 4, "category_id": 90, "bbox": [1, 2, 3, 4.5], "score": 0.5}
    assert results_from_coco([entry], "a.json").tolist() == [[4, 1, 2, 3, 4.5, 0.5, 90]]


@pytest.mark.parametrize(
    "change", [{"bbox": [1, 2, 3]}, {"bbox": None}, {"score": "high"}, {"image_id": None}]
)
def test_an_entry_that_is_no_coco_result_is_an_error(change: dict[str, object]):
    entry = {"image_id": 4, "category_id": 90, "bbox": [1, 2, 3, 4], "score": 0.5}
    with pytest.raises(DatasetError, match=r"a\.json: entry 1: expected a COCO detection"):
        results_from_coco([entry, {**entry, **change}], "a.json")
    with pytest.raises(DatasetError, match=r"a\.json: entry 0: .* found images; write one"):
        results_from_coco(["images"], "a.json")  # pyright: ignore[reportArgumentType]


def test_scoring_says_nothing(capfd, caplog):
    caplog.set_level(logging.INFO)
    ground_truth = random_ground_truth()
    score(noisy_results(ground_truth), ground_truth)
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
