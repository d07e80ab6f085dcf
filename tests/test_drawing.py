import itertools
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from aligndetr.drawing import (
    PALETTE,
    class_colour,
    contact_sheet,
    draw_boxes,
    picture_from_pixels,
)
from aligndetr.types import Classes, Detections

GRAY = (128, 128, 128)


def gray(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), GRAY)


def changed(drawn: Image.Image) -> np.ndarray:
    """(H, W): where a picture that was gray is not."""
    return (np.asarray(drawn) != GRAY).any(axis=2)


def detections(**changes: object) -> Detections:
    fields = {
        "boxes": torch.tensor([[100.0, 120.0, 300.0, 280.0], [10.0, 20.0, 90.0, 70.0]]),
        "scores": torch.tensor([0.9, 0.4]),
        "labels": torch.tensor([1, 0]),
        "classes": Classes(("cat", "dog"), (3, 8)),
        "image_size": (480, 640),
        **changes,
    }
    return Detections(**fields)  # pyright: ignore[reportArgumentType]


def test_no_boxes_leave_the_picture_as_it_is():
    drawn = draw_boxes(gray(640, 480), torch.zeros(0, 4), [], [])
    assert drawn.size == (640, 480)
    assert not changed(drawn).any()


def test_a_box_is_outlined_in_the_colour_of_its_label_and_the_source_is_not_touched():
    picture = gray(640, 480)
    drawn = draw_boxes(picture, torch.tensor([[100.0, 120.0, 300.0, 280.0]]), [4], [""])
    for point in [(100, 200), (300, 200), (200, 120), (200, 280)]:
        assert drawn.getpixel(point) == PALETTE[4]
    assert drawn.getpixel((200, 200)) == GRAY
    assert not changed(picture).any()


@pytest.mark.parametrize("size", [(640, 480), (3000, 2000), (400, 12), (12, 400), (33, 20), (1, 1)])
@pytest.mark.parametrize("place", [(0.0, 0.0), (0.9, 0.9), (-0.5, 0.4), (0.4, 1.2)])
def test_captions_fit_in_pictures_of_any_size_wherever_the_box_is(size, place):
    left, top = place[0] * size[0], place[1] * size[1]
    box = torch.tensor([[left, top, left + 0.3 * size[0], top + 0.3 * size[1]]])
    drawn = draw_boxes(gray(*size), box, [0], ["a long class name 0.87"])
    without = draw_boxes(gray(*size), box, [0], [""])
    assert drawn.width * size[1] == drawn.height * size[0]
    assert max(drawn.size) >= 400
    assert (np.asarray(drawn) != np.asarray(without)).any()


def test_a_line_break_in_a_name_is_a_space():
    box = torch.tensor([[20.0, 30.0, 90.0, 80.0]])
    drawn = [draw_boxes(gray(200, 100), box, [0], [name]) for name in ("a\ncat\n", "a cat")]
    assert (np.asarray(drawn[0]) == np.asarray(drawn[1])).all()


def test_the_first_detection_lies_on_top():
    box = torch.tensor([[50.0, 50.0, 200.0, 200.0]])
    drawn = draw_boxes(gray(640, 480), box.repeat(2, 1), [2, 5], ["", ""])
    assert drawn.getpixel((50, 100)) == PALETTE[2]


def test_a_box_with_its_corners_swapped_is_drawn_as_a_line():
    drawn = draw_boxes(gray(640, 480), torch.tensor([[300.0, 300.0, 100.0, 100.0]]), [0], [""])
    assert (np.asarray(drawn) == PALETTE[0]).all(axis=2).sum() > 0
    assert changed(drawn)[:, :90].sum() == changed(drawn)[310:].sum() == 0


def test_lines_and_captions_grow_with_the_picture():
    def ink(scale: int) -> float:
        size = 640 * scale, 480 * scale
        box = torch.tensor([[100.0, 120.0, 300.0, 280.0]]) * scale
        return float(changed(draw_boxes(gray(*size), box, [0], ["cat 0.90"])).mean())

    assert ink(4) == pytest.approx(ink(1), rel=0.35)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_pictures_of_any_mode_become_rgb(mode):
    drawn = draw_boxes(gray(640, 480).convert(mode), torch.zeros(0, 4), [], [])
    assert drawn.mode == "RGB"


def test_colours_of_a_hundred_classes_are_stable_and_distinct():
    colours = [class_colour(label) for label in range(100)]
    assert colours == [class_colour(label) for label in range(100)]
    assert len(set(colours)) == 100
    assert all(0 <= value <= 255 for colour in colours for value in colour)


def test_the_first_colours_differ_in_brightness_or_hue_by_far():
    for one, other in itertools.combinations(PALETTE, 2):
        assert sum(abs(a - b) for a, b in zip(one, other, strict=True)) > 80


def test_a_contact_sheet_puts_pictures_in_rows():
    red, wide = Image.new("RGB", (20, 20), "red"), Image.new("RGB", (40, 10), "blue")
    sheet = contact_sheet([red, wide, red], 2, cell=100, gap=10)
    assert sheet.size == (10 + 2 * 110, 10 + 110 + 110)
    assert sheet.getpixel((60, 60)) == (255, 0, 0)
    assert sheet.getpixel((170, 20)) == (0, 0, 255)
    assert sheet.getpixel((170, 60)) == (255, 255, 255)  # below the wide one
    assert sheet.getpixel((60, 170)) == (255, 0, 0)
    assert sheet.getpixel((5, 5)) == (255, 255, 255)


def test_a_contact_sheet_is_no_wider_than_its_pictures():
    assert contact_sheet([gray(20, 20)], 5, cell=100, gap=10).size == (120, 120)


@pytest.mark.parametrize(("count", "columns"), [(0, 3), (1, 0)])
def test_a_contact_sheet_of_nothing_is_an_error(count, columns):
    with pytest.raises(ValueError, match=f"contact_sheet: {count} pictures in {columns} columns"):
        contact_sheet([gray(5, 5)] * count, columns)


def test_pixels_become_a_picture():
    array = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    pixels = torch.from_numpy(array).permute(2, 0, 1)
    assert np.array_equal(np.asarray(picture_from_pixels(pixels)), array)
    assert np.array_equal(np.asarray(picture_from_pixels(pixels / 255)), array)


def test_plot_draws_on_the_picture_that_was_kept_or_given():
    kept = detections(image=gray(640, 480)).plot()
    given = detections().plot(gray(640, 480))
    assert kept.tobytes() == given.tobytes()
    assert kept.getpixel((200, 280)) == class_colour(1)


def test_plot_without_a_picture_is_an_error():
    with pytest.raises(ValueError, match=r"no picture was kept; give one: plot\(picture\)"):
        detections().plot()


def test_to_supervision_hands_over_boxes_scores_labels_and_names(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", SimpleNamespace(Detections=dict))
    handed = detections().to_supervision()
    assert handed["xyxy"].tolist() == [[100, 120, 300, 280], [10, 20, 90, 70]]
    assert handed["confidence"].tolist() == pytest.approx([0.9, 0.4])
    assert handed["class_id"].tolist() == [1, 0]
    assert handed["data"]["class_name"].tolist() == ["dog", "cat"]


def test_to_supervision_names_the_package_that_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match=r"pip install 'aligndetr\[supervision\]'"):
        detections().to_supervision()
