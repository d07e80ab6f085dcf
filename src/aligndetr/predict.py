"""Pictures from anywhere: files, folders, bytes, PIL, arrays and tensors become detections.

Files and bytes are turned upright as their EXIF data say; pictures given in memory are taken as
they are. Boxes are in pixels of that picture.
"""

import glob
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms import v2

from aligndetr.checkpoint import write_text
from aligndetr.data.images import IMAGE_SUFFIXES, UNREADABLE, to_rgb
from aligndetr.data.transforms import Pipeline, Triple, size_of
from aligndetr.drawing import picture_from_pixels
from aligndetr.errors import ConfigError, DatasetError
from aligndetr.types import Classes, Detections, Features, ImageBatch

Picture = str | Path | bytes | Image.Image | NDArray[np.uint8] | Tensor
"""A file, the bytes of one, a PIL image, uint8 (H, W, 3), uint8 (3, H, W) or float (3, H, W)."""

Source = Picture | Sequence[Picture]
"""A picture, or several: a folder, a glob pattern or a list."""

Detect = Callable[[ImageBatch | Features], list[Detections]]
"""A detector in evaluation mode: one Detections an image; it moves the images to its device."""

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


def is_single(source: Source) -> bool:
    """Return whether a source is one picture, not a folder, a glob pattern or a list."""
    if isinstance(source, str | Path):
        return Path(source).is_file() or not (Path(source).is_dir() or _is_pattern(source))
    return isinstance(source, bytes | Image.Image | np.ndarray | Tensor)


def expand(source: Source) -> list[Picture]:
    """Return the pictures of a source, files of a folder or pattern in order.

    Raises:
        DatasetError: there is no such file, or there are no images in the folder.
    """
    if isinstance(source, str | Path):
        return [*list_sources(source)]
    if isinstance(source, bytes | Image.Image | np.ndarray | Tensor):
        return [source]
    return [picture for item in source for picture in expand(item)]


def list_sources(source: str | Path) -> list[Path]:
    """Return the image files that a file name, folder or glob pattern stands for, sorted.

    Of folders and patterns hidden files and other endings than those of images are left out.

    Raises:
        DatasetError: nothing was found; says what was looked for.
    """
    path = Path(source)
    if path.is_file():
        return [path]
    if path.is_dir():
        found = list(path.iterdir())
    else:
        found = [Path(name) for name in glob.glob(str(source), recursive=True)]
    images = sorted(file for file in found if _is_image_name(file) and file.is_file())
    if images:
        return images
    endings = ", ".join(sorted(IMAGE_SUFFIXES))
    if path.is_dir():
        raise DatasetError(
            f"{path}: expected images in this folder ({endings}), found none among "
            f"{len(found)} entries; for its subfolders give the pattern '{path}/**/*'"
        )
    if _is_pattern(source):
        raise DatasetError(
            f"{source}: expected a pattern that images ({endings}) fit, found "
            f"{len(found)} other files; mend the pattern"
        )
    raise DatasetError(
        f"{source}: expected an image file, a folder or a glob pattern, found nothing there; "
        "mend the path (pictures on the web have to be downloaded first)"
    )


def load_image(picture: Picture) -> Tensor:
    """Return a picture as RGB (3, H, W): float32 in [0, 1] if it was a float tensor, else uint8.

    Raises:
        DatasetError: it is a file or bytes that cannot be read.
        ValueError: it is of a kind or shape that is no picture.
    """
    match picture:
        case str() | Path():
            return _decoded(Path(picture), str(picture))
        case bytes():
            return _decoded(io.BytesIO(picture), f"picture of {len(picture)} bytes")
        case Image.Image():
            return _from_array(np.array(to_rgb(picture)))
        case np.ndarray():
            return _from_array(picture)
        case Tensor():
            return _from_tensor(picture)
        case _:
            raise ValueError(
                "picture: expected a path, bytes, PIL image, uint8 array or float tensor, found "
                f"{type(picture).__name__}; convert it to one of these"
            )


