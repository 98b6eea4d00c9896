"""What supervised fine-tuning reads: traces from files and earlier stages, or demonstrations made afresh, by shares.

The batch of a step depends on (seed, step) alone, so a resumed run reads what an uninterrupted one would have read.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from polythink.engine.params import SamplingParams
from polythink.errors import UserError
from polythink.models.batch import pack
from polythink.models.lm import LanguageModel
from polythink.problems.problem import Problem
from polythink.problems.prompts import Prompt, get_prompt
from polythink.problems.tasks import attribution, countdown
from polythink.problems.tasks.demonstrations import DemoStyle
from polythink.run.config import Config
from polythink.run.jsonl import read_jsonl
from polythink.trace.finish import truncate_paths
from polythink.trace.layout import MODES, Layout, Piece, lay_out
from polythink.trace.parse import TraceError, nested_block, parse
from polythink.trace.tokens import pieces_of
from polythink.trace.tree import Trace

log = logging.getLogger(__name__)
ROW_FIELDS = ("question", "trace")
OF_MANNER = tuple(f.name for f in fields(DemoStyle))  # keys of demonstrations
OF_ATTRIBUTION = ("paths", "labels")  # those that attribution heeds


class DataConfig(Config):
    """One source of traces: a `file`, what a coldstart `stage` kept, or demonstrations of synthetic `problems`."""

    file: str | None = None  # JSONL rows {question, trace, prompt (optional), ...}
    stage: str | None = None  # name of a coldstart stage
    problems: str | None = None  # such as countdown-hard:train; demonstrations are made afresh and never repeat
    prompt: str | None = None  # None: the one that a row names, otherwise the stage's
    mode: Literal[MODES] | None = None  # how traces are laid out; None: the stage's
    weight: float | None = Field(None, gt=0)  # of every batch, in any unit; None: as large as the source
    early_join: float = Field(0.0, ge=0, le=1)  # share of traces whose paths are cut where the first one is through
    # of demonstrations, as in `countdown.DemoStyle`
    style: Literal["sequential", "parallel"] = "parallel"
    p_right: float = Field(0.5, ge=0, le=1)  # probability that a chain is the solution
    paths: PositiveInt | tuple[PositiveInt, ...] = 3  # paths of a block, or the numbers that are drawn from
    retries: int = Field(0, ge=0)  # chains that may follow one that missed
    labels: Literal["ordered", "random"] = "random"  # numbers of numbered paths: 1..P, or any of the inventory
    strategies: bool = False  # a path's number settles its first two operators
    summary: Literal["chosen", "reference"] = "chosen"  # what a path came to, or the reference whatever they say

    @property
    def manner(self) -> DemoStyle:
        """How the source's demonstrations are written."""
        paths = self.paths if isinstance(self.paths, tuple) else (self.paths,)
        return DemoStyle(self.style, paths, self.p_right, self.retries, self.labels, self.strategies, self.summary)

    @model_validator(mode="after")
    def _one_source(self) -> DataConfig:
        if sum(x is not None for x in (self.file, self.stage, self.problems)) != 1:
            raise ValueError("a source of traces is one of file, stage and problems")
        if self.problems is not None and self.weight is None:
            raise ValueError("demonstrations have no end: say their weight in every batch")
        if self.paths == ():
            raise ValueError("paths is a number of paths, or several to draw from")
        return self

    @model_validator(mode="after")
    def _heeded(self) -> DataConfig:
        """Refuses what would change nothing. A plan that is read back holds every key: defaults count as not given."""
        changed = [key for key in OF_MANNER if getattr(self, key) != type(self).model_fields[key].default]
        if self.problems is None and changed:
            raise ValueError(
                f"{', '.join(changed)}: how demonstrations of problems are written; the traces of a file or stage are "
                "written already, so leave that out"
            )
        unheeded = [key for key in changed if key not in OF_ATTRIBUTION]
        if (self.problems or "").partition(":")[0] == "attribution" and unheeded:
            raise ValueError(
                f"{', '.join(unheeded)}: of demonstrations of attribution only {' and '.join(OF_ATTRIBUTION)} can be "
                "chosen; leave that out"
            )
        if self.mode == "sequential" and self.early_join:
            raise ValueError(
                "early_join: paths that stand one behind the other (mode: sequential) are never cut; leave that out"
            )
        return self


