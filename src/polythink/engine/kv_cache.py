"""Keys and values of all live traces: a row per trace, a slot per token, and a table that says who sees whom.

A token may read slot k of its row iff its segment sees the slot's segment and k is not after its own slot. Slots are
given out in the order of the tokens, so that one comparison covers causality, slots not yet written and slots that an
earlier trace left behind. A fork copies nothing and a join recomputes nothing: both are entries in the table.

All rows lie in one range of slots. Where memory that has not been written costs nothing (`slots.py`), each row has room
for the longest trace and holds the pages that it has written; elsewhere rows are blocks of powers of two, which move
when they grow (`buddies.py`). In both cases rows lie at multiples of one number and are read as one strided tensor, and
a row that ends gives its memory back. A prompt that several traces share is copied into the row of each.

Axis legend: C slots of all rows, S segments, N tokens, H key and value heads, D head size, r rows of a group, Q queries
of a row, K slots of a row that are read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

from polythink.engine.buddies import Buddies, size_class
from polythink.engine.groups import Group, Step, read, together
from polythink.engine.slots import SlotTensor, can_reserve, pages
from polythink.engine.step import StepBatch

FIRST_SLOTS = 64  # a row's slots to begin with, where they double when a trace needs more
ALIGNED = 1 << 12  # slots: rows at multiples of it begin at a page, whatever a slot takes


class StepLayer(CacheLayerMixin):
    """A layer of a cache whose lengths are no model's affair: masks and positions are given."""

    is_sliding = False

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return -1

    get_max_cache_shape = get_max_length  # its name in transformers up to 5.10


