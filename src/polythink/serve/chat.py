"""`/v1/chat/completions`: a conversation, and the model's answer with its thinking apart.

Each of `n` choices is a trace of its own. A client that knows of one reasoning and one answer gets the trace in that
form (`linear.py`), the reasoning under both of its usual names; one that asks for `return_events` gets everything that
happens in the object `polythink` of each delta. `max_tokens` bounds the whole trace, all paths and forced tokens
included; what the model's settings allow a path, a summary or a stretch of main text stands beside it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BeforeValidator, Field, model_validator

from polythink.engine.params import Event
from polythink.engine.params import Request as TraceRequest
from polythink.errors import UserError
from polythink.serve.body import parsed
from polythink.serve.choices import LEAST
from polythink.serve.completions import MOST_TOP, CompletionRequest, StreamOptions, stop_texts
from polythink.serve.effort import params_with
from polythink.serve.fields import MOST, Steering, check_model, key_of, new_id, now, seed_of
from polythink.serve.finished import shown
from polythink.serve.generation import Generation, Update, Wanted
from polythink.serve.growing import Spelling
from polythink.serve.linear import Delta, Linear
from polythink.serve.messages import Message, prompt_of, turn_of
from polythink.serve.prompts import Spelling as TokenSpelling
from polythink.serve.sse import collect, events
from polythink.serve.told import finish_reason, stop_reason, token_ids, told_event, usage
from polythink.trace.rollout import TRUNCATIONS, Rollout, Segment

if TYPE_CHECKING:
    from polythink.serve.service import Service

SAMPLING = (
    "frequency_penalty", "presence_penalty", "repetition_penalty", "logit_bias", "min_p", "min_tokens", "ignore_eos",
    "skip_special_tokens", "include_stop_str_in_output", "use_beam_search", "best_of",
)  # fmt: skip
NO_TOOLS = "this server calls no tools; leave it out"
TEMPLATE = "the chat template is used as the model brings it; leave it out"


class ChatRequest(Steering):
    """OpenAI's fields, and how a trace is drawn (`Steering`)."""

    ignored: ClassVar = frozenset(
        {"user", "metadata", "store", "service_tier", "priority", "request_id", "safety_identifier", "prompt_cache_key",
         "prompt_cache_retention", "verbosity", "parallel_tool_calls", "include_reasoning"}
    )  # fmt: skip
    refused: ClassVar = {
        **{name: CompletionRequest.refused[name] for name in SAMPLING},
        "tools": (([],), NO_TOOLS),
        "functions": (([],), NO_TOOLS),
        "tool_choice": (("none", "auto"), NO_TOOLS),
        "function_call": (("none", "auto"), NO_TOOLS),
        "response_format": (({"type": "text"},), "answers are text; ask for the form in the prompt"),
        "modalities": ((["text"],), "this model writes text alone; leave it out"),
        "audio": ((), "this model writes text alone; leave it out"),
        "prediction": ((), "nothing is predicted; leave it out"),
        "web_search_options": ((), "nothing is searched; leave it out"),
        "chat_template": ((), TEMPLATE),
        "chat_template_kwargs": (({},), TEMPLATE),
        "add_generation_prompt": ((True,), TEMPLATE),
        "continue_final_message": ((False,), "the last message is the user's; leave it out"),
        "echo": ((False,), "use /v1/completions"),
    }
    model: str | None = None
    """The name that /v1/models says."""
    messages: list[Message]
    """The conversation, the last message the user's."""
    n: int = Field(1, ge=1, le=1024)
    """Choices: independent traces, samples 0 to n - 1."""
    max_tokens: int | None = Field(None, ge=1, le=MOST)
    """Most tokens of a trace, all its paths and forced tokens included."""
    max_completion_tokens: int | None = Field(None, ge=1, le=MOST)
    """The same; OpenAI's newer name."""
    stop: Annotated[list[str], BeforeValidator(stop_texts)] = []  # noqa: RUF012 (pydantic copies it)
    """The answer (not the thinking) ends before any of these strings; tags are not part of it."""
    stop_token_ids: list[int] = Field([], max_length=1024)
    """Tokens that end the answer."""
    logprobs: bool = False
    """Log-probabilities of the answer's tokens; those of the thinking are in `polythink`, with `return_events`."""
    top_logprobs: int | None = Field(None, ge=0, le=MOST_TOP)
    """Alternatives of each token."""
    reasoning_effort: str | None = None
    """How wide to think: none, minimal, low, medium, high, xhigh, as paths per block; `paths` wins over it."""
    stream: bool = False
    """Server-sent events."""
    stream_options: StreamOptions = StreamOptions()
    """`include_usage`: one more chunk at the end with the usage."""

    @model_validator(mode="after")
    def _fits(self) -> ChatRequest:
        one, other = self.max_tokens, self.max_completion_tokens
        if one is not None and other is not None and one != other:
            raise ValueError(f"max_tokens={one} and max_completion_tokens={other} mean the same; give one of them")
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs are alternatives in logprobs; set logprobs: true with it")
        if self.stream_options.include_usage and not self.stream:
            raise ValueError("stream_options is for streams; set stream: true with it")
        return self


