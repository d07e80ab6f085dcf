"""TIDE's error types, by hand and against plain loops that follow error_types.py's definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aligndetr.analyze.average_precision import match_as_coco
from aligndetr.analyze.error_types import ErrorTypes, error_types
from aligndetr.analyze.overlaps import measure_overlaps
from aligndetr.analyze.record import gather
from aligndetr.data.annotations import CocoDict
from aligndetr.evaluate.evaluator import Results
from analysis_cases import NOTHING, by_image, found, iou, random_case, truth

MAIN = ("localisation", "classification", "duplicate", "background", "both", "missed")
SPECIAL = ("false_positive", "false_negative")

FULL = [0.0, 0.0, 10.0, 10.0]
POOR = [0.0, 0.0, 10.0, 3.0]  # IoU .3
FAR = [50.0, 50.0, 10.0, 10.0]


def errors_of(results: Results, ground_truth: CocoDict) -> ErrorTypes:
    record = gather(results, ground_truth)
    overlaps = measure_overlaps(record)
    matches = match_as_coco(record, overlaps, by="confidence", area="all")
    return error_types(record, overlaps, matches)


def ap50(entries: list[tuple[float, int, bool]], objects: dict[int, int]) -> float | None:
    """Return AP50 of (score, class, hit), sorted as they go, and the number of objects by class."""
    if not objects:
        return None
    values = []
    for label, count in objects.items():
        own = sorted((entry for entry in entries if entry[1] == label), key=lambda e: -e[0])
        precision, recall, hits = [], [], 0
        for seen, (_, _, hit) in enumerate(own, start=1):
            hits += hit
            precision.append(hits / seen)
            recall.append(hits / count if count else 0.0)
        values.append(
            sum(
                max([p for p, r in zip(precision, recall, strict=True) if r >= x], default=0.0)
                if count
                else 0.0
                for x in np.linspace(0, 1, 101)
            )
            / 101
        )
    return sum(values) / len(values)


def kind_of(label: int, box: list[float], objects: list[tuple[int, list[float], float]]) -> str:
    own = max([iou(box, place) for other, place, _ in objects if other == label], default=0.0)
    other = max([iou(box, place) for other, place, _ in objects if other != label], default=0.0)
    if 0.1 <= own < 0.5:
        return "localisation"
    if other >= 0.5:
        return "classification"
    if own >= 0.5:
        return "duplicate"
    return "background" if max(own, other) < 0.1 else "both"


Thing = tuple[int, int]
"""Image and place of an object in it."""

Entry = tuple[float, int, str, Thing | None]
"""A prediction: score, class, what it is, the object that an error points at."""


def judged(results: Results, ground_truth: CocoDict) -> tuple[list[Entry], set[Thing]]:
    """Return the predictions, judged, and the objects that have a hit."""
    entries: list[Entry] = []
    hit: set[Thing] = set()
    for image, (objects, predictions) in enumerate(by_image(results, ground_truth)):
        for value, label, box in predictions:
            overlaps = [(iou(box, place), thing) for thing, (_, place, _) in enumerate(objects)]
            own = [pair for pair in overlaps if objects[pair[1]][0] == label]
            free = [pair for pair in own if pair[0] >= 0.5 and (image, pair[1]) not in hit]
            if free:
                hit.add((image, max(free)[1]))
                entries.append((value, label, "hit", None))
                continue
            kind = kind_of(label, box, objects)
            near = {"localisation": own, "classification": set(overlaps) - set(own)}.get(kind)
            entries.append((value, label, kind, (image, max(near)[1]) if near else None))
    return entries, hit


def brute_force(results: Results, ground_truth: CocoDict) -> ErrorTypes:
    """Return the errors of data without crowd regions, whose boxes do not tie."""
    entries, hit = judged(results, ground_truth)
    every = {
        (image, place): entry[0]
        for image, (objects, _) in enumerate(by_image(results, ground_truth))
        for place, entry in enumerate(objects)
    }
    missed = set(every) - hit - {entry[3] for entry in entries if entry[3]}

    def value_of(mended: str, gone: set[Thing]) -> float | None:
        rows, served = [], set(hit)
        for value, label, kind, target in sorted(entries, key=lambda e: -e[0]):
            if kind == mended and target is not None and target not in served:
                served.add(target)
                rows.append((value, every[target], True))
            elif kind != mended and (mended != "false_positive" or kind == "hit"):
                rows.append((value, label, kind == "hit"))
        objects = dict.fromkeys(sorted(set(every.values())), 0)
        for thing, label in every.items():
            objects[label] += thing not in gone
        return ap50(rows, objects)

    before = value_of("none", set())
    after = {kind: value_of(kind, set()) for kind in (*MAIN[:-1], "false_positive")}
    after["missed"] = value_of("none", missed)
    after["false_negative"] = value_of("none", set(every) - hit)
    return ErrorTypes(
        {
            kind: None if value is None or before is None else max(value - before, 0.0)
            for kind, value in after.items()
        },
        {
            **{kind: sum(entry[2] == kind for entry in entries) for kind in MAIN[:-1]},
            "missed": len(missed),
        },
    )


def test_without_objects_no_error_costs_anything():
    for results in (NOTHING, found((1, 1, 0.5, FULL))):
        errors = errors_of(results, truth([]))
        assert errors.gains == dict.fromkeys((*MAIN, *SPECIAL))
        assert errors.counts == {**dict.fromkeys(MAIN, 0), "background": len(results)}


def test_an_object_without_predictions_is_missed():
    errors = errors_of(NOTHING, truth([(1, 1, FULL)]))
    assert errors.counts == {**dict.fromkeys(MAIN, 0), "missed": 1}
    assert errors.gains == dict.fromkeys((*MAIN, *SPECIAL), 0)  # no objects, no AP


@pytest.mark.parametrize(
    ("row", "kind", "gain", "missed"),
    [
        ((1, 1, 0.5, POOR), "localisation", 1.0, 0),  # the object is no longer missed
        ((1, 2, 0.5, FULL), "classification", 1.0, 0),
        ((1, 2, 0.5, POOR), "both", 0.0, 1),
        ((1, 1, 0.5, FAR), "background", 0.0, 1),
    ],
)
def test_one_error_of_each_type(row, kind: str, gain: float, missed: int):
    errors = errors_of(found(row), truth([(1, 1, FULL)]))
    assert errors.counts == {**dict.fromkeys(MAIN, 0), kind: 1, "missed": missed}
    assert errors.gains[kind] == gain


def test_a_second_box_on_an_object_is_a_duplicate():
    rows = (1, 1, 0.9, FULL), (1, 1, 0.8, FULL), (1, 1, 0.7, FAR)
    errors = errors_of(found(*rows), truth([(1, 1, FULL), (1, 1, FAR)]))
    assert errors.counts == {**dict.fromkeys(MAIN, 0), "duplicate": 1}
    assert errors.gains["duplicate"] == pytest.approx((1 - 2 / 3) * 50 / 101)
    assert errors.gains["false_positive"] == errors.gains["duplicate"]
    assert errors.gains["missed"] == 0


def test_only_the_most_confident_error_of_an_object_is_mended():
    rows = (1, 1, 0.9, POOR), (1, 1, 0.8, POOR)
    errors = errors_of(found(*rows), truth([(1, 1, FULL)]))
    assert errors.counts["localisation"] == 2
    assert errors.gains["localisation"] == 1


def test_an_error_on_an_object_that_has_its_hit_goes():
    rows = (1, 1, 0.9, POOR), (1, 1, 0.8, FULL)
    errors = errors_of(found(*rows), truth([(1, 1, FULL)]))
    assert errors.gains["localisation"] == pytest.approx(0.5)


def test_missed_objects_cease_to_count():
    errors = errors_of(found((1, 1, 0.9, FULL)), truth([(1, 1, FULL), (1, 1, FAR)]))
    assert errors.counts == {**dict.fromkeys(MAIN, 0), "missed": 1}
    assert errors.gains["missed"] == errors.gains["false_negative"] == pytest.approx(50 / 101)


def test_what_is_in_a_crowd_region_is_no_error():
    errors = errors_of(found((1, 1, 0.9, FULL)), truth([(2, 1, FULL)], crowds=[(1, 1, FULL)]))
    assert errors.counts == {**dict.fromkeys(MAIN, 0), "missed": 1}


@settings(max_examples=200)
@given(st.integers(0, 100_000))
def test_errors_are_those_of_plain_loops(seed: int):
    results, ground_truth = random_case(seed, ties=False)
    kept = [entry for entry in ground_truth["annotations"] if not entry["iscrowd"]]
    ground_truth["annotations"] = kept
    ours, expected = errors_of(results, ground_truth), brute_force(results, ground_truth)
    assert ours.counts == expected.counts
    for kind in (*MAIN, *SPECIAL):
        assert ours.gains[kind] == pytest.approx(expected.gains[kind], abs=1e-9), kind
