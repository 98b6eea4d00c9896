"""The slow twin's account of paths that are stopped or deepened while they run.

Paths do not see each other, so they are drawn first, each as far as it could ever come; then the block is told again
step by step, on what is there, and each path is cut where it was stopped in that account.
"""

from __future__ import annotations

from dataclasses import dataclass

from polythink.engine.controllers import CONTROLLERS, Probe, ProbedPath, decided
from polythink.engine.policies import answer_of
from polythink.engine.reference_page import Page
from polythink.trace.rollout import Segment


@dataclass
class Told:
    """A path that has been drawn without regard to the others, and what becomes of it.

    `ended`: after how many draws it ended by itself; None where it never did. `limit`: how many it may have. Of paths
    that had ended before the others began, only the segment is read.
    """

    segment: Segment
    head: int = 0  # forced tokens at its start
    ended: int | None = None
    limit: int = 0
    limit_reason: str = ""
    room: int = 0  # draws for which there are positions
    stop: int | None = 0  # after how many draws it was stopped, by whatever; None while it runs
    reason: str = ""
    answers: tuple[str, ...] = ()  # at each probe

    def so_far(self, step: int) -> tuple[int, ...]:
        """Its tokens after `step` draws."""
        if self.stop is None:
            return tuple(self.segment.tokens[: self.head + step])
        return tuple(self.segment.tokens)

    def seen(self, step: int) -> ProbedPath:
        """It as a controller sees it after `step` draws."""
        runs = self.stop is None
        left, room = self.limit - (step if runs else self.stop), self.room - self.limit if runs else 0
        return ProbedPath(self.so_far(step), self.answers, left, room, self.reason)

    def cut(self, step: int, reason: str, close: int) -> None:
        """Stop it after `step` draws, and close it unless its last token did."""
        self.stop, self.reason = step, reason
        if self.ended == step:
            return
        segment = self.segment
        for values, last in ((segment.tokens, close), (segment.sampled, False), (segment.logprobs, 0.0)):
            values[self.head + step :] = [last]
        segment.misplaced_tags = segment.sampled[self.head : -1].count(False)
        segment.finish_reason = reason


def replay(page: Page, earlier: list[Told], paths: list[Told]) -> None:
    """Cut the segments of `paths` where they were stopped. `earlier`: paths of the block that had ended before."""
    params, everyone = page.params, [*earlier, *paths]
    controller, step = CONTROLLERS.function(params.controller), 0
    needed = {"first": 1, "half": (len(everyone) + 1) // 2, "all": len(everyone)}[params.join_when]
    given = 0

    def running() -> list[Told]:
        return [path for path in paths if path.stop is None]

    def cut(path: Told, reason: str) -> None:
        path.cut(step, reason, page.close_of("path", path.segment.label))

    def joins() -> bool:
        return len(everyone) - len(running()) >= needed

    while not joins():
        step += 1
        for path in running():
            if path.ended == step or path.limit == step:
                cut(path, path.segment.finish_reason if path.ended == step else path.limit_reason)
        if joins() or controller is None or step % params.probe_every:
            continue
        for path in everyone:
            path.answers += (answer_of(params.path_answer, page.lm.decode(path.so_far(step))),)
        spare = sum(path.limit - path.stop for path in paths if path.stop is not None) - given
        seen = tuple(path.seen(step) for path in everyone)
        probe = Probe(page.request.prompt, seen, spare, params.probe_patience, page.lm.decode)
        decision = decided(controller, probe)
        for index, reason in decision.stop.items():
            cut(everyone[index], reason)
        for index, tokens in decision.give.items():
            everyone[index].limit += tokens
            given += tokens
    for path in running():
        cut(path, "joined")
