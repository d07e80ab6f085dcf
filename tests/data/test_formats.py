import json
import shutil

import pytest
import torch

from aligndetr.data.annotations import check_same_classes
from aligndetr.data.dataset import DetectionDataset
from aligndetr.data.formats import open_split
from aligndetr.data.transforms import LightAugmentation
from aligndetr.errors import DatasetError


def same_objects(one, other):
    assert one.classes.names == other.classes.names
    for row in range(len(one)):
        assert torch.allclose(one.targets(row)[0], other.targets(row)[0], atol=1e-4)
        assert torch.equal(one.targets(row)[1], other.targets(row)[1])


@pytest.fixture
def layouts(tmp_path, write_image):
    """One data set of two images in four layouts: name -> folder."""
    content = {
        "images": [
            {"id": 1, "file_name": "a.png", "width": 40, "height": 30},
            {"id": 2, "file_name": "b.png", "width": 20, "height": 30},
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"image_id": 1, "category_id": 2, "bbox": [4, 3, 20, 15]},
            {"image_id": 1, "category_id": 1, "bbox": [0, 0, 8, 6]},
        ],
    }
    folders = {name: tmp_path / name for name in ("coco", "roboflow", "voc", "yolo")}
    for split, robo_split in (("train", "train"), ("val", "valid")):
        (folders["coco"]).mkdir(exist_ok=True)
        (folders["coco"] / f"{split}.json").write_text(json.dumps(content))
        for name, width in (("a", 40), ("b", 20)):
            write_image(folders["coco"] / f"images/{name}.png", width)
            write_image(folders["roboflow"] / robo_split / f"{name}.png", width)
            write_image(folders["voc"] / f"JPEGImages/{name}.png", width)
            write_image(folders["yolo"] / f"images/{split}/{name}.png", width)
        robo_file = folders["roboflow"] / robo_split / "_annotations.coco.json"
        robo_file.write_text(json.dumps(content))
        _write_voc_split(folders["voc"], split)
        labels = folders["yolo"] / "labels" / split
        labels.mkdir(parents=True)
        (labels / "a.txt").write_text("1 0.35 0.35 0.5 0.5\n\n0 0.1 0.1 0.2 0.2\n")
    (folders["yolo"] / "data.yaml").write_text("names: [cat, dog]\n")
    return folders


