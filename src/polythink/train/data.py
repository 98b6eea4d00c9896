"""What supervised fine-tuning reads: stored traces and fresh demonstrations, each as a layout; the order of both.

Which trace is the i-th of a source depends on (seed, i) alone. `mixture.py` makes batches of them.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

from polythink.engine.params import SamplingParams
from polythink.errors import UserError
from polythink.evaluate.study import hash_of_problems
from polythink.models.forward import check_joins, heeds_masks
from polythink.models.lm import LanguageModel
from polythink.models.logprobs import window_limit
from polythink.problems.problem import Problem
from polythink.problems.prompts import Prompt, get_prompt
from polythink.problems.tasks.demonstrations import DemoStyle
from polythink.run.config import digest
from polythink.trace.finish import truncate_paths
from polythink.trace.layout import Layout, Piece, lay_out
from polythink.trace.modes import Mode, get_mode
from polythink.trace.parse import TraceError, nested_block, parse
from polythink.trace.statistics import depth
from polythink.trace.tokens import headings_of, opening_end, pieces_of
from polythink.trace.tree import Trace
from polythink.train.data_keys import DataConfig
from polythink.train.stored import check_row

log = logging.getLogger(__name__)
ATTEMPTS = 50  # at a demonstration that can be trained on


def stage_seed(seed: int, stage: str) -> int:
    """The seed of one stage's streams and orders: two stages of a recipe share a seed, and must not share draws."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{stage}".encode(), digest_size=4).digest(), "little")


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
    """Turns (question, response) into the layout in which a mode trains it, the end token included.

    `mode` says what of it the model writes and what can be drawn, `mode.trained` how it is laid out: in the modes that
    are not exact these are two modes.
    """

    def __init__(self, lm: LanguageModel, params: SamplingParams, prompt: Prompt) -> None:
        self.lm, self.params, self.prompt = lm, params, prompt
        self.mode, self.stride, self.summary_prefix = get_mode(params.mode), params.stride, params.summary_prefix
        # tags, and the texts of small closed tasks, come again and again
        self.encode = lru_cache(maxsize=1 << 14)(lm.encode)
        self.named_prompt = lru_cache(maxsize=None)(get_prompt)
        check_joins(lm.model, params.mode)
        window = window_limit(lm.model) if heeds_masks(lm.model) else None  # plain rows keep the model's own
        self.positions = min(lm.context, window or lm.context)  # that a forward may reach
        self._ends = tuple(lm.tokenizer.convert_ids_to_tokens(sorted(lm.ends)))

    def in_mode(self, mode: str | None) -> TraceEncoder:
        """The same encoder for another mode; None: this one."""
        if mode in (None, self.mode.name):
            return self
        return TraceEncoder(self.lm, self.params.model_copy(update={"mode": mode}), self.prompt)

    def __call__(self, question: str, trace: str, prompt: str | None = None, early_join: bool = False) -> Layout:
        """Lay out one trace. With `early_join` its paths are truncated where the shortest one ends.

        An end token that a teacher left at the end is the one that is appended. Raises `TraceError` where the response
        cannot be laid out, or where the engine could not draw it. A mode of one flat text needs no grammar: a response
        that does not parse is read as plain text, except where the model has thought embeddings, because while sampling
        the engine gives a path that the model opens its number, well formed or not.
        """
        own = prompt is None or prompt == self.prompt.name
        asked = self.prompt if own else self.named_prompt(prompt)
        while end := next((end for end in self._ends if trace.rstrip().endswith(end)), None):
            trace = trace.rstrip().removesuffix(end)
        if spelled := self.lm.codec.spelled_controls(trace):
            message = f"the control token {spelled[0]!r} in a trace: the engine draws none inside of one"
            raise TraceError(message, "control_token", trace, trace.index(spelled[0]))
        if self.lm.absent_tags:
            self.lm.require_tags(trace)
        try:
            tree = parse(trace, self.lm.dialect)
        except TraceError:
            if self.mode.isolated or self.lm.settings.thoughts:
                raise
            tree = Trace((trace,))
        early_join = early_join and self.mode.isolated
        if self.mode.isolated:
            self._check_blocks(trace, tree)
            if early_join and depth(tree) > 1:
                message = "a block inside a path or summary, and early_join truncates plain paths"
                raise TraceError(message, "nested", trace, 0)
        head = self.lm.encode_prompt(asked.fill(question), asked.text)
        pieces = pieces_of(head, tree, self.lm.dialect, self.encode, self.mode, (self.lm.eos,), self.summary_prefix)
        if early_join:
            pieces = truncate_paths(pieces, "first", lambda label: self.lm.tag_ids[self.lm.dialect.path_tags(label)[1]])
        if self.mode.isolated:
            self._check_drawable(trace, tree, pieces)
        return lay_out(pieces, self.mode.trained, self.stride)

    def _check_blocks(self, trace: str, tree: Trace) -> None:
        """`TraceError` for blocks that the engine never opens.

        At `max_depth` it reads an opening tag inside a path or summary as text; and where the runtime forks, it does so
        once.
        """
        dialect, most = self.lm.dialect, self.params.max_depth
        if depth(tree) > most:
            found = nested_block(trace, dialect)
            message = f"a block inside a path or summary, and the engine opens none below max_depth={most}"
            raise TraceError(message, "nested", trace, found.start if found else 0)
        if dialect.runtime_forks and len(tree.blocks) > 1:
            message = f"{len(tree.blocks)} blocks, but in the dialect {dialect.name} the runtime forks once"
            raise TraceError(message, "second_block", trace, 0)

    def _check_drawable(self, trace: str, tree: Trace, pieces: Sequence[Piece]) -> None:
        """`TraceError` where the engine, with these parameters, would write other tokens or use other positions."""
        for block in tree.walk():
            for path, heading in zip(block.paths, headings_of(block, self.lm.dialect), strict=True):
                if heading and opening_end(path, heading, self.encode) is None:
                    message = f"a path that does not begin with the heading that the runtime writes, {heading!r}"
                    raise TraceError(message, "path_heading", trace, 0)
            opens = self.lm.dialect.summary and self.summary_prefix
            if opens and opening_end(block.summary, self.summary_prefix, self.encode) is None:
                message = f"a summary that does not begin with summary_prefix, {self.summary_prefix!r}"
                raise TraceError(message, "summary_prefix", trace, 0)
        longest = max((len(piece.tokens) for piece in pieces if piece.kind == "path"), default=0)
        if self.stride and longest > self.stride:
            message = f"a path of {longest} tokens with its tags, but path_position_stride is {self.stride}"
            raise TraceError(message, "long_path", trace, 0)