def prepare(pixels: Tensor, transform: Pipeline) -> ImageBatch:
    """Return a (3, H, W) picture as the batch of one that the model takes."""
    sizes = torch.tensor([size_of(pixels)], dtype=torch.int64)
    return ImageBatch(transform(pixels).pixels.unsqueeze(0), None, sizes)


def unresized(mean: Triple, std: Triple) -> Pipeline:
    """Return the transform that keeps the size of a picture and only normalises it."""
    steps = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))]
    return Pipeline(v2.Compose(steps))


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
        ConfigError: `out` is not a folder, or a picture would overwrite a source.
        DatasetError: a picture cannot be read; all others are done and written by then.
    """
    targets = _targets(paths, out)
    results: list[dict[str, object]] = []
    images: list[dict[str, object]] = []
    problems: list[DatasetError] = []
    for path, target, image_id in zip(paths, targets, image_ids(paths), strict=True):
        try:
            detections = predict(detect, path, transform).above(threshold)
        except DatasetError as error:
            problems.append(error)
        else:
            detections.plot().save(target)
            results += detections.to_coco(image_id)
            images.append(_image_entry(path, target, image_id, detections.image_size))
        if progress is not None:
            progress(1)
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


def _is_pattern(source: str | Path) -> bool:
    return glob.has_magic(str(source))


def _is_image_name(file: Path) -> bool:
    return file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")


def _decoded(file: Path | io.BytesIO, where: str) -> Tensor:
    try:
        with Image.open(file) as image:
            return _from_array(np.array(to_rgb(ImageOps.exif_transpose(image))))
    except FileNotFoundError:
        raise DatasetError(f"{where}: expected an image, found no file; mend the path") from None
    except UNREADABLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DatasetError(
            f"{where}: expected an image, found one that cannot be read ({reason}); replace it"
        ) from None


def _from_array(array: NDArray[np.uint8]) -> Tensor:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
        raise ValueError(
            f"picture: expected an array (H, W, 3) of uint8, found {array.shape} of "
            f"{array.dtype}; convert it to RGB in 0..255"
        )
    return torch.from_numpy(np.array(array)).permute(2, 0, 1)


def _from_tensor(tensor: Tensor) -> Tensor:
    is_float = tensor.is_floating_point()
    is_picture = tensor.ndim == 3 and tensor.shape[0] == 3 and tensor.numel() > 0
    if not is_picture or not (is_float or tensor.dtype == torch.uint8):
        raise ValueError(
            f"picture: expected a tensor (3, H, W) of floats in [0, 1] or uint8, found "
            f"{tuple(tensor.shape)} of {tensor.dtype}; permute or convert it"
        )
    if not is_float:
        return tensor
    low, high = (float(value) for value in tensor.aminmax())
    if not (low >= 0 and high <= 1):  # also where there are NaNs
        raise ValueError(
            f"picture: expected floats in [0, 1], found {low:.4g} to {high:.4g}; "
            "scale the pixels and leave the normalisation to the detector"
        )
    return tensor.detach().float()


def _targets(paths: Sequence[Path], out: Path) -> list[Path]:
    """Return where each picture goes: its stem, numbered where another picture took it."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out}: expected a folder for the results, found a file; name another")
    taken: set[str] = set()
    targets: list[Path] = []
    for path in paths:
        name, count = path.stem, 1
        while name.lower() in taken:
            count += 1
            name = f"{path.stem}-{count}"
        taken.add(name.lower())
        targets.append(out / f"{name}.png")
    overwritten = {path.resolve() for path in paths} & {path.resolve() for path in targets}
    if overwritten:
        raise ConfigError(
            f"{out}: expected another folder than that of the sources, found that "
            f"{min(overwritten).name} would be overwritten; name another folder"
        )
    out.mkdir(parents=True, exist_ok=True)
    return targets


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
    write_text(out / IMAGES_FILE, json.dumps(about, ensure_ascii=False))


def _joined(problems: Sequence[DatasetError], total: int, out: Path) -> DatasetError:
    more = f" (so are {len(problems) - 1} others)" if len(problems) > 1 else ""
    done = total - len(problems)
    return DatasetError(f"{problems[0]}{more}; results of the other {done} pictures are in {out}")


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
    except (ValueError, KeyError, TypeError):
        return []
