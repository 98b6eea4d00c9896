"""Fork/join decoding of many traces at once on an unmodified transformers model.

`add` queues a request, `step` runs one ragged list of tokens over all open branches of all live traces, `abort` drops
a request, `generate` loops over them. `reference.py` is the slow twin.

`scheduler.py` decides which traces run. Left out: speculative decoding.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

from polythink.engine.backends.base import LocalBackend
from polythink.engine.lookahead import LookAhead, Steps
from polythink.engine.params import Event, OnEvent, Request, SamplingParams, params_for_each
from polythink.engine.scaling import Scaling
from polythink.engine.scheduler import Scheduler
from polythink.engine.scoring import Scoring
from polythink.engine.selfcheck import choose_backend
from polythink.engine.states import States
from polythink.engine.trace_state import TraceState
from polythink.errors import UserError
from polythink.models.lm import LanguageModel
from polythink.models.vocabulary import Vocabulary
from polythink.run.progress import Progress
from polythink.trace.production import Dialect
from polythink.trace.rollout import Rollout

MOST_TOP = 20  # alternatives to a token


class Engine:
    """Samples traces from a language model, whose weights it shares with a trainer in the same process.

    At most `max_num_seqs` traces are live at once; prompts are run in chunks of `prefill_chunk` tokens. `backend` is
    "graphed" (the Llama family on CUDA: pages, CUDA graphs, each step launched before the last is read), "captured"
    (the same for other models: their own forward, where it launches the same in each call), "lean" (the Llama
    family anywhere: a plain forward of our own over the model's tensors), "flat" (the model itself runs on one row
    of all tokens), "padded" (a (rows, branches) batch through the model's own attention: slower, for models whose
    attention takes extras), "recurrent" (a cache for each branch: for models with recurrent, linear or
    convolutional layers, in modes whose joins read flat text), or "auto": the first of them that
    passes the self-check. A model that passes with none is refused with a `UserError`. "llama_cpp" runs a .gguf
    file as it is, in llama.cpp: `lm` is then a `Vocabulary`, from `load_vocabulary(FILE.gguf)`; "llama_cpp_fast" with
    flash attention and keys and values in float16, which changes log-probabilities (`backend.logprob_error`).

    `kv_cache_memory_bytes` bounds the keys and values of all traces and shared prompts: requests wait for memory, and
    when live traces outgrow it the youngest is preempted and later run again from its recorded tokens. A request that
    could outgrow it alone is refused by `add`. None: no bound but `max_num_seqs` and what the traces come to. A prompt
    that several queued requests share is read once.

    `max_step_branches` bounds the branches that a step runs, so that traces with many paths leave the others their
    pace: each live trace runs at least one, what is left goes to further paths in turn. A step then has at most that
    many branches, or one of each live trace where these are more. What is drawn is the same. None: no bound.

    The model is changed (inference mode, attention) only while a step runs or `generate` loops. Between steps its
    weights may be trained, but a trace that is live then has keys and values of both. Use an engine from one thread;
    engines on the same model in several threads take turns.
    """

    def __init__(
        self,
        lm: LanguageModel | Vocabulary,
        max_num_seqs: int = 64,
        prefill_chunk: int = 512,
        backend: str | LocalBackend = "auto",
        kv_cache_memory_bytes: int | None = None,
        max_step_branches: int | None = None,
    ) -> None:
        if max_num_seqs < 1 or prefill_chunk < 1:
            raise UserError(
                "the engine needs at least one sequence and one token per chunk; "
                f"given max_num_seqs={max_num_seqs}, prefill_chunk={prefill_chunk}"
            )
        self.lm, self.max_num_seqs, self.prefill_chunk = lm, max_num_seqs, prefill_chunk
        self.backend: LocalBackend = choose_backend(lm, backend) if isinstance(backend, str) else backend
        if not self.backend.chunks:  # a further chunk would be read token by token
            self.prefill_chunk = lm.context
        self._steps: Steps = (LookAhead if self.backend.looks_ahead else Steps)(self.backend)
        self._added = 0
        self.scaling = Scaling(self.backend)
        if kv_cache_memory_bytes is not None and not self.backend.slot_bytes:
            raise UserError(
                f"kv_cache_memory_bytes={kv_cache_memory_bytes}: the {self.backend.kind} backend, which "
                f"{lm.model.config.model_type} needs, keeps a cache for each branch and cannot bound its memory; leave "
                "it out and lower max_num_seqs"
            )
        if max_step_branches is not None and max_step_branches < 1:
            raise UserError(f"max_step_branches={max_step_branches}: a step runs at least one branch; None: all")
        self.scheduler = Scheduler(self._steps, max_num_seqs, kv_cache_memory_bytes, max_step_branches)
        self._events: list[Event] = []  # not yet delivered
        self._removed = 0  # how often a request has left before its end
        self.states = States(lm)

    @property
    def dialect(self) -> Dialect:
        return self.lm.dialect

    @property
    def context(self) -> int:
        return self.lm.context

    @property
    def forwarded(self) -> int:
        """Tokens run through the model since this engine was made."""
        return self._steps.forwarded

    @property
    def unfinished(self) -> int:
        """How many requests are queued or live, or have an end that `step` has not reported yet."""
        ended = sum(event.kind == "done" for event in self._events)
        return len(self.scheduler.queued) + len(self.scheduler.live) + ended

    def lost(self, ids: Iterable[int]) -> list[int]:
        """Those of these requests that are neither queued nor live, and of which nothing is to be reported any more."""
        known = {state.id for state in (*self.scheduler.queued, *self.scheduler.live.values())}
        known |= {event.request for event in self._events}
        return [id for id in ids if id not in known]

    @property
    def preempted(self) -> int:
        """How often a live trace had to make room for older ones."""
        return self.scheduler.preempted

    def encode_prompt(self, text: str, template: str | None = None) -> list[int]:
        return self.lm.encode_prompt(text, template)

    def decode(self, ids: Sequence[int]) -> str:
        return self.lm.decode(ids)

    def hold(self) -> AbstractContextManager[None]:
        """Keep the model in the engine's state until the context closes; re-entrant.

        `generate` does so for its whole loop. A loop over `step` may too: changing the model there and back costs
        milliseconds per step with many layers. No training inside.
        """
        return self.backend.hold()

    # --- the life of a request

    def add(
        self, request: Request, params: SamplingParams, seed: int = 0, stream: bool = False, top_logprobs: int = 0
    ) -> int:
        """Queue a request; returns its id, which is never used again.

        With `stream`, `step` reports its tokens, forks, joins and truncations; its "done" is always reported. Sampled
        tokens then come with the `top_logprobs` (at most 20) likeliest tokens at their places: under the distribution
        of which the log-probability is recorded, before top-k and top-p.
        `UserError` for a request that cannot be sampled, such as a prompt longer than the context.
        """
        return self.enqueue(self.prepare(request, params, seed, stream, top_logprobs))

    def prepare(
        self, request: Request, params: SamplingParams, seed: int = 0, stream: bool = False, top_logprobs: int = 0
    ) -> TraceState:
        """The first half of `add`: check a request and make what `enqueue` takes. Nothing is queued.

        May be called in another thread than the one that steps; it waits for that one only where attention is to be
        scaled and the backend has not been asked yet whether it can.
        """
        self.backend.check_params(params)
        if not 0 <= top_logprobs <= MOST_TOP or (top_logprobs and not stream):
            raise UserError(
                f"top_logprobs={top_logprobs}: events tell 0 to {MOST_TOP} alternatives, so with stream=True"
            )
        early: list[Event] = []
        state = self.states.of(request, params, self.lm.context, seed, emit=early.append if stream else None)
        self.scaling.check(state)
        state.early, state.top = early, top_logprobs
        self.scheduler.check(state)
        return state

    def enqueue(self, state: TraceState) -> int:
        """Queue what `prepare` has made; returns its id, which is never used again."""
        state.id, self._added = self._added, self._added + 1
        self.scheduler.add(state)
        if state.emit is not None:
            self._events += [replace(event, request=state.id) for event in state.early]
            state.emit, state.early = self._events.append, []
        return state.id

    def step(self) -> list[Event]:
        """Run one step of all live requests; returns what happened. Nothing happens when nothing is unfinished.

        An error from the model drops all live requests, since their cache is no longer known to be right; one from a
        request's own policy drops that request alone.
        """
        self._advance()
        return self._take_events()

    def abort(self, id: int) -> None:
        """Drop a queued or live request and its undelivered events; its row is free at once.

        An id that has finished or was never given is ignored.
        """
        self._remove(id)

    def stop(self, id: int, reason: str = "stop") -> list[Event]:
        """End a queued or live request early; its row is free at once. Its undelivered events, the last one "done".

        The rollout is what has been drawn so far: segments that were open have `reason` as their `finish_reason`.
        Nothing for an id that has finished or was never given.
        """
        events, state = self._remove(id)
        if state is not None:
            state.stop_here(reason)
            events.append(state.event("done", state.last, rollout=state.rollout()))
        return events

    def scoring(self, ids: Sequence[int], top: int = 0) -> Scoring:
        """What `score` reads, made in any thread; `UserError` for what can never be scored."""
        if not 0 <= top <= MOST_TOP:
            raise UserError(f"{top} alternatives are asked for each token; it may be 0 to {MOST_TOP}")
        if not 0 < len(ids) <= self.context:
            raise UserError(f"{len(ids)} tokens to score; the model's context holds {self.context}, so give 1 to that")
        self.lm.check_ids(ids)
        self.scheduler.check_prompt(len(ids))
        return Scoring(ids, top, self.prefill_chunk, self.lm.model.config.get_text_config().vocab_size)

    def score(self, scoring: Scoring) -> bool:
        """Read the next chunk of a prompt for the log-probabilities of its tokens; True once it has been read.

        To be called between steps, at most once. Where there is no row or no memory for it, nothing happens; a step
        that needs its memory may take its row, and then it begins anew.
        """
        if scoring.row is None and not scoring.done:
            if not self.scheduler.score(scoring):
                return False
            self.backend.open(scoring.row, 0, ())
        try:
            if not scoring.done:
                self._steps.forwarded += scoring.advance(self.backend)
        except BaseException:
            self._drop_live()
            raise
        if scoring.done:
            self.scheduler.end_score(scoring)
        return scoring.done

    def generate(
        self,
        requests: Sequence[Request],
        params: SamplingParams | Sequence[SamplingParams],
        seed: int = 0,
        on_event: OnEvent | None = None,
        label: str = "",
        done_only: bool = False,
    ) -> list[Rollout]:
        """One finished rollout per request, in their order. `params` apply to all requests, or are one per request.

        `label` names a progress bar. Events carry the index into `requests`. May be called from its own `on_event`;
        `UserError` where that lets one of its requests be dropped. With `done_only` it is told of finished rollouts
        alone: a trace whose tokens are told one by one takes longer.
        """
        each = params_for_each(requests, params)
        index_of: dict[int, int] = {}  # by id
        rollouts: dict[int, Rollout] = {}  # by index
        removed = self._removed
        with self.hold(), Progress(len(requests), label) as progress:
            try:
                for i, (request, own) in enumerate(zip(requests, each, strict=True)):
                    index_of[self.add(request, own, seed, stream=on_event is not None and not done_only)] = i
                while len(rollouts) < len(requests):
                    self._advance()
                    for event in self._take_events(index_of):
                        index = index_of[event.request]
                        if event.rollout is not None:
                            rollouts[index] = event.rollout
                            progress.advance(1)
                        if on_event is not None:
                            on_event(replace(event, request=index))
                    if removed != self._removed:
                        removed = self._removed
                        self._check_kept(id for id, i in index_of.items() if i not in rollouts)
            except BaseException:
                for id in index_of:
                    self.abort(id)
                raise
        return [rollouts[i] for i in range(len(requests))]

    # --- one step

    def _advance(self) -> None:
        live, lockstep = self.scheduler.live, self.scheduler.lockstep
        plain = lockstep.entries  # these only go on
        failed: dict[TraceState, Exception] = {}
        try:
            running = self.scheduler.schedule()
            if not running:
                return
            for row, state in running:
                if state in plain:
                    continue
                for segment in state.opened:
                    self.backend.open(row, segment, state.follows[segment])
                state.opened.clear()
                if self.backend.forgets:
                    self.backend.keep(row, state.followable)
            for state, branch, token, logprob in self._steps.run(running, self.prefill_chunk, lockstep):
                state.drew()
                if state not in failed:
                    try:
                        state.on_token(branch, token, logprob)
                    except Exception as error:  # of its own policy: the others go on
                        failed[state] = error
            for state in live.values():
                if state not in plain and state not in failed and not state.undrawn:
                    try:
                        state.join_if_ready()
                    except Exception as error:
                        failed[state] = error
        except BaseException:
            self._drop_live()
            raise
        for row in [row for row, state in live.items() if state.done and state not in failed]:
            state = live[row]
            self.scheduler.release(row)
            self._events.append(state.event("done", state.last, rollout=state.rollout()))
        for state in failed:
            self.abort(state.id)
        if failed:
            raise next(iter(failed.values()))

    def _remove(self, id: int) -> tuple[list[Event], TraceState | None]:
        """Take a request away before its end: its undelivered events, and it as it is; None where there is none."""
        events, state = self._take_events((id,)), self.scheduler.abort(id)
        self._removed += state is not None
        return events, state

    def _drop_live(self) -> None:
        self._take_events({state.id for state in self.scheduler.live.values()})
        self._removed += 1
        self.scheduler.drop_live()

    def _check_kept(self, ids: Iterable[int]) -> None:
        """`UserError` where one of these requests will never end."""
        if lost := self.lost(ids):
            raise UserError(
                f"{len(lost)} of the requests were dropped while others ran, after an error of the model or by abort; "
                "generate them again"
            )

    def _take_events(self, ids: Container[int] | None = None) -> list[Event]:
        """Take the undelivered events, or those of some requests: a nested `generate` leaves the others' alone."""
        taken = [event for event in self._events if ids is None or event.request in ids]
        kept = [] if ids is None else [event for event in self._events if event.request not in ids]
        self._events[:] = kept  # in place: states hold its `append`
        return taken
