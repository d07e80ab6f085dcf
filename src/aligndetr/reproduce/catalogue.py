"""All experiments by name."""

from __future__ import annotations

from collections.abc import Sequence

from aligndetr.errors import ConfigError
from aligndetr.reproduce.ablations import (
    TABLE_4,
    TABLE_5,
    TABLE_6A,
    TABLE_6B,
    TABLE_6C,
    TABLE_8,
    TABLE_B,
)
from aligndetr.reproduce.experiment import Experiment
from aligndetr.reproduce.figures import FIGURE_1, FIGURE_4, FIGURE_A, FIGURE_B
from aligndetr.reproduce.systems import TABLE_2, TABLE_3, TABLE_7

EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment
    for experiment in (
        TABLE_2, TABLE_3, TABLE_4, TABLE_5, TABLE_6A, TABLE_6B, TABLE_6C, TABLE_7, TABLE_8, TABLE_B,
        FIGURE_1, FIGURE_4, FIGURE_A, FIGURE_B,
    )
}  # fmt: skip


def find(words: Sequence[str]) -> tuple[Experiment, ...]:
    """Return the experiments of these names, each once; "6" is 6a to 6c, "all" is all.

    Upper and lower case are alike; table-4 and figure-1 are 4 and fig1.

    Raises:
        ConfigError: There is none of that name.
    """
    names = [name for word in words for name in _names(word)]
    return tuple(EXPERIMENTS[name] for name in dict.fromkeys(names))


def _names(word: str) -> list[str]:
    plain = word.lower().removeprefix("table").replace("figure", "fig").replace("-", "").strip()
    if plain == "all":
        return list(EXPERIMENTS)
    found = [name for name in EXPERIMENTS if name.lower() in (plain, *_letters(plain))]
    if not found:
        raise ConfigError(
            f"aligndetr reproduce: expected one or more of {', '.join(EXPERIMENTS)}, 6 or all, "
            f"found {word!r}; name a table or figure of the paper"
        )
    return found


def _letters(plain: str) -> list[str]:
    return [f"6{letter}" for letter in "abc"] if plain == "6" else []