VOC_OBJECT = (
    "<object><name>{}</name><difficult>0</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin>"
    "<xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)


def _write_voc_split(folder, split):
    (folder / "Annotations").mkdir(exist_ok=True)
    (folder / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
    objects = VOC_OBJECT.format("dog", 4, 3, 24, 18) + VOC_OBJECT.format("cat", 0, 0, 8, 6)
    size = "<size><width>40</width><height>30</height></size>"
    (folder / "Annotations/a.xml").write_text(f"<annotation>{size}{objects}</annotation>")
    (folder / "Annotations/b.xml").write_text("<annotation></annotation>")
    (folder / f"ImageSets/Main/{split}.txt").write_text("a\nb  1\n\n")


LAYOUTS = [
    ("coco", "COCO (train.json)", "COCO (val.json)"),
    (
        "roboflow",
        "Roboflow COCO (train/_annotations.coco.json)",
        "Roboflow COCO (valid/_annotations.coco.json)",
    ),
    (
        "voc",
        "Pascal VOC (ImageSets/Main/train.txt)",
        "Pascal VOC (ImageSets/Main/val.txt)",
    ),
    ("yolo", "YOLO (data.yaml)", "YOLO (data.yaml)"),
]


@pytest.mark.parametrize(("name", "train_layout", "val_layout"), LAYOUTS)
def test_every_layout_is_recognised_and_gives_the_same(layouts, name, train_layout, val_layout):
    train, val = open_split(layouts[name], "train"), open_split(layouts[name], "val")
    assert (train.layout, val.layout) == (train_layout, val_layout)
    same_objects(train, open_split(layouts["coco"], "train"))
    check_same_classes(train, val)
    transform = LightAugmentation(short_side=30).evaluation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    dataset = DetectionDataset(val, transform)
    assert [dataset[row].size for row in range(2)] == [(30, 40), (30, 20)]


@pytest.mark.parametrize(
    ("annotation_file", "images"),
    [
        ("train.json", "."),  # beside
        ("train.json", "train"),
        ("train.json", "images/train"),
        ("annotations/instances_train2017.json", "train2017"),
        ("annotations/instances_train2017.json", "images/train2017"),
        ("annotations/instances_train2014.json", "train2014"),
        ("annotations/train.json", "images"),
    ],
)
def test_coco_images_are_found_where_they_may_be(layouts, tmp_path, annotation_file, images):
    data = tmp_path / "other"
    (data / annotation_file).parent.mkdir(parents=True)
    (data / images).parent.mkdir(parents=True, exist_ok=True)
    (data / annotation_file).write_text((layouts["coco"] / "train.json").read_text())
    shutil.copytree(layouts["coco"] / "images", data / images, dirs_exist_ok=True)
    annotations = open_split(data, "train")
    assert annotations.path(0) == data / images / "a.png"
    assert annotations.layout == f"COCO ({annotation_file})"


@pytest.mark.parametrize("root", ["voc", "VOC2012", "VOCdevkit/VOC2007"])
def test_a_voc_tree_may_be_in_a_subfolder(layouts, tmp_path, root):
    data = tmp_path / "other"
    shutil.copytree(layouts["voc"], data / root)
    assert open_split(data, "val").layout == f"Pascal VOC ({root}/ImageSets/Main/val.txt)"


@pytest.mark.parametrize("name", ["valid", "validation"])
def test_val_goes_by_other_names(layouts, name):
    folder = layouts["coco"]
    (folder / "val.json").rename(folder / f"{name}.json")
    assert open_split(folder, "val").layout == f"COCO ({name}.json)"


def test_other_splits_go_by_their_own_name(layouts):
    folder = layouts["coco"]
    (folder / "val.json").rename(folder / "test.json")
    assert open_split(folder, "test").layout == "COCO (test.json)"


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="none: expected a data folder, found nothing; check"):
        open_split(tmp_path / "none", "train")
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match="file: expected a data folder, found a file; check"):
        open_split(tmp_path / "file", "train")


@pytest.mark.parametrize(
    "split", ["", ".", "..", "/abs", "a/b", "a\\b", "*", "**", "tr?in", "[train", "train]", "a\0"]
)
def test_a_split_that_is_no_plain_name_is_refused(layouts, split):
    with pytest.raises(DatasetError) as caught:
        open_split(layouts["coco"], split)
    assert f": expected the name of a split, such as train or val, found {split!r}; give a" in str(
        caught.value
    )
    assert "\n" not in str(caught.value)


def test_a_split_may_have_dots_and_spaces_in_its_name(layouts):
    folder = layouts["coco"]
    (folder / "val.json").rename(folder / "my test v1.2.json")
    assert open_split(folder, "my test v1.2").layout == "COCO (my test v1.2.json)"


def test_a_missing_split_lists_what_was_looked_for_and_what_is_there(layouts):
    folder = layouts["coco"]
    (folder / "val.json").unlink()
    with pytest.raises(DatasetError) as caught:
        open_split(folder, "val")
    message = str(caught.value)
    assert message.startswith(f"{folder}: expected the split 'val' as one of val.json, annotations")
    assert "valid/_annotations.coco.json, ImageSets/Main/valid.txt, data.yaml with valid" in message
    assert "found images/, train.json; name the files like that" in message


def test_a_crowded_folder_is_listed_in_part(tmp_path):
    for number in range(12):
        (tmp_path / f"{number:02d}").mkdir()
    with pytest.raises(DatasetError, match="08/, 09/ and 2 more; name"):
        open_split(tmp_path, "train")


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="found nothing; name the files"):
        open_split(tmp_path, "train")


def test_a_yaml_file_without_the_split_is_refused(layouts):
    shutil.rmtree(layouts["yolo"] / "images" / "val")
    with pytest.raises(DatasetError, match="expected the split 'val' as one of"):
        open_split(layouts["yolo"], "val")
