import pytest
import torch

from aligndetr.data.images import read_image
from aligndetr.data.voc import read_voc
from aligndetr.errors import DatasetError
from aligndetr.pictures import load_image


def voc_object(name="cat", box=(1, 2, 11, 22), difficult="0"):
    keys = ("xmin", "ymin", "xmax", "ymax")
    corners = "".join(f"<{key}>{value}</{key}>" for key, value in zip(keys, box, strict=True))
    return (
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{corners}</bndbox>"
        "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part></object>"
    )


@pytest.fixture
def voc(tmp_path, write_image):
    """Write XML by image name; `train` lists the images of the split."""

    def write(objects, train=("a",), size="<size><width>40</width><height>30</height></size>"):
        for folder in ("Annotations", "ImageSets/Main"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for name, body in objects.items():
            xml = f"<annotation>{size}{body}</annotation>"
            (tmp_path / f"Annotations/{name}.xml").write_text(xml)
            write_image(tmp_path / f"JPEGImages/{name}.jpg")
        split_file = tmp_path / "ImageSets/Main/train.txt"
        split_file.write_text("\n".join(train))
        return read_voc(tmp_path, split_file)

    return write


def test_an_image_without_objects_is_kept(voc):
    annotations = voc({"a": "", "b": voc_object()})
    assert annotations.targets(0)[0].shape == (0, 4)
    assert annotations.image_ids == (1,)


def test_boxes_are_corners_without_a_shift_of_one_pixel(voc):
    annotations = voc({"a": voc_object(box=(1, 2, 11.5, 22))})
    assert annotations.targets(0)[0].tolist() == [[1, 2, 11.5, 22]]
    assert annotations.coco_dict()["annotations"][0]["bbox"] == [1, 2, 10.5, 20]
    assert annotations.coco_dict()["annotations"][0]["area"] == 210


def test_classes_are_those_of_all_files_by_name(voc):
    annotations = voc({"a": voc_object("cat"), "b": voc_object("ant") + voc_object("dog")})
    assert annotations.classes.names == ("ant", "cat", "dog")
    assert annotations.classes.ids == (1, 2, 3)
    assert annotations.targets(0)[1].tolist() == [1]


def test_difficult_objects_are_evaluated_around(voc):
    annotations = voc({"a": voc_object(difficult="1") + voc_object()})
    assert len(annotations.targets(0)[1]) == 1
    assert [item["iscrowd"] for item in annotations.coco_dict()["annotations"]] == [1, 0]


@pytest.mark.parametrize(
    "size",
    [
        "",
        "<size><width>0</width><height>0</height></size>",
        "<size><width>40.0</width><height>30</height></size>",
        "<size><width>40²</width><height>30</height></size>",
        f"<size><width>{'9' * 5000}</width><height>30</height></size>",
    ],
)
def test_a_missing_size_is_read_from_the_image(voc, size):
    assert voc({"a": voc_object()}, size=size).size(0) == (30, 40)


@pytest.mark.parametrize(("orientation", "size"), [(3, (30, 40)), (6, (40, 30))])
def test_a_size_from_the_image_is_that_of_the_upright_one(
    voc, turn_image, tmp_path, orientation, size
):
    voc({"a": voc_object()})
    turn_image(tmp_path / "JPEGImages/a.jpg", orientation)
    xml = f"<annotation>{voc_object()}</annotation>"
    (tmp_path / "Annotations/a.xml").write_text(xml)
    annotations = read_voc(tmp_path, tmp_path / "ImageSets/Main/train.txt")
    assert annotations.size(0) == size
    pixels = read_image(annotations.path(0), annotations.size(0))
    assert torch.equal(pixels, load_image(annotations.path(0)))


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("my photo", "my photo"),
        ("my photo -1", "my photo"),
        ("  my photo   0 ", "my photo"),
        ("my photo\t1", "my photo"),
        ("photo 1", "photo 1"),  # a name, as there is such a file
        ("photo 1  1", "photo 1"),
    ],
)
def test_names_on_the_list_may_have_spaces_and_a_flag(voc, line, name):
    objects = {"my photo": voc_object(), "photo 1": voc_object()}
    assert list(voc(objects, train=[line]).images.names) == [f"{name}.jpg"]


def test_a_list_may_begin_with_a_byte_order_mark(voc):
    assert len(voc({"a": voc_object()}, train=["\ufeffa"])) == 1


def test_a_list_in_another_encoding_is_refused(voc, tmp_path):
    voc({"a": voc_object()})
    file = tmp_path / "ImageSets/Main/train.txt"
    file.write_bytes("a\nähre".encode("latin-1"))
    with pytest.raises(DatasetError, match=r"train\.txt:2: expected text in UTF-8, found the byte"):
        read_voc(tmp_path, file)


@pytest.mark.parametrize(
    ("encoding", "problem"),
    [
        ("gb18030", "multi-byte encodings are not supported"),
        ("shift_jis", "multi-byte encodings are not supported"),
        ("nonsense", "unknown encoding: nonsense"),
    ],
)
def test_xml_in_an_encoding_that_cannot_be_read_is_refused(voc, tmp_path, encoding, problem):
    voc({"a": voc_object()})
    xml = f'<?xml version="1.0" encoding="{encoding}"?><annotation></annotation>'
    (tmp_path / "Annotations/a.xml").write_text(xml)
    with pytest.raises(DatasetError, match=rf"a\.xml: expected XML, found: {problem}.*; correct"):
        read_voc(tmp_path, tmp_path / "ImageSets/Main/train.txt")


def test_xml_that_cannot_be_opened_is_refused(voc, tmp_path):
    voc({"a": voc_object()})
    (tmp_path / "Annotations/a.xml").unlink()
    (tmp_path / "Annotations/a.xml").mkdir()
    with pytest.raises(DatasetError, match=r"a\.xml: expected a readable file, found: Is a direc"):
        read_voc(tmp_path, tmp_path / "ImageSets/Main/train.txt")


def test_a_missing_image_is_named_when_it_is_asked_for(voc, tmp_path):
    voc({"a": voc_object()})
    (tmp_path / "JPEGImages/a.jpg").unlink()
    annotations = voc({}, train=["a"])
    with pytest.raises(DatasetError, match=r"train\.txt: expected the image 'a\.jpg' in one of"):
        annotations.path(0)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("<object></name>", "a.xml: expected XML, found: mismatched tag: line 1, column"),
        (
            voc_object().replace("<ymax>22", "<ymax>high"),
            "a.xml: object/bndbox/ymax: expected a finite number, found 'high'; correct the file",
        ),
        (voc_object().replace("<bndbox>", "<box>").replace("</bndbox>", "</box>"), "found ''"),
        (voc_object(""), "a.xml: expected a <name> in every <object>, found none; add it"),
        ("", "Annotations: expected XML files with objects, found no object; annotate some"),
    ],
)
def test_wrong_xml_is_refused_with_the_place(voc, body, message):
    with pytest.raises(DatasetError) as caught:
        voc({"a": body})
    assert message in str(caught.value)


def test_a_listed_image_without_xml_is_refused(voc):
    with pytest.raises(DatasetError, match=r"b\.xml for the listed image 'b', found no such file"):
        voc({"a": voc_object()}, train=["a", "b"])
