"""Keys and values of all live traces: a row per trace, a slot per token, and a table that says who sees whom.

A token may read slot k of its row iff its segment sees the slot's segment and k is not after its own slot. Slots are
given out in the order of the tokens, so that one comparison covers causality, slots not yet written and slots that an
earlier trace left behind. A fork copies nothing and a join recomputes nothing: both are entries in the table.

Axis legend: R rows, C slots of a row, S segments, N tokens, H key and value heads, D head size, Q queries of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

from polythink.engine.step import StepBatch

FIRST_SLOTS = 64  # a row's slots to begin with; they double when a trace needs more


@dataclass
class Group:
    """Rows that have about equally many tokens in this step, padded to Q a row; `kv` slots are enough for all."""

    rows: torch.Tensor | slice  # which rows of the cache; a slice where they are adjacent
    index: torch.Tensor  # (r, Q) token number; the row's first token in the padding
    at: torch.Tensor  # (n,) flat places of the real tokens in (r, Q)
    members: torch.Tensor  # (n,) the token numbers at these places
    kv: int
    mask: torch.Tensor  # (r, Q, kv) bool
    age: torch.Tensor | None  # (r, Q, kv) query position minus key position, where a layer has a window
    _packed: dict[tuple[int, int | None], torch.Tensor] = field(default_factory=dict)

    def packed_mask(self, share: int, window: int | None) -> torch.Tensor:
        """(r, 1, share * Q, kv): the mask for `share` query heads per key head; made once per step, not per layer."""
        packed = self._packed.get((share, window))
        if packed is None:
            mask = self.mask if window is None else self.mask & (self.age < window)
            r, width, kv = mask.shape
            packed = mask[:, None].expand(r, share, width, kv).reshape(r, 1, share * width, kv)
            self._packed[share, window] = packed
        return packed


@dataclass
class Step:
    """The tokens of one step, on the device."""

    tokens: torch.Tensor  # (N,)
    segments: torch.Tensor  # (N,)
    positions: torch.Tensor  # (N,)
    slots: torch.Tensor  # (N,)
    rows: torch.Tensor  # (N,)
    groups: list[Group]


class _Layer(CacheLayerMixin):
    """One layer's keys and values, (R, H, C, D) each, made at the first write; zeroed, as a masked NaN is still NaN."""

    is_sliding = False

    def __init__(self, cache: TreeKVCache) -> None:
        super().__init__()
        self.cache = cache

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        cache = self.cache
        self.keys, self.values = (
            x.new_zeros(cache.rows, x.shape[1], cache.slots, x.shape[-1]) for x in (key_states, value_states)
        )
        self.is_initialized = True

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        """Write the step's keys and values (B, H, T, D) into their slots; returns what the attention is to read."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        return self.cache.write(self, key_states, value_states)

    def grow(self, rows: int, slots: int) -> None:
        if self.is_initialized:
            more = (0, 0, 0, slots - self.keys.shape[2], 0, 0, 0, rows - self.keys.shape[0])
            self.keys, self.values = (torch.nn.functional.pad(x, more) for x in (self.keys, self.values))

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.cache.slots, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return -1

    get_max_cache_shape = get_max_length  # its name in transformers up to 5.10


class TreeKVCache(Cache):
    """A transformers cache over rows of slots, both of which are added as they are needed.

    `most_rows` and `most_slots` (of a row) bound the growth. `plan` must be called before each forward.
    """

    def __init__(self, layers: int, device: torch.device, windowed: bool = False, padded: bool = False) -> None:
        super().__init__(layers=[_Layer(self) for _ in range(layers)])
        self.rows, self.slots, self.device = 0, 0, device
        self.most_rows = self.most_slots = 1 << 30
        self.windowed = windowed  # some layer reads a window only: keep the distances
        self.padded = padded  # the model's own attention reads whole rows
        self.segment_of = torch.zeros(0, 0, dtype=torch.long, device=device)  # (R, C)
        self.position_of = torch.zeros_like(self.segment_of)  # (R, C)
        self.sees = np.zeros((0, 8, 8), bool)  # (R, S, S), on the host: written entry by entry, read once per step
        self.now: Step | None = None
        self.window_seen = False  # some layer's attention was told of its window

    # --- the table

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

    # --- one step

    def plan(self, batch: StepBatch) -> Step:
        """Place a step's tokens and make their masks."""
        self._grow(int(batch.row[-1]) + 1, int(batch.slot.max()) + 1)
        columns = (batch.token, batch.segment, batch.position, batch.slot, batch.row)
        step = Step(*(torch.from_numpy(x).to(self.device) for x in columns), groups=[])
        self.segment_of[step.rows, step.slots] = step.segments
        self.position_of[step.rows, step.slots] = step.positions
        sees = torch.from_numpy(self.sees[batch.row, batch.segment]).to(self.device)  # (N, S)
        for rows, first, count in _groups(batch.row, self.padded):
            kv = int(batch.slot[first + count - 1].max()) + 1
            step.groups.append(self._group(step, sees, kv, rows, first, count))
        self.now = step
        return step

    def _group(
        self, step: Step, sees: torch.Tensor, kv: int, rows: np.ndarray, first: np.ndarray, count: np.ndarray
    ) -> Group:
        """The mask of some rows, each of which has `count` tokens from number `first` on."""
        column = np.arange(count.max())
        real = column < count[:, None]  # (r, Q); padding repeats the row's first token: no query is without keys
        index, at = (
            torch.from_numpy(x).to(self.device) for x in (first[:, None] + column * real, np.flatnonzero(real))
        )
        adjacent = rows[-1] - rows[0] + 1 == len(rows)
        chosen = slice(rows[0], rows[-1] + 1) if adjacent else torch.from_numpy(rows).to(self.device)
        segment_of = self.segment_of[chosen, None, :kv].expand(-1, len(column), -1)
        mask = sees[index].gather(2, segment_of)  # (r, Q, kv)
        mask &= torch.arange(kv, device=self.device) <= step.slots[index][..., None]
        age = step.positions[index][..., None] - self.position_of[chosen, None, :kv] if self.windowed else None
        return Group(chosen, index, at, index.flatten()[at], kv, mask, age)

    def _grow(self, rows: int, slots: int) -> None:
        """Make room for a step. Both dimensions double, within their bounds, so that copies stay rare."""
        if rows <= self.rows and slots <= self.slots:
            return
        rows = self.rows if rows <= self.rows else max(rows, min(2 * self.rows, self.most_rows))
        doubled = max(2 * self.slots, FIRST_SLOTS)
        slots = self.slots if slots <= self.slots else max(slots, min(doubled, self.most_slots))
        more = (0, slots - self.slots, 0, rows - self.rows)
        self.segment_of, self.position_of = (
            torch.nn.functional.pad(x, more) for x in (self.segment_of, self.position_of)
        )
        for layer in self.layers:
            layer.grow(rows, slots)
        self.rows, self.slots = rows, slots

    # --- called by the layers

    def write(self, layer: _Layer, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        step = self.now
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
    """(rows, first tokens, numbers of tokens): rows of similar number together, or all rows in one group.

    Up to 8 tokens stay in one group: padded queries cost less than a copy of keys and values for rows that lie apart.
    """
    first = np.flatnonzero(np.diff(rows, prepend=-1))
    count = np.diff(first, append=len(rows))
    size = np.zeros_like(count) if one else np.maximum(np.frexp(count - 1)[1] // 2 - 1, 0)  # up to 8, 32, ..
    members = (np.flatnonzero(size == s) for s in np.unique(size))
    return [(rows[first[m]], first[m], count[m]) for m in members]
