"""What the backends for CUDA share: a step is one copy to the device, one graph, and one copy back.

`graphed.py` runs the Llama family on kernels of our own, `captured.py` the own forward of other models.

All that a step is told lies in columns that stay where they are (`Upload`), keys and values in pages, and results in
two buffers; so the same launches serve every step of the same shapes, and a CUDA graph replays them. Numbers of tokens
and of wanted tokens are padded to a few sizes. Without CUDA the same functions run one by one. All is computed in the
type of the weights: autocast has no say here.

Axis legend: N tokens, W wanted ones, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

import numpy as np
import torch

from polythink.engine.backends.graphs import CudaCapture, Graphs
from polythink.engine.backends.transformers import TransformersBackend
from polythink.engine.lean.family import Unfit
from polythink.engine.paged.cache import PagedCache
from polythink.engine.sampling import Likeliest, check_finite, sample
from polythink.engine.step import Alternatives, StepBatch
from polythink.errors import UserError
from polythink.models.lm import LanguageModel
from polythink.models.thoughts import Thoughts

KEPT = 1 / 16  # of a GPU's memory: caches up to that size, and their graphs, outlive the traces
START = 1 / 64  # of it: the size of a cache without a budget to begin with
FIRST_BRANCHES = 256  # results that there is room for; doubles


def padded(n: int) -> int:
    """The size to which n tokens are padded: 8, 16, 24, 32, 48, .., 256, then multiples of 64.

    Steps of up to 64 tokens or so take the time of reading the weights; in prompts each token costs arithmetic. The
    products of one row take longer than those of eight: 48 microseconds a layer against 37 (0.6B, cuBLAS 13, H200).
    """
    if n > 256:
        return -(-n // 64) * 64
    power = max(8, 1 << max(n - 1, 0).bit_length())
    return power * 3 // 4 if n <= power * 3 // 4 and power >= 32 else power


class Shape(NamedTuple):
    """Of the attention, which is alike in all layers but for the window."""

    heads: int
    kv_heads: int
    head_dim: int
    windows: Sequence[int | None]  # of each layer


class Flight:
    """A step that is under way on the device."""

    def __init__(
        self, results: torch.Tensor, wanted: int, landed: torch.cuda.Event | None, likeliest: Likeliest | None = None
    ) -> None:
        self._results, self._wanted, self._landed = results, wanted, landed  # (3, W): token, log-probability, finite
        self._likeliest = likeliest

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Wait; (W,) tokens int64 and (W,) log-probabilities float64. `UserError` where logits are not finite."""
        if self._landed is not None:
            self._landed.synchronize()
        tokens, logprobs, finite = self._results.view(3, -1)[:, : self._wanted].numpy()
        check_finite(finite)
        return tokens.astype(np.int64), logprobs.copy()

    def alternatives(self) -> Alternatives:
        """After `result`: see `StepBatch.top`."""
        return {} if self._likeliest is None else self._likeliest.read()


