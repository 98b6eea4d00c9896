"""`/v1/responses`: OpenAI's Responses API as Open Responses specifies it; the thinking is output items.

One `reasoning` item for main text before a join, one for each path (paths that run at once grow at once, each under its
own `output_index`), one for each join, whose text is its summary, and the `message` after them. Nothing is stored: a
conversation is sent whole as `input`. `max_output_tokens` bounds the whole trace, all paths and forced tokens included.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BeforeValidator, Field

from polythink.engine.params import Request as TraceRequest
from polythink.serve.body import Body, parsed
from polythink.serve.chat import NO_TOOLS, SAMPLING, usage_of
from polythink.serve.completions import MOST_TOP, CompletionRequest
from polythink.serve.effort import params_with
from polythink.serve.errors import ApiError, as_api_error
from polythink.serve.fields import MOST, Steering, check_model, key_of, new_id, now, seed_of
from polythink.serve.finished import shown
from polythink.serve.generation import Generation, Wanted
from polythink.serve.growing import Spelling
from polythink.serve.items import Items, items_of
from polythink.serve.messages import Message, Part, Turn, prompt_of, turn_of
from polythink.serve.output import Output
from polythink.serve.prompts import Spelling as TokenSpelling
from polythink.serve.sse import collect, events
from polythink.serve.told import finish_reason, token_ids
from polythink.trace.rollout import Rollout

if TYPE_CHECKING:
    from polythink.serve.service import Service

ITEMS = ("message", "reasoning")  # types of input items
LOGPROBS = "message.output_text.logprobs"
NOTHING_STORED = "nothing is stored here; send the whole conversation as input"


class ReasoningConfig(Body):
    """How wide to think. A join's text is always told, as its item's summary."""

    ignored: ClassVar = frozenset({"summary", "generate_summary"})
    effort: str | None = None


class TextConfig(Body):
    """The form of the answer: text."""

    ignored: ClassVar = frozenset({"verbosity"})
    refused: ClassVar = {"format": (({"type": "text"},), "answers are text; ask for the form in the prompt")}


class InputItem(Message):
    """A message, or earlier reasoning, which belongs to the assistant's message after it."""

    ignored: ClassVar = Message.ignored | {"encrypted_content", "polythink"}
    type: str = "message"
    role: str = ""
    summary: list[Part] = Field([], validate_default=True)


def _check_types(given: Any) -> Any:
    """Before an item's fields, which are those of its type."""
    for number, item in enumerate(given if isinstance(given, list) else ()):
        kind = item.get("type") if isinstance(item, dict) else None
        if isinstance(kind, str) and kind not in ITEMS:
            at = f"input.{number}.type"
            raise ApiError(400, f"{at} is {kind[:40]!r}; use {' or '.join(ITEMS)}", at)
    return given


class ResponsesRequest(Steering):
    """OpenAI's fields, and how a trace is drawn (`Steering`)."""

    ignored: ClassVar = frozenset(
        {"user", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
         "parallel_tool_calls", "max_tool_calls", "stream_options", "truncation"}
    )  # fmt: skip
    refused: ClassVar = {
        **{name: CompletionRequest.refused[name] for name in SAMPLING},
        "tools": (([],), NO_TOOLS),
        "tool_choice": (("none", "auto"), NO_TOOLS),
        "previous_response_id": ((), NOTHING_STORED),
        "conversation": ((), NOTHING_STORED),
        "background": ((False,), NOTHING_STORED),
        "prompt": ((), "there are no stored prompts; send the text as input"),
        "context_management": (([],), "the input is taken as it is; shorten it"),
    }
    model: str | None = None
    """The name that /v1/models says."""
    input: Annotated[str | list[InputItem], BeforeValidator(_check_types)]
    """A message of the user's, or the conversation."""
    instructions: str | None = None
    """A system message before the conversation."""
    max_output_tokens: int | None = Field(None, ge=1, le=MOST)
    """Most tokens of the trace, all its paths and forced tokens included."""
    reasoning: ReasoningConfig = ReasoningConfig()
    """`effort`: none, minimal, low, medium, high, xhigh, as paths per block."""
    text: TextConfig = TextConfig()
    """Only `{"format": {"type": "text"}}`."""
    include: list[Literal[LOGPROBS, "reasoning.encrypted_content"]] = []  # noqa: RUF012 (pydantic copies it)
    """`message.output_text.logprobs`: log-probabilities of the answer's tokens."""
    top_logprobs: int | None = Field(None, ge=0, le=MOST_TOP)
    """Alternatives of each token."""
    metadata: dict[str, str] = Field({}, max_length=16)
    """Said again in the response."""
    stream: bool = False
    """Server-sent events."""


def router(service: Service) -> APIRouter:
    routes, spelling, tokens = APIRouter(), Spelling.of(service.lm), TokenSpelling(service.lm)

    @routes.post("/v1/responses")
    async def responses(
        request: Request, body: Annotated[ResponsesRequest, Depends(parsed(ResponsesRequest))]
    ) -> Response:
        job = Job(body, service, spelling, tokens)
        generation = job.submit(key_of(request))
        if body.stream:
            return events(job.stream(generation), service.config.keep_alive_s, service.config.read_timeout_s)
        for update in await collect(request, generation):
            job.rollout = update.event.rollout
            if job.logprobs:
                job.items.add(update.event, update.text)
        return JSONResponse(job.whole())

    return routes


