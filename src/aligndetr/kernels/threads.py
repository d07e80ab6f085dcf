"""Compiled work on several threads, as many as torch uses.

Not numba's own threads: its OpenMP layer ends a process that forks, its other one does not
stand two callers at once, and neither can have more threads than it started with.
"""

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

Task = TypeVar("Task")


def run(work: Callable[[Task], object], tasks: Sequence[Task]) -> None:
    """Call `work`, which lets go of the GIL, with every task; return when all are done.

    Uses at most `torch.get_num_threads()` threads, this one included. Each takes the next
    task when it is done with one; a helper that another caller keeps busy is not waited for.
    """
    count = max(min(torch.get_num_threads(), len(tasks)) - 1, 0)
    waiting = deque([*tasks, *[None] * (count + 1)])  # its popleft is atomic; None ends a thread

    def take() -> None:
        while (task := waiting.popleft()) is not None:
            work(task)

    helpers = [_pool(os.getpid(), count).submit(take) for _ in range(count)]
    take()
    for helper in helpers:
        if not helper.cancel():
            helper.result()


@cache
def _pool(_process: int, count: int) -> ThreadPoolExecutor:
    """Return `count` threads of this process; a fork does not inherit its parent's."""
    return ThreadPoolExecutor(count, thread_name_prefix="aligndetr")
