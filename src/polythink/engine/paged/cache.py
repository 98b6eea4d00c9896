"""The keys and values of all live traces in pages, and the attention over them: what a backend on a GPU builds on.

    cache = PagedCache(layers=28, heads=16, kv_heads=8, head_size=128, dtype=torch.bfloat16, device=device)
    cache.open(row, segment, follows)            # as the engine's seam has it; also attach, keep, clear
    plan = cache.plan(batch, size=64)            # on the host: places, lists, one copy to the device
    cache.begin()                                # on the device: static tensors only, may stand in a CUDA graph
    for layer in range(28):
        cache.write(layer, k, v)                 # or a kernel of one's own that writes to `plan.slot`
        out = cache.attend(layer, q)

A CUDA graph may be replayed for every plan with the same `plan.key`, which covers all launch shapes and addresses.

Axis legend: N tokens of a step, padded to `size`; G query heads, H key and value heads, D head size.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass

import torch

from polythink.engine.kernels.attention import Inputs, attend_pages, attend_pages_twin, widest_block
from polythink.engine.paged.arena import PAGE, Arena
from polythink.engine.paged.upload import Upload
from polythink.engine.paged.work import Placed, Tiling, Work
from polythink.engine.step import StepBatch


@dataclass(frozen=True)
class Plan:
    """One step on the device. All tensors are (size,) views of memory that stays where it is while `key` is the same.

    Padding (places `tokens` to `size`) writes to page 0, which nobody reads, and reads nothing: its attention is 0.
    """

    tokens: int  # N
    size: int  # N padded
    slot: torch.Tensor  # int32: the token's place in the arenas, page x 16 + offset
    position: torch.Tensor  # int32
    scale: torch.Tensor  # float32: factor on the query's attention scores
    stamp: torch.Tensor  # int32: order of the token among those of its row
    key: Hashable


class PagedCache:
    """Arenas of keys and values, one pair per layer, and the plan of the step that runs.

    `keys[layer]` and `values[layer]` are (capacity x 16, H, D): place `page x 16 + offset`; they are made at the first
    plan and grow (at least double, within the budget, layer by layer) when all pages are in use. `windows`: of each
    layer the sliding window in positions, or None. `memory_bytes` bounds the arenas. `kernel` is "triton" or "torch"
    (the twin: dense, any device); by default triton on CUDA. `programs` of the kernel are enough to fill the GPU.
    """

    def __init__(
        self,
        layers: int,
        heads: int,
        kv_heads: int,
        head_size: int,
        dtype: torch.dtype,
        device: torch.device | str,
        windows: Sequence[int | None] | None = None,
        memory_bytes: int | None = None,
        kernel: str | None = None,
        programs: int = 512,
    ) -> None:
        self.layers, self.heads, self.kv_heads, self.head_size = layers, heads, kv_heads, head_size
        self.dtype, self.device = dtype, torch.device(device)
        self.windows = tuple(windows) if windows is not None else (None,) * layers
        assert len(self.windows) == layers
        assert heads % kv_heads == 0
        self.kernel = kernel or ("triton" if self.device.type == "cuda" else "torch")
        assert self.kernel in ("triton", "torch"), self.kernel
        self.slot_bytes = 2 * kv_heads * head_size * dtype.itemsize * layers
        # page 0 holds padding, and is a part of the budget
        self.most_pages = None if memory_bytes is None else max(memory_bytes // self.bytes_for(1) - 1, 0)
        share = heads // kv_heads
        self.tiling = Tiling(share, kv_heads, widest_block(share, head_size, dtype), programs)
        self.clear()

    # --- the seam

    def bytes_for(self, tokens: int, segments: int = 1) -> int:
        """Most bytes that so many tokens in so many segments occupy: each segment's last page may hold one token."""
        pages = -(-tokens // PAGE) if segments <= 1 else max(tokens - segments, 0) // PAGE + min(segments, tokens)
        return pages * PAGE * self.slot_bytes

    def open(self, row: int, segment: int, follows: Sequence[int]) -> None:
        """Enter a segment, which sees itself and all that those it follows see. Segment 0 starts a new trace."""
        self.arena.open(row, segment, follows)

    def attach(self, row: int, prefix: int) -> None:
        """The row's trace reads all tokens of the prefix row, which have all been run, before its own.

        Before `open(row, 0, ())`. The prefix's pages are held until it has been forgotten and all that read it, too.
        """
        self.arena.attach(row, prefix)

    def keep(self, row: int, segments: Collection[int]) -> None:
        """No other segment of the row is run or followed any more; none: forget the row. Pages go back at once."""
        self.arena.keep(row, segments)

    def rewind(self, row: int, slot: int) -> None:
        """Forget the row's tokens from that slot on, which were planned in the last two steps: a wrong look-ahead."""
        self.arena.rewind(row, slot)

    def clear(self, keep_memory: bool = False) -> None:
        """Forget all rows, and free the memory unless it is to stay where it is."""
        self.arena = Arena(self.most_pages)
        if keep_memory:
            if self._capacity:
                self.arena.make_room(self._capacity - 1)
            assert self.arena.capacity == max(self._capacity, 1)
            self.works = {window: Work(self.upload, self.tiling, window, f"/{window}") for window in self.works}
            self.now = None
            return
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []
        self.upload = Upload(self.device, floats=("scale",))
        kinds = dict.fromkeys(self.windows)
        self.works = {w: Work(self.upload, self.tiling, w, f"/{w}") for w in kinds}  # by window
        self.now: Plan | None = None
        self._capacity = self._partials = 0
        self._moved = getattr(self, "_moved", 0) + 1  # how often some memory got another address

    def make_room(self, tokens: int) -> None:
        """Have memory for that many tokens together, within the budget, so that later steps move nothing."""
        pages = -(-tokens // PAGE)
        self.arena.make_room(pages if self.most_pages is None else min(pages, self.most_pages))
        self._grow()

    @property
    def used_bytes(self) -> int:
        """Bytes of the pages in use."""
        return self.arena.used * PAGE * self.slot_bytes

    @property
    def peak_bytes(self) -> int:
        """The most bytes that were in use together since the last `clear`."""
        return self.arena.peak * PAGE * self.slot_bytes

    @property
    def allocated_bytes(self) -> int:
        """Bytes of the arenas: pages in use, free ones, and the one of the padding."""
        return self._capacity * PAGE * self.slot_bytes

    def read_bytes(self) -> tuple[int, int]:
        """Bytes of keys and values that the planned step's attention asks for over all layers, and the floor: what it
        would ask for if every key that some query sees were read exactly once. What is above the floor are pages that
        several tiles read, of which all but the first find them in the GPU's cache."""
        each = {window: work.tokens_read() for window, work in self.works.items()}
        per_layer = self.slot_bytes // self.layers
        asked, floor = (sum(each[window][i] for window in self.windows) for i in (0, 1))
        return asked * per_layer, floor * per_layer

    # --- one step

    def plan(self, batch: StepBatch, size: int | None = None) -> Plan:
        """Give the step's tokens their places, make the attention's lists, and send both to the device.

        `size` pads the number of tokens (default: none). `OutOfPages` if the budget does not reach; nothing has
        changed then.
        """
        arena, upload = self.arena, self.upload
        n = len(batch.token)
        size = n if size is None else size
        assert n <= size
        flat, new = arena.place(batch)
        step = Placed(batch, flat, arena.stamps(batch), size, new)
        self._grow()
        upload.fit(slot=size, stamp=size, position=size, scale=size)
        for name, values in (("slot", flat), ("stamp", step.stamp), ("position", batch.position)):
            upload.host[name][:n] = values
            upload.host[name][n:size] = 0
        upload.host["scale"][:n], upload.host["scale"][n:size] = batch.scale, 1
        for work in self.works.values():
            if not work.advance(arena, step):
                work.build(arena, step)
        upload.send()
        self._make_partials(max(work.partials for work in self.works.values()))
        columns = {name: upload.device[name][:size] for name in ("slot", "stamp", "position", "scale")}
        kinds = tuple((work.launches, work.causal, work.parts) for work in self.works.values())
        self.now = Plan(n, size, **columns, key=(size, kinds, upload.version, self._moved))
        return self.now

    def begin(self) -> None:
        """Write the stamps and positions of the step's tokens beside the arenas. Once per plan, before `attend`."""
        plan = self.now
        slot = plan.slot.long()
        self.stamps.index_copy_(0, slot, plan.stamp)
        if self.positions is not None:
            self.positions.index_copy_(0, slot, plan.position)

    def write(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put the step's keys and values, (size, H, D) each, into their places."""
        slot = self.now.slot.long()
        self.keys[layer].index_copy_(0, slot, keys)
        self.values[layer].index_copy_(0, slot, values)

    def attend(
        self, layer: int, query: torch.Tensor, scaling: float | None = None, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(size, G, D): what each token of the step reads in this layer. `query` (size, G, D); `scaling` D ** -0.5."""
        inputs = self.inputs(layer)
        out = torch.empty_like(query) if out is None else out
        scaling = self.head_size**-0.5 if scaling is None else scaling
        function = attend_pages if self.kernel == "triton" else attend_pages_twin
        return function(query, inputs, scaling, out)

    def inputs(self, layer: int) -> Inputs:
        """The tensors that the attention of a layer reads besides the queries."""
        plan, work = self.now, self.works[self.windows[layer]]
        return Inputs(
            keys=self.keys[layer],
            values=self.values[layer],
            scale=plan.scale,
            launches=work.launches,
            **{name: work.tensor(name) for name in ("items", "queries", "entries", "bits", "merge_start", "merge")},
            parts=work.parts,
            partial_out=self.partial_out,
            partial_lse=self.partial_lse,
            stamps=(self.stamps, plan.stamp) if work.causal else None,
            positions=(self.positions, plan.position) if work.window is not None else None,
            window=work.window,
        )

    # --- memory

    def _grow(self) -> None:
        """Give the arenas the capacity that the book-keeping has: one layer at a time, so that little is held twice."""
        capacity = self.arena.capacity
        if capacity == self._capacity:
            return
        had, self._capacity = self._capacity, capacity
        shape = (capacity * PAGE, self.kv_heads, self.head_size)
        for layer in range(self.layers):
            for arenas in (self.keys, self.values):
                wide = torch.empty(shape, dtype=self.dtype, device=self.device)
                if had:
                    wide[: had * PAGE] = arenas[layer]
                    arenas[layer] = wide
                else:
                    arenas.append(wide)
        stamps = torch.zeros(capacity * PAGE, dtype=torch.int32, device=self.device)
        positions = torch.zeros_like(stamps) if set(self.windows) != {None} else None
        if had:
            stamps[: had * PAGE] = self.stamps
            if positions is not None:
                positions[: had * PAGE] = self.positions
        self.stamps, self.positions = stamps, positions
        self._moved += 1

    def _make_partials(self, count: int) -> None:
        """Room for the partial results of a step: shared by all layers, which run one after another."""
        if count <= self._partials:
            return
        self._partials = 1 << (count - 1).bit_length()
        shape = (self._partials, self.heads)
        self.partial_out = torch.empty(*shape, self.head_size, dtype=torch.float32, device=self.device)
        self.partial_lse = torch.empty(shape, dtype=torch.float32, device=self.device)
        self._moved += 1
