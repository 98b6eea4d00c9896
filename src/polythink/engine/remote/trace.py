"""One trace whose tokens come from a server: the engine's own state machine, fed from completions instead of logits.

A completion brings many tokens. The state takes them one by one, all its open branches in lock step, as in the engine:
so every rule (forks, forced tags, budgets, joins, what ends a path) is the engine's. Where the state writes something
else than what was drawn, or stops a branch, the rest of that completion is dropped and the branch asked for again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from polythink.engine.inputs import Branch, Inputs
from polythink.engine.sampling import stream_key
from polythink.engine.trace_state import TraceState

WHOLE = 1 << 60  # tokens: prompts are not read in chunks here


@dataclass(eq=False)
class Ask:
    """What is to be completed for one branch of a trace."""

    trace: RemoteTrace
    branch: Branch
    prompt: list[int]
    max_tokens: int
    stops: Sequence[int]
    temperature: float
    stream: tuple[int, ...]  # the name of the random stream that the engine would use
    drawn: int  # numbers of it that have been used

    @property
    def seed(self) -> int:
        """The same for the same branch at the same place; within the 31 bits that every server takes."""
        return stream_key(self.branch.key, "", 0, self.drawn) & 0x7FFFFFFF


@dataclass
class Drawn:
    """A completion: its tokens with the one at which it stopped, their log-probabilities, the weights' version."""

    tokens: list[int]
    logprobs: list[float]
    version: str = ""


@dataclass(eq=False)
class RemoteTrace:
    """`index`: that of its request. `chunk`: tokens of a completion whose rest may be in vain. `stops`: whether
    completions end at stop tokens."""

    index: int
    state: TraceState
    chunk: int
    stops: bool
    versions: list[str] = field(default_factory=list)
    _wanted: list[Branch] = field(default_factory=list)  # those that sample in this step
    _ahead: dict[int, deque[tuple[int, float]]] = field(default_factory=dict)  # by id of a branch: not taken yet
    _out: dict[int, Ask] = field(default_factory=dict)  # by id of a branch: asked for

    def __post_init__(self) -> None:
        tags, state = self.state.tags, self.state
        forks = state.params.rules.isolated and not state.request.plain
        # in a flat text tags are tokens like any other; elsewhere they are where the runtime may have to act
        self._stops = sorted(tags.steering if forks else tags.ends)

    def accept(self, ask: Ask, drawn: Drawn) -> None:
        """Take what a server has drawn for a branch."""
        del self._out[id(ask.branch)]
        self._ahead[id(ask.branch)] = deque(zip(drawn.tokens, drawn.logprobs, strict=True))
        if drawn.version not in (*self.versions, ""):
            self.versions.append(drawn.version)

    def advance(self) -> list[Ask]:
        """Let the state take what has come; what is to be asked now. Nothing while it waits, or when it is done."""
        state = self.state
        while not state.done:
            self._wanted = self._wanted or self._next({})
            missing = [branch for branch in self._wanted if not self._ahead.get(id(branch))]
            if missing:
                return [self._ask(branch) for branch in missing if id(branch) not in self._out]
            taken: dict[int, int] = {}
            for branch in self._wanted:
                token, logprob = self._ahead[id(branch)].popleft()
                taken[id(branch)] = token
                state.on_token(branch, token, logprob)
            state.join_if_ready()
            self._wanted = [] if state.done else self._next(taken)
        return []

    def _next(self, taken: dict[int, int]) -> list[Branch]:
        """The branches that sample next. What is ahead of one is kept where it goes on from the token just `taken`."""
        inputs = self.state.take(WHOLE)
        self.state.opened.clear()
        wanted = [branch for _, branch in inputs.wanted]
        going_on = [b for b in wanted if id(b) in taken and self._added(b, inputs) == [taken[id(b)]]]
        self._ahead = {id(b): self._ahead[id(b)] for b in going_on}
        return wanted

    def _chain(self, branch: Branch) -> list[int]:
        """The segments that a branch reads, from the prompt on: where joins read flat text, each follows one."""
        chain = [branch.segment]
        while follows := self.state.follows[chain[-1]]:
            (before,) = follows
            chain.append(before)
        return chain[::-1]

    def _added(self, branch: Branch, inputs: Inputs) -> list[int]:
        chain = set(self._chain(branch))
        return [token for token, segment in zip(inputs.tokens, inputs.segments, strict=True) if segment in chain]

    def _ask(self, branch: Branch) -> Ask:
        state = self.state
        prompt = list(state.request.prompt)
        for segment in self._chain(branch)[1:]:
            prompt += state.records[segment].tokens
        most = int(state.reach(branch))
        in_vain = not self.stops or (branch.record.kind == "path" and state.params.join_when != "all")
        ask = Ask(
            self, branch, prompt, min(most, self.chunk) if in_vain else most, self._stops if self.stops else (),
            branch.temperature, state.name_of(branch.key), branch.drawn,
        )  # fmt: skip
        self._out[id(branch)] = ask
        return ask
