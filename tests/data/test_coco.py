import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO

from aligndetr.data.coco import read_coco
from aligndetr.errors import DatasetError


@pytest.fixture
def read(tmp_path):
    """Read a content, or the text of a file, as COCO."""

    def reader(content):
        file = tmp_path / "set.json"
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        return read_coco(file, folders=[tmp_path])

    return reader


def test_a_file_without_annotations_keeps_its_images(read, content):
    annotations = read({**content, "annotations": []})
    assert len(annotations) == 3
    assert annotations.coco_dict()["annotations"] == []


def test_labels_follow_the_ascending_category_ids(read, content):
    annotations = read(content)
    assert annotations.classes.names == ("cat", "dog")
    assert annotations.classes.ids == (5, 44)
    boxes, labels = annotations.targets(0)
    assert labels.tolist() == [0, 1]
    assert boxes.tolist() == [[0, 0, 10, 20], [30, 20, 40, 30]]


def test_images_keep_their_order_ids_and_sizes(read, content):
    annotations = read(content)
    assert annotations.image_ids == (7, 3, 90)
    assert annotations.size(1) == (30, 20)
    assert annotations.images.names[1] == "sub/a.png"
    assert annotations.images_with_targets.tolist() == [0, 1]


def test_area_and_crowd_are_filled_in(read, content):
    ground_truth = read(content).coco_dict()["annotations"]
    by_image = [(item["image_id"], item["area"], item["iscrowd"]) for item in ground_truth]
    assert by_image == [(7, 150.5, 0), (7, 100, 0), (3, 12, 1), (3, 56, 0)]


def test_crowd_regions_are_no_targets(read, content):
    assert read(content).targets(1)[1].tolist() == [0]


@pytest.mark.parametrize(("written", "crowd"), [(0, 0), (1, 1), (False, 0), (True, 1), (None, 0)])
def test_crowd_is_a_number_a_boolean_or_null(read, content, written, crowd):
    content["annotations"] = [{**content["annotations"][1], "iscrowd": written}]
    assert [item["iscrowd"] for item in read(content).coco_dict()["annotations"]] == [crowd]


def test_the_largest_image_id_that_results_can_hold_is_kept(read, content):
    content["images"][2]["id"] = 2**53
    assert read(content).image_ids == (7, 3, 2**53)


def test_ids_of_annotations_may_be_larger_as_no_result_has_them(read, content):
    content["annotations"][0]["id"] = 2**60
    assert len(read(content).coco_dict()["annotations"]) == 4


def test_annotations_need_no_id(read, content):
    for item in content["annotations"]:
        del item["id"]
    assert [item["id"] for item in read(content).coco_dict()["annotations"]] == [1, 2, 3, 4]


def test_pycocotools_reads_the_rebuilt_ground_truth(read, content):
    found = np.array([[7, 0, 0, 10, 20, 0.5, 44]])
    oracle = COCO()
    oracle.dataset = read(content).coco_dict()
    with contextlib.redirect_stdout(io.StringIO()):
        oracle.createIndex()
        results = oracle.loadRes(found)  # pyright: ignore[reportArgumentType]
    assert sorted(oracle.getImgIds()) == [3, 7, 90]
    assert [item["bbox"] for item in oracle.loadAnns(oracle.getAnnIds(3, catIds=[5]))] == [
        [5.5, 6, 7, 8]
    ]
    assert len(results.anns) == 1


def test_a_category_zero_that_only_heads_the_others_is_no_class(read, content):
    for category in content["categories"]:
        category["supercategory"] = "pets"
    content["categories"].append({"id": 0, "name": "pets", "supercategory": "none"})
    assert read(content).classes.names == ("cat", "dog")
    content["annotations"][0]["category_id"] = 0
    assert read(content).classes.names == ("pets", "cat", "dog")


def test_a_category_zero_of_its_own_is_a_class_even_without_objects(read, content):
    content["categories"].append({"id": 0, "name": "bird", "supercategory": "none"})
    assert read(content).classes.names == ("bird", "cat", "dog")


def test_a_single_category_zero_is_a_class(read, content):
    content["categories"] = [{"id": 0, "name": "bird"}]
    assert read({**content, "annotations": []}).classes.names == ("bird",)


def changed(table, row, **fields):
    return lambda content: content[table][row].update(fields)


