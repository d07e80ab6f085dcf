import ctypes
import platform
import subprocess
import sys

import pytest

from aligndetr.train.memory import PAGE, PAGE_SIZE, keep_heap

only_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc has the options")
only_large_pages = pytest.mark.skipif(
    not PAGE_SIZE.exists() or PAGE_SIZE.read_text().strip() != str(PAGE),
    reason="this kernel has no pages of 2 MB on request",
)

BEGIN = """
import ctypes, resource, sys, threading
from pathlib import Path
from aligndetr.train.memory import keep_heap

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
waiting = threading.Event()
threading.Thread(target=waiting.wait, daemon=True).start()

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))

"""
TWICE = """
before = resident()
assert keep_heap() and keep_heap()
grown = resident() - before
maps = Path("/proc/self/smaps").read_text().split("VmFlags:")
print(grown, int(any(" hg" in flags.splitlines()[0] for flags in maps[1:])))
"""
LIMITED = """
resource.setrlimit(resource.RLIMIT_DATA, (3 << 30, 3 << 30))
assert keep_heap()
block = libc.malloc(200 << 20)
libc.memset(block, 1, 200 << 20)
filled = resident()
libc.free(block)
print(filled - resident())
"""


def in_a_process(code: str) -> list[int]:
    """Return the numbers that code prints; of its own, for the options cannot be taken back."""
    command = [sys.executable, "-c", BEGIN + code]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [int(word) for word in done.stdout.split()]


@only_glibc
def test_keeping_the_heap_takes_no_memory() -> None:
    grown, _ = in_a_process(TWICE)
    assert grown < 64 << 10  # KiB


@only_glibc
@only_large_pages
def test_the_heap_is_advised_to_have_large_pages() -> None:
    _, has_large_pages = in_a_process(TWICE)
    assert has_large_pages


@only_glibc
def test_freed_memory_stays_where_addresses_are_few() -> None:
    """A refused reservation would move the thread to another heap, which gives blocks back."""
    (given_back,) = in_a_process(LIMITED)
    assert given_back < 10 << 10  # KiB


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert not keep_heap()
