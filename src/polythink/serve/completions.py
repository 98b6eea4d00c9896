"""`/v1/completions`: a prompt as it stands, and how the model goes on.

By default the response is one text without blocks (tags are tokens like any other): what a server of a plain language
model gives. A request that names `paths`, `mode` or another field of blocks gets a whole trace, its paths one after
the other. A text prompt is tokenised as the tokenizer's own call does: what spells a control token is one, and BOS
comes first where the model has it (`add_special_tokens`). Token ids, log-probabilities and reasons are those of vLLM:
the token that ended the response (the model's end, or one of `stop_token_ids`) is among `token_ids` and in `logprobs`,
but not in the text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BeforeValidator, Field, model_validator

from polythink.engine.params import Continuation, SamplingParams
from polythink.engine.params import Request as TraceRequest
from polythink.errors import UserError
from polythink.run.plain import short
from polythink.serve.body import Body, parsed
from polythink.serve.choices import Choice
from polythink.serve.fields import (
    MOST,
    Steering,
    check_model,
    key_of,
    most_tokens,
    new_id,
    now,
    params_of,
    seed_of,
)
from polythink.serve.generation import Generation, Wanted
from polythink.serve.prompts import Prompt, Spelling, read_prompts
from polythink.serve.sse import collect, events, unless_gone
from polythink.serve.told import Piece, usage
from polythink.trace.modes import SEQUENTIAL

if TYPE_CHECKING:
    from polythink.serve.service import Service

DEFAULT_MAX_TOKENS = 16  # OpenAI's
Number = Annotated[int, Field(ge=1, le=MOST)]
MOST_TOP = 20  # alternatives of a token
STOPS = 16  # stop strings


def _prompt(given: Any) -> Any:
    """The four forms in one sentence, where pydantic would have one for each."""
    kinds = {type(item) for item in given} if isinstance(given, list) else {type(given)}
    inner = {type(id) for item in given for id in item} if kinds == {list} else set()
    if not isinstance(given, str | list) or (isinstance(given, list) and kinds not in ({int}, {str}, {list}, set())):
        raise ValueError(f"it must be a text, token ids, or a list of either, got {short(given)}")
    if inner - {int}:
        raise ValueError("it must be a text, token ids, or a list of either; token ids are whole numbers")
    return given


def stop_texts(given: Any) -> Any:
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts) or len(texts) > STOPS:
        raise ValueError(
            f"it must be a text or a list of at most {STOPS} texts, none of them empty, got {short(given)}"
        )
    return texts


class StreamOptions(Body):
    """What a stream tells besides."""

    ignored: ClassVar = frozenset({"include_obfuscation", "continuous_usage_stats"})
    include_usage: bool = False


class CompletionRequest(Steering):
    """OpenAI's fields, vLLM's for clients that train, and how a trace is drawn (`Steering`)."""

    ignored: ClassVar = frozenset({"user", "metadata", "store", "service_tier", "priority", "request_id"})
    refused: ClassVar = {
        "suffix": (("",), "text can be completed at its end only; leave it out"),
        "best_of": ((1,), "every response is returned; ask for n of them"),
        "frequency_penalty": ((0,), "a trainer could not compute the log-probabilities again; leave it out"),
        "presence_penalty": ((0,), "a trainer could not compute the log-probabilities again; leave it out"),
        "repetition_penalty": ((1,), "a trainer could not compute the log-probabilities again; leave it out"),
        "logit_bias": (({},), "a trainer could not compute the log-probabilities again; leave it out"),
        "min_p": ((0,), "use top_p or top_k"),
        "min_tokens": ((0,), "a response ends where the model ends it; leave it out"),
        "ignore_eos": ((False,), "a response ends where the model ends it; leave it out"),
        "skip_special_tokens": ((True,), "texts have the dialect's tags and no control tokens; ask for token ids"),
        "include_stop_str_in_output": ((False,), "a text is cut before its stop string; ask for token ids"),
        "use_beam_search": ((False,), "responses are sampled; temperature 0 is greedy"),
    }
    model: str | None = None
    """The name that /v1/models says."""
    prompt: Annotated[str | list[int] | list[str] | list[list[int]], BeforeValidator(_prompt)]
    """A text, token ids, or a list of either."""
    max_tokens: int | None = Field(None, ge=0, le=MOST)
    """Most tokens of a response; 16 if left out, or for a trace with blocks what the model's settings say."""
    n: int = Field(1, ge=1, le=1024)
    """Responses to each prompt: samples 0 to n - 1, or from `sample` on; a prompt that comes again goes on counting."""
    stop: Annotated[list[str], BeforeValidator(stop_texts)] = []  # noqa: RUF012 (pydantic copies it)
    """The text ends before any of these strings."""
    stop_token_ids: list[int] = Field([], max_length=1024)
    """Tokens that end the response; the one that did is among the token ids, not in the text."""
    logprobs: int | None = Field(None, ge=0, le=MOST_TOP)
    """Log-probabilities of the tokens, and of so many alternatives each."""
    prompt_logprobs: int | None = Field(None, ge=0, le=MOST_TOP)
    """The same of the prompt's tokens, in vLLM's form."""
    echo: bool = False
    """The prompt comes first in text and log-probabilities."""
    stream: bool = False
    """Server-sent events."""
    stream_options: StreamOptions = StreamOptions()
    """`include_usage`: one more chunk at the end with the usage."""
    add_special_tokens: bool = True
    """Begin a text prompt with BOS where the model has it."""
    return_tokens_as_token_ids: bool = False
    """Write tokens in `logprobs` as `token_id:N`."""
    problem: str = Field("", max_length=1000)
    """With `seed`, `sample`, `segment` and `drawn`: which random numbers are used (see `Request` of the engine)."""
    sample: int = Field(0, ge=0, le=MOST)
    """Number of the first response among those of the problem."""
    segment: Number | Annotated[list[Number], Field(min_length=1, max_length=32)] = 1
    """Draw with the random numbers of this segment of a trace, counted as they open; a list: in paths and summaries."""
    drawn: int = Field(0, ge=0, le=MOST)
    """How many of its random numbers have been used."""

    @model_validator(mode="after")
    def _fits(self) -> CompletionRequest:
        if self.steers and (self.segment != 1 or self.drawn):
            raise ValueError("segment and drawn are of a continuation without blocks; leave them or the paths out")
        if self.max_tokens == 0 and not self.echo and self.prompt_logprobs is None:
            raise ValueError("max_tokens=0 asks for nothing; ask for echo or prompt_logprobs with it, or for a token")
        if self.stream_options.include_usage and not self.stream:
            raise ValueError("stream_options is for streams; set stream: true with it")
        return self


