"""What a step costs, as the progress bar shows it."""

from __future__ import annotations

import sys
from importlib import import_module

import torch


def cost_of(tokens: int, seconds: float, device: torch.device) -> dict[str, float | str]:
    """Tokens per second, and the most memory so far: the device's, or this process's where there is none to ask."""
    shown: dict[str, float | str] = {"tokens/s": tokens / seconds}
    if device.type == "cuda":
        used = torch.cuda.max_memory_allocated(device)
    elif sys.platform == "win32":  # has no module resource
        return shown
    else:
        resource = import_module("resource")
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return shown | {"memory": f"{used / 2**30:.1f} GiB"}
