import pytest

from aligndetr.data.files import read_bytes, read_text
from aligndetr.errors import DatasetError


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", ""),
        ("dög".encode(), "dög"),
        ("dög".encode("utf-8-sig"), "dög"),
        (b"\xef\xbb\xbf", ""),  # the byte order mark alone
    ],
)
def test_text_is_read_with_or_without_a_byte_order_mark(tmp_path, content, text):
    (tmp_path / "a.txt").write_bytes(content)
    assert read_text(tmp_path / "a.txt") == text
    assert read_bytes(tmp_path / "a.txt") == content


@pytest.mark.parametrize(
    ("content", "line", "byte"),
    [
        ("dög".encode("latin-1"), 1, "0xf6"),
        ("cat\r\ndög".encode("latin-1"), 2, "0xf6"),
        ("cat".encode("utf-16"), 1, "0xff"),
    ],
)
def test_text_in_another_encoding_is_refused_with_line_and_byte(tmp_path, content, line, byte):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(DatasetError) as caught:
        read_text(tmp_path / "a.txt")
    assert str(caught.value) == (
        f"{tmp_path / 'a.txt'}:{line}: expected text in UTF-8, found the byte {byte}; "
        "save the file as UTF-8"
    )


@pytest.mark.parametrize(
    ("name", "reason"), [("none.txt", "No such file or directory"), (".", "Is a directory")]
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path, name, reason):
    with pytest.raises(DatasetError) as caught:
        read_text(tmp_path / name)
    assert str(caught.value) == (
        f"{tmp_path / name}: expected a readable file, found: {reason}; "
        "check the path and its permissions"
    )
