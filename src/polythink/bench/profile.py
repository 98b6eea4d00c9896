"""Where a step of the engine goes: its parts by the clock, and the operations inside them by torch's profiler.

The profiler slows the host down, so the parts and the step are timed without it, and a GPU's busy share is the time
of its kernels, which the profiler does not change, over the step that was timed without.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from polythink.bench.cases import Trace
from polythink.bench.machine import wait
from polythink.bench.ours import OwnEngine
from polythink.engine.lookahead import Flight

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
    """Median milliseconds of a step: the model's forward, the rest of the backend, the engine around it.

    With look-ahead: launching the next step, waiting for the results of this one, the engine around both.
    """
    backend, taken, rows = own.engine.backend, defaultdict(float), []
    ahead = backend.looks_ahead
    with ExitStack() as stack:
        stack.enter_context(_before(own.engine, "step", taken.clear))  # steps that are not counted take their time too
        for name in ("launch",) if ahead else ("step", "logits"):
            if hasattr(backend, name):
                stack.enter_context(_timed(backend, name, taken))
        for seconds, _ in own.decode(traces, steps):
            rows.append((seconds, *(taken[name] for name in ("launch", "wait", "step", "logits"))))
    step, launch, wait, whole, forward = zip(*rows, strict=True)
    parts = {"step": step, "engine": _less(step, launch, wait, whole)}
    if ahead:
        parts |= {"launch": launch, "wait": wait}
    elif any(forward):
        parts |= {"forward": forward, "sampling": _less(whole, forward)}
    else:
        parts |= {"backend": whole}
    return {name: median(column) * 1000 for name, column in parts.items()}


def _less(whole: Sequence[float], *parts: Sequence[float]) -> list[float]:
    return [a - sum(others) for a, *others in zip(whole, *parts, strict=True)]


class _Waited(NamedTuple):
    """A step under way, the waiting for which is timed."""

    flight: Flight
    taken: dict[str, float]

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        started = time.perf_counter()
        try:
            return self.flight.result()
        finally:
            self.taken["wait"] += time.perf_counter() - started


@contextmanager
def _timed(owner: object, name: str, taken: dict[str, float]) -> Iterator[None]:
    """Add the seconds of the method's calls to `taken` until the context closes, and, as "wait", those of the results
    of a step that it launched."""
    method = getattr(owner, name)

    def timed(*args, **kwargs):
        started = time.perf_counter()
        try:
            found = method(*args, **kwargs)
        finally:
            taken[name] += time.perf_counter() - started
        return _Waited(found, taken) if name == "launch" else found

    with _replaced(owner, name, timed):
        yield


@contextmanager
def _before(owner: object, name: str, work: Callable[[], object]) -> Iterator[None]:
    """Do something before each call of the method, until the context closes."""
    method = getattr(owner, name)

    def called(*args, **kwargs):
        work()
        return method(*args, **kwargs)

    with _replaced(owner, name, called):
        yield


@contextmanager
def _replaced(owner: object, name: str, method: Callable) -> Iterator[None]:
    """Let this object have another method than its class until the context closes."""
    setattr(owner, name, method)
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
