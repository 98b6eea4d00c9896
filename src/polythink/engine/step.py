"""The seam below the engine: one step as a struct of arrays, and what a backend does with it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from polythink.engine.inputs import Branch, Inputs
from polythink.engine.trace_state import TraceState

Column = float | Sequence[float] | np.ndarray
Alternatives = dict[int, tuple[tuple[int, float], ...]]  # by place: the likeliest tokens, their log-probabilities
Drawn = list[tuple[TraceState, Branch, int, float]]  # a branch of a trace, its token, the log-probability


@dataclass(frozen=True, eq=False)
class StepBatch:
    """The tokens of one step: N tokens, grouped by row and in the order of their slots, and W wanted next tokens.

    A prompt chunk, a forced tag and a plain decoding step all look alike here.
    """

    token: np.ndarray  # (N,) int64
    segment: np.ndarray  # (N,) int64
    position: np.ndarray  # (N,) int64
    slot: np.ndarray  # (N,) int64: the token's place in its cache row
    row: np.ndarray  # (N,) int64: the cache row of the token's trace, ascending
    label: np.ndarray  # (N,) int64: path number of the token's segment, 0 elsewhere
    scale: np.ndarray  # (N,) float32: factor on the query's attention scores
    wanted: np.ndarray  # (W,) int64: tokens after which the next one is to be sampled
    key: np.ndarray  # (W,) uint64: random stream
    count: np.ndarray  # (W,) uint64: numbers already taken from that stream
    temperature: np.ndarray  # (W,) float32
    top_p: np.ndarray  # (W,) float32
    top_k: np.ndarray  # (W,) int64
    top: np.ndarray  # (W,) int64: how many alternatives are asked for, mostly none

    @classmethod
    def every(
        cls,
        token: Column,
        segment: Column,
        position: Column,
        row: Column = 0,
        first_slot: int = 0,
        label: Column = 0,
        scale: Column = 1.0,
    ) -> StepBatch:
        """A step that wants the logits after each of its N tokens, and samples from none: for the self-checks.

        Columns are (N,), or one number for all tokens; those of the tokens themselves are (N,).
        """
        n = len(token)
        return cls(
            token=np.asarray(token, np.int64),
            segment=np.asarray(segment, np.int64),
            position=np.asarray(position, np.int64),
            slot=np.arange(first_slot, first_slot + n),
            row=np.full(n, row, np.int64),
            label=np.full(n, label, np.int64),
            scale=np.full(n, scale, np.float32),
            wanted=np.arange(n),
            key=np.zeros(n, np.uint64),
            count=np.zeros(n, np.uint64),
            temperature=np.ones(n, np.float32),
            top_p=np.ones(n, np.float32),
            top_k=np.zeros(n, np.int64),
            top=np.zeros(n, np.int64),
        )


class Backend(Protocol):
    """Runs steps over a cache of its own: one row per trace, one slot per token.

    A row may be attached to a prefix: a row with segment 0 alone, the prompt of several traces but for its last token.
    It is run like any other row, and lives until it is given up by `keep(prefix, ())`, which comes after the end of all
    rows that are attached to it. A backend shares its keys and values, or copies them into the attached row.
    """

    looks_ahead: bool  # steps are launched before the results of the one before are read: see `lookahead.py`
    joins_caches: bool  # a segment may follow several others and read the keys and values of all
    forgets: bool  # `keep` is called before each step with the segments of a row that may still be followed
    most_sequences: int | None  # segments of all rows that it can keep apart at a time; None: any number
    slot_bytes: int  # keys and values of one token over all layers; 0: the backend cannot bound its memory
    alternatives: Alternatives  # those of the last `step`, by number of the wanted token: where some were asked for

    def hold(self) -> AbstractContextManager[None]:
        """Keep the model ready for steps until the context closes. Re-entrant; `step` enters it by itself."""

    def bytes_for(self, tokens: int, prefix: int = 0, segments: int = 1) -> int:
        """Bytes of keys and values that a row of `tokens` tokens of its own occupies, rounded as they are allocated.

        `prefix`: tokens of the row that it is attached to, which count where they are copied. `segments`: how many the
        tokens are in, which counts where each has memory of its own. As long as these numbers
        add up to no more than what is `usable` of a budget, every step finds room, and no more is held than the budget.
        """

    def usable(self, memory: int, slots: int) -> int:
        """How many bytes of a budget rows of up to `slots` slots can use: all, or less where it does not divide."""

    def reserve(self, rows: int, slots: int, memory: int | None = None) -> None:
        """Announce that no more than `rows` rows of `slots` slots, and `memory` bytes, will be needed at a time.

        Memory grows as tokens arrive, and is given back when rows end.
        """

    def attach(self, row: int, prefix: int) -> None:
        """Let the next trace in `row` read all tokens of row `prefix` before its own; comes before `open(row, 0, ())`.

        All tokens of the prefix have been run. The slots of the row count its own tokens; positions go on. Segment 0 of
        the row sees the whole prefix.
        """

    def open(self, row: int, segment: int, follows: Sequence[int]) -> None:
        """Enter a segment, which sees itself and all that those it follows see. Segment 0 starts a new trace."""

    def step(self, batch: StepBatch) -> tuple[np.ndarray, np.ndarray]:
        """Run the tokens; returns the W sampled tokens (int64) and their log-probabilities (float64)."""

    def keep(self, row: int, segments: Collection[int]) -> None:
        """Announce that no other segment of the row is run or followed any more; none: the row is free at once."""

    def clear(self) -> None:
        """Free the cache: no trace is live."""

    def check_scaling(self) -> None:
        """Raise `UserError` unless the model can scale its attention scores (`StepBatch.scale`)."""


class Runnable(Protocol):
    """What has tokens to run in a row: a trace, or a prompt that several share."""

    labels: Sequence[int]  # of each segment: path number, 0 elsewhere
    scales: Sequence[float]  # of each segment: factor on the attention scores of its queries
    follows: Sequence[tuple[int, ...]]  # of each segment
    opened: list[int]  # segments that the backend does not know yet

    @property
    def followable(self) -> Collection[int]:
        """The segments that run or may be followed."""

    def take(self, most: int) -> Inputs:
        """The tokens of the next step, `most` at most where they are a prompt's."""

    def plain_room(self) -> int:
        """For how many steps its branches surely continue plainly, one token each, if none draws a tag or an end."""


