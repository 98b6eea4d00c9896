"""The seam above the engine: what evaluation, training and a server need from anything that samples rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from polythink.engine.params import OnEvent, Request, SamplingParams
from polythink.trace.dialect import Dialect
from polythink.trace.rollout import Rollout


class RolloutBackend(Protocol):
    """Samples rollouts. `Engine` does so in this process; a client of an inference server can take its place."""

    @property
    def dialect(self) -> Dialect:
        """The dialect whose tags the model writes."""

    @property
    def context(self) -> int:
        """Positions of the model's context."""

    def encode_prompt(self, text: str, template: str | None = None) -> list[int]:
        """Token ids of a prompt, in the chat template where the model's settings say so.

        `template` is the text with `{problem}` that the prompt was made from (None: that of the model's settings). It
        may write control tokens, the problem may not.
        """

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids: tags included, end and padding tokens left out."""

    def generate(
        self,
        requests: Sequence[Request],
        params: SamplingParams | Sequence[SamplingParams],
        seed: int = 0,
        on_event: OnEvent | None = None,
        label: str = "",
        done_only: bool = False,
    ) -> list[Rollout]:
        """One finished rollout per request, in their order. `params` apply to all requests, or are one per request.

        Random streams are named by (seed, request.problem, request.sample, segment). `label` names a progress bar.
        With `done_only` `on_event` needs to be told of finished rollouts alone.
        """
