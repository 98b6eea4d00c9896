"""Captures under the rules that torch's allocator has for them: pools, failed captures, memory, threads.

No GPU: what torch 2.11 and 2.12 check and leave behind (CUDAGraph.cpp, CUDACachingAllocator.cpp) is written down here.
"""

from __future__ import annotations

import gc
import threading
import time
from contextlib import nullcontext

import pytest
import torch

from polythink.engine.backends.graphs import MOST_GRAPHS, CudaCapture, Graphs
from polythink.engine.lean import streams

DEVICE = torch.device("cpu", 0)


class Allocator:
    """The pools of graphs. `tidy`: a capture whose end fails is forgotten, as from torch 2.12 on."""

    def __init__(self, tidy: bool) -> None:
        self.tidy, self.users, self.underway, self.pools = tidy, {}, [], 0
        self.capturing = threading.local()
        self.most_underway = self.cached = 0

    def new_pool(self) -> tuple[int, int]:
        self.pools += 1
        return 0, self.pools

    def begin(self, pool) -> None:
        if self.users.get(pool) == 0:
            raise RuntimeError("use_count > 0 INTERNAL ASSERT FAILED")
        if pool in self.underway:
            raise RuntimeError("already recording to mempool_id")
        self.users[pool] = self.users.get(pool, 0) + 1
        self.underway.append(pool)
        self.most_underway = max(self.most_underway, len(self.underway))

    def end(self, device, pool) -> None:
        if pool not in self.underway:
            raise RuntimeError("not currently recording to mempool_id")
        self.underway.remove(pool)

    def release(self, device, pool) -> None:
        self.users[pool] -= 1

    def empty_cache(self) -> None:
        assert not self.underway, "captures_underway.empty() INTERNAL ASSERT FAILED"
        self.cached = 0

    def allocate(self) -> None:
        """In a capture nothing that is cached can be given back first."""
        if self.cached:
            raise torch.OutOfMemoryError("CUDA out of memory")

    def forbidden(self) -> None:
        self.capturing.graph.broken = True
        raise RuntimeError("operation not permitted when stream is capturing")


def graph_class(allocator: Allocator) -> type:
    class Graph:
        broken = active = ended = False

        def capture_begin(self, pool, capture_error_mode) -> None:
            allocator.begin(pool)
            self.pool, self.active, allocator.capturing.graph = pool, True, self

        def capture_end(self) -> None:
            active, self.active, allocator.capturing.graph = self.active, False, None
            if self.broken and active and allocator.tidy:
                allocator.end(0, self.pool)
            if self.broken or not active:
                raise RuntimeError("operation failed due to a previous error during capture")
            allocator.end(0, self.pool)
            self.ended = True

        def replay(self) -> None:
            pass

        def __del__(self) -> None:
            if self.ended:
                allocator.release(0, self.pool)

    return Graph


class Stream:
    def __init__(self, device: torch.device) -> None:
        self.device = device

    def wait_stream(self, other) -> None:
        pass


@pytest.fixture(params=[False, True], ids=["torch 2.11", "torch 2.12"])
def allocator(request, monkeypatch):
    allocator = Allocator(request.param)
    for name, stand_in in {
        "CUDAGraph": graph_class(allocator), "graph_pool_handle": allocator.new_pool, "Stream": Stream,
        "current_stream": Stream, "stream": lambda stream: nullcontext(), "empty_cache": allocator.empty_cache,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", allocator.end, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_releasePool", allocator.release, raising=False)
    monkeypatch.setattr(streams, "_WARM", threading.local())
    streams._streams.cache_clear()
    yield allocator
    streams._streams.cache_clear()


def made() -> Graphs:
    return Graphs(lambda: CudaCapture(DEVICE))


def some() -> torch.Tensor:
    return torch.zeros(1)


def test_a_pool_outlives_its_graphs(allocator):
    """Shapes that come once push all graphs out; then one is captured again, into the same pool."""
    graphs = made()
    for _ in range(2):
        for _ in range(2):
            graphs.run("steps", some)
        for number in range(MOST_GRAPHS):
            graphs.run(number, some)
    assert (graphs.captured, allocator.pools) == (2, 1)
    graphs.clear()
    for _ in range(2):
        graphs.run("steps", some)
    assert graphs.captured == 3
    assert allocator.users == {(0, 1): 0, (0, 2): 2}  # what has been forgotten can be freed


def test_a_capture_that_fails_leaves_nothing_behind(allocator):
    """A backend that cannot be captured is given up for another, and memory is freed later."""
    graphs, calls = made(), []

    def function() -> torch.Tensor:
        calls.append(1)
        return allocator.forbidden() if len(calls) == 2 else some()

    graphs.run("steps", function)
    with pytest.raises(RuntimeError, match="not permitted"):
        graphs.run("steps", function)
    assert not allocator.underway
    torch.cuda.empty_cache()
    for _ in range(3):
        graphs.run("steps", function)
    assert (graphs.captured, graphs.replayed) == (1, 2)
    graphs.clear()
    assert allocator.tidy or allocator.users[0, 1] == 0


def test_an_error_of_ones_own_ends_the_capture(allocator):
    def stopped() -> torch.Tensor:
        raise KeyboardInterrupt

    capture = CudaCapture(DEVICE)
    with pytest.raises(KeyboardInterrupt):
        capture(stopped)
    gc.collect()  # the traceback
    assert not allocator.underway
    assert allocator.users == {capture.pool: 1}


@pytest.mark.parametrize("used", [False, True])
def test_memory_that_is_kept_for_later_is_given_back_for_a_capture(used, allocator, monkeypatch):
    capture, zeros = CudaCapture(DEVICE), torch.zeros

    def allocated(*args, **options) -> torch.Tensor:
        if allocator.underway:
            allocator.allocate()
        return zeros(*args, **options)

    monkeypatch.setattr(torch, "zeros", allocated)
    graphs = [capture(some)] if used else []
    allocator.cached = 1 << 30
    graphs.append(capture(some))
    assert torch.equal(graphs[-1].result, zeros(1))
    gc.collect()
    assert allocator.users[capture.pool] == 1 + len(graphs)

    def too_large() -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        capture(too_large)
    assert not allocator.underway


def test_threads_capture_in_turns_and_each_warms_the_streams(allocator, monkeypatch):
    warmed, found = [], []
    monkeypatch.setattr(streams, "warm", lambda stream: warmed.append((threading.get_ident(), id(stream))))
    begin = threading.Barrier(2)

    def function() -> torch.Tensor:
        time.sleep(0.01)
        return some()

    def work() -> None:
        capture = CudaCapture(DEVICE)
        begin.wait()
        found.append([capture(function) for _ in range(3)])

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert allocator.most_underway == 1
    assert len(warmed) == len(set(warmed)) == 6  # three streams each
    assert len({stream for _, stream in warmed}) == 3
