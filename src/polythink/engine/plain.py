"""One text that a language model continues: tags are tokens like any other, nothing forks and nothing is forced.

It is what a server without blocks does with a prompt, so whoever draws the parts of a `reread` trace one by one can do
so here: with `Continuation` each part is drawn with the random numbers that it would have in the whole.
"""

from __future__ import annotations

from polythink.engine.inputs import Branch, Room
from polythink.engine.trace_state import TraceState
from polythink.errors import UserError


class PlainState(TraceState):
    """One segment of main text, bounded by `max_main_tokens`, `max_trace_tokens` and the context."""

    def _check_room(self) -> None:
        super()._check_room()
        if self.request.path_prefixes:
            raise UserError("path_prefixes are forced on paths, and a plain continuation has none; leave them out")

    def _start(self) -> None:
        size, plain = len(self.request.prompt), self.request.plain
        self._bound_by_context()
        key = self.seed
        for number in (plain.segment,) if isinstance(plain.segment, int) else plain.segment:
            key = self._key(key, number)
        segment = self._open("main", (0,), -1, 0)
        record = self.records[segment]
        branch = Branch(segment, record, size, key, self.params.temperature, drawn=plain.drawn)
        record.temperature = branch.temperature or 1.0
        self._limit(branch, self.params.max_main_tokens, Room(self.budget, self.bound))
        self._want(branch)

    def on_token(self, branch: Branch, token: int, logprob: float) -> None:
        branch.drawn += 1
        branch.limit -= 1
        ends = token in self.tags.ends
        self._write(branch, token, logprob, want=not ends and branch.limit > 0)
        if ends or branch.limit < 1:
            self._end(branch, "eos" if ends else branch.limit_reason)

    def _plain_room(self, branch: Branch) -> int:
        return branch.limit - 1
