"""HTML and SVG as text that cannot be broken by names: whatever is not `Markup` is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape

Attribute = str | float | None
"""None leaves the attribute out."""

VOID = {"img", "meta", "link", "br", "input", "col"}


class Markup(str):
    """HTML whose texts are escaped already."""

    __slots__ = ()


NOTHING = Markup("")


def tag(name: str, attributes: Mapping[str, Attribute], *children: str) -> Markup:
    """Return an element; children that are plain text are escaped, and so are attributes."""
    written = "".join(
        f' {key}="{_text(_value(value))}"' for key, value in attributes.items() if value is not None
    )
    if name in VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def legible(text: str) -> str:
    """Return text without what UTF-8 cannot hold: file names may have lone surrogates."""
    return text.encode("utf-8", "replace").decode()


def join(parts: Iterable[str], separator: str = "") -> Markup:
    """Return the parts one after another; those that are plain text are escaped."""
    return Markup(
        separator.join(part if isinstance(part, Markup) else _text(part) for part in parts)
    )


def _value(value: str | float) -> str:
    """Write coordinates short: a tenth of a pixel is enough."""
    return value if isinstance(value, str) else f"{value:.1f}".removesuffix(".0")


def _text(text: str) -> str:
    return escape(legible(text))
