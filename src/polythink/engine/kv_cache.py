"""Keys and values of all live traces in one arena: a row a trace, a slot a token, and a table that says who sees whom.

A token may read slot k of its row iff its segment sees the slot's segment and k is not after its own slot. Slots are
handed out in the order of feeding, so that one comparison covers causality, slots not yet written and slots that an
earlier trace left behind. A fork copies nothing and a join recomputes nothing: both are entries in the table.

Axis legend: R rows, C slots of a row, S segments, N feeds, H key and value heads, D head size, Q queries of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

FIRST_SLOTS = 64  # a row's slots to begin with; they double when a trace needs more


@dataclass
class Group:
    """Feeds whose rows have about equally many, padded to Q a row; `kv` slots are enough for all of them."""

    rows: torch.Tensor | slice  # which rows of the arena, a slice where they lie side by side
    index: torch.Tensor  # (r, Q) feed number, 0 in the padding
    at: torch.Tensor  # (n,) flat places of the real feeds in (r, Q)
    feeds: torch.Tensor  # (n,) the feed numbers standing there
    kv: int
    mask: torch.Tensor  # (r, Q, kv) bool
    age: torch.Tensor | None  # (r, Q, kv) query position minus key position, where a layer has a window


@dataclass
class Step:
    """The feeds of one step, on the device."""

    tokens: torch.Tensor  # (N,)
    segments: torch.Tensor  # (N,)
    positions: torch.Tensor  # (N,)
    slots: torch.Tensor  # (N,)
    rows: torch.Tensor  # (N,)
    groups: list[Group]


class _Layer(CacheLayerMixin):
    """One layer's keys and values, (R, H, C, D) each, made at the first write; zeroed, as a masked NaN is still NaN."""

    is_sliding = False

    def __init__(self, arena: TreeKVCache) -> None:
        super().__init__()
        self.arena = arena

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        arena = self.arena
        self.keys, self.values = (
            x.new_zeros(arena.rows, x.shape[1], arena.capacity, x.shape[-1]) for x in (key_states, value_states)
        )
        self.is_initialized = True

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        """Write the step's keys and values (B, H, T, D) into their slots; returns what the attention is to read."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        return self.arena.write(self, key_states, value_states)

    def grow(self, capacity: int) -> None:
        if self.is_initialized:
            more = capacity - self.keys.shape[2]
            self.keys, self.values = (torch.nn.functional.pad(x, (0, 0, 0, more)) for x in (self.keys, self.values))

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.arena.capacity, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return -1

    get_max_cache_shape = get_max_length  # its name in transformers up to 5.10


class TreeKVCache(Cache):
    """A transformers cache over rows of slots. `step` must be set before each forward."""

    def __init__(
        self,
        layers: int,
        rows: int,
        device: torch.device,
        windowed: bool = False,
        padded: bool = False,
        most: int = 1 << 30,
    ) -> None:
        super().__init__(layers=[_Layer(self) for _ in range(layers)])
        self.rows, self.capacity, self.device = rows, min(FIRST_SLOTS, most), device
        self.most = most  # slots that a row can need at most
        self.windowed = windowed  # some layer reads a window only: keep the distances
        self.padded = padded  # the model's own attention reads whole rows
        self.segment_of = torch.zeros(rows, self.capacity, dtype=torch.long, device=device)  # (R, C)
        self.position_of = torch.zeros_like(self.segment_of)  # (R, C)
        self.sees = np.zeros((rows, 8, 8), bool)  # (R, S, S), on the host: written entry by entry, read once a step
        self.step: Step | None = None
        self.window_seen = False  # some layer's attention was told of its window

    # --- the table

    def open(self, row: int, segment: int, follows: Sequence[int]) -> None:
        """Enter a segment: it sees itself and all that those it follows see. Overwrites what an earlier trace left."""
        size = self.sees.shape[1]
        if segment >= size:
            self.sees = np.pad(self.sees, ((0, 0), (0, size), (0, size)))
        seen = self.sees[row, segment]
        seen[:] = False
        for before in follows:
            seen |= self.sees[row, before]
        seen[segment] = True

    # --- one step

    def plan(
        self,
        tokens: Sequence[int],
        segments: Sequence[int],
        positions: Sequence[int],
        slots: Sequence[int],
        rows: Sequence[int],
    ) -> Step:
        """Place a step's feeds, which come row by row, and make their masks."""
        columns = [np.array(x) for x in (tokens, segments, positions, slots, rows)]
        *_, slot, row = columns
        if slot.max() >= self.capacity:
            self._grow(int(slot.max()) + 1)
        step = Step(*(torch.from_numpy(x).to(self.device) for x in columns), groups=[])
        self.segment_of[step.rows, step.slots] = step.segments
        self.position_of[step.rows, step.slots] = step.positions
        sees = torch.from_numpy(self.sees).to(self.device)
        for members, first, count in _groups(row, self.padded):
            step.groups.append(self._group(step, sees, int(slot[first + count - 1].max()) + 1, members, first, count))
        self.step = step
        return step

    def _group(
        self, step: Step, sees: torch.Tensor, kv: int, rows: np.ndarray, first: np.ndarray, count: np.ndarray
    ) -> Group:
        """The mask of some rows, of which each has `count` feeds from number `first` on."""
        column = np.arange(count.max())
        real = column < count[:, None]  # (r, Q); padding repeats the row's first feed, so that no query is without keys
        index, at = (
            torch.from_numpy(x).to(self.device) for x in (first[:, None] + column * real, np.flatnonzero(real))
        )
        adjacent = rows[-1] - rows[0] + 1 == len(rows)
        chosen = slice(rows[0], rows[-1] + 1) if adjacent else torch.from_numpy(rows).to(self.device)
        width, segments = len(column), self.sees.shape[2]
        sees = sees[chosen].gather(1, step.segments[index][..., None].expand(-1, -1, segments))  # (r, Q, S)
        mask = sees.gather(2, self.segment_of[chosen, None, :kv].expand(-1, width, -1))  # (r, Q, kv)
        mask &= torch.arange(kv, device=self.device) <= step.slots[index][..., None]
        age = step.positions[index][..., None] - self.position_of[chosen, None, :kv] if self.windowed else None
        return Group(chosen, index, at, index.flatten()[at], kv, mask, age)

    def _grow(self, longest: int) -> None:
        capacity = self.capacity
        while capacity < longest:
            capacity = max(longest, min(2 * capacity, self.most))
        more = capacity - self.capacity
        self.segment_of = torch.nn.functional.pad(self.segment_of, (0, more))
        self.position_of = torch.nn.functional.pad(self.position_of, (0, more))
        for layer in self.layers:
            layer.grow(capacity)
        self.capacity = capacity

    # --- called by the layers

    def write(self, layer: _Layer, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        step = self.step
        if self.padded:
            (group,) = step.groups
            keys, values = (x.transpose(1, 2).flatten(0, 1)[group.at] for x in (keys, values))  # (N, H, D)
        else:
            keys, values = (x[0].transpose(0, 1) for x in (keys, values))
        layer.keys[step.rows, :, step.slots] = keys
        layer.values[step.rows, :, step.slots] = values
        if self.padded:
            return layer.keys[group.rows, :, : group.kv], layer.values[group.rows, :, : group.kv]
        return layer.keys, layer.values


def _groups(rows: np.ndarray, one: bool) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(rows, first feeds, numbers of feeds): rows of like number together, or all of them.

    Up to 8 feeds stay in one group: padded queries cost less than a copy of keys and values for rows that lie apart.
    """
    first = np.flatnonzero(np.diff(rows, prepend=-1))
    count = np.diff(first, append=len(rows))
    size = np.zeros_like(count) if one else np.maximum(np.frexp(count - 1)[1] // 2 - 1, 0)  # up to 8, 32, ..
    members = (np.flatnonzero(size == s) for s in np.unique(size))
    return [(rows[first[m]], first[m], count[m]) for m in members]
