"""Compiled work on several threads, as many as torch uses.

They are those of torch's own operators where OpenMP's library can be asked for them: between two
operators those stay awake for a moment, and other threads would share their cores meanwhile.

Not numba's own threads: its OpenMP layer ends a process that forks, its other one does not
stand two callers at once, and neither can have more threads than it started with.
"""

import ctypes
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

import torch

Task = TypeVar("Task")

BODY = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
PROCESS = os.getpid()
"""OpenMP's threads are of one process: a fork knows of them, but does not have them."""


def run(work: Callable[[Task], object], tasks: Sequence[Task]) -> None:
    """Call `work`, which lets go of the GIL, with every task; return when all are done.

    Uses at most `torch.get_num_threads()` threads, this one included. Each takes the next
    task when it is done with one. An error ends the thread that has it, and is raised at the end.
    """
    threads = torch.get_num_threads()
    waiting = deque([*tasks, *[None] * threads])  # its popleft is atomic; None ends a thread
    errors: list[BaseException] = []
    ended: list[int] = []

    def take(_: object = None) -> None:
        try:
            while (task := waiting.popleft()) is not None:
                work(task)
        except BaseException as error:
            errors.append(error)
        ended.append(threading.get_ident())

    if min(threads, len(tasks)) < 2:
        take()
    elif (parallel := _openmp()) is not None and os.getpid() == PROCESS:
        # As many as torch takes, whatever there is to do: OpenMP ends those that are left out.
        parallel(BODY(take), None, threads, 0)
    else:
        _with_helpers(take, min(threads, len(tasks)) - 1)
    try:
        if errors:
            raise errors[0]
        if threading.get_ident() not in ended:  # ctypes has told of it, and goes on
            raise KeyboardInterrupt
    finally:
        errors.clear()  # an error knows this call, whose list knows the error


@cache
def _openmp() -> Callable[..., None] | None:
    """Return OpenMP's call of (body, argument, threads, flags), or None where it has another name.

    It is what compilers make of `#pragma omp parallel`; GNU's library has it and, on Linux,
    LLVM's and Intel's.
    """
    try:
        parallel: Any = ctypes.CDLL(None).GOMP_parallel
    except (AttributeError, OSError, TypeError):
        return None
    parallel.argtypes = (BODY, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    parallel.restype = None
    return parallel


def _with_helpers(take: Callable[[], None], count: int) -> None:
    """Call `take` here and in threads of Python; one that another caller keeps busy is let be."""
    helpers = [_pool(os.getpid(), count).submit(take) for _ in range(count)]
    take()
    for helper in helpers:
        if not helper.cancel():
            helper.result()


@cache
def _pool(_process: int, count: int) -> ThreadPoolExecutor:
    """Return `count` threads of this process; a fork does not inherit its parent's."""
    return ThreadPoolExecutor(count, thread_name_prefix="aligndetr")
