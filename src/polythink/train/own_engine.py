"""Rollouts of the policy that is trained, from the engine of each process. `policy_server.py` has the other source.

Both have the same methods, so that the loop does not ask which of them it has.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from polythink.engine.engine import Engine
from polythink.engine.params import Request, SamplingParams
from polythink.models.lm import LanguageModel
from polythink.trace.rollout import Rollout
from polythink.train import distributed
from polythink.train.config import GRPOConfig, sampled_inexactly
from polythink.train.optimiser import autocast

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Asked:
    """What rollouts are drawn of."""

    requests: Sequence[Request]
    params: Sequence[SamplingParams]  # of each request
    seed: int


class OwnEngine:
    """Each process draws a part of the rollouts from the whole model, with the weights of the moment."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.lm, self.context = engine, engine.lm, engine.context

    @classmethod
    def of(cls, lm: LanguageModel, config: GRPOConfig) -> OwnEngine:
        with autocast(config, lm.device):  # it draws in this arithmetic, so that is what it is checked in
            engine = Engine(lm, config.max_num_seqs, kv_cache_memory_bytes=config.kv_cache_memory_bytes)
        note = sampled_inexactly(engine.backend.logprob_error, config.importance_sampling_mode)
        if note and distributed.is_main():
            log.warning("%s", note)
        return cls(engine)

    def encode_prompt(self, text: str, template: str | None = None) -> list[int]:
        return self.lm.encode_prompt(text, template)

    def check(self, ids: Sequence[int], params: SamplingParams) -> None:
        """`UserError` for a prompt that cannot be asked."""
        self.engine.abort(self.engine.add(Request(ids, ""), params))

    def update(self, step: int) -> None:
        """It has the weights."""

    def draw(self, asked: Asked) -> list[Rollout]:
        """The rollouts, in the order of the requests, in all processes; they do not depend on how many there are."""
        requests, params = distributed.own_run(asked.requests), distributed.own_run(asked.params)
        return distributed.joined(lambda: self.engine.generate(requests, params, asked.seed))

    def describe(self, step: int) -> dict:
        """Nothing that the row of a step does not say already."""
        return {}

    def go_ahead(self, step: int, asked: Callable[[], Asked]) -> None:
        """Nothing is drawn ahead: the weights change while a step trains."""
