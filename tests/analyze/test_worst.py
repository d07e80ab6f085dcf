import pytest

from aligndetr.analyze.overlaps import measure_overlaps
from aligndetr.analyze.record import gather
from aligndetr.analyze.worst import LEAST_GAP, Found, Misaligned, worst
from analysis_cases import NOTHING, found, random_case, truth

FULL = [0.0, 0.0, 10.0, 10.0]
HALF = [0.0, 0.0, 10.0, 5.0]
MOST = [0.0, 0.0, 10.0, 9.5]
EDGE = [9.5, 0.0, 10.0, 10.0]
FAR = [50.0, 50.0, 10.0, 10.0]


def worst_of(results, ground_truth) -> tuple[Misaligned, ...]:
    record = gather(results, ground_truth)
    return worst(record, measure_overlaps(record))


@pytest.mark.parametrize(
    ("results", "ground_truth"),
    [
        (NOTHING, truth([], images=0, classes=0)),
        (NOTHING, truth([(1, 1, FULL)])),
        (found((1, 1, 0.5, FULL)), truth([])),
        (found((1, 1, 0.5, FULL)), truth([(1, 1, FULL)])),  # aligned
        (found((1, 1, 0.9, MOST), (1, 1, 0.5, FULL)), truth([(1, 1, FULL)])),  # nearly as good
        (found((1, 1, 0.9, FAR), (1, 1, 0.5, FULL)), truth([(1, 1, FULL)])),  # not its box
        (found((1, 1, 0.9, EDGE), (1, 1, 0.5, FULL)), truth([(1, 1, FULL)])),  # it only touches
    ],
)
def test_where_nothing_is_misaligned_nothing_is_shown(results, ground_truth):
    assert worst_of(results, ground_truth) == ()


def test_a_confident_bad_box_is_shown_beside_the_best_one():
    rows = (2, 2, 0.9, HALF), (2, 1, 0.8, FAR), (2, 1, 0.5, FULL)
    (shown,) = worst_of(found(*rows), truth([(2, 1, FULL)]))
    assert shown == Misaligned(
        image_id=2,
        file_name="2.jpg",
        box=(0, 0, 10, 10),
        class_name="a",
        confident=Found((0, 0, 10, 5), 0.9, 0.5, "b", 1),
        best=Found((0, 0, 10, 10), 0.5, 1.0, "a", 3),
    )


def test_the_worst_come_first_and_at_most_two_an_image():
    places = [[20.0 * index, 0.0, 10.0, 10.0] for index in range(3)]
    half = [[20.0 * index, 0.0, 10.0, 5.0] for index in range(3)]
    confident = [
        (image, 1, 0.9 - image / 10 - i / 100, half[i]) for image in (1, 2) for i in range(3)
    ]
    good = [(image, 1, 0.1, place) for image in (1, 2) for place in places]
    objects = [(image, 1, place) for image in (1, 2) for place in places]
    shown = worst_of(found(*confident, *good), truth(objects))
    assert [entry.confident.score for entry in shown] == pytest.approx([0.8, 0.79, 0.7, 0.69])
    assert [entry.image_id for entry in shown] == [1, 1, 2, 2]


def test_at_most_24_are_shown():
    images = range(1, 31)
    rows = [(image, 1, 0.9, HALF) for image in images] + [(image, 1, 0.1, FULL) for image in images]
    shown = worst_of(found(*rows), truth([(image, 1, FULL) for image in images], images=30))
    assert [entry.image_id for entry in shown] == list(range(1, 25))


@pytest.mark.parametrize("seed", range(30))
def test_what_is_shown_keeps_its_promises(seed: int):
    results, ground_truth = random_case(seed, ties=False)
    counts = {image["id"]: 0 for image in ground_truth["images"]}
    for annotation in ground_truth["annotations"]:
        counts[annotation["image_id"]] += not annotation["iscrowd"]
    shown = worst_of(results, ground_truth)
    losses = [(entry.best.iou - entry.confident.iou) * entry.confident.score for entry in shown]
    assert losses == sorted(losses, reverse=True)
    for entry in shown:
        assert entry.confident.rank <= counts[entry.image_id] < entry.best.rank
        assert entry.best.iou - entry.confident.iou >= LEAST_GAP
        assert entry.confident.iou > 0
