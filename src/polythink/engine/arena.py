"""Keys and values of all live traces in one arena: a row a trace, a slot a token, and a table that says who sees whom.

A token may read slot k of its row iff its segment sees the slot's segment and k is not after its own slot. Slots are
handed out in the order of feeding, so that one comparison covers causality, slots not yet written and slots that an
earlier trace left behind. A fork copies nothing and a join recomputes nothing: both are entries in the table.

Axis legend: R rows, C slots of a row, S segments, N feeds, H key and value heads, D head size, Q queries of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin


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

    def __init__(self, arena: Arena) -> None:
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


class Arena(Cache):
    """A transformers cache over rows of slots. `step` must be set before each forward."""

    def __init__(
        self, layers: int, rows: int, device: torch.device, windowed: bool = False, padded: bool = False
    ) -> None:
        super().__init__(layers=[_Layer(self) for _ in range(layers)])
        self.rows, self.capacity, self.device = rows, 64, device
        self.windowed = windowed  # some layer reads a window only: keep the distances
        self.padded = padded  # the model's own attention reads whole rows
        capacity = self.capacity
        self.segment_of = torch.zeros(rows, capacity, dtype=torch.long, device=device)  # (R, C)
        self.position_of = torch.zeros(rows, capacity, dtype=torch.long, device=device)  # (R, C)
        self.sees = torch.zeros(rows, 8, 8, dtype=torch.bool, device=device)  # (R, S, S)
        self.step: Step | None = None

    # --- the table

    def open(self, row: int, segment: int, follows: Sequence[int]) -> None:
        """Enter a segment: it sees itself and all that those it follows see. Overwrites what an earlier trace left."""
        size = self.sees.shape[1]
        if segment >= size:
            self.sees = torch.nn.functional.pad(self.sees, (0, size, 0, size))
        seen = self.sees[row, list(follows)].any(0) if follows else torch.zeros_like(self.sees[row, 0])
        seen[segment:] = False
        seen[segment] = True
        self.sees[row, segment] = seen

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
        longest = max(slots) + 1
        if longest > self.capacity:
            self._grow(longest)
        step = Step(
            *(torch.tensor(x, device=self.device) for x in (tokens, segments, positions, slots, rows)), groups=[]
        )
        self.segment_of[step.rows, step.slots] = step.segments
        self.position_of[step.rows, step.slots] = step.positions
        for members in _groups(rows, self.padded):
            step.groups.append(self._group(step, members, slots))
        self.step = step
        return step

    def _group(self, step: Step, members: list[tuple[int, int, int]], slots: Sequence[int]) -> Group:
        """The mask of some rows, given as (row, first feed, number of feeds)."""
        width = max(n for _, _, n in members)
        rows = [row for row, _, _ in members]
        adjacent = rows[-1] - rows[0] + 1 == len(rows)
        index = torch.tensor(
            [list(range(f, f + n)) + [f] * (width - n) for _, f, n in members], device=self.device
        )  # padding repeats the row's first feed, so that no query is without a key
        at = torch.tensor([i * width + j for i, (_, _, n) in enumerate(members) for j in range(n)], device=self.device)
        kv = max(slots[f + n - 1] for _, f, n in members) + 1
        chosen = slice(rows[0], rows[-1] + 1) if adjacent else torch.tensor(rows, device=self.device)
        query = step.segments[index]  # (r, Q)
        sees = self.sees[chosen].gather(1, query[..., None].expand(-1, -1, self.sees.shape[2]))  # (r, Q, S)
        keys = self.segment_of[chosen, :kv]  # (r, kv)
        mask = sees.gather(2, keys[:, None].expand(-1, width, -1))
        mask &= torch.arange(kv, device=self.device) <= step.slots[index][..., None]
        age = step.positions[index][..., None] - self.position_of[chosen, :kv][:, None] if self.windowed else None
        return Group(chosen, index, at, index.flatten()[at], kv, mask, age)

    def _grow(self, longest: int) -> None:
        capacity = self.capacity
        while capacity < longest:
            capacity *= 2
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


def _groups(rows: Sequence[int], one: bool) -> list[list[tuple[int, int, int]]]:
    """(row, first feed, number of feeds) of each row, rows of like number together so that padding stays small."""
    spans: list[tuple[int, int, int]] = []
    for i, row in enumerate(rows):
        if spans and spans[-1][0] == row:
            spans[-1] = (row, spans[-1][1], spans[-1][2] + 1)
        else:
            spans.append((row, i, 1))
    if one:
        return [spans]
    sizes: dict[int, list[tuple[int, int, int]]] = {}
    for span in spans:
        sizes.setdefault((span[2] - 1).bit_length() // 2, []).append(span)
    return list(sizes.values())
