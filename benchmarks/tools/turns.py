"""Contestants in processes of their own that take turns, so that a busy machine disturbs all alike.

A process of its own also tells the peak of its memory apart from the others'.
"""

import gc
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import torch

Call = Callable[[], float | None]
"""What is timed; it may return a number to remember, such as a loss."""


@dataclass(frozen=True)
class Outcome:
    """Median seconds of a contestant, the peak of its memory, and the first number it returned."""

    seconds: float
    peak_gib: float
    value: float | None

    @property
    def ms(self) -> float:
        """Median milliseconds."""
        return self.seconds * 1e3


def take_turns(
    makers: Mapping[str, Callable[[], Call]], *, repeats: int, threads: int, warm_up: int = 1
) -> dict[str, Outcome]:
    """Time `repeats` calls of each contestant, in turns, after `warm_up` calls of each.

    Args:
        makers: Name -> what makes the call, in the process of that contestant; can be pickled.
        repeats: Calls that count.
        threads: Of each process.
        warm_up: Calls that do not count.
    """
    context = get_context("spawn")
    lines: dict[str, Connection] = {}
    processes: list[BaseProcess] = []
    try:
        for name, make in makers.items():
            lines[name], far_end = context.Pipe()
            processes.append(context.Process(target=_compete, args=(far_end, make, threads)))
            processes[-1].start()
        for line in lines.values():
            _receive(line)  # all are made at once, and nothing is timed before all are
        return _timed(lines, repeats=repeats, warm_up=warm_up)
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _timed(lines: Mapping[str, Connection], *, repeats: int, warm_up: int) -> dict[str, Outcome]:
    seconds: dict[str, list[float]] = {name: [] for name in lines}
    for _ in range(warm_up + repeats):
        for name, line in lines.items():
            line.send(True)
            seconds[name].append(_receive(line))
    outcomes: dict[str, Outcome] = {}
    for name, line in lines.items():
        line.send(False)
        peak_gib, value = _receive(line)
        outcomes[name] = Outcome(statistics.median(seconds[name][warm_up:]), peak_gib, value)
    return outcomes


def _receive(line: Connection) -> Any:
    """Return what a contestant sends, or raise what it raised."""
    answer = line.recv()
    if isinstance(answer, Exception):
        raise answer
    return answer


def _compete(line: Connection, make: Callable[[], Call], threads: int) -> None:
    torch.set_num_threads(threads)
    try:
        call = make()
        line.send(0.0)
        values: list[float | None] = []
        while line.recv():
            gc.collect()
            start = time.perf_counter()
            values.append(call())
            line.send(time.perf_counter() - start)
        peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        line.send((peak_gib, values[0]))
    except Exception as error:
        line.send(error)
