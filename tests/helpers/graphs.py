"""Random traces for a cache in pages: forks, joins, chunks, refills, prefixes, forgotten segments, steps taken back.

Beside the cache stands the plainest account of who sees whom: sets of segments, closed when a segment is opened, and a
list of tokens per row. It shares no code with the engine.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random

import numpy as np
import torch

from polythink.engine.paged.cache import PagedCache
from polythink.engine.step import StepBatch


@dataclass
class Line:
    """One row's trace. `tokens`: (segment, position, its key and value per layer)."""

    row: int
    prefix: Line | None = None
    left: int = 0  # tokens of the prompt that have not been run
    sees: dict[int, set[int]] = field(default_factory=lambda: {0: {0}})
    ends: dict[int, int] = field(default_factory=lambda: {0: -1})  # last position
    tokens: list[tuple[int, int, torch.Tensor]] = field(default_factory=list)
    open: list[int] = field(default_factory=lambda: [0])
    kept: set[int] = field(default_factory=lambda: {0})  # segments that may still be followed


@dataclass
class Story:
    """`step` draws the next step of all rows, runs it, and returns what came out and what should have."""

    cache: PagedCache
    seed: int
    rows: int = 3
    most: int = 60  # tokens of a row, about
    padding: int = 0
    takes_back: bool = False

    def __post_init__(self) -> None:
        self.random, self.torch = Random(self.seed), torch.Generator().manual_seed(self.seed)
        self.lines: dict[int, Line] = {}
        self.segments = 0  # of the row that had most
        self.prefixes: list[Line] = []
        self.steps: list[StepBatch] = []

    # --- the trace

    def start(self, row: int) -> None:
        """A new trace in a row; two in three read a prefix, which is made where there is none."""
        draw = self.random
        prefix = draw.choice(self.prefixes) if self.prefixes and draw.random() < 0.66 else None
        line = self.lines[row] = Line(row, prefix, left=1 if prefix else draw.randint(1, 40))
        if prefix:
            line.ends[0] = prefix.ends[0]
            self.cache.attach(row, prefix.row)
        self.cache.open(row, 0, ())

    def add_prefix(self, row: int, length: int) -> Line:
        """Run a prefix row, in two chunks."""
        self.cache.open(row, 0, ())
        line = Line(row, left=length)
        for part in (length // 2, length - length // 2):
            self.run([(line, 0)] * part)
        self.prefixes.append(line)
        return line

    def open(self, line: Line, follows: list[int]) -> int:
        segment = len(line.sees)
        self.segments = max(self.segments, segment + 1)
        line.sees[segment] = {segment}.union(*(line.sees[f] for f in follows))
        line.ends[segment] = max(line.ends[f] for f in follows)
        line.open = [s for s in line.open if s not in follows] + [segment]
        line.kept.add(segment)
        self.cache.open(line.row, segment, follows)
        return segment

    def moves(self, line: Line) -> list[int]:
        """The segments of the row's next tokens, in the order of their slots."""
        draw, made = self.random, []
        if line.left:
            count = min(line.left, draw.randint(1, 25))
            line.left -= count
            return [0] * count
        event = draw.random()
        if event < 0.12:  # fork, perhaps with a last token of the parent in the same step
            parent = draw.choice(line.open)
            made += [parent] * draw.randint(0, 2)
            for _ in range(draw.randint(2, 4)):
                self.open(line, [parent])
        elif event < 0.22 and len(line.open) > 1:  # join some
            made += [draw.choice(line.open)]
            self.open(line, draw.sample(line.open, draw.randint(2, len(line.open))))
        elif event < 0.27 and len(line.open) > 1:  # a path ends, and nobody reads it
            line.open.remove(draw.choice(line.open))
        elif event < 0.3:
            line.kept = set(line.open)
            self.cache.keep(line.row, sorted(line.kept))
        branches = [s for s in line.open if draw.random() < 0.95 or event < 0.5] or line.open[:1]
        for segment in branches:
            made += [segment] * (draw.randint(2, 20) if draw.random() < 0.05 else 1)
        return made

    def step(self, plain: bool = False) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """(out, expected) of each layer. `plain`: one token for each open branch and nothing else."""
        draw = self.random
        for row in range(self.rows):
            if row in self.lines and len(self.lines[row].tokens) > self.most:
                self.cache.keep(row, ())
                del self.lines[row]
            if row not in self.lines:
                self.start(row)
        lines = [self.lines[row] for row in range(self.rows)]
        moves = [(line, s) for line in lines for s in (line.open if plain and not line.left else self.moves(line))]
        if self.takes_back and draw.random() < 0.3:
            self.wrong_step(moves)
            moves = [move for move in moves if draw.random() < 0.8] or moves
        return self.run(moves)

    def wrong_step(self, moves: list[tuple[Line, int]]) -> None:
        """Run a step and take it back."""
        before = {line.row: (len(line.tokens), dict(line.ends)) for line, _ in moves}
        self.run(moves)
        for line in {line.row: line for line, _ in moves}.values():
            count, line.ends = before[line.row]
            del line.tokens[count:]
            self.cache.rewind(line.row, count)

    # --- one step

    def run(self, moves: list[tuple[Line, int]]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        cache, n = self.cache, len(moves)
        size = n + self.padding
        shape = (cache.layers, size, cache.heads + 2 * cache.kv_heads, cache.head_size)
        drawn = torch.randn(shape, generator=self.torch).to(cache.device, cache.dtype)
        query, key_value = drawn[:, :, : cache.heads], drawn[:, :, cache.heads :]
        slots, positions = [], []
        for number, (line, segment) in enumerate(moves):
            line.ends[segment] += 1
            slots.append(len(line.tokens))
            positions.append(line.ends[segment])
            line.tokens.append((segment, line.ends[segment], key_value[:, number]))
        batch = StepBatch.every([0] * n, [s for _, s in moves], positions, [line.row for line, _ in moves])
        scale = np.array([1 + 0.5 * self.random.random() for _ in moves], np.float32)
        batch = replace(batch, slot=np.array(slots), scale=scale)
        self.steps.append(batch)
        cache.plan(batch, size)
        cache.begin()
        self.queries = [part.contiguous() for part in query]  # (size, G, D) of each layer
        found = []
        for layer in range(cache.layers):
            cache.write(layer, *(x.contiguous() for x in key_value[layer].split(cache.kv_heads, 1)))
            out = cache.attend(layer, self.queries[layer])
            expected = torch.zeros(size, cache.heads, cache.head_size, dtype=torch.float64, device=cache.device)
            for number, (line, segment) in enumerate(moves):
                expected[number] = self.naive(layer, line, segment, slots[number], query[layer, number], scale[number])
            found.append((out, expected))
        return found

    def naive(self, layer: int, line: Line, segment: int, slot: int, query: torch.Tensor, scale: float) -> torch.Tensor:
        """(G, D) float64: softmax over the tokens that the query may see, by the definition."""
        cache, window = self.cache, self.cache.windows[layer]
        position = line.tokens[slot][1]
        seen = [(p, kv) for s, p, kv in line.tokens[: slot + 1] if s in line.sees[segment]]
        if line.prefix is not None and 0 in line.sees[segment]:
            seen += [(p, kv) for _, p, kv in line.prefix.tokens]
        both = torch.stack([kv[layer] for p, kv in seen if window is None or position - p < window]).double()
        keys, values = (x.repeat_interleave(cache.heads // cache.kv_heads, 1) for x in both.split(cache.kv_heads, 1))
        scores = torch.einsum("gd,kgd->gk", query.double(), keys) * float(scale) * cache.head_size**-0.5
        return torch.einsum("gk,kgd->gd", scores.softmax(-1), values)
