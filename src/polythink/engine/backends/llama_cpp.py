"""The backend of llama.cpp: GGUF files of any quantisation, forked and joined in its own memory of sequences.

What a segment sees is a sequence of its own: the cells of all segments that it follows, which belong to several
sequences at once, and then its own. A fork and a join copy no keys and values: they add a sequence to cells. A sequence
is given up once its segment is neither run nor followed any more (`keep`), so a block of P paths has P + 1 of them.

With weights in float32 it is exact. With quantised ones llama.cpp rounds what it multiplies them with to 8 bits: then a
log-probability differs in its second digit with what was run beside it, and from that of the de-quantised model.

Left out: attention that is scaled after a join, thought embeddings, and paths set apart by a stride, since positions
of a sequence have to be consecutive. So are models with recurrent layers.
"""

from __future__ import annotations

import heapq
import threading
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from polythink.engine.backends.base import LocalBackend
from polythink.engine.llama.memory import BLOCK, MOST_SEQUENCES, Cells, Source
from polythink.engine.params import SamplingParams
from polythink.engine.step import StepBatch
from polythink.errors import UserError
from polythink.models.vocabulary import Vocabulary

FIRST_CELLS = 1024  # of a new context; it doubles as tokens arrive

Key = tuple[int, int]  # row and segment


