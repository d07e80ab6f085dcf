"""Pictures from anywhere: files, folders, patterns, bytes, PIL, arrays and tensors.

Files and bytes are turned upright as their EXIF data say; pictures given in memory are taken as
they are.
"""

import glob
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from aligndetr.data.images import IMAGE_SUFFIXES, UNREADABLE, to_rgb, upright
from aligndetr.errors import DatasetError

Picture = str | Path | bytes | Image.Image | NDArray[np.uint8] | Tensor
"""A file, the bytes of one, a PIL image, uint8 (H, W, 3), uint8 (3, H, W) or float (3, H, W)."""

Source = Picture | Sequence[Picture]
"""A picture, or several: a folder, a glob pattern or a list."""


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
        names = glob.glob(str(source), recursive=True)  # noqa: PTH207 - also absolute patterns
        found = [Path(name) for name in names]
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
            return _from_pil(picture, "picture")
        case np.ndarray():
            return _from_array(picture)
        case Tensor():
            return _from_tensor(picture)
        case _:
            raise ValueError(
                "picture: expected a path, bytes, PIL image, uint8 array or float tensor, found "
                f"{type(picture).__name__}; convert it to one of these"
            )


def _is_pattern(source: str | Path) -> bool:
    return glob.has_magic(str(source))


def _is_image_name(file: Path) -> bool:
    return file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")


def _decoded(file: Path | io.BytesIO, where: str) -> Tensor:
    try:
        with Image.open(file) as image:
            return _from_pil(upright(image), where)
    except FileNotFoundError:
        raise DatasetError(f"{where}: expected an image, found no file; mend the path") from None
    except UNREADABLE as error:
        raise _unreadable(where, error) from None


def _from_pil(image: Image.Image, where: str) -> Tensor:
    try:
        return _from_array(np.array(to_rgb(image)))
    except UNREADABLE as error:  # PIL decodes late
        raise _unreadable(where, error) from None


def _unreadable(where: str, error: Exception) -> DatasetError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return DatasetError(
        f"{where}: expected an image, found one that cannot be read ({reason}); replace it"
    )


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
