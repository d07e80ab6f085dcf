"""Keeping freed memory: on a CPU, the same large tensors come and go at every step.

glibc gives every freed block above 32 MB back to the system and asks for it again at the next
step, page fault by page fault: filling a new 256 MB tensor takes 12 times as long as it must.
"""

import ctypes

# Options of mallopt (malloc.h) with their values.
MMAP_MAX = (-4, 0)
"""No block is mapped on its own: all come from the heap."""
TRIM_THRESHOLD = (-1, -1)
"""The heap never shrinks."""
TOP_PAD = (-2, 64 << 20)
"""It grows by at least 64 MB."""


def keep_heap() -> bool:
    """Tell glibc to keep freed memory in the heap; return whether it could be told.

    Costs memory: the process stays as large as it has ever been. Does nothing where the C
    library is another one (macOS, Windows, musl).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return all(
        [mallopt(option, value) == 1 for option, value in (MMAP_MAX, TRIM_THRESHOLD, TOP_PAD)]
    )