def router(service: Service) -> APIRouter:
    routes, spelling = APIRouter(), Spelling(service.lm)

    @routes.post("/v1/completions")
    async def completions(
        request: Request, body: Annotated[CompletionRequest, Depends(parsed(CompletionRequest))]
    ) -> Response:
        job = Job(body, service, spelling)
        await unless_gone(request, job.score_prompts())
        generation = job.submit(key_of(request))
        if body.stream:
            config = service.config
            return events(job.stream(generation), config.keep_alive_s, config.read_timeout_s)
        for update in await collect(request, generation) if generation else ():
            job.choices[update.index].feed(update)
        return JSONResponse(job.whole(generation))

    return routes


class Job:
    """One request at work: its prompts, and a choice for each response to each of them, prompt by prompt."""

    def __init__(self, body: CompletionRequest, service: Service, spelling: Spelling) -> None:
        check_model(body.model, service)
        self.body, self.service, self.spelling = body, service, spelling
        self.prompts = read_prompts(body.prompt, service, body.add_special_tokens)
        number, most = len(self.prompts) * body.n, service.config.max_choices
        if number > most:
            raise UserError(f"{len(self.prompts)} prompts with n={body.n} ask for {number} responses; at most {most}")
        self.seed = seed_of(body)
        self.params = params_of(body, service, self._most_tokens())
        if not body.steers:
            most = self.params.max_trace_tokens
            self.params = SamplingParams(
                mode=SEQUENTIAL.name,
                max_main_tokens=most,
                max_trace_tokens=most,
                temperature=self.params.temperature,
                top_p=self.params.top_p,
                top_k=self.params.top_k,
            )
        self.head = {"id": new_id("cmpl"), "object": "text_completion", "created": now(), "model": service.name}
        self.choices: list[Choice] = []

    def _most_tokens(self) -> int | None:
        given = self.body.max_tokens
        if given is None and not self.body.steers:
            return min(DEFAULT_MAX_TOKENS, most_tokens(self.service))
        return max(given, 1) if given is not None else None

    async def score_prompts(self) -> None:
        """Ask for the prompts' own log-probabilities where they are wanted, and make the choices."""
        body = self.body
        top = max(body.prompt_logprobs or 0, (body.logprobs or 0) if body.echo else 0)
        scored = body.prompt_logprobs is not None or (body.echo and body.logprobs is not None)
        for prompt in self.prompts:
            if scored:
                prompt.scores = await self.service.score(prompt.ids, top)
            before = prompt.tokens(self.spelling) if body.echo else ()
            for _ in range(body.n):
                self.choices.append(Choice(len(self.choices), prompt, before, body, self.spelling))

    def submit(self, key: str) -> Generation | None:
        """Queue the traces; None where no token is wanted."""
        body = self.body
        if body.max_tokens == 0:
            return None
        segment = tuple(body.segment) if isinstance(body.segment, list) else body.segment
        plain = None if body.steers else Continuation(segment, body.drawn)
        wanted = [
            Wanted(
                TraceRequest(prompt.ids, body.problem, sample, plain=plain),
                self.params,
                self.seed,
                tuple(body.stop),
                tuple(body.stop_token_ids),
                body.logprobs or 0,
                stream=body.stream or body.logprobs is not None or body.return_events,
            )
            for prompt, sample in self._samples()
        ]
        return self.service.submit(wanted, key, self.service.config.timeout_s)

    def _samples(self) -> Iterator[tuple[Prompt, int]]:
        """Each response's prompt and number: a prompt that comes again goes on counting, or its texts would be the
        same again, since the random numbers do not depend on the prompt."""
        following: Counter[tuple[int, ...]] = Counter()
        for prompt in self.prompts:
            for _ in range(self.body.n):
                yield prompt, self.body.sample + following[prompt.ids]
                following[prompt.ids] += 1

    def whole(self, generation: Generation | None) -> dict[str, Any]:
        """The response that is not streamed."""
        choices = [choice.told(choice.linear.told) for choice in self.choices]
        version = generation.weight_version if generation else ""
        more = {"seed": self.seed} | ({"weight_version": version} if version else {})
        return {**self.head, "choices": choices, "usage": self._usage(), **more}

    async def stream(self, generation: Generation | None) -> AsyncIterator[dict[str, Any]]:
        """The chunks. Their texts concatenate to that of the whole response."""
        usual = {"usage": None} if self.body.stream_options.include_usage else {}
        try:
            if generation is None or self.body.echo:
                for choice in self.choices:
                    yield {**self.head, "choices": [choice.told(Piece())], **usual}
            if generation is not None:
                async for update in generation:
                    choice = self.choices[update.index]
                    piece = choice.feed(update)
                    if piece or choice.reason or choice.events:
                        yield {**self.head, "choices": [choice.told(piece)], **usual}
            if usual:
                yield {**self.head, "choices": [], "usage": self._usage()}
        finally:
            if generation is not None:
                generation.cancel()

    def _usage(self) -> dict[str, Any]:
        rollouts = [choice.linear.rollout for choice in self.choices if choice.linear.rollout is not None]
        return usage(map(len, (p.ids for p in self.prompts)), rollouts, self.service.lm.dialect.answers_in_summary)
