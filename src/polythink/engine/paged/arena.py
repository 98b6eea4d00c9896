"""Which page of keys and values belongs to which segment of which row: book-keeping on the host, in numpy.

A page holds 16 consecutive tokens of one segment of one row. A row grows page by page and nothing is ever copied; pages
go back when their row, or the segment that wrote them, is forgotten. A row that is attached to a prefix reads the
prefix row's pages as a part of its own segment 0. Page 0 belongs to nobody: padding is written there.

A token may read another iff its segment sees the other's (for a prefix: iff it sees segment 0) and the other's stamp is
not above its own. A token's stamp is its slot in its row, plus `OWN` in a row with a prefix: a prefix comes first.

Axis legend: R rows, S segments of a row, C pages of a row, P pages, N tokens of a step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from polythink.engine.step import StepBatch

PAGE = 16  # tokens of a page
OWN = 1 << 24  # stamps of a row with a prefix begin here
FIRST_PAGES = 64  # pages of an arena to begin with; they double when they are all in use


class OutOfPages(MemoryError):
    """A step needs more pages than the byte budget allows; nothing has changed."""


def _widened(array: np.ndarray, shape: Sequence[int], fill: int | bool = 0) -> np.ndarray:
    """The array with each axis at least that long, at least doubled where it grows."""
    axes = [have if want <= have else max(want, 2 * have) for want, have in zip(shape, array.shape, strict=True)]
    wide = np.full(axes, fill, array.dtype)
    wide[tuple(slice(0, n) for n in array.shape)] = array
    return wide


def runs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where runs of equal values begin, and how long they are. At least one value."""
    start = np.concatenate(([0], np.flatnonzero(values[1:] != values[:-1]) + 1))
    return start, np.diff(start, append=len(values))


