"""Keeping freed memory: on a CPU, the same large tensors come and go at every step.

glibc gives every freed block above 32 MB back to the system and asks for it again at the next
step, page fault by page fault: filling a new 256 MB tensor takes 12 times as long as it must. In
pages of 2 MB there are fewer faults, and fewer addresses for the processor to look up.
"""

import ctypes
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
"""Bytes at the start of the heap's unused part that get large pages; addresses, not memory."""


def keep_heap() -> bool:
    """Tell glibc to keep freed memory in the heap; return whether it could be told.

    The heap's next 4 GB get large pages, where Linux has them on request. Costs memory: the process
    stays as large as it has ever been. Does nothing where the C library is another one (macOS,
    Windows, musl).
    """
    try:
        libc = ctypes.CDLL(None)
        mallopt = libc.mallopt
    except (AttributeError, OSError, TypeError):
        return False
    is_kept = all(
        [mallopt(option, value) == 1 for option, value in (MMAP_MAX, TRIM_THRESHOLD, TOP_PAD)]
    )
    if is_kept:
        _ask_for_large_pages(libc)
    return is_kept


def _ask_for_large_pages(libc: Any) -> None:
    """Advise large pages for a block that is freed untouched, so that the heap keeps its place.

    A kernel without them, or one that does not promise so many addresses, changes nothing.
    """
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    block = libc.malloc(RESERVED)
    if block is None:
        return
    start, end = -(-block // PAGE) * PAGE, (block + RESERVED) // PAGE * PAGE
    libc.madvise(start, end - start, MADV_HUGEPAGE)
    libc.free(block)
