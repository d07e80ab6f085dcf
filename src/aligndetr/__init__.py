"""DETR-family object detection: train, evaluate, predict and analyse, on a CPU or many GPUs."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aligndetr.api import Detector as Detector
    from aligndetr.config.schema import Config as Config
    from aligndetr.types import Detections as Detections

    __version__: str

_HOMES = {
    "Config": "aligndetr.config.schema",
    "Detections": "aligndetr.types",
    "Detector": "aligndetr.api",
}
"""Where each public name lives; loaded on first use, so that importing the package is quick."""

__all__ = ["Config", "Detections", "Detector", "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("aligndetr")
    if name not in _HOMES:
        raise AttributeError(f"module 'aligndetr' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