class LlamaCppBackend(LocalBackend):
    """`source` makes contexts of the weights. `fast`: with llama.cpp's own defaults (flash attention, keys and values
    in float16); otherwise attention is computed in float32."""

    forgets = True
    most_sequences = MOST_SEQUENCES

    def __init__(self, lm: Vocabulary, source: Source, fast: bool = False) -> None:
        self.lm, self.source, self.fast = lm, source, fast
        self.kind = "llama_cpp_fast" if fast else "llama_cpp"
        self.lock = threading.RLock()
        self.slot_bytes = source.slot_bytes(exact=not fast)
        self._most_cells: int | None = None
        self._whole = False  # the memory is bounded: all of it is taken at once
        self._cells: Cells | None = None
        self._forget()

    def _forget(self) -> None:
        self._follows: dict[Key, tuple[Key, ...]] = {}
        self._of_row: dict[int, list[Key]] = {}
        self._changed: set[int] = set()  # rows in which a segment has begun since the last look at what they keep
        self._prefixes: dict[int, int] = {}  # of rows that are attached to one
        self._kept: dict[int, Collection[int]] = {}  # by row: the segments that may be run or followed
        self._gone: set[Key] = set()  # segments that have run and have been given up
        self._first: dict[Key, int] = {}  # position of a segment's first token
        self._size: Counter[Key] = Counter()  # tokens that segments have run
        self._sequences: dict[Key, int] = {}  # of each segment that has run and has not been given up
        self._seen: dict[Key, frozenset[Key]] = {}  # by the same: the segments whose cells its sequence has
        self._free = list(range(MOST_SEQUENCES))
        self._used = 0  # a bound on the cells in use

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Nothing to make ready; engines on one file in several threads have a context each."""
        with self.lock, torch.inference_mode():
            yield

    def ran(self) -> dict[str, Any]:
        """The file, a hash of it, and how it is run."""
        facts = self.source.facts()
        return {**facts, "device": "llama.cpp", "dtype": f"{facts['dtype']}, {self.kind}"}

    def check_params(self, params: SamplingParams) -> None:
        """`UserError` for paths at positions of their own."""
        if params.stride:
            raise UserError(
                f"path_position_stride={params.path_position_stride}: llama.cpp takes consecutive positions alone; "
                "leave the stride at 0, or use another backend"
            )

    def check_scaling(self) -> None:
        """`UserError`: llama.cpp scales no attention."""
        raise UserError("llama.cpp cannot scale attention after a join of more paths than the model was trained with")

    # --- memory

    def clear(self) -> None:
        """Free all cells; a context that has grown is given back."""
        if self._cells is not None and self._cells.size > FIRST_CELLS:
            self._cells.close()
            self._cells = None
        elif self._cells is not None:
            self._cells.clear()
        self._forget()

    def bytes_for(self, tokens: int, prefix: int = 0, segments: int = 1) -> int:
        """A cell for each token; a prefix is shared."""
        return tokens * self.slot_bytes

    def usable(self, memory: int, slots: int) -> int:
        """Whole blocks of cells."""
        block = BLOCK * self.slot_bytes
        return memory // block * block

    def reserve(self, rows: int, slots: int, memory: int | None = None) -> None:
        """Bound the growth of the context; where bytes are given, all cells are made at once."""
        self._most_cells, self._whole = rows * slots, memory is not None
        if memory is not None:
            self._most_cells = min(self._most_cells, self.usable(memory, slots) // self.slot_bytes)

    def attach(self, row: int, prefix: int) -> None:
        """The next trace of the row follows the prefix."""
        self.keep(row, ())
        self._prefixes[row] = prefix

    def open(self, row: int, segment: int, follows: Sequence[int]) -> None:
        """Enter a segment; segment 0 starts a new trace in that row."""
        before = tuple((row, f) for f in follows)
        if segment == 0:
            if row in self._prefixes:
                before = ((self._prefixes.pop(row), 0),)
            else:
                self.keep(row, ())
        self._follows[row, segment] = before
        self._of_row.setdefault(row, []).append((row, segment))

    def keep(self, row: int, segments: Collection[int]) -> None:
        """Give up the sequences of all segments of a row but these, and what those go on from that have not run yet."""
        before, self._kept[row] = self._kept.get(row), segments
        if segments:
            if row in self._changed or segments != before:
                self._sweep(row)
            return
        for key in self._of_row.pop(row, ()):
            self._drop(key)
            for facts in (self._follows, self._first, self._size):
                facts.pop(key, None)
            self._gone.discard(key)
        self._prefixes.pop(row, None)

    def _sweep(self, row: int) -> None:
        """Give up what is neither kept, nor followed by what is kept or has not begun, and has not run."""
        self._changed.discard(row)
        own, kept = self._of_row[row], self._kept.get(row)
        if kept is None:  # the rows of a self-check, which says nothing of it
            return
        roots = [key for key in own if key[1] in kept or not self._has_run(key)]
        needed = {source for root in roots for source in self._sources(root)}
        for key in own:
            if key in self._sequences and key not in needed:
                self._drop(key)
                self._gone.add(key)

    def _has_run(self, key: Key) -> bool:
        return key in self._sequences or key in self._gone

    def _drop(self, key: Key) -> None:
        sequence = self._sequences.pop(key, None)
        if sequence is not None:
            del self._seen[key]
            self._cells.drop(sequence)
            heapq.heappush(self._free, sequence)

    def _sources(self, key: Key) -> list[Key]:
        """The segments with sequences that a segment goes on from: itself, or those before it that have run."""
        found: dict[Key, None] = {}
        waiting = [key]
        while waiting:
            key = waiting.pop(0)
            assert key not in self._gone, f"segment {key[1]} of row {key[0]} is followed after it has been given up"
            if key in self._sequences:
                found[key] = None
            else:
                waiting = [*self._follows[key], *waiting]
        return list(found)

    def _enter(self, key: Key, position: int) -> None:
        """Give a segment that has not run a sequence: the cells of all that it follows."""
        sources = self._sources(key)
        if not self._free:
            raise RuntimeError(f"more than {MOST_SEQUENCES} sequences at a time")
        sequence = heapq.heappop(self._free)
        seen: set[Key] = set()
        for source in sources:
            new = [other for other in self._seen[source] if other not in seen]
            # what two paths share lies before the fork; cells must not be added to a sequence twice
            first = min((self._first[other] for other in new), default=None) if seen else 0
            if first is not None:
                assert all(self._end(other) < first for other in self._seen[source] & seen), "paths that overlap"
                self._cells.copy(self._sequences[source], sequence, first)
            seen.update(new)
        self._sequences[key], self._first[key] = sequence, position
        self._changed.add(key[0])
        self._seen[key] = frozenset(seen | {key})

    def _end(self, key: Key) -> int:
        """The last position of a segment."""
        return self._first[key] + self._size[key] - 1

    def _make_room(self, tokens: int) -> None:
        """A context with so many free cells."""
        if self._cells is None:
            size = max(FIRST_CELLS, tokens)
            if self._whole:
                size = self._most_cells
            self._cells = self.source.cells(size, exact=not self.fast)
        if self._used + tokens > self._cells.size:
            self._used = sum(self._size[key] for key in frozenset().union(*self._seen.values()))
        needed = self._used + tokens
        if needed > self._cells.size:
            bound = max(self._most_cells or 0, needed)
            self._cells = self._cells.grown(bound if self._whole else min(max(2 * self._cells.size, needed), bound))
        self._used += tokens

    # --- one step

    def logits(self, batch: StepBatch) -> torch.Tensor:
        """Run the tokens: logits (W, V) after each wanted one. The self-check reads these."""
        tokens: dict[Key, list[int]] = {}
        for token, key in enumerate(zip(batch.row.tolist(), batch.segment.tolist(), strict=True)):
            tokens.setdefault(key, []).append(token)
        wanted = np.zeros(len(batch.token), bool)
        wanted[batch.wanted] = True
        place = np.zeros(len(batch.token), np.int64)  # of each wanted token: its row in what was found
        found: list[np.ndarray] = []
        with self.hold():
            self._make_room(len(batch.token))
            while tokens:  # a segment may have its first token in the step in which the one it follows has its last
                ready = [key for key in tokens if not self._waits(key, tokens)]
                index = np.sort(np.concatenate([tokens.pop(key) for key in ready]))
                found.append(self._decode(batch, ready, index, wanted[index]))
                place[index[wanted[index]]] = sum(map(len, found[:-1])) + np.arange(len(found[-1]))
                if tokens:
                    for row in {key[0] for key in ready}:
                        self._sweep(row)
        logits = found[0] if len(found) == 1 else np.concatenate(found)
        return torch.from_numpy(logits[place[batch.wanted]])

    def _waits(self, key: Key, waiting: Collection[Key]) -> bool:
        """Must a segment that this one goes on from run first?"""
        if key in self._sequences:
            return False
        return any(before in waiting or self._waits(before, waiting) for before in self._follows[key])

    def _decode(self, batch: StepBatch, keys: Iterable[Key], index: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """Run the tokens of that index, which belong to these segments."""
        row, segment, position = batch.row[index], batch.segment[index], batch.position[index]
        for key in keys:
            if key not in self._sequences:
                own = (row == key[0]) & (segment == key[1])
                self._enter(key, int(position[own][0]))
        sequence = [self._sequences[key] for key in zip(row.tolist(), segment.tolist(), strict=True)]
        self._size.update(zip(row.tolist(), segment.tolist(), strict=True))
        return self._cells.decode(batch.token[index], position, np.array(sequence), wanted)
