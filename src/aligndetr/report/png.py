"""Figures of matplotlib as PNG files."""

from io import BytesIO
from pathlib import Path

from matplotlib.figure import Figure

from aligndetr.checkpoint import write_bytes


def write_png(path: Path, figure: Figure, *, dpi: int) -> None:
    """Write a figure so that `path` holds all of it or what it held before.

    Raises:
        CheckpointError: `path` cannot be written to.
    """
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=dpi)
    write_bytes(path, picture.getvalue())