@lru_cache(maxsize=64)
def shuffled(n: int, seed: int, epoch: int) -> tuple[int, ...]:
    """The order in which n things are read in an epoch."""
    order = list(range(n))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return tuple(order)


def epoch_index(n: int, seed: int, i: int) -> int:
    """Which of n things is read as the i-th: every one once an epoch, each epoch in another order."""
    return shuffled(n, seed, i // n)[i % n]


# ---- one trace as a layout ----


class TraceEncoder:
    """Turns (question, response) into a layout of one mode, the end token included."""

    def __init__(self, lm: LanguageModel, decoding: SamplingParams, prompt: Prompt) -> None:
        self.lm, self.decoding, self.prompt = lm, decoding, prompt
        self.mode, self.stride, self.opening = decoding.mode, decoding.stride, decoding.summary_prefix
        # tags, and the texts of small closed tasks, come again and again
        self.encode = lru_cache(maxsize=1 << 14)(lm.encode)
        self._prompt_of = lru_cache(maxsize=None)(get_prompt)

    def in_mode(self, mode: str | None) -> TraceEncoder:
        """The same in another mode; None: in its own."""
        if mode in (None, self.mode):
            return self
        return TraceEncoder(self.lm, self.decoding.model_copy(update={"mode": mode}), self.prompt)

    def __call__(self, question: str, trace: str, prompt: str | None = None, truncated: bool = False) -> Layout:
        """`TraceError` where the response cannot be laid out. `truncated`: paths end where the first is through.

        A sequential layout needs no grammar: there a response that does not parse is read as plain text. Not so where
        the model has thought embeddings: in drawing, a path that it opens has its number, whatever comes of the path.
        """
        own = prompt is None or prompt == self.prompt.name
        text = (self.prompt if own else self._prompt_of(prompt)).fill(question)
        try:
            tree = parse(trace, self.lm.dialect)
        except TraceError:
            if self.mode != "sequential" or self.lm.settings.thoughts:
                raise
            tree = Trace((trace,))
        truncated = truncated and self.mode != "sequential"
        if truncated and (inner := nested_block(trace, self.lm.dialect)):
            message = "a block inside a path: such a path cannot be cut where another is through"
            raise TraceError(message, "nested", trace, inner.start)
        head, end = self.lm.encode_prompt(text), (self.lm.eos,)
        pieces = pieces_of(head, tree, self.lm.dialect, self.encode, self.mode, end, self.opening)
        if truncated:
            pieces = truncate_paths(pieces, "first", lambda label: self.lm.tag_ids[self.lm.dialect.path_tags(label)[1]])
        if self.mode != "sequential":
            self._check_drawable(trace, tree, pieces)
        return lay_out(pieces, self.mode, self.stride)

    def _check_drawable(self, trace: str, tree: Trace, pieces: Sequence[Piece]) -> None:
        """`TraceError` where the engine, under this decoding, would put other tokens or other positions there."""
        if self.opening and not all(_begins(block.summary, self.opening) for block in tree.blocks):
            message = f"a summary that does not begin with summary_prefix, {self.opening!r}"
            raise TraceError(message, "summary_prefix", trace, 0)
        longest = max((len(piece.tokens) for piece in pieces if piece.kind == "path"), default=0)
        if self.stride and longest > self.stride:
            message = (
                f"a path of {longest} tokens with its tags, where flattened paths are {self.stride} positions apart"
            )
            raise TraceError(message, "long_path", trace, 0)


def _begins(summary: Trace, opening: str) -> bool:
    first = next(iter(summary.parts), "")
    return isinstance(first, str) and first.startswith(opening)


# ---- sources ----


@dataclass(frozen=True)
class Rows:
    """Traces that are there; every one is read once an epoch."""

    layouts: Sequence[Layout]
    seed: int
    mode: str  # in which they were laid out

    @property
    def most_paths(self) -> int:
        """The most paths that a block has at once, 0 where they stand one behind the other."""
        return max(max(layout.paths) for layout in self.layouts) if self.mode == "structured" else 0

    def __len__(self) -> int:
        return len(self.layouts)

    def layout(self, i: int) -> Layout:
        return self.layouts[epoch_index(len(self.layouts), self.seed, i)]


@dataclass(frozen=True)
class Demonstrations:
    """Traces made when they are read: the i-th depends on (seed, i) alone."""

    problems: Sequence[Problem]
    config: DataConfig
    encode: TraceEncoder
    seed: int

    def layout(self, i: int) -> Layout:
        problem = self.problems[epoch_index(len(self.problems), self.seed, i)]
        c = self.config
        rng = random.Random(f"{self.seed}/{problem.key}/{i}")
        demonstrate = attribution.demonstrate if problem.checker == "attribution" else countdown.demonstrate
        trace = demonstrate(problem, c.manner, rng, self.encode.lm.dialect)
        return self.encode(problem.question, trace, c.prompt, truncated=rng.random() < c.early_join)

    @property
    def most_paths(self) -> int:
        """The most paths that a block has at once, 0 where they stand one behind the other."""
        at_once = self.config.style == "parallel" and self.encode.mode == "structured"
        return max(self.config.manner.paths) if at_once else 0


def read_rows(
    path: Path, encode: TraceEncoder, config: DataConfig, max_tokens: int, seed: int, dropped: Counter
) -> Rows:
    """The rows of a JSONL file as layouts. What cannot be used is counted in `dropped` by reason."""
    rng = random.Random(f"{seed}/truncated")
    rows = read_jsonl(path)
    missing = [name for name in ROW_FIELDS if rows and not all(isinstance(row.get(name), str) for row in rows)]
    if missing:
        raise UserError(f"{path}: every row needs a text {' and a text '.join(missing)}")
    layouts = []
    for row in rows:
        try:
            prompt, truncated = config.prompt or row.get("prompt"), rng.random() < config.early_join
            layout = encode(row["question"], row["trace"], prompt, truncated)
        except TraceError as error:
            dropped[f"form: {error.reason}"] += 1
            continue
        if len(layout) > max_tokens:
            dropped["too long"] += 1
        else:
            layouts.append(layout)
    if not layouts:
        raise UserError(f"{path}: none of its {len(rows)} traces can be trained on ({dict(dropped) or 'it is empty'})")
    return Rows(layouts, seed, encode.mode)


# ---- the mixture ----


@dataclass(frozen=True)
class Mixture:
    """Sources and how many traces each gives to a batch. `dropped` counts traces that could not be used."""

    sources: Sequence[Rows | Demonstrations]
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
        """The most paths that a block has at once, 0 where there is none."""
        return max(source.most_paths for source in self.sources)

    def steps(self, epochs: float) -> int:
        """How many batches are `epochs` times all traces; a last batch that is not full is left out."""
        if any(isinstance(source, Demonstrations) for source in self.sources):
            raise UserError("demonstrations have no end and so no epochs; say how many steps")
        return int(epochs * sum(len(source) for source in self.sources) / sum(self.counts))


def make_mixture(
    sources: Sequence[DataConfig],
    encode: TraceEncoder,
    batch: int,
    max_tokens: int,
    seed: int,
    problems_of: Callable[[str], Sequence[Problem]],
    file_of: Callable[[DataConfig], Path],
) -> Mixture:
    """Open all sources. `problems_of` gives the problems of a set, `file_of` the file behind `file` or `stage`."""
    dropped: Counter = Counter()
    opened: list[Rows | Demonstrations] = []
    for number, source in enumerate(sources):
        own_seed, own = seed * 1000 + number, encode.in_mode(source.mode)
        if source.problems is not None:
            opened.append(Demonstrations(problems_of(source.problems), source, own, own_seed))
        else:
            opened.append(read_rows(file_of(source), own, source, max_tokens, own_seed, dropped))
    if dropped:
        log.warning("traces that cannot be trained on were dropped: %s", dict(dropped))
    shares = [source.weight or len(found) for source, found in zip(sources, opened, strict=True)]
    return Mixture(opened, split_by_share(shares, batch), dropped)


def split_by_share(shares: Sequence[float], batch: int) -> list[int]:
    """Whole numbers that sum to `batch`, as near to the shares as can be (largest remainder)."""
    exact = [batch * share / sum(shares) for share in shares]
    counts = [int(x) for x in exact]
    for i in sorted(range(len(exact)), key=lambda i: counts[i] - exact[i])[: batch - sum(counts)]:
        counts[i] += 1
    if 0 in counts:
        raise UserError(f"a share of {shares[counts.index(0)]:g} of {sum(shares):g} is nothing in a batch of {batch}")
    return counts


def pack_rows(layouts: Sequence[Layout], width: int) -> list[Layout]:
    """The traces in rows of at most `width` tokens, longest first, each into the first row that has room."""
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