def router(service: Service) -> APIRouter:
    routes, spelling, tokens = APIRouter(), Spelling.of(service.lm), TokenSpelling(service.lm)

    @routes.post("/v1/chat/completions")
    async def chat(request: Request, body: Annotated[ChatRequest, Depends(parsed(ChatRequest))]) -> Response:
        job = Job(body, service, spelling, tokens)
        generation = job.submit(key_of(request))
        if body.stream:
            return events(job.stream(generation), service.config.keep_alive_s, service.config.read_timeout_s)
        for update in await collect(request, generation):
            job.choices[update.index].add(update)
        return JSONResponse(job.whole())

    return routes


class Job:
    """One request at work."""

    def __init__(self, body: ChatRequest, service: Service, spelling: Spelling, tokens: TokenSpelling) -> None:
        check_model(body.model, service)
        if body.n > service.config.max_choices:
            raise UserError(f"n={body.n} is more than the {service.config.max_choices} that this server allows")
        self.body, self.service = body, service
        turns = [turn_of(message, number) for number, message in enumerate(body.messages)]
        self.prompt = prompt_of(turns, service.lm)
        most = body.max_completion_tokens if body.max_tokens is None else body.max_tokens
        self.params = params_with(body.reasoning_effort, body, service, most)
        self.seed = seed_of(body)
        self.head = {"id": new_id("chatcmpl"), "created": now(), "model": service.name}
        self.choices = [Choice(i, body, Linear(spelling, self.params), spelling, tokens) for i in range(body.n)]

    def submit(self, key: str) -> Generation:
        body = self.body
        usual = (self.params, self.seed, tuple(body.stop), tuple(body.stop_token_ids), body.top_logprobs or 0)
        follow = body.stream or body.logprobs
        requests = [TraceRequest(self.prompt, "", i) for i in range(body.n)]
        wanted = [Wanted(request, *usual, stream=follow, stop_between_tags=True) for request in requests]
        return self.service.submit(wanted, key, self.service.config.timeout_s)

    def whole(self) -> dict[str, Any]:
        """The response that is not streamed."""
        found = {**self.head, "object": "chat.completion", "seed": self.seed}
        found |= {"choices": [choice.whole() for choice in self.choices], "usage": self._usage()}
        return found | ({"prompt_token_ids": list(self.prompt)} if self.body.return_token_ids else {})

    async def stream(self, generation: Generation) -> AsyncIterator[dict[str, Any]]:
        """The chunks, whose deltas concatenate to the whole response."""
        head = {**self.head, "object": "chat.completion.chunk"}
        usual = {"usage": None} if self.body.stream_options.include_usage else {}
        first = {"prompt_token_ids": list(self.prompt)} if self.body.return_token_ids else {}
        try:
            for choice in self.choices:
                opening = choice.chunk({"role": "assistant", "content": ""})
                yield {**head, "seed": self.seed, "choices": [opening], **usual, **first}
            async for update in generation:
                choice = self.choices[update.index]
                for told in choice.stream(update):
                    yield {**head, "choices": [told], **usual}
            if usual:
                yield {**head, "choices": [], "usage": self._usage()}
        finally:
            generation.cancel()

    def _usage(self) -> dict[str, Any]:
        rollouts = [choice.rollout for choice in self.choices if choice.rollout is not None]
        return usage_of(len(self.prompt), rollouts, self.service)


def usage_of(prompt: int, rollouts: Iterable[Rollout], service: Service) -> dict[str, Any]:
    """`told.usage`, and how many paths were closed by a budget or because they were not needed any more."""
    rollouts = list(rollouts)
    found = usage([prompt], rollouts, service.lm.dialect.answers_in_summary)
    cut = sum(s.kind == "path" and s.finish_reason in TRUNCATIONS for r in rollouts for s in r.segments)
    found["completion_tokens_details"]["cut_paths"] = cut
    return found


