"""Memory that nothing holds any more goes back to the system.

glibc keeps freed blocks that lie below one that is held. Tensors of ever other sizes, as traces of other lengths make
them, leave gaps that the next ones do not fit into: after six steps of fine-tuning SmolLM2 3.7 of 4.4 GB were gaps.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import time

EVERY = 20.0  # seconds between two trims: each takes up to a tenth of one, and what it gives back is to be fetched anew
_trimmed = 0.0


def trim_heap() -> None:
    """Give the gaps in the heap back, if it is some time since that was done. For loops, after each step."""
    global _trimmed
    if time.monotonic() - _trimmed >= EVERY:
        _trim()


def give_back_memory() -> None:
    """Between two pieces of work, such as the stages of a recipe. With what torch keeps of a GPU, which other processes
    may be waiting for."""
    gc.collect()
    if "torch" in sys.modules:
        import torch

        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
    _trim()


def _trim() -> None:
    global _trimmed
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):  # glibc's alone
        trim(0)
    _trimmed = time.monotonic()
