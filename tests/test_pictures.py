import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from aligndetr.errors import DatasetError
from aligndetr.pictures import expand, is_single, list_sources, load_image

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
EXIF_ORIENTATION = 0x0112


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def write_picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(PIXELS).save(path)
    return path


def test_every_kind_of_picture_gives_the_same_pixels(tmp_path: Path):
    path = write_picture(tmp_path / "a.png")
    expected = torch.from_numpy(PIXELS).permute(2, 0, 1)
    for picture in (
        path,
        str(path),
        path.read_bytes(),
        Image.open(path),
        PIXELS,
        np.asfortranarray(PIXELS),
        expected,
    ):
        loaded = load_image(picture)
        assert loaded.dtype == torch.uint8
        assert torch.equal(loaded, expected)
    loaded = load_image(expected / 255)
    assert loaded.dtype == torch.float32
    assert torch.equal(loaded, expected / 255)


def test_arrays_in_reverse_or_read_only_are_taken():
    reverse = load_image(PIXELS[:, ::-1])
    assert torch.equal(reverse.flip(-1), load_image(PIXELS))
    locked = PIXELS.copy()
    locked.setflags(write=False)
    assert torch.equal(load_image(locked), load_image(PIXELS))


def test_a_loaded_array_is_a_copy():
    array = PIXELS.copy()
    loaded = load_image(array)
    array[:] = 0
    assert torch.equal(loaded, load_image(PIXELS))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floats_of_any_width_become_float32(dtype: torch.dtype):
    assert load_image(torch.ones(3, 2, 2, dtype=dtype)).dtype == torch.float32


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "I;16"])
def test_pictures_of_any_mode_become_rgb(mode: str):
    picture = Image.fromarray(PIXELS).convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(picture).astype(np.uint16) * 256)
    loaded = load_image(picture)
    assert loaded.shape == (3, 6, 8)
    assert loaded.float().std() > 20  # neither black nor white


def test_files_and_bytes_are_turned_upright_and_pictures_in_memory_are_not(tmp_path: Path):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6  # a quarter turn to the right shows it upright
    content = encoded(Image.fromarray(PIXELS), exif=exif)
    upright = torch.from_numpy(PIXELS).permute(2, 0, 1).rot90(-1, (1, 2))
    assert torch.equal(load_image(content), upright)
    (tmp_path / "a.png").write_bytes(content)
    assert torch.equal(load_image(tmp_path / "a.png"), upright)
    assert load_image(Image.open(io.BytesIO(content))).shape == (3, 6, 8)


@pytest.mark.parametrize("content", [b"", b"not an image", encoded(Image.fromarray(PIXELS))[:60]])
def test_a_broken_picture_is_an_error_that_names_it(tmp_path: Path, content: bytes):
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match="cannot be read") as caught:
        load_image(path)
    assert str(caught.value).startswith(f"{path}: expected an image, found one that")
    assert "\n" not in str(caught.value)
    with pytest.raises(DatasetError, match=f"^picture of {len(content)} bytes: expected an image"):
        load_image(content)


def test_a_picture_that_pil_opened_and_cannot_decode_is_an_error():
    content = encoded(Image.fromarray(PIXELS.repeat(20, 0).repeat(20, 1)), "JPEG")
    with pytest.raises(DatasetError, match=r"^picture: expected an image, found one that cannot"):
        load_image(Image.open(io.BytesIO(content[: len(content) // 2])))


def test_a_missing_file_is_an_error(tmp_path: Path):
    with pytest.raises(DatasetError, match=r"none\.png: expected an image, found no file; mend"):
        load_image(tmp_path / "none.png")


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((4, 4), np.uint8), r"array \(H, W, 3\) of uint8, found \(4, 4\) of uint8"),
        (np.zeros((3, 4, 4), np.uint8), r"found \(3, 4, 4\) of uint8"),
        (np.zeros((4, 4, 3)), r"found \(4, 4, 3\) of float64; convert it to RGB in 0..255"),
        (np.zeros((0, 4, 3), np.uint8), r"found \(0, 4, 3\)"),
        (
            torch.zeros(4, 4, 3),
            r"tensor \(3, H, W\) .* found \(4, 4, 3\) of torch.float32",
        ),
        (torch.zeros(1, 3, 4, 4), r"found \(1, 3, 4, 4\)"),
        (torch.zeros(3, 0, 4), r"found \(3, 0, 4\)"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), r"of torch.int64; permute or convert it"),
        (torch.full((3, 4, 4), 255.0), r"floats in \[0, 1\], found 255 to 255; scale"),
        (torch.full((3, 4, 4), -0.5), r"found -0.5 to -0.5"),
        (torch.full((3, 4, 4), torch.nan), r"found nan to nan"),
        (None, "found NoneType; convert it to one of these"),
    ],
)
def test_what_is_no_picture_is_an_error(picture, message: str):
    with pytest.raises(ValueError, match=f"^picture: expected .*{message}"):
        load_image(picture)


def test_a_file_stands_for_itself_whatever_it_is_called(tmp_path: Path):
    path = write_picture(tmp_path / "img[1].png")
    assert list_sources(path) == [path]
    path = path.rename(tmp_path / "no_ending")
    assert list_sources(str(path)) == [path]


def test_a_folder_gives_its_images_in_order_without_hidden_and_other_files(tmp_path: Path):
    for name in ("b.JPG", "a.png", ".hidden.png", "notes.txt", "sub/c.png"):
        write_picture(tmp_path / f"{name}.png").rename(tmp_path / name)
    assert [path.name for path in list_sources(tmp_path)] == ["a.png", "b.JPG"]


def test_a_pattern_gives_the_images_that_fit_in_order(tmp_path: Path, monkeypatch):
    for name in ("b/x.png", "a/x.png", "a/y.png", "top.png"):
        write_picture(tmp_path / name)
    (tmp_path / "a" / "notes.txt").touch()
    found = list_sources(f"{tmp_path}/**/*")
    assert [path.relative_to(tmp_path).as_posix() for path in found] == [
        "a/x.png",
        "a/y.png",
        "b/x.png",
        "top.png",
    ]
    monkeypatch.chdir(tmp_path)
    assert list_sources("*/x.p?g") == [Path("a/x.png"), Path("b/x.png")]


def test_a_source_without_images_is_an_error_that_says_what_was_looked_for(tmp_path: Path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DatasetError, match=r"expected images in this folder \(\.bmp, .*among 1 en"):
        list_sources(tmp_path)
    with pytest.raises(DatasetError, match=r"\*\.txt: expected a pattern .* found 1 other files"):
        list_sources(f"{tmp_path}/*.txt")
    with pytest.raises(DatasetError, match=r"expected an image file, a folder or a glob pattern"):
        list_sources("https://example.org/a.jpg")


def test_sources_are_expanded_and_tell_one_picture_from_several(tmp_path: Path):
    path = write_picture(tmp_path / "a.png")
    assert expand([]) == []
    assert expand([PIXELS, str(tmp_path), [path]]) == [PIXELS, path, path]  # pyright: ignore[reportArgumentType]
    assert expand(b"content") == [b"content"]
    assert all(map(is_single, [path, str(path), b"", PIXELS, Image.new("L", (1, 1)), "none.png"]))
    assert not any(map(is_single, [tmp_path, str(tmp_path / "*.png"), [path], ()]))
