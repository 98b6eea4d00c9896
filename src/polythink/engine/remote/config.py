"""Where rollouts are drawn over HTTP, and how the server is asked. Imports without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_serializer

from polythink.engine.params import SamplingParams
from polythink.errors import UserError
from polythink.run.address import without_password
from polythink.run.config import Config
from polythink.run.retry import RetryPolicy


class RemoteConfig(Config):
    """A server that draws rollouts. The key is never part of a configuration: `key_env` names its variable."""

    url: str = Field(repr=False)
    """Address of an OpenAI-compatible completions server, such as http://localhost:8000/v1."""
    model: str | None = None
    """Name of the model on that server; its only one if left out."""
    key_env: str | None = None
    """Environment variable that holds the API key; `Basic ...` and `Bearer ...` are sent as given. None: no key."""
    key_header: str | None = Field(None, pattern=r"^[A-Za-z0-9_-]+$")
    """Header that carries the key as it is, such as api-key (Azure); none: Authorization, as a bearer token."""
    concurrency: int = Field(64, ge=1)
    """Requests that the server works on at a time; every path of a block is one."""
    timeout: float = Field(600.0, gt=0)
    """Seconds without a byte from the server after which a request has failed."""
    time_limit: float = Field(3600.0, gt=0)
    """Seconds after which a request has failed whose response is not whole, however steadily its bytes come."""
    retry: RetryPolicy = RetryPolicy()
    """How often a failed request is repeated: after 429, 5xx, a time-out, or a lost connection."""
    logprobs: Literal["exact", "none"] = "exact"
    """`exact`: refuse a server whose log-probabilities a trainer cannot use; `none`: ask for none (evaluation)."""
    chunk: int = Field(64, ge=1)
    """Tokens per request where the rest may be in vain: paths that others end, servers that ignore stop_token_ids."""

    @field_serializer("url")
    def _public_url(self, url: str) -> str:
        return without_password(url)


def check_drawable(params: SamplingParams) -> None:
    """`UserError` for parameters with which no completions server can draw."""
    rules = params.rules
    if rules.isolated and not rules.rereads:
        raise UserError(
            f"mode={params.mode} joins the paths' own keys and values, which a completions server does not give away; "
            "use mode=reread or mode=sequential, or the engine in this process"
        )
    if params.stride:
        raise UserError(
            f"path_position_stride={params.path_position_stride} sets positions that a completions server does not "
            "take; use 0"
        )
