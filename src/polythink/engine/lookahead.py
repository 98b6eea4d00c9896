"""How the engine's steps are run: one after another, or each launched before the results of the one before are read.

While a device works on step k, the host launches step k + 1 on a guess: that every branch goes on plainly, with the
token that step k samples (which the device puts in by itself), at the next position, in the next slot. Then it reads
step k and lets the traces take their tokens. A trace that now asks for exactly the tokens that were guessed is one step
ahead; of every other one (a fork, a join, a forced tag, an end) the guessed step is taken back and its results are
dropped. So what a trace draws does not depend on guessing: its branches stay in lock step, and each number of its
random streams is used for the same token.

A trace that was guessed right and goes on plainly is taken into the lanes of `lockstep.py`, which are guessed and read
without asking it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from polythink.engine.inputs import Branch, Inputs
from polythink.engine.lockstep import Lockstep
from polythink.engine.paged.arena import OutOfPages
from polythink.engine.step import Alternatives, Backend, Drawn, Given, Runnable, StepBatch, assemble, gather
from polythink.engine.trace_state import TraceState

Running = Sequence[tuple[int, Runnable]]  # rows and what runs in them, by row


class Flight(Protocol):
    """A step that has been launched."""

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Wait for the (W,) tokens and log-probabilities."""

    def alternatives(self) -> Alternatives:
        """After `result`: those that were asked for."""


class AheadBackend(Backend, Protocol):
    """A backend that can be told to run a token that it has not sampled yet."""

    looks_ahead: bool  # do so: results come late enough to be worth it
    holding: int  # number of the hold that is on; 0: none

    def launch(self, batch: StepBatch, source: np.ndarray | None = None) -> Flight:
        """Launch a step. `source` (N,): where it is not negative, the number of the wanted token of the step launched
        before this one that samples this token. `OutOfPages` where it does not fit."""

    def rewind(self, row: int, slot: int) -> None:
        """Forget the row's tokens from that slot on: those of the step that was launched last."""


class Steps:
    """One step after another. The scheduler frees rows through this, and sees the backend's memory through it."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.forwarded = 0  # tokens run through the model, those of wrong guesses among them
        self.attach, self.reserve = backend.attach, backend.reserve
        self.bytes_for, self.usable, self.most_sequences = backend.bytes_for, backend.usable, backend.most_sequences

    def run(self, running: Running, chunk: int, lockstep: Lockstep) -> Drawn:
        """Run a step, with prompts in chunks; what was sampled, for the traces to take. Their segments are open."""
        lockstep.enter(_alone(running, lockstep))
        batch, owners = gather(_alone(running, lockstep), chunk)
        batch, own = lockstep.merge(batch), len(owners)
        self.forwarded += len(batch.token)
        tokens, logprobs = self.backend.step(batch)
        if batch.top.any():
            _tell(owners, self.backend.alternatives)
        others, _ = lockstep.accept(tokens, logprobs)
        return _drawn(owners, tokens[:own], logprobs[:own]) + others

    def keep(self, row: int, segments: Collection[int]) -> None:
        """As the backend's: without segments, the row is free at once."""
        self.backend.keep(row, segments)

    def clear(self) -> None:
        """All traces have ended."""
        self.backend.clear()


@dataclass
class _Launched:
    flight: Flight
    given: dict[int, Given]  # by row: what the step was given, without the traces that have left it since
    first: dict[int, int]  # by row: number of its first wanted token
    holding: int
    asks: bool  # for alternatives
    expected: dict[int, list[int]] = field(default_factory=dict)  # by row: the tokens that guesses have turned out as


