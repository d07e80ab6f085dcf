import os
import threading
import time
from pathlib import Path

import pytest
import torch

from aligndetr.kernels import threads
from aligndetr.kernels.threads import run

OWN_THREADS = Path("/proc/self/task")

has_openmp = pytest.mark.skipif(threads._openmp() is None, reason="needs OpenMP's library")


@pytest.fixture(autouse=True, params=["OpenMP", "helpers"])
def three_threads(
    request: pytest.FixtureRequest, keep_threads: None, monkeypatch: pytest.MonkeyPatch
) -> str:
    """Every test runs on three threads of each kind; without OpenMP both are helpers."""
    torch.set_num_threads(3)
    if request.param == "helpers":
        monkeypatch.setattr(threads, "_openmp", lambda: None)
    return request.param


@has_openmp
@pytest.mark.skipif(not OWN_THREADS.is_dir(), reason="counts threads as Linux does")
def test_threads_of_torchs_operators_are_taken_and_no_others(three_threads: str) -> None:
    torch.randn(1 << 20).relu()
    run(lambda _: time.sleep(0.001), range(30))
    before = {thread.name for thread in OWN_THREADS.iterdir()}
    seen: set[str] = set()

    def work(_: int) -> None:
        time.sleep(0.001)
        seen.add(str(threading.get_native_id()))

    run(work, range(30))
    if three_threads == "OpenMP":
        run(work, range(2))  # too few for all, and none of them ends
    torch.randn(1 << 20).relu()
    assert {thread.name for thread in OWN_THREADS.iterdir()} == before
    assert len(seen) == 3
    helpers = {thread.native_id for thread in threading.enumerate() if "aligndetr" in thread.name}
    is_openmp = not seen & {str(number) for number in helpers}
    assert is_openmp == (three_threads == "OpenMP")


def test_no_tasks_call_nothing() -> None:
    calls: list[int] = []
    run(calls.append, [])
    assert calls == []


def test_every_task_is_done_once() -> None:
    calls: list[int] = []
    run(calls.append, range(100))
    assert sorted(calls) == list(range(100))


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_as_many_threads_work_as_torch_has(threads) -> None:
    torch.set_num_threads(threads)
    together = threading.Barrier(threads)
    names: set[str] = set()

    def work(_: int) -> None:
        together.wait(timeout=10)
        names.add(threading.current_thread().name)

    run(work, range(threads))
    assert len(names) == threads
    assert threading.current_thread().name in names


def test_more_tasks_do_not_start_more_threads() -> None:
    names: set[str] = set()

    def work(_: int) -> None:
        time.sleep(0.001)
        names.add(threading.current_thread().name)

    run(work, range(50))
    assert len(names) <= 3


def test_an_error_reaches_the_caller() -> None:
    def work(task: int) -> None:
        if task == 7:
            raise ValueError("task 7")

    with pytest.raises(ValueError, match="task 7"):
        run(work, range(20))


def test_an_error_of_another_thread_reaches_the_caller() -> None:
    together = threading.Barrier(3)
    caller = threading.get_ident()

    def work(_: int) -> None:
        together.wait(timeout=10)
        if threading.get_ident() != caller:
            raise KeyError("elsewhere")

    with pytest.raises(KeyError, match="elsewhere"):
        run(work, range(3))


def test_an_interruption_of_the_first_step_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """ctypes prints an exception that is raised before a callback's first line, and goes on."""
    calls: list[int] = []

    def parallel(*arguments: object) -> None:
        del arguments

    monkeypatch.setattr(threads, "_openmp", lambda: parallel)
    with pytest.raises(KeyboardInterrupt):
        run(calls.append, range(3))
    assert calls == []


def test_a_caller_does_not_wait_for_helpers_that_are_busy_elsewhere(three_threads: str) -> None:
    release, busy = threading.Event(), threading.Barrier(4)

    def wait(_: int) -> None:
        busy.wait(timeout=10)
        release.wait(timeout=10)

    other = threading.Thread(target=run, args=(wait, range(3)))
    other.start()
    busy.wait(timeout=10)  # the other caller and both helpers are in `wait`
    calls: list[int] = []
    run(calls.append, range(4))
    assert other.is_alive()
    release.set()
    other.join()
    if three_threads == "OpenMP":  # every caller has threads of its own
        calls.sort()
    assert calls == [0, 1, 2, 3]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own() -> None:
    run(lambda _: None, range(3))
    child = os.fork()
    if child == 0:
        calls: list[int] = []
        run(calls.append, range(10))
        os._exit(0 if sorted(calls) == list(range(10)) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
