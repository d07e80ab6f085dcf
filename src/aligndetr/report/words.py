"""Numbers as a reader sees them: AP in points, shares in percent, coefficients to 0.01."""

from collections.abc import Callable

from aligndetr.report.content import Interval

UNKNOWN = "\N{EN DASH}"
CONFIDENCE = "95\N{NO-BREAK SPACE}%"
MINUS = "\N{MINUS SIGN}"

Format = Callable[[float | None], str]


def points(value: float | None) -> str:
    """Return a metric in [0, 1] as the field writes AP: 0.4127 -> 41.3."""
    return UNKNOWN if value is None else _minus(f"{_nonzero(100 * value, 1):.1f}")


def percent(value: float | None) -> str:
    """Return a share: 0.452 -> 45.2 %."""
    return UNKNOWN if value is None else f"{points(value)}\N{NO-BREAK SPACE}%"


def decimal(value: float | None) -> str:
    """Return an IoU or a coefficient: 0.4127 -> 0.41."""
    return UNKNOWN if value is None else _minus(f"{_nonzero(value, 2):.2f}")


def count(value: float | None) -> str:
    """Return a number of things: 36335 -> 36,335."""
    return UNKNOWN if value is None else f"{value:,.0f}"


def signed(written: Format) -> Format:
    """Return a format that writes the sign of positive numbers, too."""

    def write(value: float | None) -> str:
        text = written(value)
        is_positive = value is not None and value > 0 and any(c in "123456789" for c in text)
        return f"+{text}" if is_positive else text

    return write


def between(interval: Interval, written: Format) -> str:
    """Return an interval: 39.8 to 42.9; nothing where there is none."""
    if interval is None:
        return ""
    low, high = (written(end).replace("\N{NO-BREAK SPACE}%", "") for end in interval)
    return f"{low} to {high}"


def minus(value: float | None, other: float | None) -> float | None:
    """Return a difference of numbers that both have to be known."""
    return None if value is None or other is None else value - other


def _nonzero(value: float, digits: int) -> float:
    """Round, and keep the minus from a number that is written as zero."""
    return round(value, digits) + 0.0


def _minus(text: str) -> str:
    return text.replace("-", MINUS)
