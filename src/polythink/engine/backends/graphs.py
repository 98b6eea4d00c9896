"""Functions of tensors that stay where they are, run as CUDA graphs from their third call on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Protocol

import torch

from polythink.engine.lean.streams import capture_stream

MOST_GRAPHS = 96  # each holds its list of launches; the one not used for longest goes first
_TURN = threading.Lock()  # captures of all threads share their streams
_UNENDED: list[torch.cuda.CUDAGraph] = []  # of which torch's allocators still know when their capture has failed

Function = Callable[[], torch.Tensor]


class Captured(Protocol):
    """A function that runs anew on what its tensors hold now."""

    result: torch.Tensor  # what the function returned: overwritten by each `replay`

    def replay(self) -> None: ...


class Graphs:
    """Runs functions, each under a key that covers everything but the contents of the tensors that it reads.

    The first call under a key runs the function as it is, which compiles what is compiled at first use; the second one
    captures it. So shapes that come once, such as those of most prompts, do not pay for a capture.
    """

    def __init__(self, make: Callable[[], Callable[[Function], Captured]] | None) -> None:
        self.make = make  # what captures; None: functions are always run as they are
        self.capture = None if make is None else make()
        self._known: dict[Hashable, Captured | None] = {}  # the one used last stands last
        self.captured = self.replayed = self.ran = 0  # calls

    def run(self, key: Hashable, function: Function) -> torch.Tensor:
        """What the function returns. It may be overwritten by the next call, under any key."""
        if self.capture is None or key not in self._known:
            if self.capture is not None:
                self._enter(key, None)
            self.ran += 1
            return function()
        captured = self._known.pop(key)
        if captured is None:
            captured = self.capture(function)
            self.captured += 1
        self._enter(key, captured)
        captured.replay()
        self.replayed += 1
        return captured.result

    def clear(self) -> None:
        """Forget all graphs: some tensor has moved."""
        if self._known:
            self._known.clear()
            self.capture = self.make()  # with a pool of its own, so that the memory of the one before goes back

    def _enter(self, key: Hashable, captured: Captured | None) -> None:
        while len(self._known) >= MOST_GRAPHS:
            del self._known[next(iter(self._known))]
        self._known[key] = captured


class CudaCapture:
    """Captures CUDA graphs that share one pool of memory, since they run one after another."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._first: Captured | None = None

    def __call__(self, function: Function) -> Captured:
        with suppress(torch.OutOfMemoryError):
            return self._in_pool(function)
        torch.cuda.empty_cache()  # memory that is kept for later cannot be given back during a capture
        return self._in_pool(function)

    def _in_pool(self, function: Function) -> Captured:
        if self._first is None:
            # torch takes no pool again that no graph uses any more, as when all have been forgotten: this one stays
            self.pool = torch.cuda.graph_pool_handle()
            self._first = self._captured(lambda: torch.zeros(1, device=self.device))
        return self._captured(function)

    def _captured(self, function: Function) -> Captured:
        graph = torch.cuda.CUDAGraph()
        with _TURN:
            stream = capture_stream(self.device)
            stream.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(stream):
                # other threads may use CUDA meanwhile; torch.cuda.graph would also collect garbage and empty the
                # allocator
                graph.capture_begin(pool=self.pool, capture_error_mode="thread_local")
                try:
                    graph.result = function()
                    graph.capture_end()
                except BaseException:  # a signal that ends the program, too
                    self._give_up(graph)
                    raise
            torch.cuda.current_stream(self.device).wait_stream(stream)
        return graph

    def _give_up(self, graph: torch.cuda.CUDAGraph) -> None:
        """End a capture that has failed, so that others can begin and memory can be freed. Raises nothing.

        The end of a capture in which something forbidden was done fails itself. Up to torch 2.11 the allocator is then
        left as if the capture went on, and the next `empty_cache` ends the process.
        """
        try:
            graph.capture_end()
        except RuntimeError:
            with suppress(RuntimeError):  # it was told
                torch._C._cuda_endAllocateToPool(self.device.index, self.pool)
                _UNENDED.append(graph)
                torch._C._cuda_releasePool(self.device.index, self.pool)
