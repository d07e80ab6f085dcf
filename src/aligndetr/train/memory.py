"""Keeping freed memory: on a CPU, the same large tensors come and go at every step.

glibc gives every freed block above 32 MB back to the system and asks for it again at the next
step, page fault by page fault: filling a new 256 MB tensor takes 12 times as long as it must. In
pages of 2 MB there are fewer faults, and fewer addresses for the processor to look up.
"""

import ctypes
import os
import threading
from pathlib import Path
from typing import Any

# Options of mallopt (malloc.h) with their values.
MMAP_MAX = (-4, 0)
"""No block is mapped on its own: all come from the heap."""
TRIM_THRESHOLD = (-1, -1)
"""The heap never shrinks."""
TOP_PAD = (-2, 64 << 20)
"""It grows by at least 64 MB."""

MADV_HUGEPAGE = 14
"""Advice of madvise (sys/mman.h): take large pages from now on."""
PAGE = 2 << 20
"""Bytes of a large page."""
RESERVED = 4 << 30
"""Bytes of the heap's unused part that get large pages, or half of the memory if that is less."""
PAGE_SIZE = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")
STRICT = "2"
"""What the latter says where addresses count as memory."""


def keep_heap() -> bool:
    """Tell glibc to keep freed memory in the heap; return whether it could be told.

    The next 4 GB of the heap get large pages where that costs addresses alone. Costs memory: the
    process stays as large as it has ever been. Does nothing where the C library is another one
    (macOS, Windows, musl).
    """
    try:
        libc = ctypes.CDLL(None)
        mallopt = libc.mallopt
    except (AttributeError, OSError, TypeError):
        return False
    is_kept = all(
        [mallopt(option, value) == 1 for option, value in (MMAP_MAX, TRIM_THRESHOLD, TOP_PAD)]
    )
    if is_kept and _has_free_addresses():
        _ask_for_large_pages(libc)
    return is_kept


def _has_free_addresses() -> bool:
    """Whether Linux has large pages of 2 MB, and glibc gets addresses for the asking.

    Where it does not, it would leave the heap that the options are for; so would another thread.
    """
    import resource  # not on every system

    limits = (resource.RLIMIT_AS, resource.RLIMIT_DATA)
    return (
        threading.current_thread() is threading.main_thread()
        and all(resource.getrlimit(limit)[0] == resource.RLIM_INFINITY for limit in limits)
        and _read(OVERCOMMIT) not in ("", STRICT)
        and _read(PAGE_SIZE) == str(PAGE)
        and "MALLOC_PERTURB_" not in os.environ  # glibc would fill them
    )


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def _ask_for_large_pages(libc: Any) -> None:
    """Advise large pages for a block that is freed untouched, so that the heap keeps its place."""
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    size = min(RESERVED, memory // 2)
    block = libc.malloc(size)
    if block is None:
        return
    start, end = -(-block // PAGE) * PAGE, (block + size) // PAGE * PAGE
    libc.madvise(start, end - start, MADV_HUGEPAGE)
    libc.free(block)
