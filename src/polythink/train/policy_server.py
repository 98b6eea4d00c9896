"""Rollouts of the policy that is trained, from an inference server (`RolloutsConfig`).

The policy is saved as a model folder that the server sees, which takes it in the way that its documentation names. The
first process alone asks the server; all are given what it draws. What a step draws follows from its seed and the
weights: a step that was lost is drawn again, by our own server token for token.

With `draws_ahead`, the next step's rollouts are drawn while a step trains: one step off-policy. Their old
log-probabilities are those that the server recorded, so that the clipped ratio is against the weights that drew; with
`old_logprobs: recomputed` the ratio is against the policy before the step, and the importance weights
(`importance_sampling_mode`) hold the rest. Nothing is drawn ahead across a checkpoint, so that a resumed run draws what
the uninterrupted one does.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from polythink.engine.params import Request, SamplingParams
from polythink.engine.remote.rollouts import HttpRollouts
from polythink.errors import UserError
from polythink.models.batch import collate
from polythink.models.lm import LanguageModel, save
from polythink.models.logprobs import token_logprobs
from polythink.run.folder import folder_lock, os_errors, sweep
from polythink.run.retry import CallError
from polythink.trace.rollout import Rollout
from polythink.train import distributed
from polythink.train.adapters import merged
from polythink.train.config import GRPOConfig
from polythink.train.dropout import without_dropout
from polythink.train.optimiser import autocast
from polythink.train.own_engine import Asked

log = logging.getLogger(__name__)

AGAIN = "start it again, and then this run with --resume: the step is drawn anew"


class PolicyServer:
    """The server. In all processes but the first it knows nothing, and waits for what the first one is given."""

    def __init__(
        self, stack: ExitStack, lm: LanguageModel, config: GRPOConfig, params: SamplingParams, adapters: Any = None
    ) -> None:
        """`adapters`: peft's model around that of `lm`. `stack` closes the connection. `UserError` for what the server
        lacks, parameters that it cannot draw with, and a `weights_folder` that another run uses.
        """
        self.lm, self.config, self.keys, self.adapters = lm, config, config.rollouts, adapters
        self.folder = Path(self.keys.weights_folder).absolute()
        self.version: int | None = None  # updates of the policy that the server has
        self._ahead: tuple[Asked, Future[list[Rollout]]] | None = None
        self._backend = distributed.entered_on_main(stack, lambda: HttpRollouts(self.keys, lm))
        distributed.entered_on_main(stack, lambda: folder_lock(self.folder))
        self.context = distributed.on_main(lambda: self._backend.context)
        distributed.on_main(lambda: self._opened(params))

    def _opened(self, params: SamplingParams) -> None:
        self._backend.check(params)
        sweep(self.folder, deep=False)
        server = self._backend.served.server
        if not server.names_streams and self.config.importance_sampling_mode is None:
            log.warning(
                "%s draws the rollouts, in an arithmetic that is not that of training: mismatch_kl says at every step "
                "how far apart they are; to correct for it set old_logprobs: recomputed and an "
                "importance_sampling_mode", server.name,
            )  # fmt: skip

    def encode_prompt(self, text: str, template: str | None = None) -> list[int]:
        return self.lm.encode_prompt(text, template)

    def check(self, ids: Sequence[int], params: SamplingParams) -> None:
        """`UserError` for a prompt that is too long."""
        if len(ids) >= self.context:
            raise UserError(f"the prompt has {len(ids)} tokens and the server's context holds {self.context}")

    # ---- weights ----

    def update(self, step: int) -> None:
        """Hand the policy over before a step draws, where that is due: unless its rollouts were drawn ahead."""
        if self._ahead is None:
            self._hand_over(step)

    def _hand_over(self, step: int) -> None:
        """Give the server the weights after `step` updates, where it has others and is to have these."""
        due = self.version is None or not step % self.keys.reload_every or not step % self.config.checkpoint_every
        if due and self.version != step:
            distributed.on_main(lambda: self._write(step))
            self.version = step

    def _write(self, step: int) -> None:
        place, new = self.folder / f"policy-{step}", self.folder / f".policy-{step}.{uuid.uuid4().hex[:8]}.tmp"
        try:
            save(merged(self.lm, self.adapters), new)
            with os_errors(place):
                shutil.rmtree(place, ignore_errors=True)  # of a run that was killed
                os.replace(new, place)
        finally:
            shutil.rmtree(new, ignore_errors=True)
        self._backend.reload(place, str(step))
        self._check_taken()
        for other in self.folder.glob("policy-*"):
            if other != place:
                shutil.rmtree(other)

    def _check_taken(self) -> None:
        """`UserError` where the server does not draw with what it was given, whatever it says.

        vLLM 0.32 on a CPU keeps the old output matrix of a model whose embeddings are tied. Our own server names its
        weights, and the engine checks itself.
        """
        server = self._backend.served.server
        if server.names_streams:
            return
        prompt = tuple(self.encode_prompt("1 + 1") or self._backend.known)
        params = SamplingParams(mode="sequential", temperature=1.0, max_main_tokens=16, max_trace_tokens=16)
        found = self._backend.generate([Request(prompt, "handed over", sample) for sample in range(4)], params)
        apart = apart_from(self.lm, self.config, found)
        if not apart <= self.keys.max_gap:
            raise UserError(
                f"{server.name} says that it took the policy's weights, and its log-probabilities are {apart:.2g} nats "
                f"a token from the policy's (rollouts.max_gap: {self.keys.max_gap:g}): it serves another model, or "
                "takes a part of the weights only, as vLLM for CPUs does where embeddings are tied (docs/serve.md), or "
                "its arithmetic is coarse, for which max_gap can be set higher"
            )

    # ---- rollouts ----

    def draw(self, asked: Asked) -> list[Rollout]:
        """The rollouts, in the order of the requests: those drawn ahead, where they are what is asked."""
        ahead, self._ahead = self._ahead, None
        return distributed.on_main(lambda: self._drawn(asked, ahead))

    def _drawn(self, asked: Asked, ahead: tuple[Asked, Future[list[Rollout]]] | None) -> list[Rollout]:
        try:
            found = self._generate(asked) if ahead is None or ahead[0] != asked else ahead[1].result()
        except UserError as error:
            if isinstance(error.__cause__, CallError):
                raise UserError(f"{error}; {AGAIN}") from error
            raise
        if others := {rollout.weight_version for rollout in found} - {str(self.version)}:
            named = " and ".join(repr(other) for other in sorted(others))
            raise UserError(
                f"{self._backend.connection.where} drew with weights of the version {named}, and was given version "
                f"'{self.version}': it was started again, or has taken other weights; start this run again with "
                "--resume, which gives it the policy's"
            )
        return found

    def _generate(self, asked: Asked) -> list[Rollout]:
        return self._backend.generate(asked.requests, asked.params, asked.seed)

    def go_ahead(self, step: int, asked: Callable[[], Asked]) -> None:
        """Before step `step` trains: let the server draw what the next one asks."""
        following = step + 1
        if not self.keys.draws_ahead or following >= self.config.steps or not following % self.config.checkpoint_every:
            return
        self._hand_over(step)
        wanted: Future[list[Rollout]] = Future()
        self._ahead = (found := distributed.shared(asked)), wanted
        if distributed.is_main():  # a daemon: one that is left by an error keeps nobody waiting
            threading.Thread(target=lambda: fill(wanted, lambda: self._generate(found)), daemon=True).start()

    def describe(self, step: int) -> dict:
        """Of a step's row: the weights that drew it, and how many updates the policy was ahead of them."""
        return {"weight_version": self.version, "staleness": step - self.version}


@torch.no_grad()
def apart_from(lm: LanguageModel, config: GRPOConfig, rollouts: Sequence[Rollout]) -> float:
    """The mean of |recorded log-probability - the model's own| over the sampled tokens of rollouts at temperature 1."""
    batch = collate([rollout.layout() for rollout in rollouts]).to(lm.device)
    with without_dropout(lm.model), autocast(config, lm.device):
        own = token_logprobs(lm.model, batch, wanted=batch.sampled)
    recorded = [
        x for r in rollouts for s in r.segments for x, drawn in zip(s.logprobs, s.sampled, strict=True) if drawn
    ]
    return (own[batch.sampled].cpu() - torch.tensor(recorded)).abs().mean().item()


def fill(future: Future, work: Callable[[], Any]) -> None:
    """Give the future the result of the work, or its error."""
    try:
        future.set_result(work())
    except BaseException as error:  # raised again where the result is read
        future.set_exception(error)
