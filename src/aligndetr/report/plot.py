"""The plot area of an SVG chart: axes, and marks at data coordinates.

Charts are drawn in units of about one CSS pixel on a phone. Colours come from the page's style
sheet by class, so that a chart follows the colour scheme.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from aligndetr.report.markup import NOTHING, Attribute, Markup, join, tag

WIDTH = 380.0
HEIGHT = 270.0
LABEL_GAP = 14.0
"""Least distance of the base lines of two labels."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """A range of data, and where it is marked by which text."""

    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    label: str = ""

    def share(self, value: float) -> float:
        """Return where in the range a value lies: 0 at its low end, 1 at its high end."""
        return (value - self.low) / (self.high - self.low)


def unit_axis(label: str, written: Callable[[float], str] = "{:g}".format) -> Axis:
    """Return the axis of a number in [0, 1], marked in fifths."""
    return Axis(0.0, 1.0, [(n / 5, written(n / 5)) for n in range(6)], label)


def round_axis(high: float, label: str, *, low: float = 0.0, parts: int = 4) -> Axis:
    """Return an axis that holds `low` and `high` between round ends, with about `parts` steps."""
    span = max(high - low, 1e-12)
    power = 10.0 ** int(f"{span / parts:e}".partition("e")[2])
    step = next(n * power for n in (1, 2, 2.5, 5, 10) if n * power * parts >= span * 0.999)
    first, last = low // step, -(-high // step)
    last = max(last, first + 1)
    ticks = [(n * step, f"{n * step:.6g}") for n in range(int(first), int(last) + 1)]
    return Axis(first * step, last * step, ticks, label)


@dataclass(frozen=True)
class Plot:
    """Two axes and the room around them; methods return marks at data coordinates."""

    x: Axis
    y: Axis
    width: float = WIDTH
    height: float = HEIGHT
    left: float = 40.0
    right: float = 12.0
    top: float = 26.0
    bottom: float = 40.0
    rules: Literal["x", "y"] = "y"
    """The axis at whose ticks there are lines across."""

    def px(self, value: float) -> float:
        """Return the horizontal place of a value."""
        return self.left + self.x.share(value) * (self.width - self.left - self.right)

    def py(self, value: float) -> float:
        """Return the vertical place of a value."""
        return (
            self.height - self.bottom - self.y.share(value) * (self.height - self.top - self.bottom)
        )

    def svg(self, title: str, description: str, *marks: str) -> Markup:
        """Return the chart: frame below, marks above, and words for those who cannot see it."""
        return drawing(self.width, self.height, title, description, self._frame(), *marks)

    def line(self, points: Sequence[Point], style: str, title: str | None = None) -> Markup:
        """Return a line through points of data."""
        return self._path(points, f"line {style}", title)

    def area(self, points: Sequence[Point], style: str) -> Markup:
        """Return a filled polygon."""
        return self._path(points, f"area {style}", None, close="Z")

    def band(self, points: Sequence[tuple[float, float, float]], style: str) -> Markup:
        """Return the area between two lines, from points (x, low, high)."""
        up = [(x, high) for x, _, high in points]
        return self.area([*up, *((x, low) for x, low, _ in reversed(points))], f"band {style}")

    def dot(self, at: Point, style: str, title: str, radius: float = 4.0) -> Markup:
        """Return a dot that says its numbers when pointed at."""
        place: dict[str, Attribute] = {"cx": self.px(at[0]), "cy": self.py(at[1]), "r": radius}
        return tag("circle", {"class": f"dot {style}", **place}, tag("title", {}, title))

    def bar(self, start: Point, end: Point, style: str, title: str) -> Markup:
        """Return a rectangle between two corners."""
        xs = sorted((self.px(start[0]), self.px(end[0])))
        ys = sorted((self.py(start[1]), self.py(end[1])))
        size: dict[str, Attribute] = {
            "x": xs[0],
            "y": ys[0],
            "width": xs[1] - xs[0],
            "height": ys[1] - ys[0],
        }
        return tag("rect", {"class": style, **size}, tag("title", {}, title))

    def end_labels(self, labels: Sequence[tuple[float, str, str]], x: float) -> Markup:
        """Return texts right of `x`, each (height, text, style), moved apart where they overlap.

        Of equal heights the first is uppermost.
        """
        rows = sorted(reversed(labels), key=lambda label: label[0])
        places = spread(
            [self.py(y) + 4 for y, _, _ in rows], self.top + 4, self.height - self.bottom
        )
        return join(
            text(self.px(x) + 7, place, label, f"name {style}")
            for place, (_, label, style) in zip(places, rows, strict=True)
        )

    def _path(
        self, points: Sequence[Point], style: str, title: str | None, close: str = ""
    ) -> Markup:
        steps = "L".join(f"{self.px(x):.1f} {self.py(y):.1f}" for x, y in points)
        shown = () if title is None else (tag("title", {}, title),)
        return tag("path", {"class": style, "d": f"M{steps}{close}"}, *shown) if steps else NOTHING

    def _frame(self) -> Markup:
        base, end = self.height - self.bottom, self.width - self.right
        places = [(self.left, self.py(v), end, self.py(v)) for v, _ in self.y.ticks]
        if self.rules == "x":
            places = [(self.px(v), self.top, self.px(v), base) for v, _ in self.x.ticks]
        lines = [_rule(*place) for place in places]
        rows = [text(self.left - 6, self.py(v) + 4, label, "tick end") for v, label in self.y.ticks]
        columns = [text(self.px(v), base + 16, label, "tick middle") for v, label in self.x.ticks]
        axis = tag("path", {"class": "axis", "d": f"M{self.left:.1f} {base:.1f}H{end:.1f}"})
        names = (
            text(0, 11, self.y.label, "label"),
            text((self.left + end) / 2, self.height - 6, self.x.label, "label middle"),
        )
        return tag("g", {"class": "frame"}, *lines, *rows, *columns, axis, *names)


def drawing(
    width: float,
    height: float,
    title: str,
    description: str,
    *marks: str,
    style: str = "chart",
    scale: float | None = None,
) -> Markup:
    """Return an SVG that screen readers announce by its title and description.

    It is as wide as its place, or of a fixed scale.
    """
    return tag(
        "svg",
        {
            "class": style,
            "viewBox": f"0 0 {width:g} {height:g}",
            "width": None if scale is None else scale * width,
            "height": None if scale is None else scale * height,
            "role": "img",
            "aria-label": f"{title}. {description}",
        },
        tag("title", {}, title),
        tag("desc", {}, description),
        *marks,
    )


def text(x: float, y: float, content: str, style: str) -> Markup:
    """Return a line of text; nothing if it is empty."""
    return tag("text", {"x": x, "y": y, "class": style}, content) if content else NOTHING


def spread(places: Sequence[float], first: float, last: float) -> list[float]:
    """Return places moved apart so that labels do not overlap.

    `places` rise on the page (the lowest on it comes first); they stay between `first`, the
    highest, and `last` as far as there is room.
    """
    moved: list[float] = []
    for place in places:
        moved.append(min([place, last, *(below - LABEL_GAP for below in moved[-1:])]))
    settled: list[float] = []
    for place in reversed(moved):
        settled.append(max([place, first, *(above + LABEL_GAP for above in settled[-1:])]))
    return settled[::-1]


def _rule(x1: float, y1: float, x2: float, y2: float) -> Markup:
    return tag("path", {"class": "grid", "d": f"M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"})
