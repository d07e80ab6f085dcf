"""Pictures become detections, in memory or as files: boxes drawn, and results in COCO's form."""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from aligndetr.checkpoint import make_folder, to_json, write_bytes, write_text
from aligndetr.data.transforms import Pipeline, Triple, size_of
from aligndetr.drawing import picture_from_pixels
from aligndetr.errors import ConfigError, DatasetError
from aligndetr.pictures import Picture, load_image
from aligndetr.types import Classes, Detect, Detections, ImageBatch

RESULTS_FILE = "predictions.json"
IMAGES_FILE = "images.json"

LARGEST_ANNOTATIONS = 100 * 2**20
"""Bytes of the annotation files that are searched for ids; larger ones take too long."""


@dataclass(frozen=True)
class Predictions:
    """What `predict_files` wrote: `results` in COCO's form, and the `images` that they are of."""

    results: list[dict[str, object]]
    images: list[dict[str, object]]


def predict(detect: Detect, picture: Picture, transform: Pipeline) -> Detections:
    """Return what `detect` finds in one picture, with the picture, so that it can be plotted.

    Args:
        detect: The detector.
        picture: Where the picture comes from.
        transform: An augmentation's `evaluation(mean, std)`, or `unresized(mean, std)`.

    Raises:
        DatasetError: it is a file or bytes that cannot be read.
        ValueError: it is of a kind or shape that is no picture.
    """
    pixels = load_image(picture)
    with torch.no_grad():
        (detections,) = detect(prepare(pixels, transform))
    return replace(detections, image=picture_from_pixels(pixels))


def prepare(pixels: Tensor, transform: Pipeline) -> ImageBatch:
    """Return a (3, H, W) picture as the batch of one that the model takes."""
    sizes = torch.tensor([size_of(pixels)], dtype=torch.int64)
    return ImageBatch(transform(pixels).pixels.unsqueeze(0), None, sizes)


def unresized(mean: Triple, std: Triple) -> Pipeline:
    """Return the transform that keeps the size of a picture and only normalises it."""
    return Pipeline(v2.Compose([v2.Identity()]), mean, std)


def predict_files(
    detect: Detect,
    paths: Sequence[Path],
    out: Path,
    *,
    classes: Classes,
    transform: Pipeline,
    threshold: float,
    progress: Callable[[int], None] | None = None,
) -> Predictions:
    """Write each picture with its boxes as PNG, `predictions.json` and `images.json` into `out`.

    `predictions.json` is a list of COCO results; `images.json` is the COCO file that they belong
    to (without objects), and names each image's source and picture. `progress` is told 1 after
    every picture.

    Raises:
        ConfigError: `out` cannot be written to, or a file that is not of an earlier prediction
            would be overwritten.
        DatasetError: a picture cannot be read; all others are done and written by then.
    """
    targets = _targets(paths, out)
    results: list[dict[str, object]] = []
    images: list[dict[str, object]] = []
    problems: dict[Path, DatasetError] = {}
    try:
        for path, target, image_id in zip(paths, targets, image_ids(paths), strict=True):
            try:
                detections = predict(detect, path, transform).above(threshold)
            except DatasetError as error:
                problems[path] = error
            else:
                results += detections.to_coco(image_id)
                images.append(_image_entry(path, target, image_id, detections.image_size))
                _save(detections.plot(), target)
            if progress is not None:
                progress(1)
    finally:  # also when stopped: what was found is kept
        _write_results(out, results, images, classes)
    if problems:
        raise _joined(problems, len(paths), out)
    return Predictions(results, images)


def image_ids(paths: Sequence[Path]) -> list[int]:
    """Return the ids of image files: those of COCO files beside them that name all, else 0, 1, ...

    Looked at are `_annotations.coco.json` in a picture's folder, and in the folder above
    `*.json` and `annotations/instances_FOLDER.json`.
    """
    known = {folder: _ids_beside(folder) for folder in {path.parent for path in paths}}
    ids = [known[path.parent].get(path.name) for path in paths]
    found = [image_id for image_id in ids if image_id is not None]
    is_complete = len(found) == len(ids) and len(set(found)) == len(found)
    return found if is_complete else list(range(len(paths)))