class _Layer(StepLayer):
    """One layer's keys and values, (C, H, D) each, made at the first write; zeroed, as a masked NaN is still NaN."""

    def __init__(self, cache: TreeKVCache) -> None:
        super().__init__()
        self.cache = cache
        self.stores: tuple[SlotTensor, ...] = ()

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.stores = tuple(
            SlotTensor(self.cache.capacity, (x.shape[1], x.shape[-1]), x.dtype, x.device, self.cache.strided)
            for x in (key_states, value_states)
        )
        self.is_initialized = True
        self.link()

    def link(self) -> None:
        """After the stores have got other tensors."""
        if self.is_initialized:
            self.keys, self.values = (store.tensor for store in self.stores)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.cache.capacity, 0

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        """Write the step's keys and values (B, H, T, D) into their slots; returns what the attention is to read.

        For the engine's attention that is all slots, (1, H, C, D); for the model's own the rows of the batch.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        return self.cache.write(self, key_states, value_states)


class TreeKVCache(Cache):
    """A transformers cache over rows of slots. `reserve` announces its size; `plan` comes before each forward."""

    def __init__(self, layers: int, device: torch.device, windowed: bool = False, padded: bool = False) -> None:
        super().__init__(layers=[_Layer(self) for _ in range(layers)])
        self.known = []
        self.device, self.capacity = device, 0  # capacity: slots of the tensors
        self.strided = can_reserve(device)
        self.stride = ALIGNED if self.strided else 0  # slots from one row to the next
        self.most_slots, self.budget = 1, None
        self.windowed = windowed  # some layer reads a window only: keep the distances
        self.padded = padded  # the model's own attention reads whole rows
        self.buddies = Buddies()
        self.place = np.zeros(
            (3, 8), np.int64
        )  # of each row: first slot and number of slots of its block, prefix tokens
        self.lengths: dict[int, int] = {}  # slots in use of each row, the prefix among them
        self.attached: set[int] = set()  # rows whose first segment has not been opened yet
        self.segment_of, self.position_of = (SlotTensor(0, (), torch.long, device, self.strided) for _ in range(2))
        self.sees = np.zeros((0, 8, 8), bool)  # (rows, S, S), on the host: written entry by entry, read once per step
        self.now: Step | None = None
        self.window_seen = False  # some layer's attention was told of its window

    @property
    def sizes(self) -> list[int]:
        """Bytes of a token in each tensor of keys or values: as written, or as in the cache before this one."""
        return [store.slot_bytes for layer in self.layers for store in layer.stores] or self.known

    # --- rows

    @property
    def rows(self) -> int:
        """How many rows hold memory."""
        return len(self.lengths)

    @property
    def held_bytes(self) -> int:
        """Bytes of keys and values that are held."""
        if self.strided:
            return sum(map(self.bytes_for, self.lengths.values()))
        return self.buddies.held * sum(self.sizes)

    def bytes_for(self, slots: int) -> int:
        """Bytes that a row of so many slots holds."""
        if self.strided:
            return sum(pages(slots * size) for size in self.sizes)
        return self._block(slots) * sum(self.sizes)

    def usable(self, budget: int, slots: int) -> int:
        """How many bytes of a budget can be used by rows of up to that many slots."""
        return budget if self.strided else budget - budget % self.bytes_for(slots)

    @staticmethod
    def _block(slots: int) -> int:
        return size_class(max(slots, FIRST_SLOTS))

    def reserve(self, rows: int, slots: int, budget: int | None = None) -> None:
        """No more than that many rows of that many slots are needed at a time, and no more than `budget` slots."""
        self.budget = budget
        if self.strided:
            stride = max(self.stride, size_class(slots))
            self._lay_out(max(rows, self.capacity // self.stride) * stride, stride)
            return
        self.most_slots = self._block(slots)
        if budget is not None:
            self._copy(self.buddies.resize(budget - budget % self.most_slots))
            self._lay_out(budget)

    def open(self, row: int, segment: int, follows: Sequence[int]) -> None:
        """Enter a segment: it sees itself and all that those it follows see. Overwrites what an earlier trace left."""
        rows, segments = self.sees.shape[:2]
        if row >= rows or segment >= segments:
            more = (max(rows, row + 1 - rows) if row >= rows else 0, segments if segment >= segments else 0)
            self.sees = np.pad(self.sees, ((0, more[0]), (0, more[1]), (0, more[1])))
        seen = self.sees[row, segment]
        seen[:] = False
        for before in follows:
            seen |= self.sees[row, before]
        seen[segment] = True
        if segment == 0 and row not in self.attached:
            self.release(row)
        self.attached.discard(row)

    def attach(self, row: int, prefix: int) -> None:
        """Copy the prefix into a new row, whose own slots follow."""
        self.release(row)
        self._know(row)
        count = self.lengths[prefix]
        self._place(np.array([row]), np.array([count + 1]))
        source, target = self.place[0, [prefix, row]].tolist()
        for store in self._stores():
            store.copy(source, target, count)
        self.place[2, row] = self.lengths[row] = count
        self.attached.add(row)

    def release(self, row: int) -> None:
        """Free a row and give its memory back."""
        count = self.lengths.pop(row, 0)
        if count:
            start = int(self.place[0, row])
            for store in self._stores():
                store.release(start, count)
        self.buddies.give(row)
        if row < self.place.shape[1]:
            self.place[:, row] = 0
        self.attached.discard(row)

    def _stores(self) -> Iterator[SlotTensor]:
        yield self.segment_of
        if self.windowed:
            yield self.position_of
        for layer in self.layers:
            yield from layer.stores

    def _know(self, row: int) -> None:
        rows = self.place.shape[1]
        if row >= rows:
            self.place = np.pad(self.place, ((0, 0), (0, max(rows, row + 1 - rows))))

    def _place(self, rows: np.ndarray, slots: np.ndarray) -> None:
        """Give these rows room for that many slots each."""
        short = slots > self.place[1, rows]
        if not short.any():
            return
        rows, slots = rows[short], slots[short]
        if self.strided:
            stride = max(self.stride, size_class(int(slots.max())))
            self._lay_out(max(int(rows.max()) + 1, self.capacity // self.stride) * stride, stride)
            self.place[0, rows], self.place[1, rows] = rows * stride, stride
            return
        for row, need in zip(rows.tolist(), slots.tolist(), strict=True):
            size = self._block(need)
            if self.budget is None and not self.buddies.fits(size, row):
                largest = max(size, self.most_slots)
                wanted = max(2 * self.buddies.size, self.buddies.held + size)
                self._copy(self.buddies.resize(-(-wanted // largest) * largest))
                self._lay_out(self.buddies.size)
            self._copy(self.buddies.take(row, size))
            self.place[:2, row] = self.buddies.blocks[row]

    def _lay_out(self, capacity: int, stride: int = 0) -> None:
        """Give all tensors that many slots, and rows where that is so their places at multiples of `stride`."""
        if (capacity, stride) == (self.capacity, self.stride):
            return
        moves = []
        for row, count in self.lengths.items():
            start = int(self.place[0, row])
            if self.strided:
                self.place[:2, row] = row * stride, stride
            moves.append((start, int(self.place[0, row]), count))
        self.capacity, self.stride = capacity, stride
        for store in self._stores():
            store.resize(capacity, moves)
        for layer in self.layers:
            layer.link()

    def _copy(self, moves: Sequence[tuple[int, int, int]]) -> None:
        for move in moves:
            for store in self._stores():
                store.copy(*move)
        if moves:
            for row, block in self.buddies.blocks.items():
                self.place[:2, row] = block

    # --- one step

    def plan(self, batch: StepBatch) -> Step:
        """Place a step's tokens and make their masks."""
        first = np.flatnonzero(np.diff(batch.row, prepend=-1))
        count = np.diff(first, append=len(batch.row))
        rows = batch.row[first]
        self._know(int(rows[-1]))
        ends = batch.slot[first + count - 1] + 1 + self.place[2, rows]
        self._place(rows, ends)
        self.lengths.update(zip(rows.tolist(), ends.tolist(), strict=True))
        start, _, prefix = self.place[:, batch.row]
        slot = batch.slot + prefix
        columns = (batch.token, batch.segment, batch.position, slot, start + slot)
        step = Step(*(torch.from_numpy(x).to(self.device) for x in columns), groups=[])
        self.segment_of.tensor[step.places] = step.segments
        if self.windowed:
            self.position_of.tensor[step.places] = step.positions
        sees = torch.from_numpy(self.sees[batch.row, batch.segment]).to(self.device)  # (N, S)
        start, block, _ = self.place[:, rows]
        whole = [np.arange(len(rows))]  # the model's own attention takes all rows, in their order
        for group in whole if self.padded else together(start, block, count, ends, self._width):
            step.groups.append(self._group(step, sees, rows[group], first[group], count[group], ends[group]))
        self.now = step
        return step

    @property
    def _width(self) -> int:
        """Numbers of a token's key in one layer: its heads times their size."""
        stores = self.layers[0].stores if self.layers else ()
        return math.prod(stores[0].shape) if stores else 1

    def _group(
        self, step: Step, sees: torch.Tensor, rows: np.ndarray, first: np.ndarray, count: np.ndarray, ends: np.ndarray
    ) -> Group:
        """The mask of some rows, each of which has `count` tokens from number `first` on."""
        kv, (start, block, _) = int(ends.max()), self.place[:, rows]
        size, column = int(block[0]), np.arange(count.max())
        where = start // size
        place = where - where[0]
        chosen: slice | torch.Tensor = slice(int(where[0]), int(where[-1]) + 1)
        if self.padded and not ((block == size).all() and (np.diff(where) == 1).all()):
            size, place = 0, np.arange(len(rows))
            chosen = torch.from_numpy(start[:, None] + np.minimum(np.arange(kv), block[:, None] - 1)).to(self.device)
        index = np.zeros((place[-1] + 1, len(column)), np.int64)
        real = column < count[:, None]
        index[place] = first[:, None] + column * real  # padding repeats the row's first token
        at = (place[:, None] * len(column) + column)[real]
        index, at = (torch.from_numpy(x).to(self.device) for x in (index, at))
        segment_of = read(self.segment_of.tensor, chosen, size, kv)[:, None].expand(-1, len(column), -1)
        mask = sees[index].gather(2, segment_of)  # (r, Q, K)
        mask &= torch.arange(kv, device=self.device) <= step.slots[index][..., None]
        age = None
        if self.windowed:
            age = step.positions[index][..., None] - read(self.position_of.tensor, chosen, size, kv)[:, None]
        return Group(chosen, size, index, at, index.flatten()[at], kv, mask, age)

    # --- called by the layers

    def write(self, layer: _Layer, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        step = self.now
        if self.padded:
            (group,) = step.groups
            keys, values = (x.transpose(1, 2).flatten(0, 1)[group.at] for x in (keys, values))  # (N, H, D)
        else:
            keys, values = (x[0].transpose(0, 1) for x in (keys, values))
        layer.keys[step.places] = keys
        layer.values[step.places] = values
        if self.padded:
            return group.read(layer.keys).transpose(1, 2), group.read(layer.values).transpose(1, 2)
        return layer.keys.transpose(0, 1)[None], layer.values.transpose(0, 1)[None]
