"""What a process that computes for minutes is told before it begins: keep freed memory, and look for garbage rarely."""

from __future__ import annotations

import ctypes
import gc
import sys

# of glibc's malloc.h
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD, ARENA_MAX = -1, -2, -3, -8
KEPT = 1 << 30  # bytes at the end of the heap that are kept for the next step
MAPPED = 32 << 20  # bytes: larger blocks are given back at once (the most that glibc takes)
GROWN = 64 << 20  # bytes that the heap grows by at a time
NEW_OBJECTS = 50_000  # between two looks for garbage among them; Python's own 700 come in every step of the engine


def settle() -> None:
    """Make this process, which has imported all that it needs, ready for a long computation.

    Tensors of a step are freed and made again with the same sizes. By default glibc hands the pages of larger ones back
    to the system, which clears them anew for the next step; the heaps of further threads whatever it is told, so that
    all threads share one. What has been imported is no garbage and is not looked through again. Neither changes a
    result; where there is no glibc, the first is left out.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        settings = (TRIM_THRESHOLD, KEPT), (TOP_PAD, GROWN), (MMAP_THRESHOLD, MAPPED), (ARENA_MAX, 1)
        for option, value in settings:
            if mallopt is not None:
                mallopt(option, value)
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS, 10, 10)
