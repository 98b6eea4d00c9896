"""Rollouts from a completions server over HTTP: `HttpRollouts` takes the place of `Engine` in this process.

What is drawn is what the engine draws: `reread` traces (and the published modes, which are drawn like them) and
`sequential` ones, by the engine's own state machines. The main text is a completion of the prompt that ends at a tag or
an end token. A block's paths are as many completions at once, each of the text so far and the path's opening; the join
is one more, of the text with all paths in it. These prompts share long beginnings, which a server with prefix caching
reads once. `structured` joins are of keys and values, which no server gives away: they are refused.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from polythink.engine.params import Event, OnEvent, Request, SamplingParams, params_for_each
from polythink.engine.remote.completions import Completions, connect
from polythink.engine.remote.config import RemoteConfig, check_drawable
from polythink.engine.remote.journal import RolloutJournal, key_of
from polythink.engine.remote.probe import find_model, measure
from polythink.engine.remote.reload import reload_weights, version_of
from polythink.engine.remote.trace import Ask, Drawn, RemoteTrace
from polythink.engine.states import States, trained_paths
from polythink.errors import UserError
from polythink.models.settings import ModelSettings
from polythink.models.vocabulary import Vocabulary
from polythink.run.pool import run_jobs
from polythink.run.progress import Progress
from polythink.run.retry import CallError, repeated
from polythink.trace.dialect import dialect_facts
from polythink.trace.production import Dialect
from polythink.trace.rollout import Rollout

Result = TypeVar("Result")


class HttpRollouts:
    """Samples rollouts from a server. Close it, or use `with`.

    `vocabulary`: that of the model which the server has (`models.lm.load_vocabulary`, or a `LanguageModel`). The server
    is asked at once what it can do; `UserError` says what it lacks. With `journal`, a file, finished rollouts are kept,
    and a call that was killed goes on when it is repeated. `served` is what the server says of itself, `abilities` what
    was measured.

    Random streams are named as in the engine where the server is `polythink serve`, and the tokens are the same;
    elsewhere they are seeds of the requests, and what a server makes of them is its affair.
    """

    def __init__(self, config: RemoteConfig, vocabulary: Vocabulary, journal: str | Path | None = None) -> None:
        self.config, self.vocabulary = config, vocabulary
        if vocabulary.settings.thoughts:
            raise UserError("the model has thought embeddings, which no completions server adds; use the engine here")
        self.connection = connect(config)
        try:
            self.served = find_model(self.connection, config.model)
            self.connection.model = self.served.model
            exact = config.logprobs == "exact"
            self._completions = Completions(self.connection, self.served.server, self.served.model, exact)
            known = sorted(id for id in vocabulary.tag_ids.values() if id >= 0) or vocabulary.encode("a b c")
            self.known = known[:5]  # tokens that the model has
            self.abilities = measure(self._completions, self.known, vocabulary.ends)
            self._journal = None if journal is None else RolloutJournal(journal)
        except BaseException:
            self.connection.close()
            raise
        self.weight_version = ""  # of the last reload
        self._reached = threading.Event()
        self._reached.set()
        self._number = 0  # of the last version that was one
        self.states = States(vocabulary)

    def close(self) -> None:
        self.connection.close()
        if self._journal is not None:
            self._journal.close()

    def __enter__(self) -> HttpRollouts:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def settings(self) -> ModelSettings:
        """How the model was trained and is used: its prompt and decoding parameters."""
        return self.vocabulary.settings

    @property
    def dialect(self) -> Dialect:
        return self.vocabulary.dialect

    @property
    def context(self) -> int:
        return min(self.vocabulary.context, self.served.context or self.vocabulary.context)

    def encode_prompt(self, text: str, template: str | None = None) -> list[int]:
        return self.vocabulary.encode_prompt(text, template)

    def decode(self, ids: Sequence[int]) -> str:
        return self.vocabulary.decode(ids)

    def reload(self, folder: str | Path, version: str = "") -> str:
        """Let the server take the weights of a model folder on its own disk; returns their version.

        `version`: its name; left out: the number after the last one that was a number. Call it between two `generate`:
        what the server still draws for others ends with the old weights, or is asked again, as the server decides.
        `UserError` where the server cannot, in its own words, or cannot be reached after all retries.
        """
        version = version or str(self._number + 1)
        reload_weights(self.connection, self.served.server, folder, version, self._repeat)
        self.weight_version = version
        self._number = int(version) if version.isdecimal() else self._number
        return version

    def _repeat(self, call: Callable[[], Result]) -> Result:
        """What a call gives, made again where that may help. `CallError` after all retries."""
        tried = repeated(call, self.config.retry, threading.Event(), self._reached)
        if tried.error is not None:
            raise tried.error
        return tried.result

    def _as_told(self, rollouts: list[Rollout]) -> list[Rollout]:
        """The rollouts with the version that the server says it has after them, where it does not say so with each.

        A server that was started again meanwhile has another version than that of the last reload.
        """
        if not self.weight_version or not self.served.server.version_at:
            return rollouts
        try:
            told = self._repeat(lambda: version_of(self.connection, self.served.server))
        except CallError as error:
            raise UserError(f"{self.connection.where} does not say which weights it has: {error}") from error
        if told in (None, self.weight_version):
            return rollouts
        return [replace(rollout, weight_version=told) for rollout in rollouts]

    def generate(
        self,
        requests: Sequence[Request],
        params: SamplingParams | Sequence[SamplingParams],
        seed: int = 0,
        on_event: OnEvent | None = None,
        label: str = "",
        done_only: bool = False,  # completions come whole: their other events cost nothing
    ) -> list[Rollout]:
        """One finished rollout per request, in their order. `params` apply to all requests, or are one per request.

        As `Engine.generate`; events of several traces come in the order in which their completions arrive, a whole
        completion at a time. `UserError` where a request fails for good: finished rollouts stay in the journal.
        """
        each = params_for_each(requests, params)
        for own in {id(own): own for own in each}.values():
            self.check(own)
        with Progress(len(requests), label) as progress:
            call = _Call(self, requests, each, seed, on_event, progress)
            with closing(run_jobs(call, call.ask, call.record, self.config.concurrency)) as done:
                for _ in done:
                    pass
        return self._as_told([call.rollouts[i] for i in range(len(requests))])

    def check(self, params: SamplingParams) -> None:
        """`UserError` for parameters that cannot be drawn from this server."""
        check_drawable(params)
        if self._completions.logprobs and (why := self.abilities.refusal(params)):
            raise UserError(f"{self.connection.where} under {why}")

    def draw(self, ask: Ask, stopped: threading.Event) -> Drawn:
        """A completion, asked again where it fails; in any thread."""
        params, retry = ask.trace.state.params, self.config.retry
        tried = repeated(lambda: self._completions.draw(ask, params), retry, stopped, self._reached)
        if tried.error is not None:
            times = f" ({len(tried.retried) + 1} times)" if tried.retried else ""
            raise UserError(f"{self.connection.where} failed{times}: {tried.error}") from tried.error
        if tried.result.version or self.served.server.tells_version:
            return tried.result
        return replace(tried.result, version=self.weight_version)


class _Call:
    """One `generate`: an iterator over what is to be asked next. Traces under way come first, so that they end soon."""

    def __init__(
        self,
        backend: HttpRollouts,
        requests: Sequence[Request],
        each: Sequence[SamplingParams],
        seed: int,
        on_event: OnEvent | None,
        progress: Progress,
    ) -> None:
        self.backend, self.on_event, self.progress = backend, on_event, progress
        self.rollouts: dict[int, Rollout] = {}  # by index
        self._asks: deque[Ask] = deque()
        self._waiting: deque[tuple[RemoteTrace, str]] = deque()
        self._keys: dict[RemoteTrace, str] = {}
        self._events: list[Event] = []
        self._failed = False
        about = {"model": backend.served.model, "weights": backend.weight_version, **dialect_facts(backend.dialect)}
        about["logprobs"] = backend.config.logprobs
        for index, (request, own) in enumerate(zip(requests, each, strict=True)):
            trained = trained_paths(backend.settings, own)
            key = key_of(request, own, seed, {**about, "trained_paths": trained})
            found = backend._journal.get(key, request.prompt) if backend._journal else None
            if found is not None:
                self._finish(index, found, Event("done", index, 0, -1, 0, rollout=found))
                continue
            emit = None if on_event is None else self._events.append
            state = backend.states.of(request, own, backend.context, seed, index, emit)
            trace = RemoteTrace(index, state, backend.config.chunk, backend.abilities.stops)
            self._waiting.append((trace, key))

    def __iter__(self) -> Iterator[Ask]:
        return self

    def __next__(self) -> Ask:
        while not self._asks and self._waiting:
            trace, self._keys[trace] = self._waiting.popleft()
            self._advance(trace)
        if not self._asks:
            raise StopIteration
        return self._asks.popleft()

    def ask(self, ask: Ask, stopped: threading.Event) -> Drawn:
        return self.backend.draw(ask, stopped)

    def record(self, ask: Ask, drawn: Drawn) -> None:
        """Take a completion. After a failure in here nothing more is taken: the traces may be half way through one."""
        if self._failed:
            return
        self._failed = True
        ask.trace.accept(ask, drawn)
        self._advance(ask.trace)
        self._failed = False

    def _advance(self, trace: RemoteTrace) -> None:
        self._asks += trace.advance()
        self._tell()
        if trace.state.done:
            state = trace.state
            rollout = replace(state.rollout(), weight_version=",".join(trace.versions))
            key = self._keys.pop(trace)
            if self.backend._journal is not None:
                self.backend._journal.write(key, rollout)
            self._finish(trace.index, rollout, state.event("done", state.last, rollout=rollout))

    def _tell(self) -> None:
        events, self._events[:] = list(self._events), []
        for event in events:
            self.on_event(event)

    def _finish(self, index: int, rollout: Rollout, event: Event) -> None:
        self.rollouts[index] = rollout
        self.progress.advance(1)
        if self.on_event is not None:
            self.on_event(event)