class LookAhead(Steps):
    """Each step is launched before the one before it is read. Inside a hold only: weights do not change meanwhile."""

    backend: AheadBackend

    def __init__(self, backend: AheadBackend) -> None:
        super().__init__(backend)
        self._ahead: _Launched | None = None
        self._taken: dict[int, Given] = {}  # by row: taken from the trace, not launched yet

    def run(self, running: Running, chunk: int, lockstep: Lockstep) -> Drawn:
        now = self._settled(chunk, lockstep)
        if now is None:
            lockstep.enter(_alone(running, lockstep))
            now = self._launch([self._take(row, state, chunk) for row, state in _alone(running, lockstep)], lockstep)
        elif not lockstep.under_way:
            lockstep.release_all()
        following = self._follow(now, _alone(running, lockstep), chunk, lockstep) if self.backend.holding else None
        tokens, logprobs = now.flight.result()
        self._ahead = following
        others, vain = lockstep.accept(tokens, logprobs)
        for row, slot in vain:
            self.backend.rewind(row, slot)
        owners, places = [], []
        for row, given in now.given.items():
            places += range(now.first[row], now.first[row] + len(given.inputs.wanted))
            owners += [(given.state, branch) for _, branch in given.inputs.wanted]
        if now.asks:
            found = now.flight.alternatives()
            _tell(owners, {i: found[place] for i, place in enumerate(places) if place in found})
        for row, given in () if following is None else following.given.items():
            if given.guess:
                first = now.first[row]
                following.expected[row] = tokens[first : first + len(given.inputs.tokens)].tolist()
        return _drawn(owners, tokens[places], logprobs[places]) + others

    def keep(self, row: int, segments: Collection[int]) -> None:
        if not len(segments):
            taken = self._taken.pop(row, None)
            ahead = None if self._ahead is None else self._ahead.given.pop(row, None)
            for given in (taken, ahead):
                if given is not None and not given.guess and isinstance(given.state, TraceState):
                    given.state.give_back(given.inputs)
        super().keep(row, segments)

    def clear(self) -> None:
        self._ahead = None
        self._taken.clear()
        super().clear()

    # --- guesses

    def _settled(self, chunk: int, lockstep: Lockstep) -> _Launched | None:
        """The step under way, with only those traces for which it is the right one; None if there are none."""
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return None
        stale = ahead.holding != self.backend.holding  # weights may have changed since
        plain = []
        for row, given in list(ahead.given.items()):
            state, is_plain = given.state, given.guess and lockstep.room(given.state) > 0
            asked = state.take(chunk) if given.guess else given.inputs
            wrong = given.guess and not _as_guessed(given, asked, ahead.expected[row])
            if wrong or (stale and given.inputs.wanted):
                self.backend.rewind(row, given.inputs.slot)
                self._taken[row] = Given(row, state, asked)
                del ahead.given[row]
            elif is_plain:
                state.put_back(asked)
                plain.append((row, state))
                del ahead.given[row]
        if stale and lockstep.under_way:
            for row, slot in lockstep.take_back():
                self.backend.rewind(row, slot)
        lockstep.enter(plain, ahead.first)
        return ahead if ahead.given or lockstep.under_way else None

    def _follow(self, now: _Launched, alone: Running, chunk: int, lockstep: Lockstep) -> _Launched | None:
        """Launch the step after `now`: what is known of it, and guesses where they find room. None if there is none."""
        known, guesses = [], []
        for row, state in alone:
            given = now.given.get(row)
            # the next part of a round does not depend on this one; after the last part there is nothing to take yet
            if given is None or not given.inputs.wanted or state.parted:
                known.append(self._take(row, state, chunk))
            elif state.grant is not None and state.grant < len(given.inputs.wanted):
                continue  # its next round is to be given in parts
            elif all(branch.limit > 1 for _, branch in given.inputs.wanted):
                guesses.append(Given(row, state, _guess(given), guess=True))
        known = [given for given in known if given.inputs.tokens]  # a shared prompt may have been read to its end
        if guesses or lockstep.goes_on:
            try:
                return self._launch(sorted(known + guesses, key=lambda given: given.row), lockstep, now)
            except OutOfPages:  # then these traces wait until their tokens are read
                lockstep.unlaunched()
        return self._launch(known, None) if known else None

    def _take(self, row: int, state: Runnable, chunk: int) -> Given:
        taken = self._taken.pop(row, None)
        return Given(row, state, state.take(chunk)) if taken is None else taken

    def _launch(self, each: list[Given], lockstep: Lockstep | None, before: _Launched | None = None) -> _Launched:
        """Launch a step of some traces, and of those in lock step; `before`: the step under way that it comes after."""
        batch, _ = assemble(each)
        source, first, token, wanted = None, {}, 0, 0
        if before is not None:
            source = np.full(len(batch.token), -1)
        for given in each:
            count = len(given.inputs.tokens)
            if given.guess:
                source[token : token + count] = np.arange(count) + before.first[given.row]
            first[given.row] = wanted
            token, wanted = token + count, wanted + len(given.inputs.wanted)
        if before is not None:
            batch, source = lockstep.follow(batch, source)
        elif lockstep is not None:
            batch = lockstep.merge(batch)
        flight = self.backend.launch(batch, source)
        self.forwarded += len(batch.token)
        asks = bool(batch.top.any())
        return _Launched(flight, {given.row: given for given in each}, first, self.backend.holding, asks)


def _alone(running: Running, lockstep: Lockstep) -> Running:
    """Those that are not in lock step."""
    return [(row, state) for row, state in running if state not in lockstep]


def _guess(given: Given) -> Inputs:
    """What the trace will ask for next if each of its branches goes on with the token that it samples now."""
    branches = [branch for _, branch in given.inputs.wanted]
    return Inputs(
        given.state.slot,
        [0] * len(branches),
        [branch.segment for branch in branches],
        [branch.position for branch in branches],
        list(enumerate(branches)),
    )


def _as_guessed(given: Given, asked: Inputs, tokens: list[int]) -> bool:
    """Does the trace ask for what it was guessed to, the guessed tokens having turned out as `tokens`?"""
    guess = given.inputs
    same = (asked.slot, asked.tokens, asked.segments) == (guess.slot, tokens, guess.segments)
    same = same and asked.positions == guess.positions and len(asked.wanted) == len(guess.wanted)
    return same and all(
        place == other and branch is twin and (branch.key, branch.drawn) == stream
        for (place, branch), (other, twin), stream in zip(asked.wanted, guess.wanted, given.streams, strict=True)
    )


def _tell(owners: Sequence[tuple[TraceState, Branch]], alternatives: Alternatives) -> None:
    for place, top in alternatives.items():
        owners[place][1].top = top


def _drawn(owners: Iterable[tuple[TraceState, Branch]], tokens: np.ndarray, logprobs: np.ndarray) -> Drawn:
    columns = zip(owners, tokens.tolist(), logprobs.tolist(), strict=True)
    return [(state, branch, token, logprob) for (state, branch), token, logprob in columns]