class Choice:
    """One trace of a chat response."""

    def __init__(
        self, index: int, body: ChatRequest, linear: Linear, spelling: Spelling, tokens: TokenSpelling
    ) -> None:
        self.index, self.body, self.linear, self.spelling, self.tokens = index, body, linear, spelling, tokens
        self.rollout: Rollout | None = None
        self._deltas: list[Delta] = []  # of a response that is not streamed, for its log-probabilities

    def add(self, update: Update) -> list[Delta]:
        self.rollout = update.event.rollout
        if not (self.body.stream or self.body.logprobs):
            return []
        deltas = self.linear.add(update.event, update.text)
        if not self.body.stream:
            self._deltas += deltas
        return deltas

    # --- streamed

    def stream(self, update: Update) -> Iterator[dict[str, Any]]:
        """The choices of the chunks that an update makes."""
        deltas = [self._delta(delta) for delta in self.add(update)]
        if self.body.return_events:
            first, logprobs = deltas[0] if deltas else ({}, None)
            deltas[:1] = [({**first, "polythink": self._event(update)}, logprobs)]
        for delta, logprobs in deltas:
            yield self.chunk(delta, logprobs)
        if self.rollout is not None:
            ids = {"token_ids": token_ids(self.rollout)} if self.body.return_token_ids else {}
            yield {**self.chunk({}), **self._end(), **ids}

    def chunk(self, delta: dict[str, Any], logprobs: dict[str, Any] | None = None) -> dict[str, Any]:
        return {"index": self.index, "delta": delta, "logprobs": logprobs, "finish_reason": None}

    def _delta(self, delta: Delta) -> tuple[dict[str, Any], dict[str, Any] | None]:
        if delta.kind == "reasoning":
            return {"reasoning": delta.text, "reasoning_content": delta.text} if delta.text else {}, None
        return {"content": delta.text}, self._logprobs(delta.events)

    def _event(self, update: Update) -> dict[str, Any]:
        found = told_event(update)
        if self.body.logprobs and update.event.kind == "token" and not update.event.forced:
            own = self._logprob(update.event)
            found |= {"logprob": own["logprob"], "top_logprobs": own["top_logprobs"]}
        return found

    # --- whole

    def whole(self) -> dict[str, Any]:
        """The choice of a response that is not streamed, written from the finished rollout."""
        found = shown(self.rollout, self.spelling)
        reasoning = found.reasoning or None
        message = {"role": "assistant", "content": found.content, "refusal": None}
        message |= {"reasoning": reasoning, "reasoning_content": reasoning}
        told = [event for delta in self._deltas if delta.kind == "content" for event in delta.events]
        choice = {"index": self.index, "message": message, "logprobs": self._logprobs(told), **self._end()}
        if self.body.return_token_ids:
            choice["token_ids"] = token_ids(self.rollout)
        if self.body.return_events:
            choice["polythink"] = self._segments()
        return choice

    def _end(self) -> dict[str, Any]:
        stop = stop_reason(self.rollout, self.body.stop, self.body.stop_token_ids, self.tokens.decode)
        return {"finish_reason": finish_reason(self.rollout), "stop_reason": stop}

    def _segments(self) -> dict[str, Any]:
        rollout = self.rollout
        facts = {
            "finish_reason": rollout.finish_reason,
            "tokens": rollout.tokens,
            "critical_path": rollout.critical_path,
            "text": rollout.text,
        }
        return {"segments": [self._segment(segment) for segment in rollout.segments], **facts}

    def _segment(self, segment: Segment) -> dict[str, Any]:
        names = ("kind", "block", "path", "label", "text", "finish_reason")
        found = {name: getattr(segment, name) for name in names} | {"tokens": len(segment.tokens)}
        if self.body.return_token_ids:
            found |= {"token_ids": segment.tokens, "sampled": segment.sampled}
        if self.body.logprobs:
            found["logprobs"] = [max(logprob, LEAST) for logprob in segment.logprobs]
        return found

    # --- log-probabilities

    def _logprobs(self, told: Iterable[Event]) -> dict[str, Any] | None:
        """OpenAI's object; None unless it is asked for."""
        return {"content": list(map(self._logprob, told)), "refusal": None} if self.body.logprobs else None

    def _logprob(self, event: Event) -> dict[str, Any]:
        top = [self._token(id, logprob) for id, logprob in event.top]
        return {**self._token(event.token, event.logprob), "top_logprobs": top}

    def _token(self, id: int, logprob: float) -> dict[str, Any]:
        return {"token": self.tokens.of(id), "logprob": max(logprob, LEAST), "bytes": self.tokens.bytes_of(id)}
