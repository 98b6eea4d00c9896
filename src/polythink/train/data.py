"""What supervised fine-tuning reads: stored traces and fresh demonstrations, mixed by weight.

The batch of a step depends on (seed, step) alone, so a resumed run reads what an uninterrupted one would have read.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from polythink.engine.params import SamplingParams
from polythink.errors import UserError
from polythink.models.batch import pack
from polythink.models.lm import LanguageModel
from polythink.problems.problem import Problem
from polythink.problems.prompts import Prompt, get_prompt
from polythink.problems.tasks import attribution, countdown
from polythink.run.jsonl import read_rows
from polythink.trace.finish import truncate_paths
from polythink.trace.layout import Layout, Piece, lay_out
from polythink.trace.parse import TraceError, nested_block, parse
from polythink.trace.tokens import pieces_of
from polythink.trace.tree import Trace
from polythink.train.config import DataConfig, SFTConfig

log = logging.getLogger(__name__)
ROW_FIELDS = ("question", "trace")


@lru_cache(maxsize=64)
def shuffled(n: int, seed: int, epoch: int) -> tuple[int, ...]:
    """The order in which n examples are read in an epoch."""
    order = list(range(n))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return tuple(order)


def epoch_index(n: int, seed: int, i: int) -> int:
    """Index of the i-th example of an endless stream: reshuffled each epoch, each example once an epoch."""
    return shuffled(n, seed, i // n)[i % n]


# ---- one trace as a layout ----


class TraceEncoder:
    """Turns (question, response) into a layout of one mode, the end token included."""

    def __init__(self, lm: LanguageModel, params: SamplingParams, prompt: Prompt) -> None:
        self.lm, self.params, self.prompt = lm, params, prompt
        self.mode, self.stride, self.summary_prefix = params.mode, params.stride, params.summary_prefix
        # tags, and the texts of small closed tasks, come again and again
        self.encode = lru_cache(maxsize=1 << 14)(lm.encode)
        self._prompt_of = lru_cache(maxsize=None)(get_prompt)

    def in_mode(self, mode: str | None) -> TraceEncoder:
        """The same encoder for another mode; None: this one."""
        if mode in (None, self.mode):
            return self
        return TraceEncoder(self.lm, self.params.model_copy(update={"mode": mode}), self.prompt)

    def __call__(self, question: str, trace: str, prompt: str | None = None, early_join: bool = False) -> Layout:
        """Lay out one trace. With `early_join` its paths are truncated where the shortest one ends.

        Raises `TraceError` where the response cannot be laid out. A sequential layout needs no grammar: a response that
        does not parse is read as plain text, except where the model has thought embeddings, because while sampling the
        engine gives a path that the model opens its number, well formed or not.
        """
        own = prompt is None or prompt == self.prompt.name
        text = (self.prompt if own else self._prompt_of(prompt)).fill(question)
        try:
            tree = parse(trace, self.lm.dialect)
        except TraceError:
            if self.mode != "sequential" or self.lm.settings.thoughts:
                raise
            tree = Trace((trace,))
        early_join = early_join and self.mode != "sequential"
        if early_join and (inner := nested_block(trace, self.lm.dialect)):
            message = "a block inside a path: such a path cannot be truncated where another one ends"
            raise TraceError(message, "nested", trace, inner.start)
        head, end = self.lm.encode_prompt(text), (self.lm.eos,)
        pieces = pieces_of(head, tree, self.lm.dialect, self.encode, self.mode, end, self.summary_prefix)
        if early_join:
            pieces = truncate_paths(pieces, "first", lambda label: self.lm.tag_ids[self.lm.dialect.path_tags(label)[1]])
        if self.mode != "sequential":
            self._check_drawable(trace, tree, pieces)
        return lay_out(pieces, self.mode, self.stride)

    def _check_drawable(self, trace: str, tree: Trace, pieces: Sequence[Piece]) -> None:
        """`TraceError` where the engine, with these parameters, would write other tokens or use other positions."""
        if self.summary_prefix and not all(_begins(block.summary, self.summary_prefix) for block in tree.blocks):
            message = f"a summary that does not begin with summary_prefix, {self.summary_prefix!r}"
            raise TraceError(message, "summary_prefix", trace, 0)
        longest = max((len(piece.tokens) for piece in pieces if piece.kind == "path"), default=0)
        if self.stride and longest > self.stride:
            message = f"a path of {longest} tokens with its tags, but path_position_stride is {self.stride}"
            raise TraceError(message, "long_path", trace, 0)


def _begins(summary: Trace, prefix: str) -> bool:
    first = next(iter(summary.parts), "")
    return isinstance(first, str) and first.startswith(prefix)


# ---- sources ----


@dataclass(frozen=True)
class StoredTraces:
    """Traces that are already written; each one is read once an epoch."""

    layouts: Sequence[Layout]
    seed: int
    mode: str  # in which they were laid out

    @property
    def most_paths(self) -> int:
        """The largest number of paths in a block; 0 in sequential mode."""
        return max(max(layout.paths) for layout in self.layouts) if self.mode == "structured" else 0

    def __len__(self) -> int:
        return len(self.layouts)

    def layout(self, i: int) -> Layout:
        """The i-th trace of an endless stream."""
        return self.layouts[epoch_index(len(self.layouts), self.seed, i)]


@dataclass(frozen=True)
class Demonstrations:
    """Traces written when they are read: the i-th depends on (seed, i) alone."""

    problems: Sequence[Problem]
    config: DataConfig
    encode: TraceEncoder
    seed: int

    def layout(self, i: int) -> Layout:
        """The i-th trace of an endless stream."""
        problem = self.problems[epoch_index(len(self.problems), self.seed, i)]
        c = self.config
        rng = random.Random(f"{self.seed}/{problem.key}/{i}")
        demonstrate = attribution.demonstrate if problem.checker == "attribution" else countdown.demonstrate
        trace = demonstrate(problem, c.demonstrations.demo_style(), rng, self.encode.lm.dialect)
        return self.encode(problem.question, trace, c.prompt, early_join=rng.random() < c.early_join)

    @property
    def most_paths(self) -> int:
        """The largest number of paths in a block; 0 in sequential mode."""
        style = self.config.demonstrations.demo_style()
        return max(style.paths) if style.style == "parallel" and self.encode.mode == "structured" else 0


def encode_rows(
    rows: Iterable[Mapping[str, Any]],
    where: str,
    encode: TraceEncoder,
    config: DataConfig,
    max_tokens: int,
    seed: int,
    dropped: Counter,
) -> StoredTraces:
    """The rows {question, trace, prompt (optional)} as layouts; `where` names them in errors.

    Traces that cannot be trained on are counted in `dropped` by reason. `UserError` where no trace is left.
    """
    rng = random.Random(f"{seed}/truncated")
    rows = list(rows)
    missing = [name for name in ROW_FIELDS if rows and not all(isinstance(row.get(name), str) for row in rows)]
    if missing:
        raise UserError(f"{where}: every row needs a text {' and a text '.join(missing)}")
    layouts = []
    for row in rows:
        try:
            prompt, early_join = config.prompt or row.get("prompt"), rng.random() < config.early_join
            layout = encode(row["question"], row["trace"], prompt, early_join)
        except TraceError as error:
            dropped[f"form: {error.reason}"] += 1
            continue
        if len(layout) > max_tokens:
            dropped["too long"] += 1
        else:
            layouts.append(layout)
    if not layouts:
        raise UserError(f"{where}: none of its {len(rows)} traces can be trained on ({dict(dropped) or 'it is empty'})")
    return StoredTraces(layouts, seed, encode.mode)


# ---- the mixture ----


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

    def steps(self, epochs: float) -> int:
        """The number of whole batches in `epochs` passes over all traces."""
        if any(isinstance(source, Demonstrations) for source in self.sources):
            raise UserError("demonstrations have no end and so no epochs; give steps instead")
        return int(epochs * sum(len(source) for source in self.sources) / sum(self.counts))


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
            opened.append(Demonstrations(problems_of(source.problems), source, own, own_seed))
        else:
            file = file_of(source)
            opened.append(encode_rows(read_rows(file), str(file), own, source, config.max_tokens, own_seed, dropped))
    _warn(dropped)
    weights = [source.weight or len(found) for source, found in zip(sources, opened, strict=True)]
    return Mixture(opened, split_by_weight(weights, config.batch), dropped)


def mixture_of_rows(
    data: str | Path | Iterable[Mapping[str, Any]], encode: TraceEncoder, config: SFTConfig, seed: int
) -> Mixture:
    """The rows of a JSONL or Parquet file, or rows given as they are, as the only source."""
    is_file = isinstance(data, str | Path)
    rows, where = (read_rows(data), str(data)) if is_file else (data, "data")
    dropped: Counter = Counter()
    source = DataConfig(file=where)
    found = encode_rows(rows, where, encode, source, config.max_tokens, seed * 1000, dropped)
    _warn(dropped)
    return Mixture([found], [config.batch], dropped)


def _warn(dropped: Counter) -> None:
    if dropped:
        log.warning("traces that cannot be trained on were dropped: %s", dict(dropped))


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
    """The traces in rows of at most `width` tokens, longest first, each in the first row that has room."""
    rows: list[list[Layout]] = []
    room: list[int] = []
    for layout in sorted(layouts, key=len, reverse=True):
        place = next((i for i, left in enumerate(room) if left >= len(layout)), None)
        if place is None:
            rows.append([layout])
            room.append(width - len(layout))
        else:
            rows[place].append(layout)
            room[place] -= len(layout)
    return [pack(row) if len(row) > 1 else row[0] for row in rows]