def without(table, row, key):
    return lambda content: content[table][row].pop(key)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("images", 1, "width"), "images[1]: expected the key 'width', found {"),
        (without("annotations", 2, "bbox"), "annotations[2]: expected the key 'bbox', found {"),
        (
            changed("annotations", 1, image_id=4),
            "annotations[1]: expected the id of one of the 3 images as 'image_id', "
            "found 4, which is not there",
        ),
        (
            changed("annotations", 3, category_id=1000),
            "annotations[3]: expected the id of one of the 2 categories as 'category_id', "
            "found 1000, which is not there",
        ),
        (changed("images", 2, id=7), "images: expected every id once, found 7 2 times; number"),
        (
            changed("annotations", 0, id=8),
            "annotations: expected every id once, found 8 2 times; number the annotations anew",
        ),
        (changed("categories", 0, id=5), "categories: expected every id once, found 5 2 times"),
        (changed("images", 0, id="x"), "images[0]: expected an integer as 'id', found \"x\";"),
        (changed("categories", 1, name=3), "categories[1]: expected a string as 'name', found 3"),
        (
            changed("images", 0, height=0),
            "images[0]: expected a positive height and width, found {",
        ),
        (
            changed("annotations", 0, bbox=[1, 2, 3]),
            "annotations[0]: expected 4 finite numbers (left, top, width, height) as 'bbox', "
            "found [1, 2, 3]; correct the file",
        ),
        (changed("annotations", 0, bbox=[1, 2, 3, float("nan")]), "found [1, 2, 3, NaN]"),
        (
            changed("annotations", 0, area="big"),
            "annotations[0]: expected a finite number as 'area', found \"big\"",
        ),
        (
            changed("annotations", 0, bbox=[1, 2, 3, 10**400]),
            "expected 4 finite numbers (left, top",
        ),
        (changed("annotations", 0, area=10**400), "expected a finite number as 'area', found 1000"),
        (
            changed("annotations", 1, iscrowd="0"),
            "annotations[1]: expected 0, 1, true, false or null as 'iscrowd', found \"0\"; correct",
        ),
        (changed("annotations", 1, iscrowd="false"), 'found "false"'),
        (changed("annotations", 1, iscrowd=2), "null as 'iscrowd', found 2"),
        (changed("annotations", 1, iscrowd=[]), "null as 'iscrowd', found []"),
        (
            changed("images", 1, id=2**53 + 1),
            "images[1]: expected an id of at most 2**53, which results can hold, "
            "found 9007199254740993; renumber the images",
        ),
        (changed("images", 1, id=-(2**53) - 1), "found -9007199254740993; renumber the images"),
        (changed("categories", 1, id=2**60), "categories[1]: expected an id of at most 2**53, "),
        (
            changed("images", 2, id=2**63),
            "images[2]: expected an integer below 2**63 as 'id', found 9223372036854775808; co",
        ),
        (changed("images", 0, height=10**400), "expected an integer below 2**63 as 'height'"),
        (changed("annotations", 0, image_id=-(2**63) - 1), "below 2**63 as 'image_id', found -92"),
        (changed("annotations", 0, id=2**63), "an integer below 2**63 as 'id'"),
        (
            lambda content: content.update(categories=[]),
            "expected at least one category, found none; list the classes under 'categories'",
        ),
        (
            lambda content: content.pop("annotations"),
            "expected a list 'annotations', found categories, images; give a COCO detection file",
        ),
        (
            lambda content: content.update(images={}),
            "expected a list 'images', found {}; give a COCO detection file",
        ),
        (
            lambda content: content["images"].append(3),
            "images[3]: expected an object, found 3; correct the file",
        ),
        (lambda content: content.update(images=[]), "expected the id of one of the 0 images as"),
        (
            lambda content: content.update(images=[], annotations=[]),
            "expected at least one image, found none; add images",
        ),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(read, content, change, message):
    change(content)
    with pytest.raises(DatasetError) as caught:
        read(content)
    assert message in str(caught.value)
    assert "set.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images":\n [}', "set.json:2:3: expected JSON, found: Expecting value; correct"),
        ("", "set.json:1:1: expected JSON"),
        (
            "[" * 100_000,
            "set.json: expected JSON, found: lists in lists, too deep to read; correct",
        ),
        (
            '{"images": ' + "9" * 5000 + "}",
            "expected JSON, found: a number of too many digits; cor",
        ),
        ("[1]", "set.json: expected a JSON object with images, annotations and categories, "),
    ],
)
def test_other_text_is_refused_with_line_and_column(read, text, message):
    with pytest.raises(DatasetError) as caught:
        read(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "set.json").write_bytes(b'{"a": "\xff\xfe"}')
    with pytest.raises(DatasetError, match="expected JSON in UTF-8, found other bytes at 7"):
        read_coco(tmp_path / "set.json", folders=[])


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"none\.json: expected a readable file, found: No such"):
        read_coco(tmp_path / "none.json", folders=[])


def test_long_findings_are_shortened(read, content):
    content["images"][0] = {"name": "x" * 200}
    with pytest.raises(DatasetError) as caught:
        read(content)
    assert len(str(caught.value)) < 300
