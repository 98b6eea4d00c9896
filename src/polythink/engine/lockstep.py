"""The steady part of decoding: traces whose branches all continue plainly, token after token, as arrays.

Most steps of most traces do nothing but append a token to each open branch. Such a trace lends its branches to lanes of
arrays, from which its next step follows by additions, and is not touched until a branch draws a token that steers (a
tag, an end) or comes near a limit. Then its state is brought up to date, and goes on by its own rules.

The columns say what the lanes run in the next step that has not been read. That step may be under way, and the one
after it be launched on the guess that all lanes go on (`follow`; see `lookahead.py`): which is right for those that
stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from polythink.engine.inputs import Branch, Inputs
from polythink.engine.step import Drawn, Runnable, StepBatch
from polythink.engine.tag_ids import TagIds
from polythink.engine.trace_state import TraceState

STEPS = 64  # after so many all traces are brought up to date, so that what is kept is bounded
WORTH = 4  # steps: a trace that may be plain for fewer is not taken
FLAT = ("token", "segment", "position", "slot", "row", "label", "scale")  # columns of a step, by token
WANTED = ("key", "count", "temperature", "top_p", "top_k", "top")  # and by wanted token
# of each lane; width: branches of its trace; room: steps that it may yet take plainly; place and follows: number of its
# wanted token in the step that is read next and in the one after, -1 before they are launched
COLUMNS = {
    "token": np.int64, "segment": np.int64, "position": np.int64, "slot": np.int64, "row": np.int64,
    "label": np.int64, "scale": np.float32, "key": np.uint64, "count": np.uint64, "temperature": np.float32,
    "top_p": np.float32, "top_k": np.int64, "top": np.int64, "width": np.int64, "room": np.int64, "lane": np.int64,
    "place": np.int64, "follows": np.int64,
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
    """`merge` puts the next tokens of its traces into a step, `accept` takes what was sampled, `enter` takes traces.

    Either all lanes are in the step under way or none.
    """

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
        mine["place"] = len(batch.wanted) + np.arange(len(mine["token"]))
        return _merged(batch, mine)[0] if self.entries else batch

    def follow(self, batch: StepBatch, source: np.ndarray) -> tuple[StepBatch, np.ndarray]:
        """The same for the step after the one under way, on the guess that no lane draws a token that steers.

        `source` (N,): the number of the wanted token of the step under way whose token is run, or -1. Lanes that come
        to a limit in that step are left out.
        """
        mine = self._columns
        if not self.entries:
            return batch, source
        goes = mine["room"] > 0
        later = {name: column[goes] for name, column in mine.items()}
        later["position"] = later["position"] + 1
        later["slot"] = later["slot"] + later["width"]
        later["count"] = later["count"] + np.uint64(1)
        mine["follows"] = np.where(goes, len(batch.wanted) + np.cumsum(goes) - 1, -1)
        batch, order = _merged(batch, later)
        return batch, np.concatenate((source, later["place"]))[order]

    def unlaunched(self) -> None:
        """The step after the one under way has not been launched for the lanes."""
        self._columns["follows"][:] = -1

    @property
    def under_way(self) -> bool:
        """Are the lanes in the step under way?"""
        return bool((self._columns["place"] >= 0).any())

    @property
    def goes_on(self) -> bool:
        """Are there lanes that do not come to a limit in the step under way?"""
        return bool((self._columns["room"] > 0).any())

    def accept(self, tokens: np.ndarray, logprobs: np.ndarray) -> tuple[Drawn, list[tuple[int, int]]]:
        """Take what was sampled for the lanes, of all that was.

        Returns what is not plain, whose traces are up to date before it and have left; and rows and slots from which
        on tokens of theirs have been launched in vain.
        """
        mine = self._columns
        if not self.entries:
            return [], []
        assert (mine["place"] >= 0).all(), "a step without the lanes"
        tokens, logprobs = tokens[mine["place"]], logprobs[mine["place"]]
        steers = self._steering[np.minimum(tokens, len(self._steering) - 1)] | (mine["room"] < 1)
        found: Drawn = []
        vain: list[tuple[int, int]] = []
        for entry in dict.fromkeys(self._owners[i] for i in np.flatnonzero(steers)):
            at = np.arange(*np.searchsorted(mine["row"], (entry.row, entry.row + 1)))  # rows ascend
            self._leave(entry)
            entry.state.slot += len(at)
            if mine["follows"][at[0]] >= 0:
                vain.append((entry.row, entry.state.slot))
            own = zip(entry.branches, tokens[at].tolist(), logprobs[at].tolist(), strict=True)
            found += [(entry.state, branch, token, logprob) for branch, token, logprob in own]
        if found:
            stay = np.array([entry.state in self.entries for entry in self._owners], bool)
            tokens, logprobs = tokens[stay], logprobs[stay]
            self._keep(stay)
        self._advance(tokens, logprobs)
        return found, vain

    def _advance(self, tokens: np.ndarray, logprobs: np.ndarray) -> None:
        """Every lane has drawn a plain token."""
        mine = self._columns
        self.tokens[self.now, mine["lane"]], self.logprobs[self.now, mine["lane"]] = tokens, logprobs
        self.now += 1
        mine["token"] = tokens
        mine["position"] += 1
        mine["slot"] += mine["width"]
        mine["count"] += np.uint64(1)
        mine["room"] -= 1
        mine["place"], mine["follows"] = mine["follows"], np.full_like(mine["follows"], -1)
        for entry in self.entries.values():
            entry.state.written += len(entry.branches)
            entry.state.slot += len(entry.branches)
        if self.now == len(self.tokens):
            for entry in self.entries.values():
                self._update(entry)
                entry.since = 0
            self.now = 0

    def take_back(self) -> list[tuple[int, int]]:
        """The step under way does not count for the lanes: the rows and slots from which on it is to be forgotten."""
        self._columns["place"][:] = -1
        return [(entry.row, entry.state.slot) for entry in self.entries.values()]

    def release(self, state: TraceState) -> None:
        """Bring a trace up to date between two steps, its next tokens pending, and let it go on by itself."""
        entry = self.entries.get(state)
        if entry is None:
            return
        self._leave(entry)
        for i, branch in enumerate(entry.branches):
            state.pending.tokens.append(branch.record.tokens[-1])
            state.pending.segments.append(branch.segment)
            state.pending.positions.append(branch.position - 1)
            state.pending.wanted.append((i, branch))
        self._keep(np.array([owner is not entry for owner in self._owners], bool))

    def release_all(self) -> None:
        for state in list(self.entries):
            self.release(state)

    def _leave(self, entry: _Entry) -> None:
        """Let a trace go on by itself; its columns are still there."""
        self._update(entry)
        del self.entries[entry.state]
        self._free += entry.lanes.tolist()

    def _update(self, entry: _Entry) -> None:
        """Hand a trace the tokens of the steps so far."""
        if self.now > entry.since:
            steps = slice(entry.since, self.now)
            tokens, logprobs = (x[steps, entry.lanes].T.tolist() for x in (self.tokens, self.logprobs))
            entry.state.append_plain(entry.branches, tokens, logprobs)

    def _keep(self, stay: np.ndarray) -> None:
        for name, column in self._columns.items():
            self._columns[name] = column[stay]
        self._owners = [owner for owner, stays in zip(self._owners, stay.tolist(), strict=True) if stays]

    # --- taking traces

    @staticmethod
    def room(state: Runnable) -> int:
        """For how many steps a trace would be taken; 0: it is not worth it."""
        room = state.plain_room()
        return room if room >= WORTH else 0

    def enter(self, running: Iterable[tuple[int, Runnable]], first: Mapping[int, int] | None = None) -> None:
        """Take those traces that will continue plainly for some steps, between two steps.

        `first`, by row: number of the first wanted token of each in the step under way, where their tokens are in it.
        """
        added: list[_Entry] = []
        rows: dict[str, list] = {name: [] for name in COLUMNS}
        for row, state in running:
            room = self.room(state)
            if not room:
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
            rows["top"] += [0] * n  # a trace whose events are told is not taken
            rows["width"] += [n] * n
            rows["room"] += [room] * n
            rows["lane"] += entry.lanes.tolist()
            rows["place"] += [-1] * n if first is None else range(first[row], first[row] + n)
            rows["follows"] += [-1] * n
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


def _merged(batch: StepBatch, lanes: Mapping[str, np.ndarray]) -> tuple[StepBatch, np.ndarray]:
    """The step with the lanes' tokens among its own, by row; and whose each token is, its own being counted first."""
    n, own = len(batch.token), len(lanes["token"])
    order = np.argsort(np.concatenate((batch.row, lanes["row"])), kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(n + own)
    columns = {name: np.concatenate((getattr(batch, name), lanes[name])) for name in FLAT + WANTED}
    columns |= {name: columns[name][order] for name in FLAT}
    return replace(batch, **columns, wanted=place[np.concatenate((batch.wanted, np.arange(n, n + own)))]), order
