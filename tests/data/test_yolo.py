import pytest
import torch

from aligndetr.data.images import read_image
from aligndetr.data.yolo import read_yolo, yolo_images
from aligndetr.errors import DatasetError
from aligndetr.pictures import load_image


@pytest.fixture
def yolo(tmp_path, write_image):
    """Write one 40 x 30 image with the given lines and read it."""

    def write(lines, yaml="names: {0: cat, 1: dog}"):
        image = write_image(tmp_path / "images/train/a.png")
        (tmp_path / "labels/train").mkdir(parents=True, exist_ok=True)
        (tmp_path / "labels/train/a.txt").write_text(lines)
        (tmp_path / "data.yaml").write_text(yaml)
        return read_yolo(tmp_path / "data.yaml", [image])

    return write


def test_an_empty_text_file_means_no_objects(yolo):
    annotations = yolo("")
    assert annotations.targets(0)[0].shape == (0, 4)
    assert annotations.classes.names == ("cat", "dog")
    assert annotations.classes.ids == (0, 1)


def test_a_missing_text_file_means_no_objects(yolo, tmp_path):
    yolo("")
    (tmp_path / "labels/train/a.txt").unlink()
    annotations = read_yolo(tmp_path / "data.yaml", [tmp_path / "images/train/a.png"])
    assert annotations.coco_dict()["annotations"] == []


def test_boxes_are_relative_centres_and_sizes(yolo):
    annotations = yolo("1 0.5 0.5 0.5 0.2\n0 0.25 0.5 0.5 1")
    assert annotations.targets(0)[0].tolist() == [[10, 12, 30, 18], [0, 0, 20, 30]]
    assert annotations.targets(0)[1].tolist() == [1, 0]


def test_a_polygon_gives_its_extent(yolo):
    annotations = yolo("1 0.25 0.5 0.5 0.1 0.75 0.4")
    assert annotations.targets(0)[0].tolist() == [[10, 3, 30, 15]]


POSES = "{names: [cat, dog], kpt_shape: [2, 3]}"


def test_keypoints_behind_a_box_are_left_out(yolo):
    annotations = yolo("1 0.5 0.5 0.5 0.2 0.1 0.1 2 0.9 0.9 1", yaml=POSES)
    assert annotations.targets(0)[0].tolist() == [[10, 12, 30, 18]]


@pytest.mark.parametrize("line", ["1 0.5 0.5 0.5 0.2", "1 0.5 0.5 0.5 0.2 0.1 0.1 0.9 0.9"])
def test_as_many_keypoints_are_expected_as_the_yaml_file_says(yolo, line):
    with pytest.raises(DatasetError, match=r"height' and 6 numbers of keypoints, found '1 0\.5"):
        yolo(line, yaml=POSES)


@pytest.mark.parametrize("shape", ["17", "[17]", "[17, x]", "[]"])
def test_a_wrong_shape_of_keypoints_is_refused(yolo, shape):
    with pytest.raises(DatasetError, match="expected 'kpt_shape' as two numbers"):
        yolo("", yaml=f"{{names: [cat, dog], kpt_shape: {shape}}}")


@pytest.mark.parametrize("names", ["[cat, dog]", "{0: cat, 1: dog}", "\n  1: dog\n  0: cat"])
def test_names_may_be_a_list_or_a_mapping(yolo, names):
    assert yolo("", yaml=f"names: {names}").classes.names == ("cat", "dog")


def test_names_are_the_text_that_the_file_has(yolo):
    names = "[no, yes, 1, 1.50, null, 'on', 2024-01-01, 0x1f]"
    classes = yolo("", yaml=f"names: {names}").classes
    assert classes.names == ("no", "yes", "1", "1.50", "null", "on", "2024-01-01", "0x1f")


def test_files_may_begin_with_a_byte_order_mark(yolo):
    annotations = yolo("\ufeff1 0.5 0.5 0.5 0.2", yaml="\ufeffnames: [cat, dög]")
    assert annotations.classes.names == ("cat", "dög")
    assert annotations.targets(0)[1].tolist() == [1]


@pytest.mark.parametrize("name", ["data.yaml", "labels/train/a.txt", "list.txt"])
def test_a_file_in_another_encoding_is_refused_with_the_line(yolo, tmp_path, name):
    yolo("0 0.5 0.5 0.5 0.2", yaml="names: [cat]\ntrain: list.txt")
    (tmp_path / "list.txt").write_text("images/train/a.png")
    (tmp_path / name).write_bytes("train: list.txt\nnames: [dög]".encode("latin-1"))
    with pytest.raises(DatasetError) as caught:
        read_yolo(tmp_path / "data.yaml", yolo_images(tmp_path / "data.yaml", ["train"]) or [])
    assert f"{name}:2: expected text in UTF-8, found the byte 0xf6; save" in str(caught.value)


