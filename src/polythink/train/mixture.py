"""What a batch of supervised fine-tuning holds: several sources of traces mixed by weight, and traces packed into rows.

The batch of a step depends on (seed, step) alone, so a resumed run reads what an uninterrupted one would have read.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polythink.errors import UserError
from polythink.models.batch import pack, rows_within
from polythink.problems.problem import Problem
from polythink.run.config import digest
from polythink.run.jsonl import kind_of, read_rows
from polythink.trace.layout import Layout
from polythink.train.config import SFTConfig
from polythink.train.data import Demonstrations, StoredTraces, TraceEncoder, encode_rows
from polythink.train.data_keys import DataConfig


@dataclass(frozen=True)
class Mixture:
    """Sources and how many traces each gives to a batch. `dropped` counts traces that could not be used."""

    sources: Sequence[StoredTraces | Demonstrations]
    counts: Sequence[int]
    dropped: Counter = field(default_factory=Counter)

    def batch(self, step: int) -> list[Layout]:
        """The traces of a step, counted from 0."""
        return [
            source.layout(step * count + i)
            for source, count in zip(self.sources, self.counts, strict=True)
            for i in range(count)
        ]

    @property
    def most_paths(self) -> int:
        """The largest number of paths in a block; 0 without blocks."""
        return max(source.most_paths for source in self.sources)

    @property
    def identity(self) -> str:
        """A hash of all that its batches depend on."""
        return digest([[source.identity for source in self.sources], list(self.counts)])[:16]

    def steps(self, epochs: float) -> int:
        """The number of whole batches in `epochs` passes over all traces."""
        if any(isinstance(source, Demonstrations) for source in self.sources):
            raise UserError("demonstrations have no end and so no epochs; give steps instead")
        whole = epochs * sum(len(source) for source in self.sources) / sum(self.counts)
        return math.floor(whole + 1e-9)  # 0.29 of 100 is 28.999...


def make_mixture(
    sources: Sequence[DataConfig],
    encode: TraceEncoder,
    config: SFTConfig,
    seed: int,
    problems_of: Callable[[str], Sequence[Problem]],
    file_of: Callable[[DataConfig], Path],
) -> Mixture:
    """Open all sources. `problems_of` gives the problems of a set, `file_of` the file of a `file` or `stage`."""
    dropped: Counter = Counter()
    opened: list[StoredTraces | Demonstrations] = []
    for number, source in enumerate(sources):
        own_seed, own = seed * 1000 + number, encode.in_mode(source.mode)
        if source.problems is not None:
            problems = problems_of(source.problems)
            opened.append(Demonstrations(problems, source, own, own_seed, config.max_tokens, dropped))
        else:
            file = file_of(source)
            opened.append(
                encode_rows(
                    read_rows(file, columns=source.columns),
                    str(file),
                    own,
                    source,
                    config.max_tokens,
                    own_seed,
                    dropped,
                )
            )
    weights = [source.weight or len(found) for source, found in zip(sources, opened, strict=True)]
    return Mixture(opened, split_by_weight(weights, config.batch), dropped)


def mixture_of_rows(
    data: str | Path | Iterable[Mapping[str, Any]], encode: TraceEncoder, config: SFTConfig, seed: int
) -> Mixture:
    """The rows of a JSONL or Parquet file, or rows given as they are, as the only source."""
    is_file = isinstance(data, str | Path)
    if not isinstance(data, Iterable | Path):
        raise UserError(f"data is {kind_of(data)}; give a file, rows with question and trace, or a Mixture")
    rows, where = (read_rows(data), str(data)) if is_file else (data, "data")
    dropped: Counter = Counter()
    source = DataConfig(file=where)
    found = encode_rows(rows, where, encode, source, config.max_tokens, seed * 1000, dropped)
    return Mixture([found], [config.batch], dropped)


def split_by_weight(weights: Sequence[float], batch: int) -> list[int]:
    """Whole numbers that sum to `batch`, as near to the weights as possible (largest remainder)."""
    exact = [batch * weight / sum(weights) for weight in weights]
    counts = [int(x) for x in exact]
    for i in sorted(range(len(exact)), key=lambda i: counts[i] - exact[i])[: batch - sum(counts)]:
        counts[i] += 1
    if 0 in counts:
        small = weights[counts.index(0)]
        raise UserError(f"a weight of {small:g} of {sum(weights):g} gives no trace in a batch of {batch}; raise it")
    return counts


def pack_rows(layouts: Sequence[Layout], width: int) -> list[Layout]:
    """The traces in rows of at most `width` tokens (`batch.rows_within`)."""
    rows = rows_within([len(layout) for layout in layouts], width)
    return [pack([layouts[i] for i in row]) if len(row) > 1 else layouts[row[0]] for row in rows]