def turns_of(body: ResponsesRequest) -> list[Turn]:
    """The conversation of a request."""
    turns: list[Turn] = []
    if body.instructions:
        turns.append({"role": "system", "content": body.instructions})
    if isinstance(body.input, str):
        return [*turns, {"role": "user", "content": body.input}]
    thought: list[str] = []
    for number, item in enumerate(body.input):
        if item.type == "reasoning":
            parts = (*([] if isinstance(item.content, str) else item.content or []), *item.summary)
            thought += [part.text for part in parts]
            continue
        turn = turn_of(item, number, "input")
        if turn["role"] == "assistant" and thought:
            turn["reasoning_content"] = "\n\n".join(filter(None, thought))
        thought = []  # of a response that was cut while it thought, too: it is not the next answer's
        turns.append(turn)
    return turns


class Job:
    """One request at work."""

    def __init__(self, body: ResponsesRequest, service: Service, spelling: Spelling, tokens: TokenSpelling) -> None:
        check_model(body.model, service)
        self.body, self.service, self.spelling = body, service, spelling
        self.prompt = prompt_of(turns_of(body), service.lm, "input")
        self.params = params_with(body.reasoning.effort, body, service, body.max_output_tokens, "reasoning.effort")
        self.seed = seed_of(body)
        self.id, self.created = new_id("resp"), now()
        self.logprobs = LOGPROBS in body.include
        self.items = Items(spelling, self.params)
        self.output = Output(tokens, self.logprobs, body.return_events)
        self.rollout: Rollout | None = None

    def submit(self, key: str) -> Generation:
        top = (self.body.top_logprobs or 0) if self.logprobs else 0
        request = TraceRequest(self.prompt)
        wanted = Wanted(request, self.params, self.seed, top_logprobs=top, stream=self.body.stream or self.logprobs)
        return self.service.submit([wanted], key, self.service.config.timeout_s)

    def whole(self) -> dict[str, Any]:
        """The response that is not streamed, its texts written from the finished rollout."""
        items = items_of(shown(self.rollout, self.spelling))
        if self.logprobs and items and items[-1].kind == "message":
            items[-1].events = self.items.items[-1].events
        status = self._status()
        if status == "completed" and not (items and items[-1].kind == "message"):
            items.append(self.output.empty(len(items)))
        return self.response(status, [self.output.item(item, status) for item in items])

    async def stream(self, generation: Generation) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """The events in order, numbered."""
        number = 0

        def event(kind: str, **facts: Any) -> tuple[str, dict[str, Any]]:
            nonlocal number
            number += 1
            return kind, {"type": kind, "sequence_number": number - 1, **facts}

        try:
            for kind in ("response.created", "response.in_progress"):
                yield event(kind, response=self.response("in_progress", []))
            async for update in generation:
                self.rollout = update.event.rollout
                changes = self.items.add(update.event, update.text)
                status = self._status() if self.rollout is not None else "in_progress"
                if status == "completed" and not any(item.kind == "message" for item in self.items.items):
                    changes += self.items.open() + self.items.finish(None)
                for change in changes:
                    for kind, facts in self.output.events(change, status):
                        yield event(kind, **facts)
            output = [self.output.item(item, self._status()) for item in self.items.items]
            yield event(f"response.{self._status()}", response=self.response(self._status(), output))
        except Exception as error:
            found = as_api_error(error)
            output = [self.output.item(item, "incomplete") for item in self.items.items]
            failed = self.response("failed", output, {"code": "server_error", "message": found.message})
            yield event("response.failed", response=failed)
        finally:
            generation.cancel()

    def _status(self) -> str:
        return "completed" if finish_reason(self.rollout) == "stop" else "incomplete"

    def response(self, status: str, output: list[dict[str, Any]], error: dict[str, str] | None = None) -> dict:
        """The response object."""
        body, params = self.body, self.params
        over = self.rollout is not None
        ids: dict[str, list[int]] = {}
        if over and body.return_token_ids:
            ids = {"token_ids": token_ids(self.rollout), "prompt_token_ids": list(self.prompt)}
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "completed_at": now() if status == "completed" else None,
            "status": status,
            "error": error,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "model": self.service.name,
            "output": output,
            "previous_response_id": None,
            "reasoning": {"effort": body.reasoning.effort, "summary": None},
            "temperature": params.temperature,
            "top_p": params.top_p,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "top_logprobs": body.top_logprobs or 0,
            "text": {"format": {"type": "text"}},
            "tools": [],
            "tool_choice": "auto",
            "parallel_tool_calls": False,
            "max_tool_calls": None,
            "truncation": "disabled",
            "store": False,
            "background": False,
            "service_tier": "default",
            "metadata": body.metadata,
            "safety_identifier": None,
            "prompt_cache_key": None,
            "user": None,
            "usage": self._usage() if over else None,
            "seed": self.seed,
            **ids,
        }

    def _usage(self) -> dict[str, Any]:
        told = usage_of(len(self.prompt), [self.rollout], self.service)
        return {
            "input_tokens": told["prompt_tokens"],
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": told["completion_tokens"],
            "output_tokens_details": told["completion_tokens_details"],
            "total_tokens": told["total_tokens"],
        }
