"""The keys of rollouts that a server draws; what they do is in `policy_server.py`. Imports without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from polythink.engine.remote.config import RemoteConfig
from polythink.run.config import Place


class RolloutsConfig(RemoteConfig):
    """A server that draws the rollouts of a reinforcement learning stage, with the policy's weights."""

    kind: Literal["http"] = "http"
    """An OpenAI-compatible completions server: polythink serve, vLLM or SGLang."""
    weights_folder: Place
    """Folder where the policy is written for the server, which must see it under the same path."""
    reload_every: int = Field(1, ge=1)
    """Steps after which the server takes the policy's weights; it also does after each checkpoint."""
    max_staleness: int = Field(0, ge=0)
    """Most steps that the policy may be ahead of the weights that drew; 1: a step draws while the last one trains."""
    max_gap: float = Field(0.05, gt=0)
    """Nats a token that the server's log-probabilities may be from the policy's after it has taken the weights."""

    @property
    def draws_ahead(self) -> bool:
        """Whether the next step's rollouts are drawn while this step trains."""
        return self.max_staleness >= self.reload_every

    def refuse(self, old_logprobs: str, correction: str | None) -> str | None:
        """Why what is drawn cannot be trained on with these old log-probabilities and this `importance_sampling_mode`:
        nothing would correct for the age of the weights that drew.
        """
        if not self.max_staleness or old_logprobs == "engine" or correction:
            return None
        return (
            f"rollouts.max_staleness: {self.max_staleness} trains on what older weights drew, and old_logprobs: "
            f"{old_logprobs} leaves that out of the ratio; set an importance_sampling_mode, or old_logprobs: engine"
        )

    @model_validator(mode="after")
    def _can_be_trained_on(self) -> RolloutsConfig:
        if self.logprobs != "exact":
            raise ValueError("logprobs: none leaves out what the ratio is made of; training needs logprobs: exact")
        least = self.reload_every - 1
        if not least <= self.max_staleness <= least + 1:
            raise ValueError(
                f"reload_every: {self.reload_every} makes rollouts up to {least} steps old, and one more where they "
                f"are drawn ahead; set max_staleness to {least} or {least + 1}, not {self.max_staleness}"
            )
        return self
