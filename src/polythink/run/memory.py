"""Memory that nothing holds any more goes back to the system."""

from __future__ import annotations

import ctypes
import gc
import sys


def give_back_memory() -> None:
    """Between two pieces of work that need tensors of other sizes, such as the stages of a recipe.

    What one has freed stays with its process: glibc keeps gigabytes of small blocks that the next one's tensors do not
    fit into (fine-tuning SmolLM2 left 3.7 GB, and reinforcement learning came on top), and torch keeps those of a GPU,
    which other processes may be waiting for.
    """
    gc.collect()
    if "torch" in sys.modules:
        import torch

        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):  # glibc's alone
        trim(0)