class PagedBackend(TransformersBackend):
    """A forward over pages of keys and values, captured. A subclass says which.

    `graphs`: what captures it; `look_ahead`: see `lookahead.py`. Both are for CUDA, and off elsewhere by default. The
    model is read anew whenever it is taken hold of; graphs see what a trainer writes in place, and are captured anew
    where a parameter has moved.
    """

    attention: str | None = None  # the kernel of the attention: see `PagedCache`
    # of the model as it was read last
    shape: Shape
    thoughts: Thoughts | None
    hooked: bool  # its forward calls hooks, which a graph would not

    def __init__(self, lm: LanguageModel, kind: str, graphs: Graphs | None, look_ahead: bool | None) -> None:
        cuda = lm.device.type == "cuda"
        self.looks_ahead = cuda if look_ahead is None else look_ahead
        self.holding = self._holds = 0  # number of the hold that is on, and of holds so far
        self.graphs = Graphs((lambda: CudaCapture(lm.device)) if cuda else None) if graphs is None else graphs
        self._eager = Graphs(None)
        self._memory: int | None = None
        self._room = 0
        self._addresses: tuple[Hashable, ...] = ()
        super().__init__(lm, kind)

    # --- the model

    def _describe(self) -> None:
        """Read the model as it is now. `Unfit` where this backend does not compute it."""
        raise NotImplementedError

    def _state(self) -> tuple[Hashable, ...]:
        """What graphs depend on beside the contents of tensors, such as where all tensors of the model lie."""
        raise NotImplementedError

    def _forward(self, tokens: torch.Tensor, label: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """Logits (W, V) after the `wanted` (W,) of the planned step's tokens (N,)."""
        raise NotImplementedError

    def _made_ready(self) -> AbstractContextManager[None]:
        """What else is changed of the model while it is held."""
        return nullcontext()

    @contextmanager
    def _prepared(self) -> Iterator[None]:
        device = self.lm.device
        with self._made_ready(), torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            try:
                self._describe()
            except Unfit as error:
                raise UserError(
                    f"the model has changed since the engine was made: it has {error} now, which its backend does not "
                    "compute; make the engine after that change"
                ) from error
            found = self._state()
            if found != self._addresses:
                self.graphs.clear()
                self._addresses = found
            self.holding = self._holds = self._holds + 1
            try:
                with torch.autocast(self.lm.device.type, enabled=False):  # graphs would keep casts that it frees
                    yield
            finally:
                self.holding = 0

    # --- the cache

    def clear(self) -> None:
        """Forget all rows. The memory is given back, or kept for the next traces if that is little of what there is."""
        if self.cache is not None and self._keeps(self.cache.allocated_bytes):
            self.cache.clear(keep_memory=True)
        else:
            self._renew()

    def _renew(self) -> None:
        """A new cache."""
        self.graphs.clear()
        shape = self.shape
        self.cache = PagedCache(
            len(shape.windows), shape.heads, shape.kv_heads, shape.head_dim, self.lm.model.dtype, self.lm.device,
            shape.windows, self._memory, self.attention,
        )  # fmt: skip
        self._make_room(FIRST_BRANCHES)

    def _keeps(self, size: int) -> bool:
        return size <= KEPT * self._device_bytes

    @property
    def _device_bytes(self) -> int:
        """Memory of the GPU; 0 elsewhere."""
        device = self.lm.device
        return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0

    def _make_room(self, branches: int) -> None:
        """Memory for the results of so many branches; what the last step sampled stays."""
        if branches <= self._room:
            return
        self._room = max(branches, 2 * self._room)
        device, before = self.lm.device, getattr(self, "sampled", None)
        self.sampled = torch.zeros(self._room, dtype=torch.int64, device=device)  # of the last step
        self.out = torch.zeros(3 * self._room, dtype=torch.float64, device=device)  # token, log-probability, finite
        if before is not None:
            self.sampled[: len(before)] = before

    def reserve(self, rows: int, slots: int, memory: int | None = None) -> None:
        """Bound the memory of keys and values. With graphs all of it is taken at once, so that nothing moves later."""
        if memory != self._memory:
            assert not self.cache.used_bytes, "the budget changes between traces"
            self._memory = memory
            self._renew()
        if self.graphs.capture is not None and not self.cache.used_bytes:
            self.cache.make_room(int(START * self._device_bytes if memory is None else memory) // self.slot_bytes)

    @property
    def slot_bytes(self) -> int:
        return self.cache.slot_bytes

    def bytes_for(self, tokens: int, prefix: int = 0, segments: int = 1) -> int:
        """Pages, of which each segment has its own; a prefix is shared."""
        return self.cache.bytes_for(tokens, segments)

    def usable(self, memory: int, slots: int) -> int:
        """Whole pages, but for the one that holds padding."""
        page = self.cache.bytes_for(1)
        return max(memory // page - 1, 0) * page

    def attach(self, row: int, prefix: int) -> None:
        self.cache.attach(row, prefix)

    def keep(self, row: int, segments: Collection[int]) -> None:
        self.cache.keep(row, segments)

    def rewind(self, row: int, slot: int) -> None:
        """Forget the row's tokens from that slot on, which were run in the last two steps: a wrong look-ahead."""
        self.cache.rewind(row, slot)

    # --- one step

    def _run(self, key: Hashable, function: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Hooks are the host's affair."""
        return (self._eager if self.hooked else self.graphs).run(key, function)

    def step(self, batch: StepBatch) -> tuple[np.ndarray, np.ndarray]:
        """Run the tokens and sample: (W,) tokens int64 and (W,) log-probabilities float64, on the host."""
        flight = self.launch(batch)
        drawn = flight.result()
        self.alternatives = flight.alternatives()
        return drawn

    def launch(self, batch: StepBatch, source: np.ndarray | None = None) -> Flight:
        """Run the tokens and sample, without waiting.

        `source` (N,) int64: where it is not negative, the token is the one that the step launched before this one
        samples after its wanted token of that number, whatever `batch.token` says.
        """
        with self.hold():
            cuts = bool((batch.top_p < 1).any() or (batch.top_k > 0).any())
            size, wide = self._fill(batch, source)
            # a graph that returned logits would keep them for good: a gigabyte for seven graphs of 512 branches
            shown = cuts or bool(batch.top.any())
            key = (self.cache.plan(batch, size).key, wide, cuts, shown, self._room)
            logits = self._run(key, lambda: self._on_device(size, wide, draws=not cuts, shown=shown))
            if cuts:
                limits = (np.pad(x, (0, wide - len(x)), constant_values=off)
                          for x, off in ((batch.top_p, 1), (batch.top_k, 0)))  # fmt: skip
                self._draw(logits, *limits)
            # where some are asked for, outside of the graph: the step takes a few launches more
            likeliest = Likeliest(logits, self._temperature(wide), batch.top) if batch.top.any() else None
            return self._download(wide, len(batch.wanted), likeliest)

    def logits(self, batch: StepBatch) -> torch.Tensor:
        """Run the tokens: logits (W, V) after each wanted one. The self-check reads these."""
        with self.hold():
            size, wide = self._fill(batch, None)
            key = (self.cache.plan(batch, size).key, wide, "logits", self._room)
            logits = self._run(key, lambda: self._on_device(size, wide, draws=False, shown=True))
            return logits[: len(batch.wanted)].clone()

    def _fill(self, batch: StepBatch, source: np.ndarray | None) -> tuple[int, int]:
        """Write what the step is told into the columns that `plan` sends; returns N and W, padded."""
        n, w = len(batch.token), len(batch.wanted)
        size, wide = padded(n), padded(w) if w else 0
        if self.thoughts is not None:
            self.thoughts.check(int(batch.label.max()))
        self._make_room(wide)
        upload = self.cache.upload
        upload.fit(token=size, source=size, label=size, wanted=wide, temperature=wide, key=2 * wide, count=2 * wide)
        columns = (
            ("token", batch.token, size, 0),
            ("source", -1 if source is None else source, size, -1),
            ("label", batch.label, size, 0),
            ("wanted", batch.wanted, wide, 0),
            ("temperature", batch.temperature.view(np.int32), wide, int(np.float32(1).view(np.int32))),
            ("key", batch.key.view(np.int32), 2 * wide, 0),
            ("count", batch.count.view(np.int32), 2 * wide, 0),
        )
        for name, values, length, padding in columns:
            column = upload.host[name]
            filled = n if name == "source" else len(values)
            column[:filled] = values
            column[filled:length] = padding
        return size, wide

    def _on_device(self, size: int, wide: int, draws: bool, shown: bool) -> torch.Tensor:
        """Logits (W, V) where they are to be shown, and the draws from them in `sampled` and `out`, which are returned
        else: on tensors that stay where they are."""
        column = self.cache.upload.device
        self.cache.begin()
        source = column["source"][:size]
        tokens = torch.where(source >= 0, self.sampled[source.clamp(min=0).long()], column["token"][:size])
        logits = self._forward(tokens, column["label"][:size].long(), column["wanted"][:wide].long())
        if draws and wide:
            self._draw(logits, 1.0, 0)
        return logits if shown else self.out

    def _draw(self, logits: torch.Tensor, top_p: float | np.ndarray, top_k: int | np.ndarray) -> None:
        column, wide = self.cache.upload.device, len(logits)
        temperature = self._temperature(wide)
        key, count = (column[name][: 2 * wide].view(torch.int64) for name in ("key", "count"))
        tokens, logprobs, finite = sample(logits, temperature, key, count, top_p, top_k)
        self.sampled[:wide] = tokens
        out = self.out[: 3 * wide].view(3, wide)
        for row, values in zip(out, (tokens, logprobs, finite), strict=True):
            row.copy_(values)

    def _temperature(self, wide: int) -> torch.Tensor:
        """(W,) float32, on the device."""
        return self.cache.upload.device["temperature"][:wide].view(torch.float32)

    def _download(self, wide: int, wanted: int, likeliest: Likeliest | None) -> Flight:
        if self.lm.device.type != "cuda":
            return Flight(self.out[: 3 * wide].clone(), wanted, None, likeliest)
        results = torch.empty(3 * wide, dtype=torch.float64, pin_memory=True)
        results.copy_(self.out[: 3 * wide], non_blocking=True)
        landed = torch.cuda.Event()
        landed.record()
        return Flight(results, wanted, landed, likeliest)
