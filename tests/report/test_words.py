import pytest

from aligndetr.report import words
from aligndetr.report.words import MINUS, UNKNOWN


@pytest.mark.parametrize(
    ("written", "value", "expected"),
    [
        (words.points, None, UNKNOWN),
        (words.points, 0.4127, "41.3"),
        (words.points, -0.0312, f"{MINUS}3.1"),
        (words.points, -0.0001, "0.0"),  # no minus before nothing
        (words.percent, 0.452, "45.2\N{NO-BREAK SPACE}%"),
        (words.decimal, 0.4149, "0.41"),
        (words.count, 36335, "36,335"),
        (words.signed(words.points), 0.0312, "+3.1"),
        (words.signed(words.points), 0.0001, "0.0"),
        (words.signed(words.decimal), -0.2, f"{MINUS}0.20"),
        (words.signed(words.decimal), None, UNKNOWN),
    ],
)
def test_numbers_are_written_as_the_field_writes_them(written, value, expected):
    assert written(value) == expected


def test_an_interval_has_its_unit_once_or_is_nothing():
    assert words.between(None, words.percent) == ""
    assert words.between((0.4, 0.5), words.percent) == "40.0 to 50.0"


def test_a_difference_needs_both_numbers():
    assert words.minus(0.5, None) is None
    assert words.minus(None, 0.5) is None
    assert words.minus(0.5, 0.25) == 0.25
