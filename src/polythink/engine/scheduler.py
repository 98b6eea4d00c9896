"""Which traces run: requests wait in the order of their arrival for a row and for memory, and prompts are shared.

Memory is claimed for the tokens that a trace has, not for those that it may come to: more traces run that way. When
they outgrow the budget, the youngest is preempted: it gives up its row, waits again before all others, and is run again
from its recorded tokens. Live traces are always older than those that wait, the oldest is never preempted, and a
request that could outgrow the budget alone is refused: so every request ends.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque

from polythink.engine.inputs import Inputs
from polythink.engine.lockstep import Lockstep
from polythink.engine.scoring import Scoring
from polythink.engine.step import Backend, Runnable
from polythink.engine.trace_state import TraceState
from polythink.errors import UserError

MIN_PREFIX = 16  # tokens: a shorter prompt is read by each of its samples, at once


class Prefix:
    """A prompt of several requests but for its last token, which is run once, in a row of its own."""

    def __init__(self, prompt: tuple[int, ...], row: int) -> None:
        self.prompt, self.row, self.size = prompt, row, len(prompt) - 1
        self.users = 0  # live traces that are attached to it, or will be
        self.read = 0
        self.labels, self.scales, self.follows, self.opened, self.followable = [0], [1.0], [()], [0], {0}

    def take(self, most: int) -> Inputs:
        """The tokens of the next step."""
        first, self.read = self.read, min(self.read + most, self.size)
        n = self.read - first
        return Inputs(first, list(self.prompt[first : self.read]), [0] * n, list(range(first, self.read)))

    def plain_room(self) -> int:
        """A prompt has no branches."""
        return 0


class Scheduler:
    """The queue, the rows and the shared prompts of an engine. At most `max_num_seqs` traces are live at once."""

    def __init__(
        self, backend: Backend, max_num_seqs: int, memory: int | None = None, max_step_branches: int | None = None
    ) -> None:
        self.backend, self.max_num_seqs, self.memory = backend, max_num_seqs, memory
        self.max_step_branches = max_step_branches  # may be set between steps
        self._turn = 0  # the trace that is the first to get what is left of a step's branches
        self.queued: deque[TraceState] = deque()  # in the order of their ids
        self.live: dict[int, TraceState] = {}  # by row
        self.prefixes: dict[tuple[int, ...], Prefix] = {}
        self.scored: list[Scoring] = []  # prompts that are read for their log-probabilities
        self.lockstep = Lockstep()
        self.preempted = 0  # how often a trace has been
        self._waiting: Counter[tuple[int, ...]] = Counter()  # queued requests, by prompt
        self._unattached: dict[int, Prefix] = {}  # by row: traces whose prefix has not been read yet
        self._shared: dict[int, Prefix] = {}  # by row
        self._free: list[int] = []  # heap of rows that are free below those in use: the lowest are used first

    # --- requests

    def check(self, state: TraceState) -> None:
        """`UserError` for a request that could not be held even alone."""
        most, wanted = self.backend.most_sequences, state.most_sequences
        if most is not None and wanted > most:
            raise UserError(
                f"a response of this width and depth needs up to {wanted} sequences at a time, and the backend has "
                f"{most}; lower paths, max_paths or max_depth, or use another backend"
            )
        if self.memory is not None:
            most = state.most_slots
            needed = self.backend.bytes_for(most, 0, state.most_segments)
            usable = self.backend.usable(self.memory, most)
            if needed > usable:
                raise UserError(
                    f"a response of up to {most} tokens, its prompt among them, takes {needed} bytes of keys and "
                    f"values, {needed - usable} more than can be used of kv_cache_memory_bytes={self.memory}; raise "
                    "that, or lower max_trace_tokens"
                )

    def check_prompt(self, size: int) -> None:
        """`UserError` for a prompt of that many tokens whose keys and values do not fit, even alone."""
        needed = self.backend.bytes_for(size)
        if self.memory is not None and needed > self.backend.usable(self.memory, size):
            raise UserError(
                f"{size} tokens take {needed} bytes of keys and values, more than fit kv_cache_memory_bytes="
                f"{self.memory}; raise that, or give fewer tokens"
            )

    def add(self, state: TraceState) -> None:
        """Queue a request that has been checked."""
        self._waiting[state.request.prompt] += 1
        self.queued.append(state)

    def abort(self, id: int) -> TraceState | None:
        """Drop a queued or live request, which is returned as it is; None where there is none of this id."""
        found = None
        for found in [state for state in self.queued if state.id == id]:
            self.queued.remove(found)
            self._left_queue(found)
        for row in [row for row, state in self.live.items() if state.id == id]:
            found = self.live[row]
            self.release(row)
        self._sweep()
        return found

    def release(self, row: int) -> None:
        """Free the row of a live trace."""
        self.lockstep.release(self.live.pop(row))
        self._unattached.pop(row, None)
        prefix = self._shared.pop(row, None)
        if prefix is not None:
            prefix.users -= 1
        self._give(row)
        self._sweep()

    def drop_live(self) -> None:
        """Forget all live traces, and prompts that have been read."""
        self.live.clear()
        self._lose(self.scored)
        self.lockstep.clear()
        self.prefixes.clear()
        self._unattached.clear()
        self._shared.clear()
        self._free.clear()
        self.backend.clear()

    def score(self, scoring: Scoring) -> bool:
        """Give a row to a prompt that is to be scored; False where there is none, or no memory, now."""
        if len(self.live) + len(self.prefixes) + len(self.scored) >= 2 * self.max_num_seqs:
            return False
        most, needed = len(scoring.ids), self.backend.bytes_for(len(scoring.ids))
        while not self._free_sequences(1) or (self.memory is not None and self.claimed + needed > self._usable(most)):
            if not self._drop_idle():
                return False
        self.backend.reserve(2 * self.max_num_seqs, max([most, *self._most_slots]), self.memory)
        scoring.row = self._row()
        self.scored.append(scoring)
        return True

    def end_score(self, scoring: Scoring) -> None:
        """Free the row of a prompt that has been scored, or will not be."""
        if scoring in self.scored:
            self.scored.remove(scoring)
            self._give(scoring.row)
            self._sweep()

    def _lose(self, scored: list[Scoring]) -> None:
        """Take their rows from prompts that are being scored; these begin anew."""
        for scoring in scored:
            scoring.lose()
        self.scored = [scoring for scoring in self.scored if scoring.row is not None]

    def _left_queue(self, state: TraceState) -> None:
        prompt = state.request.prompt
        self._waiting[prompt] -= 1
        if not self._waiting[prompt]:
            del self._waiting[prompt]

    # --- one step

    def schedule(self) -> list[tuple[int, Runnable]]:
        """What is to be run in the next step, by row: live traces, and shared prompts that are being read."""
        self._make_room()
        self._admit()
        for row, prefix in list(self._unattached.items()):
            if prefix.read == prefix.size:
                self.backend.attach(row, prefix.row)
                del self._unattached[row]
        running: dict[int, Runnable] = {row: s for row, s in self.live.items() if row not in self._unattached}
        self._grant([self.live[row] for row in running])
        running |= {prefix.row: prefix for prefix in self.prefixes.values() if prefix.read < prefix.size}
        return sorted(running.items())

    def _grant(self, running: list[TraceState]) -> None:
        """Say how many branches each trace may run in the next step: at least one, so that none ever misses a step.

        What is left of `max_step_branches` goes to the further branches of wide traces, one each in turn. Paths are
        opportunistic work (TAPER, arXiv 2605.06914): those of a wide trace take turns before any other trace waits.
        """
        most = self.max_step_branches
        if most is None:
            for state in running:
                state.grant = None
            return
        left = most - len(running)
        wide = [state for state in running if state.width > 1]
        for state in running:
            state.grant = 1
        self._turn += 1
        first = self._turn % max(len(wide), 1)
        wide = wide[first:] + wide[:first]
        while left > 0 and wide:
            for state in wide[:left]:
                state.grant += 1
            left -= len(wide)
            wide = [state for state in wide if state.width > state.grant]

    def _make_room(self) -> None:
        """Preempt the youngest traces until what the others hold after the next step fits."""
        while self.memory is not None and self.claimed > self._usable(1):
            if self._drop_idle() or self._drop_scored():
                continue
            assert len(self.live) > 1, "the oldest trace does not fit"
            self.preempt()

    def preempt(self) -> None:
        """Take its row from the youngest live trace, which waits before all others."""
        row = max(self.live, key=lambda row: self.live[row].id)
        state = self.live[row]
        self.queued.appendleft(state)
        self._waiting[state.request.prompt] += 1
        self.preempted += 1
        self.release(row)
        state.rewind()

    def _admit(self) -> None:
        """Give rows to queued requests, in their order."""
        admitted = False
        while self.queued and len(self.live) < self.max_num_seqs:
            state = self.queued[0]
            prefix = self._prefix_for(state)
            new = 1 if prefix and state.request.prompt not in self.prefixes else 0
            if not self._free_sequences(state.most_sequences + new) or not self._fits(state, prefix):
                if self.live or not self._drop_idle(state.request.prompt if prefix else ()):
                    break
                continue
            self.queued.popleft()
            row = self._row()
            self.live[row] = state
            if prefix:
                self._share(row, state)
            self._left_queue(state)
            admitted = True
        self._sweep()
        if admitted:
            self.backend.reserve(2 * self.max_num_seqs, max(self._most_slots), self.memory)

    def _share(self, row: int, state: TraceState) -> None:
        prompt = state.request.prompt
        if prompt not in self.prefixes:
            self.prefixes[prompt] = Prefix(prompt, self._row())
        prefix = self.prefixes[prompt]
        prefix.users += 1
        self._shared[row] = self._unattached[row] = prefix
        state.attach(prefix.size)

    # --- rows and memory

    def _row(self) -> int:
        used = len(self.live) + len(self.prefixes) + len(self.scored)
        return heapq.heappop(self._free) if self._free else used

    def _give(self, row: int) -> None:
        self.backend.keep(row, ())
        heapq.heappush(self._free, row)

    def _prefix_for(self, state: TraceState) -> int:
        """How many tokens of the prompt are to be shared with other requests; 0: none."""
        prompt, size = state.request.prompt, len(state.request.prompt) - 1
        worth = size >= MIN_PREFIX and self._waiting[prompt] > 1 and len(self.prefixes) < self.max_num_seqs
        if prompt not in self.prefixes and not worth:
            return 0
        most = self.backend.most_sequences
        if most is not None and state.most_sequences + 1 > most:  # alone it leaves none for the prompt
            return 0
        if self.memory is not None:
            own = self.backend.bytes_for(state.most_slots - size, size, state.most_segments)
            alone = self.backend.bytes_for(size) + own
            if alone > self.backend.usable(self.memory, state.most_slots):
                return 0
        return size

    @property
    def claimed(self) -> int:
        """Bytes that the live traces and shared prompts hold after the next step, or when they have been read."""
        bytes_for = self.backend.bytes_for
        prefixes = sum(bytes_for(prefix.size) for prefix in self.prefixes.values())
        prefixes += sum(bytes_for(len(scoring.ids)) for scoring in self.scored)
        own = (bytes_for(state.slots, state.shared, len(state.records)) for state in self.live.values())
        return prefixes + sum(own)

    @property
    def _most_slots(self) -> list[int]:
        """Bounds on the slots of what has a row."""
        return [*(state.most_slots for state in self.live.values()), *(len(scoring.ids) for scoring in self.scored)]

    def _usable(self, more: int) -> int:
        """Bytes of the budget that can be used by what has a row, and a row of so many slots."""
        return self.backend.usable(self.memory, max([more, *self._most_slots]))

    def _fits(self, state: TraceState, prefix: int) -> bool:
        """Is there room for a request, and for as many tokens again as it has?

        One that would have to be preempted a few steps later is better left waiting.
        """
        if self.memory is None:
            return True
        own = min(2 * (state.slots - prefix), state.most_slots - prefix)
        needed = self.backend.bytes_for(own, prefix, min(2 * len(state.records), state.most_segments))
        if prefix and state.request.prompt not in self.prefixes:
            needed += self.backend.bytes_for(prefix)
        return self.claimed + needed <= self._usable(state.most_slots)

    def _free_sequences(self, wanted: int) -> bool:
        """Can the backend keep so many more segments apart, whatever the live traces come to?"""
        most = self.backend.most_sequences
        if most is None:
            return True
        read = len(self.prefixes) + len(self.scored)
        return sum(state.most_sequences for state in self.live.values()) + read + wanted <= most

    def _drop_idle(self, but: tuple[int, ...] = ()) -> bool:
        """Drop a prompt that is kept only for requests that wait; False: there is none."""
        idle = [prefix for prompt, prefix in self.prefixes.items() if not prefix.users and prompt != but]
        if idle:
            self._drop(idle[-1])
        return bool(idle)

    def _drop_scored(self) -> bool:
        """Take its row from a prompt that is being scored; False: there is none."""
        if not self.scored:
            return False
        row = self.scored[-1].row
        self._lose(self.scored[-1:])
        self._give(row)
        return True

    def _drop(self, prefix: Prefix) -> None:
        del self.prefixes[prefix.prompt]
        self._give(prefix.row)

    def _sweep(self) -> None:
        """Drop the prompts that no request needs any more, and the whole cache after the last request."""
        for prefix in [p for p in self.prefixes.values() if not p.users and not self._waiting[p.prompt]]:
            self._drop(prefix)
        if not self.live and not self.queued and not self.scored:
            self.drop_live()