@pytest.mark.parametrize(("orientation", "size"), [(3, (30, 40)), (5, (40, 30))])
def test_sizes_are_those_of_the_upright_image(yolo, turn_image, tmp_path, orientation, size):
    yolo("")
    file = tmp_path / "images/train/a.png"
    turn_image(file, orientation)
    annotations = read_yolo(tmp_path / "data.yaml", [file])
    assert annotations.size(0) == size
    assert torch.equal(read_image(file, size), load_image(file))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.5", "expected 'class centre_x centre_y width height' or a polygon, found"),
        ("0 0.5 0.5 0.5 0.5 0.5", "found '0 0.5 0.5 0.5 0.5 0.5'; correct the line"),
        ("cat 0.5 0.5 0.5 0.5", "found 'cat 0.5 0.5 0.5 0.5'"),
        ("0 0.5 nan 0.5 0.5", "found '0 0.5 nan 0.5 0.5'"),
        ("2 0.5 0.5 0.5 0.5", "expected a class between 0 and 1, found 2; correct the line or"),
        ("0.5 0.5 0.5 0.5 0.5", "expected a class between 0 and 1, found 0.5"),
    ],
)
def test_a_wrong_line_is_refused_with_its_number(yolo, line, message):
    with pytest.raises(DatasetError) as caught:
        yolo(f"0 0.5 0.5 0.5 0.5\n{line}\n")
    assert message in str(caught.value)
    assert "a.txt:2: " in str(caught.value)


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("names: [", "data.yaml: expected YAML, found: "),
        ("", "data.yaml: expected keys such as names and train, found none; add them"),
        ("nc: 2", "data.yaml: expected 'names' as a list, or as a mapping from 0, 1, "),
        ("names: {1: cat}", "found {'1': 'cat'}; list the classes"),
        ("names: {0: a, x: b}", "found {'0': 'a', 'x': 'b'}; list the classes"),
        ("names: {1: a, 0x0: b}", "found {'1': 'a', '0x0': 'b'}; list the classes"),
        ("names: [a, [b]]", "found ['a', ['b']]; list the classes"),
        ("names: ~", "found None; list the classes"),
        ("names: " + "[" * 5000, "data.yaml: expected YAML, found: "),
        ("names: []", "found []; list the classes"),
    ],
)
def test_a_wrong_yaml_file_is_refused(yolo, yaml, message):
    with pytest.raises(DatasetError) as caught:
        yolo("", yaml=yaml)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def tree(tmp_path, write_image):
    """Images at data/images/train/{a,b/c}.png, data/val/images/d.png and far/e.png."""
    for name in ("data/images/train/a", "data/images/train/b/c", "data/val/images/d", "far/e"):
        write_image(tmp_path / f"{name}.png")
    (tmp_path / "data/images/train/notes.txt").touch()
    (tmp_path / "data/list.txt").write_text("./images/train/a.png\n\n../far/e.png\n")
    return tmp_path


@pytest.mark.parametrize(
    ("yaml", "splits", "names"),
    [
        ("names: [a]", ["train"], ["a", "c"]),  # images/SPLIT beside the file
        ("names: [a]", ["valid", "val"], ["d"]),  # SPLIT/images beside the file
        ("train: images/train", ["train"], ["a", "c"]),
        ("train: ../images/train", ["train"], ["a", "c"]),  # as Roboflow writes it
        ("train: {root}/far", ["train"], ["e"]),  # absolute
        ("train: ../far", ["train"], ["e"]),
        ("{{path: images, train: train/b}}", ["train"], ["c"]),
        ("train: [images/train/b, val/images]", ["train"], ["c", "d"]),
        ("train: list.txt", ["train"], ["a", "e"]),
        ("train: nowhere", ["train"], None),
        ("train:\npath: ~", ["train"], ["a", "c"]),  # keys without a value
        ("train: null\npath: ''", ["train"], ["a", "c"]),
        ("names: [a]", ["test"], None),
    ],
)
def test_images_are_found_where_the_yaml_file_says(tree, yaml, splits, names):
    file = tree / "data/data.yaml"
    file.write_text(yaml.format(root=tree))
    images = yolo_images(file, splits)
    assert (None if images is None else sorted(image.stem for image in images)) == names


def test_hidden_files_are_no_images(tree, write_image):
    for name in (".ipynb_checkpoints/a-checkpoint", "._a", "b/.c"):
        write_image(tree / f"data/images/train/{name}.png")
    (tree / "data/data.yaml").write_text("names: [a]")
    images = yolo_images(tree / "data/data.yaml", ["train"])
    assert sorted(image.stem for image in images or ()) == ["a", "c"]


def test_a_folder_of_several_that_is_missing_is_named(tree):
    (tree / "data/data.yaml").write_text("train: [images/train, imagse/more]")
    with pytest.raises(DatasetError, match=r"every folder of 'train' to exist, found no .*imagse"):
        yolo_images(tree / "data/data.yaml", ["train"])


def test_images_elsewhere_are_found_again(tree):
    file = tree / "data/data.yaml"
    file.write_text("{train: ../far, names: [cat]}")
    (tree / "far/e.txt").write_text("0 0.5 0.5 1 1")  # no `images` folder: labels beside
    annotations = read_yolo(file, yolo_images(file, ["train"]) or [])
    assert annotations.path(0).samefile(tree / "far/e.png")
    assert annotations.targets(0)[0].tolist() == [[0, 0, 40, 30]]
