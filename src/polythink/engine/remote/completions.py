"""Completions of token ids over HTTP: what is sent, and how the answers of different servers are read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from polythink.engine.params import SamplingParams
from polythink.engine.remote.config import RemoteConfig
from polythink.engine.remote.servers import Server
from polythink.engine.remote.trace import Ask, Drawn
from polythink.errors import UserError
from polythink.run.http import Connection
from polythink.run.retry import CallError
from polythink.run.server_words import error_of, one_line

COMPLETIONS = "/completions"


class Answer(NamedTuple):
    """The first choice of an answer. None: the server does not say."""

    tokens: list[int] | None
    logprobs: list[float] | None
    top: list[float] | None  # log-probabilities of the likeliest tokens in place of the first one, the largest first
    finish: str | None
    version: str


class Completions:
    """The endpoint of a server of a known kind."""

    def __init__(self, connection: Connection, server: Server, model: str, logprobs: bool) -> None:
        self.connection, self.server, self.model, self.logprobs = connection, server, model, logprobs

    def ask(
        self, prompt: Sequence[int], max_tokens: int, temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0,
        top: int = 1, **more: Any,
    ) -> Answer:  # fmt: skip
        """One completion of a prompt."""
        server = self.server
        body = {
            "model": self.model, "prompt": list(prompt), "max_tokens": max_tokens, "temperature": temperature,
            "top_p": top_p, "top_k": top_k or server.no_top_k, **server.fields, **more,
        }  # fmt: skip
        if self.logprobs:
            body["logprobs"] = top
        if server.token_ids:
            body["return_token_ids"] = True
        return read(self.connection.json(body))

    def draw(self, ask: Ask, params: SamplingParams) -> Drawn:
        """What the server draws for a branch. `CallError` where nothing that can be used comes."""
        more: dict[str, Any] = {"stop_token_ids": list(ask.stops)} if ask.stops else {}
        if self.server.names_streams:
            state, request = ask.trace.state, ask.trace.state.request
            segment = ask.stream[0] if len(ask.stream) == 1 else list(ask.stream)
            more |= {"seed": state.seed, "segment": segment, "drawn": ask.drawn}
            more |= {"problem": request.problem, "sample": request.sample}
        else:
            more["seed"] = ask.seed
        answer = self.ask(ask.prompt, ask.max_tokens, ask.temperature, params.top_p, params.top_k, **more)
        tokens = answer.tokens
        if not tokens:
            raise CallError("malformed", "no token came")
        logprobs = answer.logprobs if self.logprobs else [math.nan] * len(tokens)
        if logprobs is None or len(logprobs) != len(tokens):
            raise CallError("malformed", f"{len(tokens)} tokens came with {len(logprobs or ())} log-probabilities")
        tags = ask.trace.state.tags
        if answer.finish == "stop" and tokens[-1] not in tags.ends and tokens[-1] not in ask.stops:
            raise UserError(
                f"{self.connection.where} ended a text after token {tokens[-1]}, which is no end token of the model "
                "folder given here: the server leaves its end token out, or serves another model"
            )
        return Drawn(tokens, logprobs, answer.version)


def read(body: Any) -> Answer:
    """The first choice of a completions answer, in the forms of vLLM, SGLang, llama.cpp and our own server."""
    if error := error_of(body):
        raise CallError("malformed", one_line(str(error)))
    try:
        choice = body["choices"][0]
        told = choice.get("logprobs") or {}
        each = told.get("content")
        if each is not None:  # llama.cpp
            tokens, logprobs = [one["id"] for one in each], [one["logprob"] for one in each]
            top = [other["logprob"] for other in each[0].get("top_logprobs") or ()] if each else []
        else:
            logprobs, top = told.get("token_logprobs"), _likeliest(told)
            tokens = choice.get("token_ids")
        version = body.get("weight_version") or (body.get("metadata") or {}).get("weight_version")
        finish = choice.get("finish_reason")
    except (LookupError, TypeError, AttributeError):
        raise CallError("malformed", one_line(f"no choice of a completion: {str(body)[:200]}")) from None
    top = sorted(map(float, top), reverse=True) if top else None
    return Answer(_ids(tokens), logprobs, top, finish, "" if version is None else str(version))


def _likeliest(told: Mapping[str, Any]) -> list[float]:
    first = (told.get("top_logprobs") or [None])[0] or {}
    return list(first.values())


def _ids(tokens: Any) -> list[int] | None:
    whole = isinstance(tokens, list) and all(isinstance(t, int) and not isinstance(t, bool) for t in tokens)
    return tokens if whole else None


def connect(config: RemoteConfig) -> Connection:
    """The server of a configuration; nothing is asked yet."""
    return Connection(
        config.url, COMPLETIONS, "completions endpoint", config.model or "", key_env=config.key_env,
        key_header=config.key_header, silence=config.timeout, time_limit=config.time_limit,
        connections=config.concurrency,
    )  # fmt: skip