def _targets(paths: Sequence[Path], out: Path) -> list[Path]:
    """Return where each picture goes: its stem, numbered where another picture took it."""
    taken: set[str] = set()
    targets: list[Path] = []
    for path in paths:
        name, count = path.stem, 1
        while name.lower() in taken:
            count += 1
            name = f"{path.stem}-{count}"
        taken.add(name.lower())
        targets.append(out / f"{name}.png")
    make_folder(out, "--out")
    _require_replaceable(paths, targets, out)
    return targets


def _require_replaceable(paths: Sequence[Path], targets: Sequence[Path], out: Path) -> None:
    """Check that nothing is overwritten but what an earlier prediction left: not the sources."""
    earlier = _pictures_in(out / IMAGES_FILE)
    ours = {RESULTS_FILE, IMAGES_FILE, *earlier} if earlier is not None else set[str]()
    written = [*targets, out / RESULTS_FILE, out / IMAGES_FILE]
    sources = {path.resolve() for path in paths}
    lost = [
        path.name
        for path in written
        if path.exists() and (path.name not in ours or path.resolve() in sources)
    ]
    if lost:
        raise ConfigError(
            f"--out: expected a folder for results alone, found {min(lost)} in {out}, which would "
            "be overwritten; name another folder"
        )


def _pictures_in(file: Path) -> set[str] | None:
    """Return the pictures that an earlier prediction wrote beside a file; None if it is no such."""
    try:
        return {str(image["picture"]) for image in json.loads(file.read_bytes())["images"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _save(picture: Image.Image, target: Path) -> None:
    buffer = io.BytesIO()
    # A third of the time of the default 6, and a tenth larger.
    picture.save(buffer, format="PNG", compress_level=3)
    write_bytes(target, buffer.getvalue())


def _image_entry(
    path: Path, target: Path, image_id: int, size: tuple[int, int]
) -> dict[str, object]:
    height, width = size
    return {
        "id": image_id,
        "file_name": path.as_posix(),
        "height": height,
        "width": width,
        "picture": target.name,
    }


def _write_results(
    out: Path,
    results: list[dict[str, object]],
    images: list[dict[str, object]],
    classes: Classes,
) -> None:
    pairs = zip(classes.ids, classes.names, strict=True)
    categories = [{"id": number, "name": name} for number, name in pairs]
    about = {"images": images, "annotations": [], "categories": categories}
    write_text(out / RESULTS_FILE, json.dumps(results))
    write_text(out / IMAGES_FILE, to_json(about))


def _joined(problems: Mapping[Path, DatasetError], total: int, out: Path) -> DatasetError:
    first, *others = problems
    more = f"; nor can {', '.join(str(path) for path in others)}" if others else ""
    done = total - len(problems)
    return DatasetError(f"{problems[first]}{more}; results of the other {done} are in {out}")


def _ids_beside(folder: Path) -> dict[str, int]:
    """Return file name -> id as the COCO files around a folder agree on it."""
    above = folder.resolve().parent
    files = [
        folder / "_annotations.coco.json",
        above / "annotations" / f"instances_{folder.resolve().name}.json",
        *sorted(above.glob("*.json")),
    ]
    ids: dict[str, int] = {}
    ambiguous: set[str] = set()
    for name, image_id in (pair for file in files for pair in _ids_of(file)):
        if ids.setdefault(name, image_id) != image_id:
            ambiguous.add(name)
    return {name: image_id for name, image_id in ids.items() if name not in ambiguous}


def _ids_of(file: Path) -> list[tuple[str, int]]:
    """Return file names and ids of a COCO file; nothing if it is not one."""
    if not file.is_file() or file.stat().st_size > LARGEST_ANNOTATIONS:
        return []
    try:
        images = json.loads(file.read_bytes())["images"]
        return [(Path(image["file_name"]).name, int(image["id"])) for image in images]
    except (OSError, ValueError, KeyError, TypeError):
        return []
