"""What a refused configuration got wrong, in one line: path, expected, found, probably meant."""

import difflib
import json
import re
from typing import NamedTuple, cast

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from aligndetr.config.kinds import Kind, Slot, kinds_of_field, pick, tag

LONGEST_ECHO = 60
"""Characters of a wrong value that a message repeats."""
PLAIN_WORDS = {
    "a valid integer": "an integer",
    "a valid number": "a number",
    "a valid string": "text",
    "a valid boolean": "true or false",
    "a valid array": "a list",
    "an object": "fields such as {name: value}",
}
"""What pydantic expects, in the words of a YAML file."""


class _Place(NamedTuple):
    """Where a mistake is: its path, the record with that field, and the kinds allowed there."""

    path: str
    owner: Kind
    kinds: tuple[Kind, ...]


def explain(kinds: tuple[Kind, ...], slot: Slot, error: ValidationError) -> str:
    """Return one line on the first mistake in the options of such a kind, and the others' count."""
    mistakes: dict[_Place, list[ErrorDetails]] = {}  # a union complains once for each member
    for detail in error.errors(include_url=False):
        mistakes.setdefault(_locate(kinds, slot, detail), []).append(detail)
    place, details = next(iter(mistakes.items()))
    path = f"{place.path}: " if place.path else ""
    more = f" (and {len(mistakes) - 1} more)" if len(mistakes) > 1 else ""
    return f"{path}{_complaint(place, details)}{more}"


def unknown_field(name: str, owner: Kind) -> str:
    """Return what is wrong with a field that the record does not have."""
    names = list(owner.model_fields)
    advice = _meant(name, names) or f"; choose from {', '.join(names)}"
    return f"expected a field of {owner.__name__}, found {name!r}{advice}"


def shown(value: object) -> str:
    """Return a wrong value for a message, shortened."""
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= LONGEST_ECHO else text[: LONGEST_ECHO - 3] + "..."


def _locate(kinds: tuple[Kind, ...], slot: Slot, detail: ErrorDetails) -> _Place:
    """Return the place of a mistake; pydantic's location also has steps for the tags of unions."""
    keys: list[str] = []
    owner, value = kinds[0], cast(object, slot)
    for step in detail["loc"]:
        if isinstance(step, int):
            items = cast(list[object], value)
            value = items[step] if step < len(items) else None
        elif isinstance(value, dict) and kinds:
            inner = cast(Slot, value)
            picked = pick(kinds, inner)
            if step not in inner and step not in picked.model_fields:
                continue
            owner, kinds, value = picked, kinds_of_field(picked, step), inner.get(step)
        else:
            continue
        keys.append(str(step))
    if detail["type"].startswith("union_tag"):
        keys.append("type")
    return _Place(".".join(keys), owner, kinds)


def _complaint(place: _Place, details: list[ErrorDetails]) -> str:
    detail = details[0]
    found = detail["input"]
    match detail["type"]:
        case "extra_forbidden":
            return unknown_field(str(detail["loc"][-1]), place.owner)
        case "value_error":
            return detail["msg"].removeprefix("Value error, ")
        case "missing":
            return "expected a value, found none; add it"
        case "union_tag_invalid" | "union_tag_not_found":
            expected = " or ".join(repr(tag(kind)) for kind in place.kinds)
            found = found.get("type")
        case _:
            expected = " or ".join(_expected(detail["msg"]) for detail in details)
    choices = re.findall(r"'([^']*)'", expected)
    return f"expected {expected}, found {shown(found)}{_meant(found, choices)}"


def _expected(message: str) -> str:
    words = message.removeprefix("Input should be ")
    return PLAIN_WORDS.get(words, f"a value {words}" if " than " in words else words)


def _meant(found: object, choices: list[str]) -> str:
    close = difflib.get_close_matches(found, choices, n=1) if isinstance(found, str) else []
    return f"; did you mean {close[0]!r}?" if close else ""
