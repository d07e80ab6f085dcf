"""Reads the files of a data folder whole, and says in one line where that is not possible."""

from pathlib import Path

from aligndetr.errors import DatasetError


def read_bytes(file: Path) -> bytes:
    """Return what a file holds.

    Raises:
        DatasetError: It is not there, or may not be read.
    """
    try:
        return file.read_bytes()
    except OSError as error:
        raise DatasetError(
            f"{file}: expected a readable file, found: {error.strerror}; check the path and "
            "its permissions"
        ) from None


def read_text(file: Path) -> str:
    """Return the text of a file in UTF-8, with or without a byte order mark.

    Raises:
        DatasetError: It is not there, may not be read, or is in another encoding.
    """
    content = read_bytes(file)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DatasetError(
            f"{file}:{line}: expected text in UTF-8, found the byte "
            f"0x{content[error.start]:02x}; save the file as UTF-8"
        ) from None
