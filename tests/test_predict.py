import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from aligndetr.data.transforms import LightAugmentation
from aligndetr.errors import ConfigError, DatasetError
from aligndetr.predict import (
    LARGEST_ANNOTATIONS,
    Predictions,
    image_ids,
    predict,
    predict_files,
    prepare,
    unresized,
)
from aligndetr.types import Classes, Detections, Features, ImageBatch

CLASSES = Classes(("cat", "dog"), (3, 90))
HALF = (0.5, 0.5, 0.5)
RESIZED = LightAugmentation(short_side=20, max_side=40).evaluation(HALF, HALF)


def detect(images: ImageBatch | Features) -> list[Detections]:
    """Find a sure dog in the left half of every image, and perhaps a cat in all of it."""
    assert not torch.is_grad_enabled()
    found = []
    for height, width in images.sizes.tolist():
        boxes = torch.tensor([[0, 0, width / 2, height], [0, 0, width, height]])
        scores, labels = torch.tensor([0.75, 0.25]), torch.tensor([1, 0])
        found.append(Detections(boxes, scores, labels, CLASSES, (height, width)))
    return found


def write_picture(path: Path, *, width: int = 30, height: int = 20) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), "gray").save(path)
    return path


def write_coco(path: Path, names: dict[str, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"file_name": name, "id": number} for name, number in names.items()]
    path.write_text(json.dumps({"images": images}))


def run(
    paths: list[Path],
    out: Path,
    *,
    threshold: float = 0.5,
    progress: Callable[[int], None] | None = None,
) -> Predictions:
    return predict_files(
        detect,
        paths,
        out,
        classes=CLASSES,
        transform=RESIZED,
        threshold=threshold,
        progress=progress,
    )


def test_no_pictures_leave_empty_results(tmp_path: Path):
    assert run([], tmp_path / "out") == Predictions([], [])
    assert json.loads((tmp_path / "out" / "predictions.json").read_text()) == []


def test_a_picture_is_resized_as_in_evaluation_and_keeps_its_size_in_the_record():
    pixels = torch.full((3, 60, 90), 255, dtype=torch.uint8)
    batch = prepare(pixels, RESIZED)
    assert batch.pixels.shape == (1, 3, 20, 30)
    assert batch.padding is None
    assert batch.sizes.tolist() == [[60, 90]]
    assert torch.allclose(batch.pixels, torch.ones(()))  # (1 - 0.5) / 0.5


def test_an_unresized_picture_is_only_normalised():
    pixels = torch.rand(3, 7, 5)
    batch = prepare(pixels, unresized((0.1, 0.2, 0.3), (0.5, 0.25, 1.0)))
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.25, 1.0])
    expected = (pixels - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    torch.testing.assert_close(batch.pixels, expected.unsqueeze(0))
    assert batch.sizes.tolist() == [[7, 5]]


def test_floats_and_bytes_of_one_picture_are_prepared_alike():
    pixels = torch.randint(0, 256, (3, 40, 50), dtype=torch.uint8)
    one, other = prepare(pixels, RESIZED), prepare(pixels / 255, RESIZED)
    torch.testing.assert_close(one.pixels, other.pixels, atol=0.02, rtol=0)  # uint8 rounding


def test_a_prediction_keeps_the_picture_and_its_pixels_as_units():
    array = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    found = predict(detect, array, RESIZED)
    assert found.boxes[0].tolist() == [0, 0, 45, 60]
    assert np.array_equal(np.asarray(found.image), array)
    assert found.plot().size == (450, 300)


def test_pictures_results_and_images_are_written(tmp_path: Path):
    paths = [write_picture(tmp_path / "in" / name) for name in ("a.jpg", "b.png")]
    seen: list[int] = []
    out = tmp_path / "deep" / "out"
    predictions = predict_files(
        detect,
        paths,
        out,
        classes=CLASSES,
        transform=RESIZED,
        threshold=0.5,
        progress=seen.append,
    )
    assert seen == [1, 1]
    assert sorted(path.name for path in out.iterdir()) == [
        "a.png",
        "b.png",
        "images.json",
        "predictions.json",
    ]
    assert predictions.results == json.loads((out / "predictions.json").read_text())
    assert predictions.results == [
        {"image_id": number, "category_id": 90, "bbox": [0.0, 0.0, 15.0, 20.0], "score": 0.75}
        for number in (0, 1)
    ]
    assert predictions.images == json.loads((out / "images.json").read_text())["images"]
    assert predictions.images[1] == {
        "id": 1,
        "file_name": paths[1].as_posix(),
        "height": 20,
        "width": 30,
        "picture": "b.png",
    }


def test_the_threshold_decides_what_is_drawn_and_written(tmp_path: Path):
    path = write_picture(tmp_path / "a.jpg")
    assert len(run([path], tmp_path / "out", threshold=0.2).results) == 2
    assert len(run([path], tmp_path / "out", threshold=0.25).results) == 2
    assert run([path], tmp_path / "out", threshold=0.9).results == []


def test_coco_tools_read_the_two_files(tmp_path: Path):
    run([write_picture(tmp_path / name) for name in ("a.jpg", "b.jpg")], tmp_path / "out")
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(tmp_path / "out" / "images.json"))
        results = coco.loadRes(str(tmp_path / "out" / "predictions.json"))
    assert len(results.getAnnIds(imgIds=[1])) == 1
    assert [category["name"] for category in coco.loadCats([3, 90])] == ["cat", "dog"]


