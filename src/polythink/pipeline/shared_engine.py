"""An engine whose samples all processes draw: the first evaluates and asks, the others hold the same model and help.

The samples are those of one process, since random streams are named by problem and sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from polythink.engine.engine import Engine
from polythink.engine.params import Event, OnEvent, Request, SamplingParams, params_for_each
from polythink.models.lm import LanguageModel
from polythink.pipeline.plan import StagePlan
from polythink.trace.rollout import Rollout
from polythink.train import distributed

WAVES = 4  # times `max_num_seqs` samples of each process are drawn before they are handed over


@dataclass(frozen=True)
class Train:
    """What the other processes are to do next: a stage that trains, together with the first."""

    plan: StagePlan
    folder: Path
    previous: Path | None


@dataclass(frozen=True)
class Open:
    """To load the model of a stage, for the draws that follow."""

    plan: StagePlan
    previous: Path | None


@dataclass(frozen=True)
class Draw:
    """To draw their part of these samples."""

    requests: list[Request]
    params: list[SamplingParams]
    seed: int


class SharedEngine(Engine):
    """As `Engine`; with several processes `generate` in the first draws with all of them. Events of tokens are those of
    its own part alone."""

    helped = 0  # tokens that the others have run through the model

    @property
    def forwarded(self) -> int:
        return super().forwarded + self.helped

    def generate(
        self,
        requests: Sequence[Request],
        params: SamplingParams | Sequence[SamplingParams],
        seed: int = 0,
        on_event: OnEvent | None = None,
        label: str = "",
        done_only: bool = False,
    ) -> list[Rollout]:
        world = distributed.world_size()
        if world == 1:
            return super().generate(requests, params, seed, on_event, label, done_only)
        each = params_for_each(requests, params)
        rollouts: list[Rollout] = []
        size = WAVES * self.max_num_seqs * world
        for begin in range(0, len(requests), size):
            order = Draw(list(requests[begin : begin + size]), each[begin : begin + size], seed)
            distributed.on_main(lambda order=order: order)
            rollouts += self.part(order, begin, on_event, label, done_only)
        return rollouts

    def part(
        self,
        order: Draw,
        begin: int = 0,
        on_event: OnEvent | None = None,
        label: str = "",
        done_only: bool = False,
    ) -> list[Rollout]:
        """All samples of an order, of which this process draws a part. `begin`: number of the first, for events."""
        own = distributed.own_run(range(len(order.requests)))
        before = Engine.forwarded.fget(self)

        def told(event: Event) -> None:
            on_event(replace(event, request=begin + own[event.request]))

        def drawn() -> tuple[list[Rollout], int]:
            found = super(SharedEngine, self).generate(
                [order.requests[i] for i in own], [order.params[i] for i in own], order.seed,
                told if on_event else None, label, done_only,
            )  # fmt: skip
            return found, Engine.forwarded.fget(self) - before

        parts = distributed.gathered(drawn)
        self.helped += sum(tokens for _, tokens in parts) - parts[distributed.rank()][1]
        rollouts = [rollout for found, _ in parts for rollout in found]
        for i in set(range(len(rollouts))) - set(own) if on_event else ():
            on_event(Event("done", begin + i, 0, -1, 0, rollout=rollouts[i]))
        return rollouts


def open_engine(lm: LanguageModel, plan: StagePlan, previous: Path | None) -> SharedEngine:
    """The engine of a stage that measures. In the first process: the others are told to load the model too."""
    if distributed.is_main():
        distributed.on_main(lambda: Open(plan, previous and previous.absolute()))
    stage = plan.stage
    return distributed.shared(
        lambda: SharedEngine(lm, stage.max_num_seqs, kv_cache_memory_bytes=stage.kv_cache_memory_bytes)
    )
