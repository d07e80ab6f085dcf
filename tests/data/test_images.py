import struct

import numpy as np
import pytest
import torch
from PIL import Image

from aligndetr.data.images import ORIENTATION_TAG, image_size, read_image, to_rgb, upright
from aligndetr.errors import DatasetError
from aligndetr.pictures import load_image


def rotated(path, orientation, width=4):
    """Write an image, 3 pixels high, whose EXIF tag asks a viewer to turn it."""
    pixels = np.arange(9 * width, dtype=np.uint8).reshape(3, width, 3)
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[ORIENTATION_TAG] = orientation
    image.save(path, exif=exif)
    return pixels


def test_pixels_come_as_stored_when_the_stored_size_is_annotated(tmp_path):
    pixels = rotated(tmp_path / "a.png", 6)
    image = read_image(tmp_path / "a.png", (3, 4))
    assert image.dtype == torch.uint8
    assert torch.equal(image, torch.as_tensor(pixels).permute(2, 0, 1))


def test_pixels_are_turned_upright_when_the_upright_size_is_annotated(tmp_path):
    pixels = rotated(tmp_path / "a.png", 6)
    image = read_image(tmp_path / "a.png", (4, 3))
    expected = np.rot90(pixels, k=-1)  # 6: the viewer turns it clockwise
    assert torch.equal(image, torch.as_tensor(expected.copy()).permute(2, 0, 1))


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("width", [3, 4])
def test_training_and_prediction_see_the_same_upright_pixels(tmp_path, suffix, orientation, width):
    path = tmp_path / f"a.{suffix}"
    rotated(path, orientation, width)
    assert torch.equal(read_image(path, image_size(path)), load_image(path))


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (2, np.fliplr),
        (3, lambda pixels: np.rot90(pixels, 2)),
        (4, np.flipud),
    ],
)
def test_a_turn_that_keeps_the_size_is_always_made(tmp_path, orientation, turn):
    pixels = rotated(tmp_path / "a.png", orientation)
    image = read_image(tmp_path / "a.png", (3, 4))
    assert torch.equal(image, torch.as_tensor(turn(pixels).copy()).permute(2, 0, 1))


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_square_image_is_turned_upright(tmp_path, orientation):
    rotated(tmp_path / "a.png", orientation, width=3)
    image = read_image(tmp_path / "a.png", (3, 3))
    assert torch.equal(image, load_image(tmp_path / "a.png"))


@pytest.mark.parametrize("orientation", [0, 9])
def test_an_orientation_that_makes_no_sense_is_none(tmp_path, orientation):
    pixels = rotated(tmp_path / "a.png", orientation)
    assert image_size(tmp_path / "a.png") == (3, 4)
    image = read_image(tmp_path / "a.png", (3, 4))
    assert torch.equal(image, torch.as_tensor(pixels).permute(2, 0, 1))


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0none", b"Exif\0\0MM\0*\0", b"none"])
def test_damaged_exif_data_are_no_orientation(tmp_path, suffix, exif):
    path = tmp_path / f"a.{suffix}"
    Image.new("RGB", (4, 3)).save(path, exif=exif)
    assert image_size(path) == (3, 4)
    assert read_image(path, (3, 4)).shape == (3, 3, 4)


def test_other_exif_tags_may_be_of_any_kind(tmp_path):
    """A camera's resolution that is text, which PIL cannot write again."""
    entries = struct.pack(">H", 2)
    entries += struct.pack(">HHIHH", ORIENTATION_TAG, 3, 1, 6, 0)
    entries += struct.pack(">HHI4s", 0x011A, 2, 4, b"72\0\0")
    exif = b"Exif\0\0MM\0*" + struct.pack(">I", 8) + entries + struct.pack(">I", 0)
    Image.new("RGB", (4, 3)).save(tmp_path / "a.jpg", exif=exif)
    assert image_size(tmp_path / "a.jpg") == (4, 3)
    assert read_image(tmp_path / "a.jpg", (4, 3)).shape == (3, 4, 3)
    assert load_image(tmp_path / "a.jpg").shape == (3, 4, 3)


def test_an_image_without_orientation_is_not_copied():
    image = Image.new("RGB", (4, 3))
    assert upright(image) is image


@pytest.mark.parametrize(("orientation", "size"), [(1, (3, 4)), (3, (3, 4)), (6, (4, 3))])
def test_image_size_is_that_of_the_upright_image(tmp_path, orientation, size):
    rotated(tmp_path / "a.png", orientation)
    assert image_size(tmp_path / "a.png") == size


def test_another_size_than_annotated_is_refused(tmp_path, write_image):
    path = write_image(tmp_path / "a.png", width=40, height=30)
    with pytest.raises(DatasetError) as caught:
        read_image(path, (31, 40))
    assert "a.png: expected 40 x 31 pixels (width x height) as annotated, found 40 x 30; " in str(
        caught.value
    )


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_a_file_that_is_no_image_is_refused(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DatasetError, match=r"a\.png: expected an image, found one that cannot be"):
        read_image(tmp_path / "a.png", (3, 4))
    with pytest.raises(DatasetError, match=r"a\.png: expected an image, found one that cannot be"):
        image_size(tmp_path / "a.png")


def test_a_cut_off_image_is_refused(tmp_path, write_image):
    path = write_image(tmp_path / "a.jpg")
    path.write_bytes(path.read_bytes()[:800])
    with pytest.raises(DatasetError, match="truncated"):
        read_image(path, (30, 40))


GREY = np.array([[0, 100], [200, 255]], dtype=np.uint8)


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(GREY),  # L
        Image.fromarray(GREY).convert("LA"),
        Image.fromarray(GREY).convert("RGBA"),
        Image.fromarray(GREY).convert("P"),
        Image.fromarray(GREY.astype(np.uint16) * 257),  # I;16
        Image.fromarray(GREY.astype(np.int32) * 257),  # I
    ],
    ids=lambda image: image.mode,
)
def test_every_mode_becomes_the_same_rgb(image):
    assert np.array_equal(np.asarray(to_rgb(image)), np.stack([GREY] * 3, axis=2))


def test_a_palette_with_transparency_becomes_rgb(tmp_path):
    Image.fromarray(GREY).convert("P").save(tmp_path / "a.png", transparency=b"\0\x80\xff")
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(np.asarray(to_rgb(image)), np.stack([GREY] * 3, axis=2))
