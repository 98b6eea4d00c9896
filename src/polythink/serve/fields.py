"""The fields of a request that say how a trace is drawn; all three APIs take them at the top level of the body."""

from __future__ import annotations

import secrets
import time
import uuid
from typing import TYPE_CHECKING, Literal

from fastapi import Request
from pydantic import Field

from polythink.engine.params import SamplingParams, check_fork_at
from polythink.errors import did_you_mean
from polythink.run.config import Seed, parse_config
from polythink.serve.body import Body
from polythink.serve.config import MOST_TOKENS
from polythink.serve.errors import ApiError
from polythink.trace.finish import JOIN_WHEN
from polythink.trace.modes import MODES

if TYPE_CHECKING:
    from polythink.serve.service import Service

MOST = 2**31 - 1  # of any number of tokens
MOST_NAMES = ("max_tokens", "max_completion_tokens", "max_output_tokens")  # what the APIs call `max_trace_tokens`


class Steering(Body):
    """How a trace is drawn. What is left out is as the model's own settings say."""

    paths: int | None = Field(None, ge=1, le=1024)
    """Paths per block; where the model declares its paths, the most of them. Nothing in a mode of one flat text."""
    max_path_tokens: int | None = Field(None, ge=1, le=MOST)
    """Tokens sampled per path."""
    max_blocks: int | None = Field(None, ge=0, le=MOST)
    """Blocks in the trace; 0: none."""
    fork_at: int | None = Field(None, ge=0, le=MOST)
    """Fork after N tokens of main text, wherever the model would; refused in a mode of one flat text."""
    join_when: Literal[JOIN_WHEN] | None = None
    """Join after the first path has finished, after half of them, or after all; nothing in a mode of one flat text."""
    mode: Literal[tuple(MODES)] | None = None
    """How paths are drawn and what the join reads."""
    seed: Seed | None = None
    """The same seed and request give the same response; left out, a new one is drawn."""
    temperature: float | None = Field(None, ge=0, le=100)
    """Sampling temperature, of paths too; 0 is greedy, but several paths are still sampled: see `path_temperature`."""
    path_temperature: float | None = Field(None, ge=0, le=100)
    """Temperature of paths; left out, that of `temperature`, or at 0 the model's own for paths, 1.0 if it has none."""
    top_p: float | None = Field(None, gt=0, le=1)
    """Sample from the smallest set of tokens with this probability mass."""
    top_k: int | None = Field(None, ge=-1, le=MOST)
    """Sample from the K most probable tokens; 0 and -1: no limit."""
    thinking_budget: int | None = Field(None, ge=0, le=MOST)
    """Most tokens that each path of a block may take before it is closed; 0: no block is opened."""
    return_events: bool = False
    """Add the object `polythink` to each delta: block, path, label and what happened."""
    return_token_ids: bool = False
    """Add `token_ids` to each choice, or to a response of /v1/responses, and `prompt_token_ids`."""

    @property
    def steers(self) -> bool:
        """Does the request ask for blocks of its own?"""
        return any(getattr(self, name) is not None for name in _BLOCKS)


_TAKEN_OF_BLOCKS = ("paths", "max_path_tokens", "max_blocks", "fork_at", "join_when", "mode", "path_temperature")
_BLOCKS = (*_TAKEN_OF_BLOCKS, "thinking_budget")
_TAKEN = (*_TAKEN_OF_BLOCKS, "temperature", "top_p")


def params_of(steering: Steering, service: Service, max_tokens: int | None) -> SamplingParams:
    """The request's fields over the decoding parameters of the model's own settings.

    `max_tokens` bounds the whole trace, forced tokens and all paths included. `UserError` for what does not go
    together, `ApiError` for more than the server allows.
    """
    settings = service.lm.settings
    data = {**settings.decoding, "mode": settings.mode}
    if steering.temperature:  # of all sampled tokens; at 0 paths are sampled as the model says, not hotter
        data.pop("path_temperature", None)
    data |= {name: value for name in _TAKEN if (value := getattr(steering, name)) is not None}
    if steering.top_k is not None:
        data["top_k"] = max(steering.top_k, 0)
    if max_tokens is not None:
        data["max_trace_tokens"] = _check_most(steering, max_tokens, service)
    if steering.thinking_budget == 0:
        data |= {"max_blocks": 0, "fork_at": None}
    params = parse_config(SamplingParams, data, "request")
    if steering.fork_at is not None:
        check_fork_at(params)
    most = min(params.max_trace_tokens, most_tokens(service))
    params = params.model_copy(update={"max_trace_tokens": most})
    if steering.paths is not None and params.rules.isolated and service.lm.dialect.declares_paths:
        params = params.model_copy(update={"max_paths": steering.paths})
    if not (params.max_blocks and service.lm.opens_blocks):  # all is main text, and the runtime never forks
        never = most if service.lm.dialect.runtime_forks else None
        params = params.model_copy(update={"max_main_tokens": most, "fork_at": never})
    if steering.thinking_budget:
        most = min(params.max_path_tokens, steering.thinking_budget)
        params = params.model_copy(update={"max_path_tokens": most})
    return params


def seed_of(steering: Steering) -> int:
    """The request's seed, or a new one that every reader of JSON takes for an integer."""
    return secrets.randbelow(2**53) if steering.seed is None else steering.seed


def most_tokens(service: Service) -> int:
    """The most tokens of a trace that this server allows: its own setting, or else no less than the model's own."""
    given, own = service.config.max_tokens, service.lm.settings.decoding.get("max_trace_tokens", 0)
    return max(MOST_TOKENS, own) if given is None else given


def _check_most(steering: Steering, max_tokens: int, service: Service) -> int:
    if max_tokens > (most := most_tokens(service)):
        name = next((name for name in MOST_NAMES if getattr(steering, name, None) == max_tokens), MOST_NAMES[0])
        raise ApiError(400, f"{name}={max_tokens} is more than the {most} that this server allows", name)
    return max_tokens


def check_model(model: str | None, service: Service) -> None:
    """404 for another model than the one that is served; left out, it is that one."""
    if model is not None and model != service.name:
        hint = did_you_mean(model[:200], [service.name])
        raise ApiError(404, f"no model {model[:200]!r}{hint}", "model", "model_not_found")


def key_of(request: Request) -> str:
    """The name under which a request is counted against the limits of its API key; "" where none is needed."""
    return getattr(request.state, "key", "")


def new_id(prefix: str) -> str:
    """An id of a response, such as `cmpl-..`."""
    return f"{prefix}-{uuid.uuid4().hex}"


def now() -> int:
    """Seconds since 1970, as `created` says them."""
    return int(time.time())
