import json
from pathlib import Path

import numpy as np
import pytest

from aligndetr.data import shapes
from aligndetr.data.formats import open_split
from aligndetr.data.shapes import draw_shapes, shapes_dataset
from aligndetr.errors import DatasetError


def files_of(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def small(folder=None, **parameters):
    return shapes_dataset(folder, **{"train": 6, "val": 3, "size": 64, **parameters})


def test_an_empty_split_is_written(tmp_path):
    folder = small(tmp_path / "set", val=0)
    assert json.loads((folder / "val.json").read_text())["images"] == []


def test_the_data_set_opens_as_coco(tmp_path):
    folder = small(tmp_path / "deep" / "set")
    assert sorted(path.name for path in folder.iterdir()) == [
        "images",
        "shapes.json",
        "train.json",
        "val.json",
    ]
    train = open_split(folder, "train")
    assert train.classes.names == ("circle", "square", "triangle")
    assert (len(train), len(open_split(folder, "val"))) == (6, 3)
    assert train.issues == ()
    assert train.path(0).is_file()
    assert {path.parent for path in folder.parent.iterdir()} == {folder.parent}  # no remains


def test_the_seed_decides_on_every_byte(tmp_path):
    one, same, other = (small(tmp_path / str(row), seed=row // 2) for row in range(3))
    assert files_of(one) == files_of(same)
    assert (
        files_of(one)[Path("images/train_00001.png")]
        != files_of(other)[Path("images/train_00001.png")]
    )


def test_images_do_not_depend_on_how_many_there_are(tmp_path):
    few, many = files_of(small(tmp_path / "a")), files_of(small(tmp_path / "b", train=8))
    assert all(many[name] == few[name] for name in few if name.suffix == ".png")


def test_a_written_data_set_is_used_again(tmp_path):
    folder = small(tmp_path / "set")
    (folder / "train.json").write_text("mine")
    assert small(tmp_path / "set") == folder
    assert (folder / "train.json").read_text() == "mine"


@pytest.mark.parametrize("change", [{"seed": 1}, {"train": 7}, {"size": 32}])
def test_other_shapes_are_not_overwritten(tmp_path, change):
    small(tmp_path / "set")
    with pytest.raises(DatasetError, match="expected an empty folder or the shapes of"):
        small(tmp_path / "set", **change)


def test_other_files_are_not_overwritten(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for target in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(DatasetError, match="found something else; remove it or choose"):
            small(target)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_the_default_folder_is_in_the_cache_and_one_for_each_choice(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folders = {small(), small(seed=1), small()}
    assert {folder.parent for folder in folders} == {tmp_path / "aligndetr"}
    assert len(folders) == 2


def test_without_a_cache_variable_the_cache_is_at_home(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert small().is_relative_to(tmp_path / ".cache")


def test_another_process_may_finish_first(tmp_path, monkeypatch):
    real_write = shapes._write

    def write_after_another(partial, recipe):
        real_write(tmp_path / "set", recipe)
        real_write(partial, recipe)

    monkeypatch.setattr(shapes, "_write", write_after_another)
    assert small(tmp_path / "set") == tmp_path / "set"
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_folder_that_cannot_be_put_in_place_is_an_error(tmp_path, monkeypatch):
    def write_after_another(partial, recipe):
        partial.mkdir()
        (tmp_path / "set").mkdir()
        (tmp_path / "set" / "notes.txt").touch()

    monkeypatch.setattr(shapes, "_write", write_after_another)
    with pytest.raises(OSError, match="not empty"):
        small(tmp_path / "set")


def alone(label, left, top, side):
    """A shape of full colour drawn by the room's own brush on black."""
    shape = shapes._Shape(label, left, top, side)
    window = shapes._window(shape, 64)
    image = np.zeros((64, 64))
    image[window] = shapes._coverage(shape, window)
    return image


@pytest.mark.parametrize("label", [0, 1, 2])
@pytest.mark.parametrize(("left", "top", "side"), [(10.0, 20.0, 30.0), (3.3, 7.8, 21.4)])
def test_boxes_are_exact_to_half_a_pixel(label, left, top, side):
    rows, columns = np.nonzero(alone(label, left, top, side) > 0.25)
    edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    expected = [left, top, left + side, top + side]
    assert np.allclose(edges, expected, atol=1.5 if label == 2 else 0.75)


@pytest.mark.parametrize(("label", "share"), [(0, np.pi / 4), (1, 1.0), (2, 0.5)])
def test_shapes_fill_their_share_of_the_box(label, share):
    assert alone(label, 10, 12, 40).sum() == pytest.approx(share * 1600, rel=0.02)


def test_images_have_one_to_eight_visible_shapes_of_all_kinds_and_sizes():
    counts, sides, labels = [], [], []
    for seed in range(60):
        pixels, drawn = draw_shapes(np.random.default_rng(seed), 128)
        assert pixels.shape == (128, 128, 3)
        counts.append(len(drawn))
        sides += [shape.side for shape in drawn]
        labels += [shape.label for shape in drawn]
        for shape in drawn:
            assert 0 <= shape.left <= shape.left + shape.side <= 128
            assert 0 <= shape.top <= shape.top + shape.side <= 128
    assert (min(counts), max(counts)) == (1, 8)
    assert 10 <= min(sides) < 12
    assert 55 < max(sides) <= 60
    assert np.bincount(labels).min() > len(labels) / 5


def test_no_shape_is_hidden_by_more_than_the_limit():
    for seed in range(40):
        _, drawn = draw_shapes(np.random.default_rng(seed), 128)
        masks = []
        for shape in drawn:
            window = shapes._window(shape, 128)
            mask = np.zeros((128, 128), dtype=bool)
            mask[window] = shapes._coverage(shape, window) >= 0.5
            masks.append(mask)
        for depth, mask in enumerate(masks):
            above = np.any([np.zeros_like(mask), *masks[depth + 1 :]], axis=0)
            assert (mask & above).sum() <= 0.3 * mask.sum() + 1e-9


@pytest.mark.parametrize("background", [[128, 128, 128], [0, 0, 0], [215, 40, 128]])
def test_shapes_stand_out_from_the_background(background):
    for seed in range(20):
        colour = shapes._contrasting(np.random.default_rng(seed), np.array(background))
        assert np.linalg.norm(colour - background) >= 90
