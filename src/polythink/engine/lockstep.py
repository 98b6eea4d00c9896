"""The steady part of decoding: traces whose branches all continue plainly, token after token, as arrays.

Most steps of most traces do nothing but append a token to each open branch. Such a trace lends its branches to lanes of
arrays, from which its next step follows by additions, and is not touched until a branch draws a token that steers (a
tag, an end) or comes near a limit. Then its state is brought up to date, and goes on by its own rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from polythink.engine.step import StepBatch
from polythink.engine.tag_ids import TagIds
from polythink.engine.trace_state import Branch, Inputs, TraceState

STEPS = 64  # after so many all traces are brought up to date, so that what is kept is bounded
WORTH = 4  # steps: a trace that may be plain for fewer is not taken
# of each lane; width: branches of its trace, room: steps that it may yet take plainly
Owner = tuple[TraceState, Branch]
COLUMNS = {
    "token": np.int64, "segment": np.int64, "position": np.int64, "slot": np.int64, "row": np.int64,
    "label": np.int64, "scale": np.float32, "key": np.uint64, "count": np.uint64, "temperature": np.float32,
    "top_p": np.float32, "top_k": np.int64, "width": np.int64, "room": np.int64, "lane": np.int64,
}  # fmt: skip


@dataclass(eq=False)
class _Entry:
    """A trace in lock step: its branches, in the order of their next tokens, and since when."""

    row: int
    state: TraceState
    branches: list[Branch]
    lanes: np.ndarray
    since: int


class Lockstep:
    """`merge` puts the next tokens of its traces into a step, `accept` takes what was sampled, `enter` takes traces."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget all traces, as they are."""
        self.entries: dict[TraceState, _Entry] = {}
        self.now = 0  # steps in what is kept
        self.tokens, self.logprobs = np.zeros((STEPS, 64), np.int64), np.zeros((STEPS, 64))
        self._free = list(range(63, -1, -1))  # lanes
        self._columns = {name: np.zeros(0, kind) for name, kind in COLUMNS.items()}  # by row
        self._owners: list[_Entry] = []  # of each place in the columns
        self._known: dict[int, TagIds] = {}
        self._steering = np.zeros(1, bool)  # by token; the last entry stands for all above

    def __contains__(self, state: TraceState) -> bool:
        return state in self.entries

    # --- a step

    def merge(self, batch: StepBatch) -> StepBatch:
        """The step with the next tokens of the traces in lock step; their wanted tokens come last, by row."""
        mine = self._columns
        if not self.entries:
            return batch
        n, own = len(batch.token), len(mine["token"])
        order = np.argsort(np.concatenate((batch.row, mine["row"])), kind="stable")
        place = np.empty_like(order)
        place[order] = np.arange(n + own)
        flat = ("token", "segment", "position", "slot", "row", "label", "scale")
        wanted = ("key", "count", "temperature", "top_p", "top_k")
        columns = {name: np.concatenate((getattr(batch, name), mine[name]))[order] for name in flat}
        columns |= {name: np.concatenate((getattr(batch, name), mine[name])) for name in wanted}
        return replace(batch, **columns, wanted=place[np.concatenate((batch.wanted, np.arange(n, n + own)))])

    def accept(self, tokens: np.ndarray, logprobs: np.ndarray) -> list[tuple[Owner, int, float]]:
        """Take what was sampled for the lanes. What is not plain is returned, its traces being up to date before it."""
        mine = self._columns
        if not self.entries:
            return []
        steers = self._steering[np.minimum(tokens, len(self._steering) - 1)] | (mine["room"] < 1)
        found: list[tuple[Owner, int, float]] = []
        for entry in dict.fromkeys(self._owners[i] for i in np.flatnonzero(steers)):
            at = np.flatnonzero(mine["row"] == entry.row)
            self._leave(entry, self.now)
            entry.state.slot += len(at)
            found += [
                ((entry.state, branch), token, logprob)
                for branch, token, logprob in zip(
                    entry.branches, tokens[at].tolist(), logprobs[at].tolist(), strict=True
                )
            ]
        if found:
            stay = np.array([entry.state in self.entries for entry in self._owners], bool)
            tokens, logprobs = tokens[stay], logprobs[stay]
            self._keep(stay)
        self.tokens[self.now, mine["lane"]], self.logprobs[self.now, mine["lane"]] = tokens, logprobs
        self.now += 1
        mine["token"] = tokens
        mine["position"] += 1
        mine["slot"] += mine["width"]
        mine["count"] += np.uint64(1)
        mine["room"] -= 1
        for entry in self.entries.values():
            entry.state.written += len(entry.branches)
            entry.state.slot += len(entry.branches)
        if self.now == len(self.tokens):
            for state in list(self.entries):
                self.release(state)
            self.now = 0
        return found

    def release(self, state: TraceState) -> None:
        """Bring a trace up to date between two steps, its next tokens pending, and let it go on by itself."""
        entry = self.entries.get(state)
        if entry is None:
            return
        last = self.tokens[self.now - 1, entry.lanes].tolist() if self.now > entry.since else None
        pending = self._pending(entry, last)
        self._leave(entry, self.now)
        state.pending = pending
        self._keep(np.array([owner is not entry for owner in self._owners], bool))

    def _pending(self, entry: _Entry, last: Sequence[int] | None) -> Inputs:
        """The next tokens of a trace; `last`: what its branches have sampled last, None where that was before."""
        pending = Inputs()
        tokens = last if last is not None else [branch.record.tokens[-1] for branch in entry.branches]
        steps = self.now - entry.since
        for i, (branch, token) in enumerate(zip(entry.branches, tokens, strict=True)):
            pending.tokens.append(token)
            pending.segments.append(branch.segment)
            pending.positions.append(branch.position + steps - 1)
            pending.wanted.append((i, branch))
        return pending

    def _leave(self, entry: _Entry, end: int) -> None:
        """Hand a trace the tokens of the steps up to `end`; its columns are still there."""
        del self.entries[entry.state]
        steps = end - entry.since
        if steps:
            tokens, logprobs = (x[entry.since : end, entry.lanes].T.tolist() for x in (self.tokens, self.logprobs))
            entry.state.append_plain(entry.branches, tokens, logprobs)
        self._free += entry.lanes.tolist()

    def _keep(self, stay: np.ndarray) -> None:
        for name, column in self._columns.items():
            self._columns[name] = column[stay]
        self._owners = [owner for owner, stays in zip(self._owners, stay.tolist(), strict=True) if stays]

    # --- taking traces

    def enter(self, running: Iterable[tuple[int, TraceState]]) -> None:
        """Take those traces that will continue plainly for some steps, between two steps."""
        added: list[_Entry] = []
        rows: dict[str, list] = {name: [] for name in COLUMNS}
        for row, state in running:
            room = state.plain_room()
            if room < WORTH:
                continue
            self._learn(state)
            pending, state.pending = state.pending, Inputs()
            branches, n = [branch for _, branch in pending.wanted], len(pending.tokens)
            entry = _Entry(row, state, branches, np.array([self._lane() for _ in branches]), self.now)
            self.entries[state] = entry
            added += [entry] * n
            rows["token"] += pending.tokens
            rows["segment"] += pending.segments
            rows["position"] += pending.positions
            rows["slot"] += range(state.slot, state.slot + n)
            rows["row"] += [row] * n
            rows["label"] += [state.labels[segment] for segment in pending.segments]
            rows["scale"] += [state.scales[segment] for segment in pending.segments]
            rows["key"] += [branch.key for branch in branches]
            rows["count"] += [branch.drawn for branch in branches]
            rows["temperature"] += [branch.temperature for branch in branches]
            rows["top_p"] += [state.params.top_p] * n
            rows["top_k"] += [state.params.top_k] * n
            rows["width"] += [n] * n
            rows["room"] += [room] * n
            rows["lane"] += entry.lanes.tolist()
        if added:
            row = np.concatenate((self._columns["row"], np.array(rows["row"], np.int64)))
            order = np.argsort(row, kind="stable")
            for name, kind in COLUMNS.items():
                self._columns[name] = np.concatenate((self._columns[name], np.array(rows[name], kind)))[order]
            owners = self._owners + added
            self._owners = [owners[i] for i in order.tolist()]

    def _lane(self) -> int:
        if not self._free:
            lanes = self.tokens.shape[1]
            self.tokens, self.logprobs = (np.pad(x, ((0, 0), (0, lanes))) for x in (self.tokens, self.logprobs))
            self._free = list(range(2 * lanes - 1, lanes - 1, -1))
        return self._free.pop()

    def _learn(self, state: TraceState) -> None:
        """Which tokens steer in one dialect or another; a trace may be asked about one that is not its own's."""
        if id(state.tags) not in self._known:
            self._known[id(state.tags)] = state.tags
            steering = sorted({token for tags in self._known.values() for token in tags.steering})
            self._steering = np.zeros(steering[-1] + 2, bool)
            self._steering[steering] = True
