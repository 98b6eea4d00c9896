"""How wide a request makes the model think: `reasoning_effort` as paths per block."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polythink.errors import did_you_mean
from polythink.serve.errors import ApiError
from polythink.serve.fields import Steering, params_of

if TYPE_CHECKING:
    from polythink.engine.params import SamplingParams
    from polythink.serve.service import Service


def efforts_of(service: Service) -> dict[str, int]:
    """Paths per block by effort: the server's, and over them those of the model's own settings."""
    return {**service.config.efforts, **service.lm.settings.efforts}


def params_with(
    effort: str | None, body: Steering, service: Service, max_tokens: int | None, field: str = "reasoning_effort"
) -> SamplingParams:
    """The request's parameters. `paths` wins over the effort; an effort of no paths draws no block at all.

    A dialect with numbered paths has no more of them than numbers.
    """
    if effort is None:
        return params_of(body, service, max_tokens)
    efforts, dialect = efforts_of(service), service.lm.dialect
    if effort not in efforts:
        hint = did_you_mean(effort[:40], efforts)
        raise ApiError(400, f"{field} is {effort[:40]!r}{hint}", field)
    if body.paths is not None:
        return params_of(body, service, max_tokens)
    width = min(efforts[effort], dialect.inventory or efforts[effort])
    if width == 0:
        return params_of(body.model_copy(update={"thinking_budget": 0}), service, max_tokens)
    return params_of(body.model_copy(update={"paths": width}), service, max_tokens)