@dataclass
class Given:
    """What one trace is given in a step. With `guess`, its tokens are those that its branches are sampling now."""

    row: int
    state: Runnable
    inputs: Inputs
    guess: bool = False
    streams: list[tuple[int, int]] = field(init=False)  # of each wanted token: its random stream, its number in that

    def __post_init__(self) -> None:
        self.streams = [(branch.key, branch.drawn + self.guess) for _, branch in self.inputs.wanted]


def assemble(each: Iterable[Given]) -> tuple[StepBatch, list[tuple[TraceState, Branch]]]:
    """The step of some traces, by row, and the owners of its wanted tokens."""
    token: list[int] = []
    segment: list[int] = []
    position: list[int] = []
    label: list[int] = []
    scale: list[float] = []
    wanted: list[int] = []
    streams: list[tuple[int, int]] = []
    places: list[tuple[int, int, int]] = []  # of each trace: row, first slot, number of tokens
    owners: list[tuple[TraceState, Branch]] = []
    for given in each:
        state, inputs = given.state, given.inputs
        wanted += [len(token) + index for index, _ in inputs.wanted]
        owners += [(state, branch) for _, branch in inputs.wanted]
        streams += given.streams
        places.append((given.row, inputs.slot, len(inputs.tokens)))
        token += inputs.tokens
        segment += inputs.segments
        position += inputs.positions
        label += [state.labels[s] for s in inputs.segments]
        scale += [state.scales[s] for s in inputs.segments]
    rows, slots, counts = np.array(places, np.int64).reshape(-1, 3).T
    starts = np.cumsum(counts) - counts
    batch = StepBatch(
        token=np.array(token, np.int64),
        segment=np.array(segment, np.int64),
        position=np.array(position, np.int64),
        slot=np.arange(len(token)) + np.repeat(slots - starts, counts),
        row=np.repeat(rows, counts),
        label=np.array(label, np.int64),
        scale=np.array(scale, np.float32),
        wanted=np.array(wanted, np.int64),
        key=np.array([key for key, _ in streams], np.uint64),
        count=np.array([count for _, count in streams], np.uint64),
        temperature=np.array([branch.temperature for _, branch in owners], np.float32),
        top_p=np.array([state.params.top_p for state, _ in owners], np.float32),
        top_k=np.array([state.params.top_k for state, _ in owners], np.int64),
        top=np.array([state.top for state, _ in owners], np.int64),
    )
    return batch, owners


def gather(live: Iterable[tuple[int, Runnable]], chunk: int) -> tuple[StepBatch, list[tuple[TraceState, Branch]]]:
    """The next step of the live traces, given as (row, state) by row, and the owners of its wanted tokens."""
    return assemble([Given(row, state, state.take(chunk)) for row, state in live])
