"""Where a step of the engine goes: its parts by the clock, and the operations inside them by torch's profiler.

The profiler slows the host down, so the parts and the step are timed without it, and a GPU's busy share is the time
of its kernels, which the profiler does not change, over the step that was timed without.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from statistics import median
from typing import Any

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from polythink.bench.cases import Trace
from polythink.bench.machine import wait
from polythink.bench.ours import OwnEngine

TOP = 12  # kernels that are named
GROUPS = (  # of operations on a CPU, the first that matches; what none matches is "other"
    ("linear layers", ("mm", "addmm", "bmm", "linear", "matmul", "mkl", "mkldnn")),
    ("attention", ("attention", "flash", "softmax")),
    ("sampling", ("cumsum", "searchsorted", "sort", "argmax", "multinomial", "isfinite", "exponential")),
    ("copies and indexing", ("copy", "index", "cat", "gather", "scatter", "contiguous", "clone", "to", "select", "pad",
                             "slice", "view", "reshape", "expand", "transpose", "permute", "unsqueeze", "empty",
                             "zeros", "fill", "resize", "as_strided", "t", "unbind", "repeat", "arange")),
    ("norms, rotary, activations", ("mul", "add", "add_", "mul_", "rsqrt", "mean", "pow", "silu", "neg", "rms_norm",
                                    "div", "sub", "cos", "sin", "where", "exp")),
)  # fmt: skip


def profile_steps(own: OwnEngine, traces: Sequence[Trace], steps: int) -> dict[str, Any]:
    """Milliseconds of a step by part of the engine and by operation on the host. JSON-ready."""
    events = [e for e in _recorded(own, traces, steps, ProfilerActivity.CPU) if e.device_type == DeviceType.CPU]
    times: dict[str, float] = defaultdict(float)
    for event in events:
        times[group_of(event.name)] += event.self_cpu_time_total / 1000 / steps
    calls = sum(1 for event in events if event.name.startswith("aten::"))
    return {"parts": _parts(own, traces, steps), "operations": _ordered(times), "calls": round(calls / steps)}


def profile_kernels(own: OwnEngine, traces: Sequence[Trace], steps: int) -> dict[str, Any]:
    """Milliseconds of a step in which the GPU works, the number of its kernels, and the longest of them. JSON-ready."""
    events = [e for e in _recorded(own, traces, steps, ProfilerActivity.CUDA) if e.device_type == DeviceType.CUDA]
    times: dict[str, float] = defaultdict(float)
    for event in events:
        times[event.name[:80]] += event.time_range.elapsed_us() / 1000 / steps
    return {
        "gpu_ms": busy((event.time_range.start, event.time_range.end) for event in events) / 1000 / steps,
        "kernels": round(len(events) / steps),
        "top_kernels": dict(list(_ordered(times).items())[:TOP]),
    }


def _recorded(own: OwnEngine, traces: Sequence[Trace], steps: int, activity: ProfilerActivity) -> list[Any]:
    """What the profiler saw of `steps` steps, after as many others, in which the cache grows."""
    decoded = own.decode(traces, 2 * steps)
    list(islice(decoded, steps))
    with profile(activities=[activity]) as recorded:
        list(islice(decoded, steps))
        wait(own.subject.device)
    decoded.close()
    return list(recorded.events())


def busy(ranges: Iterable[tuple[float, float]]) -> float:
    """The length of the union of (start, end) ranges: kernels of several streams at once count once."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(ranges):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


# ---- the parts of a step, by the clock ----


def _parts(own: OwnEngine, traces: Sequence[Trace], steps: int) -> dict[str, float]:
    """Median milliseconds of a step: the model's forward, the rest of the backend, the engine around it."""
    backend, taken, rows = own.engine.backend, defaultdict(float), []
    with ExitStack() as stack:
        for name in ("step", "logits"):
            if hasattr(backend, name):
                stack.enter_context(_timed(backend, name, taken))
        for seconds, _ in own.decode(traces, steps):
            rows.append((seconds, taken.pop("step", 0.0), taken.pop("logits", 0.0)))
    parts = {"step": [row[0] for row in rows], "engine": [row[0] - row[1] for row in rows]}
    if any(row[2] for row in rows):
        parts |= {"forward": [row[2] for row in rows], "sampling": [row[1] - row[2] for row in rows]}
    else:
        parts |= {"backend": [row[1] for row in rows]}
    return {name: median(column) * 1000 for name, column in parts.items()}


@contextmanager
def _timed(owner: object, name: str, taken: dict[str, float]) -> Iterator[None]:
    """Add the seconds of the method's outermost calls to `taken` until the context closes."""
    method = getattr(owner, name)

    def timed(*args, **kwargs):
        started = time.perf_counter()
        try:
            return method(*args, **kwargs)
        finally:
            taken[name] += time.perf_counter() - started

    setattr(owner, name, timed)
    try:
        yield
    finally:
        delattr(owner, name)


# ---- operations, by torch's profiler ----


def group_of(name: str) -> str:
    """What an operation of torch is for."""
    words = set(name.removeprefix("aten::").strip("_").split("_")) | {name.removeprefix("aten::")}
    for group, parts in GROUPS:
        if any(part in words for part in parts):
            return group
    return "other"


def _ordered(times: dict[str, float]) -> dict[str, float]:
    return dict(sorted(times.items(), key=lambda item: -item[1]))
