"""What the device can do, measured in the minute in which it is compared with."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from functools import partial

import torch
import transformers

from polythink.bench.floor import Machine

COPY = {"cuda": 1 << 30, "cpu": 1 << 27}  # bytes, far more than any cache holds
PRODUCT = {"cuda": 8192, "cpu": 1024}  # rows and columns of square matrices


def measure(device: torch.device, dtype: torch.dtype, runs: int = 5) -> Machine:
    """Bandwidth of a large copy (bytes read and written) and rate of a large matrix product in the dtype: the best run.

    The best, because other work on the machine can only slow it down, and the floor is what the hardware can do.
    """
    kind = "cuda" if device.type == "cuda" else "cpu"
    source = torch.zeros(COPY[kind], dtype=torch.uint8, device=device)
    copy = _least(partial(torch.empty_like(source).copy_, source), device, runs)
    n = PRODUCT[kind]
    left, right = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    product = _least(partial(torch.matmul, left, right), device, runs)
    return Machine(2 * COPY[kind] / copy, 2 * n**3 / product)


def _least(work: Callable[[], object], device: torch.device, runs: int) -> float:
    """Seconds of the fastest run after one that is not counted."""
    seconds = []
    for _ in range(runs + 1):
        wait(device)
        started = time.perf_counter()
        work()
        wait(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def wait(device: torch.device) -> None:
    """Until the device has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def free_bytes(device: torch.device) -> float:
    """Memory that is free on the device, what torch holds unused included; infinite where the system does not say."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):  # not Linux
        return float("inf")


def describe(device: torch.device) -> dict:
    """Where a number was measured; JSON-ready."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else _processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "date": time.strftime("%Y-%m-%d %H:%M"),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            name = next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"
