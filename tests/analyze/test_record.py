import numpy as np
import pytest

from aligndetr.analyze.record import gather
from aligndetr.data.annotations import CocoDict
from aligndetr.errors import DatasetError
from analysis_cases import NOTHING, found, truth

BOX = [0.0, 0.0, 2.0, 3.0]


def test_nothing_is_a_record_of_nothing():
    record = gather(NOTHING, truth([], images=0, classes=0))
    assert (len(record.image_ids), len(record.predictions), len(record.regions)) == (0, 0, 0)
    assert record.predictions.starts.tolist() == record.objects.starts.tolist() == [0]


def test_predictions_go_by_image_and_confidence_and_equal_ones_keep_their_order():
    rows = (2, 1, 0.5, [1.0, *BOX[1:]]), (1, 2, 0.2, BOX), (2, 2, 0.9, BOX), (2, 2, 0.5, BOX)
    predictions = gather(found(*rows), truth([])).predictions
    assert predictions.images.tolist() == [0, 1, 1, 1]
    assert predictions.scores.tolist() == [0.2, 0.9, 0.5, 0.5]
    assert predictions.labels.tolist() == [1, 1, 0, 1]
    assert predictions.boxes[2].tolist() == [1, 0, 2, 3]
    assert predictions.starts.tolist() == [0, 1, 4]
    assert predictions.ranks.tolist() == [0, 0, 1, 2]


def test_objects_go_by_image_and_crowd_regions_are_none():
    record = gather(NOTHING, truth([(2, 1, BOX), (1, 2, BOX)], crowds=[(1, 1, BOX)]))
    assert record.regions.images.tolist() == [0, 0, 1]
    assert record.regions.crowd.tolist() == [False, True, False]
    assert record.objects.labels.tolist() == [1, 0]
    assert record.objects.starts.tolist() == [0, 1, 2]
    assert record.objects.counts.tolist() == [1, 1]


def test_areas_and_crowds_that_a_file_leaves_out_are_the_box_and_no():
    ground_truth = truth([(1, 1, BOX)])
    del ground_truth["annotations"][0]["area"]  # pyright: ignore
    del ground_truth["annotations"][0]["iscrowd"]  # pyright: ignore
    regions = gather(NOTHING, ground_truth).regions
    assert (regions.areas.tolist(), regions.crowd.tolist()) == ([6], [False])


def test_ids_may_be_any_and_in_any_order():
    ground_truth: CocoDict = {
        **truth([(9, 7, BOX), (4, 3, BOX)], images=0),
        "images": [{"id": i, "file_name": f"{i}.png", "height": 9, "width": 9} for i in (9, 4)],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
    }
    record = gather(found((9, 3, 0.5, BOX)), ground_truth)
    assert record.image_ids.tolist() == [4, 9]
    assert record.file_names == ("4.png", "9.png")
    assert record.classes == ("cat", "dog")
    assert record.objects.labels.tolist() == [0, 1]
    assert (record.predictions.images.tolist(), record.predictions.labels.tolist()) == ([1], [0])


def test_classes_and_objects_that_the_data_does_not_list_are_left_out():
    ground_truth = truth([(1, 1, BOX), (1, 8, BOX), (7, 1, BOX)])
    record = gather(found((1, 9, 0.5, BOX), (1, 1, 0.4, BOX)), ground_truth)
    assert (len(record.objects), record.predictions.scores.tolist()) == (1, [0.4])


def test_predictions_of_unknown_images_are_an_error():
    with pytest.raises(DatasetError, match=r"found 1 others \(the first has id 5\)"):
        gather(found((5, 1, 0.5, BOX)), truth([]))


def test_the_results_are_not_changed():
    results = found((2, 1, 0.5, BOX), (1, 2, 0.2, BOX))
    before = results.copy()
    gather(results, truth([(1, 1, BOX)]))
    assert np.array_equal(results, before)
