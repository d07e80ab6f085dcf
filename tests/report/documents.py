"""HTML as the tests look at it: whether it is well-formed, what it loads, and its tables."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

from aligndetr.report.markup import VOID

LOADING = {"src", "href", "srcset", "action", "data", "poster", "xlink:href"}
"""Attributes that can bring something from elsewhere."""


@dataclass
class Table:
    caption: str = ""
    rows: list[list[str]] = field(default_factory=list)


class Document(HTMLParser):
    """A parsed page; `complaints` are tags that do not close and ids that are used twice."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = ""
        self.loaded: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.tables: list[Table] = []
        self.complaints: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        self.complaints += [f"<{name}> is never closed" for name in self._open]
        self.complaints += [f"#{name} twice" for name in self.ids if self.ids.count(name) > 1]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in LOADING]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self.tables.append(Table())
        elif tag == "tr":
            self.tables[-1].rows.append([])
        elif tag in ("td", "th"):
            self.tables[-1].rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.complaints.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        if self._open[-1:] in (["style"], ["script"]):
            return
        self.text += data
        if "caption" in self._open:
            self.tables[-1].caption += data
        elif "td" in self._open or "th" in self._open:
            self.tables[-1].rows[-1][-1] += data
