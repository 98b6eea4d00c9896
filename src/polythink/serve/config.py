"""What `polythink serve` may be told about the server itself. Imports without torch."""

from __future__ import annotations

import ipaddress
from typing import Literal

from pydantic import Field, field_validator, model_validator

from polythink.run.config import Config

MOST_TOKENS = 65536  # that a request may ask for, where `max_tokens` is None and the model's settings allow no more
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh")


class ServeConfig(Config):
    """Where the server listens, who may use it, and what one request may take."""

    host: str = "127.0.0.1"
    """Address to listen on; one that other machines reach needs an API key."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on; 0: any free one."""
    api_keys: tuple[str, ...] = Field((), repr=False)
    """Keys, one of which a client must send (`Authorization: Bearer KEY`); none: anyone on this machine may ask."""
    max_num_seqs: int = Field(64, ge=1)
    """Traces that are generated at once; others wait."""
    kv_cache_memory_bytes: int | None = Field(None, ge=1)
    """Most bytes of keys and values at a time; traces wait for memory. None: no bound."""
    max_queue: int = Field(256, ge=0)
    """Traces that may wait; a request beyond them is answered with 429."""
    max_requests_per_key: int | None = Field(None, ge=1)
    """Requests of one API key that may run or wait at once; None: no limit."""
    max_step_branches: int | None = Field(None, ge=1)
    """Branches that one step may run: paths of wide traces take turns within it. None: the server's choice."""
    max_body_bytes: int = Field(4 * 2**20, ge=1024)
    """Largest body of a request."""
    max_tokens: int | None = Field(None, ge=1)
    """Most tokens of one response, all its paths together; None: a request may ask for 65536, or for what the model's
    own settings allow where that is more."""
    max_choices: int = Field(128, ge=1)
    """Most responses to one request: its prompts times `n`."""
    timeout_s: float | None = Field(600.0, gt=0)
    """Seconds that a request may take before it is aborted; None: no limit."""
    read_timeout_s: float = Field(30.0, gt=0)
    """Seconds in which a client must have sent a request whole, or must take some of what is sent to it."""
    keep_alive_s: float = Field(15.0, gt=0)
    """Seconds without an event after which a comment is written into a stream, so that proxies keep it open."""
    drain_s: float = Field(30.0, ge=0)
    """Seconds that running requests get to finish after SIGTERM or Ctrl-C; a second signal ends them at once."""
    cors_origins: tuple[str, ...] = ()
    """Origins (`https://example.org`) whose pages may call the server from a browser; `*`: all. None by default."""
    weights_folder: str | None = None
    """Folder from below which `POST /v1/weights` may load other weights of the same model; None: it may not."""
    efforts: dict[Literal[EFFORTS], int] = Field(
        {"none": 0, "minimal": 1, "low": 2, "medium": 4, "high": 8, "xhigh": 16}, validate_default=True
    )
    """Paths per block for each `reasoning_effort`; 0: no block."""

    @field_validator("api_keys")
    @classmethod
    def _keys_fit_a_header(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        for number, key in enumerate(keys, start=1):
            if not key or not key.isascii() or not key.isprintable() or " " in key:
                raise ValueError(f"API key {number} must be printable ASCII without spaces, at least one character")
        return keys

    @field_validator("cors_origins")
    @classmethod
    def _origins_are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if origin != "*" and (not origin.startswith(("http://", "https://")) or origin.count("/") != 2):
                raise ValueError(
                    f"cors_origins: {origin!r} is no origin; write scheme, host and port, such as https://example.org"
                )
        return origins

    @model_validator(mode="after")
    def _others_need_a_key(self) -> ServeConfig:
        if not self.api_keys and not self.loopback:
            raise ValueError(
                f"host={self.host} can be reached from other machines, so an API key is needed: set POLYTHINK_API_KEY "
                "or --api-key-file, or listen on 127.0.0.1"
            )
        return self

    @property
    def loopback(self) -> bool:
        """Is the server reached from this machine alone?"""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Does this host name or address mean this machine, for this machine alone?"""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
