"""How long training lasts: so many epochs, optimizer steps, or minutes of the whole command."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from statistics import median

from aligndetr.errors import ConfigError

PACE_STEPS = 7
"""Steps that are compared with as many others to see whether the machine has become slower."""


@dataclass(frozen=True)
class Budget:
    """One of epochs, steps and minutes; it tells which share of the training is done.

    A budget in minutes counts from the start of the command: `begun_seconds` of it had passed
    when the first step began, `closing_seconds` are kept for the last evaluation and saving,
    and `reserve_seconds` for what the caller does after that. Training has the time between.

    Raises:
        ConfigError: Not exactly one of the three is given, or it is not positive.
    """

    epochs: int | None = None
    steps: int | None = None
    minutes: float | None = None
    reserve_seconds: float = 0.0
    begun_seconds: float = 0.0
    closing_seconds: float = 0.0

    def __post_init__(self) -> None:
        limits = {"epochs": self.epochs, "steps": self.steps, "minutes": self.minutes}
        given = {name: limit for name, limit in limits.items() if limit is not None}
        if len(given) != 1 or not all(limit > 0 for limit in given.values()):
            found = " and ".join(f"{name}={limit}" for name, limit in given.items()) or "none"
            raise ConfigError(
                "training budget: expected one positive number of epochs, steps or minutes, "
                f"found {found}; give exactly one of --epochs, --steps and --minutes"
            )

    def progress(self, step: int, epoch: float, elapsed_seconds: float) -> float:
        """Return the share of the training that is done, in [0, 1]; 1 is its end.

        Args:
            step: Optimizer steps taken.
            epoch: Epochs done, with the fraction of the one under way.
            elapsed_seconds: Since the start of the command.
        """
        if self.epochs is not None:
            share = epoch / self.epochs
        elif self.steps is not None:
            share = step / self.steps
        else:
            share = (elapsed_seconds - self.begun_seconds) / self.training_seconds
        return min(max(share, 0.0), 1.0)

    @property
    def training_seconds(self) -> float:
        """The time between the first step and the end of the last one; minutes only."""
        if self.minutes is None:
            raise ValueError("training_seconds: only a budget in minutes has them")
        unused = self.begun_seconds + self.closing_seconds + self.reserve_seconds
        return max(60 * self.minutes - unused, 1e-9)

    def began(self, elapsed_seconds: float, *, closing_seconds: float) -> Budget:
        """Return the budget of a training whose first step begins now.

        Raises:
            ConfigError: No time is left for training.
        """
        unused = elapsed_seconds + closing_seconds + self.reserve_seconds
        if self.minutes is not None and unused >= 60 * self.minutes:
            raise ConfigError(
                f"--minutes {self.minutes:g}: expected time for training, but {elapsed_seconds:.0f}"
                f" s have passed and {unused - elapsed_seconds:.0f} s are needed for the last "
                f"evaluation; give at least {2 * unused / 60:.1f} minutes"
            )
        return replace(self, begun_seconds=elapsed_seconds, closing_seconds=closing_seconds)


class Pace:
    """How much slower steps have become: others may have come to use the machine.

    What was measured at the start, like the time of an evaluation, takes longer by the same
    factor. Medians, so that a single slow step counts for nothing.
    """

    def __init__(self) -> None:
        self._first: list[float] = []
        self._recent: deque[float] = deque(maxlen=PACE_STEPS)

    def add(self, step_seconds: float) -> None:
        """Count a step."""
        self._recent.append(step_seconds)
        if len(self._first) < PACE_STEPS:
            self._first.append(step_seconds)

    def restart(self) -> None:
        """Compare with the last steps from now on, instead of the first ones."""
        self._first = list(self._recent)

    @property
    def slowdown(self) -> float:
        """The time of a step now, relative to that of the first ones; at least 1."""
        if len(self._first) < PACE_STEPS:
            return 1.0
        return max(1.0, median(self._recent) / max(median(self._first), 1e-9))
