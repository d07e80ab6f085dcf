import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from aligndetr.data.annotations import (
    Annotations,
    ImageTable,
    Names,
    ObjectTable,
    check_same_classes,
)
from aligndetr.errors import DatasetError
from aligndetr.types import Classes


def annotations_of(
    bboxes: list[list[float]],
    *,
    images: list[int] | None = None,
    crowd: list[bool] | None = None,
    num_images: int = 1,
    classes: Classes | None = None,
) -> Annotations:
    boxes = np.array(bboxes, dtype=np.float64).reshape(-1, 4)
    count = len(boxes)
    return Annotations.of(
        Path("set.json"),
        "COCO",
        folders=[Path("nowhere"), Path("images")],
        classes=classes or Classes(("cat",), (1,)),
        images=ImageTable(
            np.arange(10, 10 + num_images),
            np.tile(np.array([[30, 40]]), (num_images, 1)),
            Names(f"{row}.png" for row in range(num_images)),
        ),
        objects=ObjectTable(
            np.array(images or [0] * count, dtype=np.int64),
            np.zeros(count, dtype=np.int64),
            boxes,
            boxes[:, 2] * boxes[:, 3],
            np.array(crowd or [False] * count, dtype=np.bool_),
        ),
    )


def test_no_names_are_an_empty_sequence():
    assert list(Names([])) == []


def test_names_come_back_as_they_were():
    texts = ["a.png", "", "sub/späť.jpg", "\udce9.jpg", "z"]  # and one in Latin-1
    names = Names(texts)
    assert list(names) == texts
    assert [names[-1], names[-5]] == ["z", "a.png"]
    with pytest.raises(IndexError):
        names[5]


def test_an_image_without_objects_has_empty_targets():
    boxes, labels = annotations_of([]).targets(0)
    assert boxes.shape == (0, 4)
    assert boxes.dtype == torch.float32
    assert labels.shape == (0,)
    assert labels.dtype == torch.int64


def test_no_images_are_refused():
    with pytest.raises(DatasetError, match=r"set\.json: expected at least one image, found none"):
        annotations_of([], num_images=0)


def test_targets_are_clipped_corners_without_crowd_regions_and_empty_boxes():
    annotations = annotations_of(
        [
            [1, 2, 3, 4],  # inside
            [-5, 20, 10, 20],  # beyond two sides
            [5, 5, 0, 3],  # no width
            [9, 9, -2, 3],  # negative width
            [41, 0, 5, 5],  # outside
            [0, 0, 30, 30],  # crowd
        ],
        crowd=[False] * 5 + [True],
    )
    boxes, labels = annotations.targets(0)
    assert boxes.tolist() == [[1, 2, 4, 6], [0, 20, 5, 30]]
    assert labels.tolist() == [0, 0]


def test_objects_of_an_image_are_brought_together_in_their_order():
    annotations = annotations_of(
        [[3, 0, 1, 1], [1, 0, 1, 1], [4, 0, 1, 1], [2, 0, 1, 1]], images=[2, 0, 2, 0], num_images=3
    )
    lefts = [annotations.targets(row)[0][:, 0].tolist() for row in range(3)]
    assert lefts == [[1, 2], [], [3, 4]]
    assert annotations.images_with_targets.tolist() == [0, 2]
    assert annotations.image_ids == (10, 11, 12)


def test_issues_are_empty_when_all_is_well():
    assert annotations_of([[0, 0, 40, 30], [1, 1, 39.5, 2]]).issues == ()


def test_issues_count_what_training_leaves_out_or_changes():
    annotations = annotations_of([[5, 5, 0, 3], [50, 5, 2, 2], [-9, 0, 20, 5], [1, 1, 2, 2]])
    assert annotations.issues == (
        "set.json: boxes of no width or height, or outside their image: 2; "
        "not trained on, but counted in evaluation",
        "set.json: boxes that reach beyond their image: 1; clipped for training",
    )


def test_the_coco_dict_keeps_every_object_and_numbers_them_from_one():
    annotations = annotations_of([[5, 5, 0, 3], [-9, 0, 20, 5]], crowd=[False, True])
    ground_truth = annotations.coco_dict()
    assert ground_truth["images"] == [{"id": 10, "file_name": "0.png", "height": 30, "width": 40}]
    assert ground_truth["categories"] == [{"id": 1, "name": "cat"}]
    assert [item["id"] for item in ground_truth["annotations"]] == [1, 2]
    assert [item["bbox"] for item in ground_truth["annotations"]] == [[5, 5, 0, 3], [-9, 0, 20, 5]]
    assert [item["iscrowd"] for item in ground_truth["annotations"]] == [0, 1]
    assert [item["area"] for item in ground_truth["annotations"]] == [0, 100]


def test_a_missing_image_names_the_annotation_file_and_the_folders():
    with pytest.raises(DatasetError) as caught:
        annotations_of([]).path(0)
    assert str(caught.value) == (
        "set.json: expected the image '0.png' in one of nowhere, images; "
        "found no such file; add it or take it out of the annotations"
    )


def test_annotations_survive_the_way_to_another_process():
    annotations = annotations_of([[1, 2, 3, 4]])
    copy = pickle.loads(pickle.dumps(annotations))
    assert copy.coco_dict() == annotations.coco_dict()


def test_equal_classes_pass():
    check_same_classes(annotations_of([]), annotations_of([]))


def test_other_classes_are_listed():
    train = annotations_of([], classes=Classes(("cat", "dog"), (1, 2)))
    val = annotations_of([], classes=Classes(("cat", "cow", "elk"), (1, 2, 3)))
    with pytest.raises(DatasetError) as caught:
        check_same_classes(train, val)
    assert "train alone has 2 'dog'; val alone has 2 'cow', 3 'elk'; give both" in str(caught.value)


def test_classes_that_only_one_split_has_are_listed_as_none_for_the_other():
    train = annotations_of([], classes=Classes(("cat", "dog"), (1, 2)))
    with pytest.raises(DatasetError, match="train alone has 2 'dog'; val alone has none"):
        check_same_classes(train, annotations_of([]))