class Arena:
    """Pages, rows and the table `sees`. `most_pages` bounds the pages in use together (None: no bound)."""

    def __init__(self, most_pages: int | None = None) -> None:
        self.most_pages = most_pages
        self.capacity = 1  # pages that the tensors must have room for, page 0 among them
        self.version = 0  # changes with everything that a plan made before does not know of
        self.used = self.peak = 0  # pages
        self._free = np.zeros(0, np.int32)  # a stack; those used last lie on top
        self._left = 0  # height of the stack
        # of each page (P,)
        self.segment_of = np.zeros(1, np.int32)
        self.filled = np.zeros(1, np.int32)  # tokens written
        self.first_stamp = np.zeros(1, np.int32)
        self.last_position = np.zeros(1, np.int32)
        # of each row (R,), of its pages (R, C) in the order in which they were taken, of its segments (R, S), (R, S, S)
        self.length = np.zeros(4, np.int64)  # tokens
        self.pages = np.zeros(4, np.int32)
        self.prefix = np.full(4, -1, np.int64)  # the row that it is attached to
        self.readers = np.zeros(4, np.int32)  # rows attached to it
        self.listed = np.zeros((4, 16), np.int32)
        self.total = np.zeros((4, 8), np.int64)  # tokens
        self.current = np.zeros((4, 8), np.int32)  # the page that it writes
        self.sees = np.zeros((4, 8, 8), bool)
        self._attached: set[int] = set()  # rows attached and not opened yet
        self._leaving: set[int] = set()  # forgotten prefix rows that still have readers
        self._recent: deque[StepBatch] = deque(maxlen=2)  # steps that may be taken back
        self._age = np.zeros(4, np.int64)  # (R,) steps since the row was forgotten
        self._plain: tuple[np.ndarray, np.ndarray] | None = None  # keys of the last step, where none came twice

    # --- rows and segments

    def open(self, row: int, segment: int, follows: Sequence[int]) -> None:
        """Enter a segment: it sees itself and all that those it follows see. Segment 0 starts a new trace."""
        self._room(row, segment)
        if segment == 0:
            if row in self._attached:
                self._attached.discard(row)
            else:
                self.release(row)
        seen = self.sees[row, segment]
        seen[:] = False
        for before in follows:
            seen |= self.sees[row, before]
        seen[segment] = True
        self.version += 1

    def attach(self, row: int, prefix: int) -> None:
        """The row's trace reads all tokens of the prefix row, which are all there, before its own."""
        self._room(max(row, prefix), 0)
        assert row != prefix
        assert self.prefix[prefix] < 0, f"row {prefix} reads a prefix and cannot be one"
        assert self.length[prefix] < OWN
        self.release(row)
        self.prefix[row] = prefix
        self.readers[prefix] += 1
        self._attached.add(row)

    def keep(self, row: int, segments: Collection[int]) -> None:
        """No other segment of the row is run or followed any more: what none of these sees goes back."""
        if row >= len(self.pages):
            return
        if not len(segments):
            return self.release(row)
        listed = self.listed[row, : self.pages[row]]
        alive = self.sees[row, list(segments)].any(0)
        stay = alive[self.segment_of[listed]]
        if not stay.all():
            self._give_back(listed[~stay])
            self.total[row, ~alive] = 0
            kept = listed[stay]
            self.listed[row, : len(kept)] = kept
            self.pages[row] = len(kept)
            self.version += 1

    def release(self, row: int) -> None:
        """Forget a row; its pages go back at once, those of a prefix when the last row that reads it has ended."""
        if row >= len(self.pages):
            return
        self.version += 1
        self._attached.discard(row)
        if self.readers[row]:
            self._leaving.add(row)
            return
        self._leaving.discard(row)
        self._give_back(self.listed[row, : self.pages[row]])
        self.pages[row] = self.length[row] = self._age[row] = 0
        self.total[row] = 0
        prefix, self.prefix[row] = int(self.prefix[row]), -1
        if prefix >= 0:
            self.readers[prefix] -= 1
            if prefix in self._leaving:
                self.release(prefix)

    def _room(self, row: int, segment: int) -> None:
        """Widen the tables for a row and a segment. A forgotten prefix's number is not given out while it is read."""
        assert row not in self._leaving, f"row {row} is still read as a prefix"
        rows, segments = max(row + 1, len(self.pages)), max(segment + 1, self.total.shape[1])
        if (rows, segments) == self.total.shape:
            return
        self.length, self.pages, self.readers, self._age = (
            _widened(x, (rows,)) for x in (self.length, self.pages, self.readers, self._age)
        )
        self.prefix = _widened(self.prefix, (rows,), -1)
        self.listed = _widened(self.listed, (rows, 0))
        self.total, self.current = (_widened(x, (rows, segments)) for x in (self.total, self.current))
        self.sees = _widened(self.sees, (rows, segments, segments))
        self._plain = None

    # --- pages

    @property
    def free(self) -> int | None:
        """Pages that may still be taken; None: as many as there is memory for."""
        return None if self.most_pages is None else self.most_pages - self.used

    def _take(self, count: int) -> np.ndarray:
        """(count,) page numbers."""
        if self.most_pages is not None and self.used + count > self.most_pages:
            raise OutOfPages(
                f"the step needs {count} more pages of {PAGE} tokens, and {self.used} of {self.most_pages} are in use; "
                "raise kv_cache_memory_bytes or lower max_num_seqs"
            )
        if count > self._left:
            self.make_room(self.used + count)
        self._left -= count
        self.used += count
        self.peak = max(self.peak, self.used)
        return self._free[self._left : self._left + count][::-1].copy()

    def make_room(self, pages: int) -> None:
        """Have room for that many pages in use together: at least doubles what there is, within the bound."""
        if pages < self.capacity:
            return
        want = max(pages, 2 * self.capacity, FIRST_PAGES)
        want = 1 + (want if self.most_pages is None else min(want, self.most_pages))
        fresh = np.arange(want - 1, self.capacity - 1, -1, dtype=np.int32)  # below the stack: used last
        self._free = np.concatenate((fresh, self._free[: self._left], np.zeros(self.used, np.int32)))
        self._left += len(fresh)
        self.capacity = want
        self.segment_of, self.filled, self.first_stamp, self.last_position = (
            np.concatenate((x, np.zeros(want - len(x), np.int32)))
            for x in (self.segment_of, self.filled, self.first_stamp, self.last_position)
        )

    def _give_back(self, pages: np.ndarray) -> None:
        self._free[self._left : self._left + len(pages)] = pages
        self._left += len(pages)
        self.used -= len(pages)

    # --- the tokens of a step

    def stamps(self, batch: StepBatch) -> np.ndarray:
        """(N,) int64."""
        return batch.slot + OWN * (self.prefix[batch.row] >= 0)

    def place(self, batch: StepBatch) -> tuple[np.ndarray, np.ndarray | None]:
        """Give the tokens of a step their places, page number x 16 + offset: (N,) int64.

        Also, where it is a plain step: which of them began a page. A plain step has the same rows and segments as the
        step before it, one token each. `OutOfPages` where the budget is too small.
        """
        key = batch.row * self.total.shape[1] + batch.segment
        if self._plain is not None and np.array_equal(key, self._plain[0]):
            found = self._place_plain(key, self._plain[1], batch)
        else:
            assert batch.row.max() < len(self.pages), "a row that was not opened"
            assert not self.readers[batch.row].any(), "a prefix is complete when a row is attached to it"
            found = self._place(key, batch), None
        self._recent.append(batch)
        self._age += 1
        return found

    def _place_plain(self, key: np.ndarray, row: np.ndarray, batch: StepBatch) -> tuple[np.ndarray, np.ndarray]:
        total, current = self.total.reshape(-1), self.current.reshape(-1)
        index = total[key]
        offset = index & (PAGE - 1)
        new = np.flatnonzero(offset == 0)
        if len(new):
            pages = self._take(len(new))
            current[key[new]] = pages
            self._enter(pages, batch.row[new], batch.segment[new], self.stamps(batch)[new])
        total[key] = index + 1
        page = current[key]
        self.filled[page] = offset + 1
        self.last_position[page] = batch.position
        self.length += row
        return page.astype(np.int64) * PAGE + offset, new

    def _place(self, key: np.ndarray, batch: StepBatch) -> np.ndarray:
        order = np.argsort(key, kind="stable")  # by row, by segment, by slot
        key = key[order]
        start, count = runs(key)  # of each segment's tokens
        heads = key[start]
        total, current = self.total.reshape(-1), self.current.reshape(-1)
        index = total[key] + np.arange(len(key)) - np.repeat(start, count)
        offset = index & (PAGE - 1)
        new = offset == 0
        made = np.cumsum(new)
        pages = self._take(int(made[-1]))
        before = np.repeat(made[start] - new[start], count)
        page = current[key]
        fresh = made > before
        page[fresh] = pages[made[fresh] - 1]
        self._enter(pages, batch.row[order[new]], batch.segment[order[new]], self.stamps(batch)[order[new]])
        total[heads] += count
        current[heads] = page[start + count - 1]
        self.filled[page] = offset + 1  # of several tokens in a page the last one's stays
        self.last_position[page] = batch.position[order]
        row = np.bincount(batch.row, minlength=len(self.length))
        self.length += row
        flat = np.empty(len(key), np.int64)
        flat[order] = page.astype(np.int64) * PAGE + offset
        self._plain = None
        if len(start) == len(key):  # one token a segment: the next step may well be the same
            key[order] = key.copy()
            self._plain = key, row
        return flat

    def _enter(self, pages: np.ndarray, row: np.ndarray, segment: np.ndarray, stamp: np.ndarray) -> None:
        """Write new pages into the lists of their rows, which ascend."""
        if not len(pages):
            return
        self.segment_of[pages] = segment
        self.first_stamp[pages] = stamp
        start, count = runs(row)
        at = self.pages[row] + np.arange(len(row)) - np.repeat(start, count)
        if at.max() >= self.listed.shape[1]:
            self.listed = _widened(self.listed, (0, int(at.max()) + 1))
        self.listed[row, at] = pages
        self.pages[row[start]] += count.astype(np.int32)

    def rewind(self, row: int, slot: int) -> None:
        """Take back the row's tokens from that slot on: at most those of the last two steps."""
        recent = list(self._recent)
        old = max(len(recent) - int(self._age[row]), 0)  # steps of an earlier trace in this row
        gone = [(batch.row == row) & (batch.slot >= slot) & (i >= old) for i, batch in enumerate(recent)]
        segments = np.concatenate([batch.segment[which] for batch, which in zip(recent, gone, strict=True)])
        assert len(segments) == self.length[row] - slot, "only the tokens of the last two steps can be taken back"
        self._recent = deque(map(_without, recent, gone), maxlen=2)
        for segment, count in zip(*np.unique(segments, return_counts=True), strict=True):
            self.total[row, segment] -= count
            listed = self.listed[row, : self.pages[row]]
            own = np.flatnonzero(self.segment_of[listed] == segment)
            left = -(-int(self.total[row, segment]) // PAGE)
            if left:
                page = self.current[row, segment] = listed[own[left - 1]]
                self.filled[page] = (self.total[row, segment] - 1) % PAGE + 1
            if left < len(own):
                gone = own[left:]
                self._give_back(listed[gone])
                kept = np.delete(listed, gone)
                self.listed[row, : len(kept)] = kept
                self.pages[row] = len(kept)
        self.length[row] = slot
        self._plain = None
        self.version += 1


def _without(batch: StepBatch, gone: np.ndarray) -> StepBatch:
    """The places of a step's other tokens."""
    return replace(batch, row=batch.row[~gone], segment=batch.segment[~gone], slot=batch.slot[~gone])
