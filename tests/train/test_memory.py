import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from aligndetr.train.memory import keep_heap

only_glibc = pytest.mark.skipif(sys.platform != "linux", reason="only glibc has the options")

IN_A_PROCESS = """
from pathlib import Path
from aligndetr.train.memory import keep_heap

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))

before = resident()
assert keep_heap() and keep_heap()
grown = resident() - before
maps = Path("/proc/self/smaps").read_text().split("VmFlags:")
print(grown, any(" hg" in flags.splitlines()[0] for flags in maps[1:]))
"""


def in_a_process() -> tuple[int, bool]:
    """Return KiB of memory that keeping the heap took, and whether anything has large pages.

    In a process of its own: the options cannot be taken back.
    """
    command = [sys.executable, "-c", IN_A_PROCESS]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    grown, has_large_pages = done.stdout.split()
    return int(grown), has_large_pages == "True"


@only_glibc
def test_the_heap_is_kept_and_reserves_no_memory() -> None:
    grown, _ = in_a_process()
    assert grown < 64 << 10


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage/enabled").exists(),
    reason="this kernel has no large pages on request",
)
def test_the_heap_is_advised_to_have_large_pages() -> None:
    _, has_large_pages = in_a_process()
    assert has_large_pages


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert not keep_heap()