def test_pictures_of_one_name_do_not_overwrite_each_other(tmp_path: Path):
    names = ("x/a.jpg", "y/a.jpg", "y/A.png", "z/a-2.jpg")
    paths = [write_picture(tmp_path / name) for name in names]
    predictions = run(paths, tmp_path / "out")
    pictures = [str(image["picture"]) for image in predictions.images]
    assert pictures == ["a.png", "a-2.png", "A-3.png", "a-2-2.png"]
    assert all((tmp_path / "out" / picture).is_file() for picture in pictures)


def test_broken_pictures_are_one_error_and_nothing_else_is_lost(tmp_path: Path):
    paths = [write_picture(tmp_path / "in" / f"{name}.png") for name in "abcd"]
    paths[1].write_bytes(b"")
    with pytest.raises(DatasetError) as caught:
        run(paths, tmp_path / "out")
    assert str(caught.value).startswith(f"{paths[1]}: expected an image, found one that cannot be")
    assert str(caught.value).endswith(f"; results of the other 3 are in {tmp_path / 'out'}")
    results = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [entry["image_id"] for entry in results] == [0, 2, 3]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == [
        "a.png",
        "c.png",
        "d.png",
    ]
    paths[3].write_bytes(b"")
    with pytest.raises(DatasetError, match=r"b\.png: .*; nor can .*d\.png; results of the other 2"):
        run(paths, tmp_path / "out")


def test_what_was_found_before_a_stop_is_kept_and_may_be_replaced(tmp_path: Path):
    paths = [write_picture(tmp_path / f"{name}.jpg") for name in "ab"]

    def stop(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(paths, tmp_path / "out", progress=stop)

    results = json.loads((tmp_path / "out" / "predictions.json").read_bytes())
    assert [result["image_id"] for result in results] == [0]
    assert len(run(paths, tmp_path / "out").images) == 2


def test_a_source_is_never_overwritten(tmp_path: Path):
    path = write_picture(tmp_path / "a.png")
    before = path.read_bytes()
    with pytest.raises(
        ConfigError, match=r"--out: expected a folder .* a\.png in .* would be overwritten"
    ):
        run([path], tmp_path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["a.png", "predictions.json", "images.json"])
def test_files_of_the_user_are_never_overwritten(tmp_path: Path, name: str):
    path = write_picture(tmp_path / "in" / "a.jpg")
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("mine")
    with pytest.raises(ConfigError, match=f"found {name} in .* would be overwritten; name anoth"):
        run([path], out)
    assert [file.name for file in out.iterdir()] == [name]
    assert (out / name).read_text() == "mine"


def test_an_earlier_prediction_is_replaced(tmp_path: Path):
    path = write_picture(tmp_path / "in" / "a.jpg")
    first = run([path], tmp_path / "out")
    assert run([path], tmp_path / "out", threshold=0.9).results == []
    assert len(first.results) == 1
    assert json.loads((tmp_path / "out" / "predictions.json").read_text()) == []


def test_a_file_in_the_place_of_the_folder_is_an_error(tmp_path: Path):
    path = write_picture(tmp_path / "a.png")
    with pytest.raises(
        ConfigError, match=r"--out: expected a folder to write to, found .*a\.png: File ex"
    ):
        run([path], path)


def test_ids_are_counted_where_no_coco_file_is_beside(tmp_path: Path):
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "broken.json").write_text("{")
    assert image_ids([]) == []
    assert image_ids([tmp_path / "in" / "b.jpg", tmp_path / "in" / "a.jpg"]) == [0, 1]


@pytest.mark.parametrize(
    "file", ["val.json", "annotations/instances_in.json", "in/_annotations.coco.json"]
)
def test_ids_of_a_coco_file_beside_the_pictures_are_kept(tmp_path: Path, file: str):
    write_coco(tmp_path / file, {"b.jpg": 12, "sub/a.jpg": 7})
    folder = tmp_path / "in"
    assert image_ids([folder / "a.jpg", folder / "b.jpg"]) == [7, 12]
    assert image_ids([folder / "b.jpg"]) == [12]


def test_ids_of_several_coco_files_are_put_together(tmp_path: Path):
    write_coco(tmp_path / "train.json", {"a.jpg": 1})
    write_coco(tmp_path / "val.json", {"b.jpg": 2})
    assert image_ids([tmp_path / "in" / "b.jpg", tmp_path / "in" / "a.jpg"]) == [2, 1]


def test_ids_are_counted_where_the_coco_files_leave_a_doubt(tmp_path: Path):
    write_coco(tmp_path / "train.json", {"a.jpg": 5, "b.jpg": 6})
    paths = [tmp_path / "in" / f"{name}.jpg" for name in "abc"]
    assert image_ids(paths) == [0, 1, 2]  # nothing names c.jpg
    write_coco(tmp_path / "val.json", {"b.jpg": 4})
    assert image_ids(paths[:2]) == [0, 1]  # two ids for b.jpg
    write_coco(tmp_path / "val.json", {"c.jpg": 5})
    assert image_ids([paths[0], paths[2]]) == [0, 1]  # one id for two pictures


def test_huge_annotation_files_are_not_searched(tmp_path: Path):
    write_coco(tmp_path / "val.json", {"a.jpg": 5})
    with (tmp_path / "val.json").open("ab") as file:
        file.truncate(LARGEST_ANNOTATIONS + 1)
    assert image_ids([tmp_path / "in" / "a.jpg"]) == [0]