# ---- sources ----


@dataclass(frozen=True)
class StoredTraces:
    """Traces that are already written; each one is read once an epoch."""

    layouts: Sequence[Layout]
    seed: int
    mode: Mode  # that they are for

    @property
    def most_paths(self) -> int:
        """The largest number of paths that a join reads at once; 0 where it reads one flat text."""
        return max(max(layout.paths) for layout in self.layouts) if self.mode.joins_caches else 0

    @property
    def identity(self) -> str:
        """A hash of the traces as they are laid out, in their order."""
        whole = hashlib.sha256(str(self.seed).encode())
        for layout in self.layouts:
            for part in (layout.tokens, layout.segment, layout.position, layout.sampled):
                whole.update(part.tobytes())
        return whole.hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.layouts)

    def layout(self, i: int) -> Layout:
        """The i-th trace of an endless stream."""
        return self.layouts[epoch_index(len(self.layouts), self.seed, i)]


@dataclass(frozen=True)
class Demonstrations:
    """Traces written when they are read: the i-th depends on (seed, i) alone.

    One that is too long gives its place to one of another problem, and is counted in `dropped`.
    """

    problems: Sequence[Problem]
    config: DataConfig
    encode: TraceEncoder
    seed: int
    max_tokens: int
    dropped: Counter = field(default_factory=Counter)

    @property
    def identity(self) -> str:
        """A hash of what they are made of: they have no end."""
        source = self.config.model_dump(mode="json", exclude={"weight"})
        return digest([source, hash_of_problems(self.problems), self.encode.mode.name, self.seed])[:16]

    @cached_property
    def style(self) -> DemoStyle:
        """What the task is asked for."""
        return self.config.demonstrations.demo_style()

    def layout(self, i: int) -> Layout:
        """The i-th trace of an endless stream. `UserError` where one after another is too long."""
        problem = self.problems[epoch_index(len(self.problems), self.seed, i)]
        for attempt in range(ATTEMPTS):
            name = f"{self.seed}/{problem.key}/{i}" + f"/{attempt}" * (attempt > 0)
            layout = self._written(problem, random.Random(name))
            reason, why = fault_of(layout, self.max_tokens, self.encode.positions)
            if not reason:
                return layout
            self.dropped[reason] += 1
            last, problem = problem, random.Random(f"{name}/next").choice(self.problems)
        raise UserError(
            f"{ATTEMPTS} demonstrations in turn are too long, the last, of {last.key}, with {why}; raise max_tokens, "
            "use a model with a longer context, or ask for shorter demonstrations"
        )

    def _written(self, problem: Problem, rng: random.Random) -> Layout:
        trace = problem.task.demonstrate(problem, self.style, rng, self.encode.lm.dialect)
        early_join = rng.random() < self.config.early_join
        return self.encode(problem.question, trace, self.config.prompt, early_join=early_join)

    @property
    def most_paths(self) -> int:
        """The largest number of paths that a join reads at once; 0 where it reads one flat text."""
        return self.style.most_paths if self.encode.mode.joins_caches else 0


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
    rows, layouts, own = list(rows), [], Counter()
    first = ""  # what is wrong with the first trace that is dropped
    for number, row in enumerate(rows, 1):
        check_row(row, f"{where}, row {number}")
        prompt, early_join = config.prompt or row.get("prompt"), rng.random() < config.early_join
        if prompt is not None and prompt != encode.prompt.name:
            encode.named_prompt(prompt)  # a name that is wrong is no fault of this trace
        try:
            layout = encode(row["question"], row["trace"], prompt, early_join)
            reason, why = fault_of(layout, max_tokens, encode.positions)
        except TraceError as error:
            reason, why = f"form: {error.reason}", error.message
        except UserError as error:
            reason, why = "vocabulary", str(error)
        if reason:
            own[reason] += 1
            first = first or f"row {number}: {why}"
        else:
            layouts.append(layout)
    dropped.update(own)
    what = f"{dict(own)}; the first is {first}" if own else "it is empty"
    if not layouts:
        raise UserError(f"{where}: none of its {len(rows)} traces can be trained on ({what})")
    if own:
        log.warning("%s: %d of %d traces cannot be trained on: %s", where, own.total(), len(rows), what)
    return StoredTraces(layouts, seed, encode.mode)


def fault_of(layout: Layout, max_tokens: int, positions: int) -> tuple[str, str]:
    """Why a layout cannot be trained on, as a reason to count by and a sentence; two empty texts if it can."""
    if len(layout) > max_tokens:
        again = "" if layout.shown.all() else f" ({(~layout.shown).sum()} of them read again at a join)"
        return "too long", f"{len(layout)} tokens with the prompt{again}, and max_tokens is {max_tokens}"
    if layout.position.max() >= positions:
        return "beyond the context", f"{layout.position.max() + 1} positions, and the model has {positions}"
    return "", ""
