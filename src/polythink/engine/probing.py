"""When the controller of a trace is asked, what it is shown, and what it may give away."""

from __future__ import annotations

import math
from collections.abc import Callable

from polythink.engine.controllers import CONTROLLERS, Decision, Probe, ProbedPath, decided
from polythink.engine.params import SamplingParams
from polythink.engine.policies import answer_of
from polythink.engine.tag_ids import Decode
from polythink.engine.texts import Block, Text


class Probing:
    """The probes of one trace, whose blocks come one after another."""

    def __init__(self, params: SamplingParams, prompt: tuple[int, ...], decode: Decode) -> None:
        self.controller = CONTROLLERS.function(params.controller)
        self.params, self.prompt, self.decode = params, prompt, decode
        self.block: Block | None = None

    def begin(self, block: Block, new: int, reach: int) -> None:
        """The last `new` paths of the block have been opened; each has room for `reach` tokens between its tags."""
        self.block, self.reach, self.first = block, reach, len(block.paths) - new
        self.probes = self.given = 0
        self.answers: list[tuple[str, ...]] = [()] * len(block.paths)

    def end(self) -> None:
        """The block's paths have been joined."""
        self.block = None

    def room(self, text: Text) -> float:
        """How many tokens the text may draw until the controller is to be asked after the next."""
        if self.block is None or text.block is not self.block:
            return math.inf
        return (self.probes + 1) * self.params.probe_every - 1 - text.drawn

    def decide(self, shown: Callable[[Text], list[int]]) -> Decision | None:
        """What the controller decides, if it is to be asked now; what it gives is counted as given.

        Call after every token of a step has been accepted. `shown(path)`: its tokens so far.
        """
        if self.block is None:
            return None
        paths = self.block.paths
        running = [path for path in paths if not path.record.finish_reason]
        if not running or running[0].drawn < (self.probes + 1) * self.params.probe_every:
            return None
        self.probes += 1
        tokens = [tuple(shown(path)) for path in paths]
        for i, own in enumerate(tokens):
            self.answers[i] += (answer_of(self.params.path_answer, self.decode(own)),)
        seen = [
            ProbedPath(own, answers, path.limit * (i >= self.first), self._room(path), path.record.finish_reason)
            for i, (path, own, answers) in enumerate(zip(paths, tokens, self.answers, strict=True))
        ]
        spare = sum(path.left for path in seen if path.finish_reason) - self.given
        probe = Probe(self.prompt, tuple(seen), spare, self.params.probe_patience, self.decode)
        decision = decided(self.controller, probe)
        self.given += sum(decision.give.values())
        return decision

    def _room(self, path: Text) -> int:
        ended = bool(path.record.finish_reason)
        return 0 if ended else self.reach - path.spent - path.drawn - path.limit
