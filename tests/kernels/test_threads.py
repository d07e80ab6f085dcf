import os
import threading
import time

import pytest
import torch

from aligndetr.kernels.threads import run


@pytest.fixture(autouse=True)
def three_threads(keep_threads: None) -> None:
    torch.set_num_threads(3)


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


def test_a_caller_does_not_wait_for_helpers_that_are_busy_elsewhere() -> None:
    release, busy = threading.Event(), threading.Barrier(4)

    def wait(_: int) -> None:
        busy.wait(timeout=10)
        release.wait(timeout=10)

    other = threading.Thread(target=run, args=(wait, range(3)))
    other.start()
    busy.wait(timeout=10)  # the other caller and both helpers are in `wait`
    calls: list[int] = []
    run(calls.append, range(4))
    release.set()
    other.join()
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
