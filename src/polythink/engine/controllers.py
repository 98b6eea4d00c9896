"""What saves work while paths run: policies that stop paths, or give one path the tokens that another leaves.

A controller is asked every `probe_every` tokens of a block's paths, which have come equally far then, before the next
token is sampled. What it stops is closed by a forced tag with the reason as `finish_reason`, and what it gives comes
from paths that have ended, so a block never takes more tokens than without a controller. It follows Parallel-Probe
(arXiv 2602.03845), which asks every path for its answer by a forced text beside the path; here a path's current answer
is the last one that it wrote (`SamplingParams.path_answer`), which costs no tokens and is part of the trace.

    def shortest_lead(probe: Probe) -> Decision:   # controller: "my_module:shortest_lead"
        lead = max(probe.running, key=lambda i: len(probe.paths[i].tokens))
        return Decision(stop={i: "pruned" for i in probe.running if i != lead})
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from polythink.engine.policies import Policies
from polythink.errors import UserError
from polythink.rewards.functions import written

OFF = "none"
REASONS = ("agreed", "pruned")  # the finish_reasons of paths that a controller stops


@dataclass(frozen=True)
class ProbedPath:
    """A path as a controller sees it."""

    tokens: tuple[int, ...]  # so far, tags included
    answers: tuple[str, ...]  # its answer (`path_answer`) at each probe since it began, the last now; "": none yet
    left: int  # tokens that it may still sample; of a path that has ended, those that it left
    room: int  # tokens beyond these that the model's context has room for
    finish_reason: str  # "" while it runs


@dataclass(frozen=True)
class Probe:
    """What a controller knows of a block."""

    prompt: tuple[int, ...]  # token ids
    paths: tuple[ProbedPath, ...]  # of the block, in order, those that have ended too
    spare: int  # tokens that may be given: what ended paths have left, less what was given before
    patience: int  # `SamplingParams.probe_patience`
    decode: Callable[[tuple[int, ...]], str]  # token ids into text

    @property
    def running(self) -> list[int]:
        """The indices of the paths that run."""
        return [i for i, path in enumerate(self.paths) if not path.finish_reason]

    def consensus(self, back: int = 1) -> str:
        """The answer of more than half of the paths at the last probe but `back` - 1; "" without one.

        Paths that were pruned do not vote. A path without an answer counts as one that disagrees.
        """
        voters = [path for path in self.paths if path.finish_reason != "pruned"]
        return most_common([path.answers[-back] for path in voters], len(voters))

    @property
    def lately(self) -> range:
        """The last `patience` probes as arguments of `consensus`; empty where there were fewer."""
        enough = all(len(path.answers) >= self.patience for path in self.paths)
        return range(1, self.patience + 1) if enough else range(0)


@dataclass(frozen=True)
class Decision:
    """What is to happen to the paths that run; those that it does not name go on as they are."""

    stop: Mapping[int, str] = field(default_factory=dict)  # index of a path: why it is stopped, `agreed` or `pruned`
    give: Mapping[int, int] = field(default_factory=dict)  # index of a path: tokens that it may sample beyond its own


Controller = Callable[[Probe], Decision]


def most_common(answers: list[str], of: int) -> str:
    """The answer that more than half of `of` paths give; "" without one."""
    counts = Counter(filter(None, answers))
    answer, votes = max(counts.items(), key=lambda item: item[1], default=("", 0))
    return answer if 2 * votes > of else ""


def majority(probe: Probe) -> Decision:
    """Stop all once more than half of the paths have ended in one answer: the others cannot outvote it any more."""
    ended = [path.answers[-1] for path in probe.paths if path.finish_reason]
    return _stop_all(probe) if most_common(ended, len(probe.paths)) else Decision()


def agreement(probe: Probe) -> Decision:
    """Stop all once the current answer of most paths has been the same at `patience` probes in a row.

    The consensus stop of Parallel-Probe, which takes the most frequent answer, be it of a minority; the release waits
    for 18 probes and not before the tenth.
    """
    found = {probe.consensus(back) for back in probe.lately}
    return _stop_all(probe) if len(found) == 1 and "" not in found else Decision()


def prune(probe: Probe) -> Decision:
    """Stop each path whose current answer was not that of most paths at `patience` probes in a row.

    The deviation pruning of Parallel-Probe (patience 3 in the release). A path without an answer is left alone.
    """
    against = [
        i
        for i in probe.running
        if probe.lately and all(_differs(probe.paths[i].answers[-b], probe.consensus(b)) for b in probe.lately)
    ]
    return Decision(stop=dict.fromkeys(against, "pruned"))


def parallel_probe(probe: Probe) -> Decision:
    """`agreement`, or else `prune`."""
    agreed = agreement(probe)
    return agreed if agreed.stop else prune(probe)


def deepen(probe: Probe) -> Decision:
    """Share what ended paths have left equally among those that run."""
    running = probe.running
    return Decision(give={i: min(probe.spare // len(running), probe.paths[i].room) for i in running})


def prune_and_deepen(probe: Probe) -> Decision:
    """`prune`, and share what ended paths and those have left equally among the others."""
    stop = prune(probe).stop
    others = [i for i in probe.running if i not in stop]
    spare = probe.spare + sum(probe.paths[i].left for i in stop)
    return Decision(stop, {i: min(spare // len(others), probe.paths[i].room) for i in others})


CONTROLLERS = Policies(
    "controller",
    {f.__name__: f for f in (majority, agreement, prune, parallel_probe, deepen, prune_and_deepen)},
    OFF,
)
ControllerName = CONTROLLERS.type


def decided(controller: Controller, probe: Probe) -> Decision:
    """The controller's decision; `UserError` unless it stops and deepens paths that run, by no more than there is."""
    decision, running = controller(probe), set(probe.running)

    def refuse(what: str) -> UserError:
        return UserError(f"controller {written(controller)!r} {what}")

    if not isinstance(decision, Decision):
        raise refuse(f"returned {decision!r}; it must return a Decision(stop, give)")
    stop, give = decision.stop, decision.give
    if unknown := [i for i in (*stop, *give) if i not in running or (i in stop and i in give)]:
        raise refuse(f"stops or deepens path {unknown[0]!r}; each of the running {sorted(running)} once at most")
    if wrong := [reason for reason in stop.values() if reason not in REASONS]:
        raise refuse(f"stops a path as {wrong[0]!r}; a reason is one of {', '.join(REASONS)}")
    spare = probe.spare + sum(probe.paths[i].left for i in stop)
    bad = [n for i, n in give.items() if not isinstance(n, int) or not 0 <= n <= probe.paths[i].room]
    if bad or sum(give.values()) > spare:
        raise refuse(f"gives {list(give.values())} tokens; there are {spare} to give, and no path takes more than room")
    return decision


def _stop_all(probe: Probe) -> Decision:
    return Decision(stop=dict.fromkeys(probe.running, "agreed"))


def _differs(answer: str, consensus: str) -> bool:
    return bool(answer and consensus) and answer != consensus
