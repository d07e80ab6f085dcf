"""Whether converted tensors are those of the network, told by the names they were published by."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

FRESH = (r"denoising\.", r".*num_batches_tracked$")
"""What only training needs: it starts afresh where a checkpoint has none of it."""
IGNORED = (r".*num_batches_tracked$", r"criterion\.", r"pixel_(mean|std)$")
"""What no network needs: counters, and buffers of losses and of normalisation."""
KINDS_SHOWN = 3
"""Kinds of names of each problem that an error lists."""


@dataclass(frozen=True)
class Fit:
    """How published tensors fit a network; `misshapen` are names with both shapes.

    `fresh` and `left_out` are no problems: what only training needs, and what nobody does.
    """

    fresh: tuple[str, ...]
    left_out: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[str, ...]

    @property
    def problems(self) -> str:
        """Say in a few words what does not fit; nothing if all does."""
        kinds = {
            "missing": self.missing,
            "unexpected": self.unexpected,
            "of another shape": self.misshapen,
        }
        return "; ".join(
            f"{len(names)} {kind} ({summarised(names)})" for kind, names in kinds.items() if names
        )


def fit(
    tensors: Mapping[str, Tensor],
    network: Mapping[str, Tensor],
    published: Mapping[str, Tensor],
    rename: Callable[[str], str],
) -> Fit:
    """Compare tensors under our names with those of a network.

    Args:
        tensors: What was converted.
        network: The state dict of the network.
        published: What `tensors` was made from.
        rename: Gives our name of a published tensor.
    """
    names = _Names(published, rename)
    absent = [name for name in network if name not in tensors]
    surplus = [name for name in tensors if name not in network]
    return Fit(
        fresh=tuple(name for name in absent if _is(FRESH, name)),
        left_out=tuple(names.of(tensors, name) for name in surplus if _is(IGNORED, name)),
        missing=tuple(names.guess(name) for name in absent if not _is(FRESH, name)),
        unexpected=tuple(names.of(tensors, name) for name in surplus if not _is(IGNORED, name)),
        misshapen=tuple(
            f"{names.of(tensors, name)} {_shape(tensors[name])} instead of {_shape(value)}"
            for name, value in network.items()
            if name in tensors and tensors[name].shape != value.shape
        ),
    )


def summarised(names: Iterable[str]) -> str:
    """Return the names, those that differ in numbers alone as one, and only the first of many."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(re.sub(r"\d+", "*", name), []).append(name)
    shown = [
        found[0] if len(found) == 1 else f"{found[0]} and {len(found) - 1} like it"
        for found in list(kinds.values())[:KINDS_SHOWN]
    ]
    more = sum(len(found) for found in list(kinds.values())[KINDS_SHOWN:])
    return ", ".join(shown) + (f", and {more} more" if more else "")


class _Names:
    """What tensors were called where they were published."""

    def __init__(self, published: Mapping[str, Tensor], rename: Callable[[str], str]) -> None:
        self._by_tensor = {id(value): name for name, value in published.items()}
        self._ours = {name: rename(name) for name in published}
        self._rename = rename

    def of(self, tensors: Mapping[str, Tensor], name: str) -> str:
        """Return the published name of one of our tensors; ours, if it was made of several."""
        return self._by_tensor.get(id(tensors[name]), name)

    def guess(self, absent: str) -> str:
        """Return what a tensor that is not there would be called, after one most like it.

        Ours, where none is like it: then only the layout knows.
        """
        for theirs, ours in self._ours.items():
            for candidate in _candidates(theirs, ours, absent):
                if self._rename(candidate) == absent:
                    return candidate
        return absent


def _candidates(theirs: str, ours: str, absent: str) -> Iterable[str]:
    """Yield changes of a published name that may turn what it is in ours into another name.

    Ours differ in the last word, as `weight` and `bias`, or in one number, as layers do.
    """
    head, _, last = ours.rpartition(".")
    absent_head, _, absent_last = absent.rpartition(".")
    if head == absent_head:
        yield theirs.removesuffix(last) + absent_last
    numbers, absent_numbers = re.findall(r"\d+", ours), re.findall(r"\d+", absent)
    if re.sub(r"\d+", "*", ours) == re.sub(r"\d+", "*", absent):
        for number, wanted in zip(numbers, absent_numbers, strict=True):
            if number != wanted:
                yield re.sub(rf"\b{number}\b", wanted, theirs, count=1)


def _is(patterns: Iterable[str], name: str) -> bool:
    return any(re.match(pattern, name) for pattern in patterns)


def _shape(tensor: Tensor) -> str:
    return "x".join(str(size) for size in tensor.shape) or "scalar"
