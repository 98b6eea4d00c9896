"""The engine as a service: requests from an event loop, steps in a thread of their own."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

from polythink.engine.engine import Engine
from polythink.engine.scoring import Scores
from polythink.errors import UserError
from polythink.serve.following import Follower
from polythink.serve.generation import Busy, Generation, Interrupted, Update, Wanted
from polythink.serve.worker import TOO_LONG, Change, Job, News, ScoreJob, Worker

if TYPE_CHECKING:
    from polythink.serve.config import ServeConfig

__all__ = ["Busy", "Generation", "Interrupted", "Scores", "Service", "Update", "Wanted"]
State = Literal["starting", "serving", "stopping", "stopped", "failed"]
# `max_step_branches` where none is given: as many as take about the time of reading the weights, where there is a GPU
STEP_BRANCHES = {"cuda": 64}
FIRST_GUESS = 5.0  # seconds that a request takes, before one has been measured


class Service:
    """One model that many clients ask. `name` is what the API calls it.

    All methods are for one event loop, that of `start`; a thread of the service's own steps the engine, and nothing
    else may use it meanwhile. `lm` may be used to encode and decode.

    At most `max_num_seqs` (of the engine) traces run and `max_queue` more wait. They wait in one queue for each key,
    and the keys take turns: a client with many requests does not keep another one from a row. From then on it is first
    come, first served, each trace a row whatever its width: those that wait do so for a row or for memory, at most
    until those before them have ended, and none is overtaken by a younger one of its key. A step runs
    `config.max_step_branches` branches (None: those of the engine, or 64 on a GPU and 16 elsewhere), at least one of
    each live trace: paths of wide traces take turns, so a serial request keeps its pace beside them. Where memory runs
    short the youngest trace is preempted, and is the next to run again. So the oldest always goes on, and nothing
    starves; the price is that what does not fit at the head of the queue keeps those after it waiting.
    """

    def __init__(self, engine: Engine, config: ServeConfig, name: str) -> None:
        self.engine, self.config, self.name, self.lm = engine, config, name, engine.lm
        given = config.max_step_branches or engine.scheduler.max_step_branches
        engine.scheduler.max_step_branches = given or STEP_BRANCHES.get(self.lm.device.type, 16)
        self._state: State = "starting"
        self._worker = Worker(engine, self._deliver)
        self._open: dict[Generation, tuple[str, float]] = {}  # key, and when it came
        self._of_key: Counter[str] = Counter()
        self._traces = 0  # that are not done, and prompts that are being scored
        self._scoring = 0  # such prompts
        self._duration = FIRST_GUESS  # seconds that a request takes, the last ones counting most
        self._idle = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def alive(self) -> bool:
        """Does the thread that steps the engine live? Where it does not while the state is "serving", a fault of ours
        has ended it, and nothing will be answered any more."""
        return self._worker.thread.is_alive()

    # --- the service's life

    @property
    def state(self) -> State:
        """ "failed": the engine's thread has ended by a fault of ours; nothing is served any more."""
        return "failed" if self._state == "serving" and not self._worker.thread.is_alive() else self._state

    async def start(self) -> None:
        """Begin to serve."""
        settings = self.lm.settings
        if settings.trained_paths or settings.decoding.get("length_scaling_above"):
            self.engine.scaling.refusal()  # ask now, so that no request waits for the model to be free
        self._loop = asyncio.get_running_loop()
        self._idle.set()
        self._worker.thread.start()
        self._state = "serving"

    async def stop(self, drain_s: float) -> None:
        """Refuse new requests, let those that were accepted finish within so many seconds, and end the others.

        Those raise `Interrupted` after what they have brought.
        """
        self._state = "stopping"
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), drain_s)
        self._worker.send(self._worker.close)
        await asyncio.to_thread(self._worker.thread.join)
        self._state = "stopped"

    # --- requests

    def submit(self, wanted: Sequence[Wanted], key: str = "", timeout_s: float | None = None) -> Generation:
        """Ask for some traces; their updates come as an async iterator.

        `timeout_s` wins over `config.timeout_s` where it is shorter. `UserError` for what can never be sampled, such as
        a prompt longer than the context or more keys and values than there is memory; `Busy` for what cannot be taken
        now. Both at once: nothing is queued then.
        """
        self._check_free(len(wanted), key)
        followers = [self._follower(index, one) for index, one in enumerate(wanted)]
        generation = Generation(wanted, lambda: self._worker.send(lambda: self._worker.end(job)))
        limits = [limit for limit in (timeout_s, self.config.timeout_s) if limit is not None]
        now = time.monotonic()
        job = Job(generation, key, followers, now + min(limits) if limits else None)
        self._open[generation] = (key, now)
        self._of_key[key] += 1
        self._traces += len(wanted)
        self._idle.clear()
        self._worker.send(lambda: self._worker.take(job))
        return generation

    async def score(self, ids: Sequence[int], top: int = 0) -> Scores:
        """The log-probability of each of these tokens after those before it, with the `top` (at most 20) likeliest ones
        at its place: one causal reading at temperature 1, between the steps of what else runs.

        `UserError` for more tokens than the context or the memory holds, `Busy` as in `submit`, `Interrupted` after
        `config.timeout_s`, or where the model fails or the server closes.
        """
        self._check_free(1)
        loop = self._loop
        found: asyncio.Future[Scores] = loop.create_future()

        def arrived(result: Scores | Interrupted) -> None:
            if not found.done():
                found.set_exception(result) if isinstance(result, Interrupted) else found.set_result(result)

        job = ScoreJob(self.engine.scoring(ids, top), lambda result: loop.call_soon_threadsafe(arrived, result))
        self._traces += 1
        self._scoring += 1
        self._idle.clear()
        self._worker.send(lambda: self._worker.score(job))
        try:
            return await asyncio.wait_for(found, self.config.timeout_s)
        except TimeoutError:
            raise Interrupted(TOO_LONG, "timeout") from None
        finally:
            self._traces -= 1
            self._scoring -= 1
            self._worker.send(lambda: self._worker.end_score(job))
            self._rest()

    async def change(self, change: Callable[[], None], weight_version: str) -> None:
        """Change the model in the worker's thread while no trace is live: what runs finishes first, all else waits.

        Requests that begin afterwards have this `weight_version`. What `change` raises is raised here; `Busy` where the
        server closes or its thread has ended, `Interrupted` where that happens before the change.
        """
        self._check_serving()
        loop = self._loop
        done: asyncio.Future[None] = loop.create_future()

        def work() -> None:
            try:
                change()
            except Exception as error:
                loop.call_soon_threadsafe(done.set_exception, error)
            else:
                self._worker.weight_version = weight_version
                loop.call_soon_threadsafe(done.set_result, None)

        def fail(error: Interrupted) -> None:
            loop.call_soon_threadsafe(done.set_exception, error)

        self._worker.send(lambda: self._worker.change(Change(work, fail)))
        await asyncio.shield(done)

    def _follower(self, index: int, wanted: Wanted) -> Follower:
        if "" in wanted.stop:
            raise UserError("a stop string is empty; leave it out")
        stream = wanted.stream or bool(wanted.stop or wanted.stop_token_ids or wanted.top_logprobs)
        state = self.engine.prepare(wanted.request, wanted.params, wanted.seed, stream, wanted.top_logprobs)
        return Follower(index, wanted, state, self._worker.decoding)

    def _check_serving(self) -> None:
        if self.state != "serving":
            raise Busy(f"the server is {self.state}; try again later", max(self.config.drain_s, 1.0), 503)

    def _check_free(self, traces: int, key: str = "") -> None:
        """`Busy` unless so many traces can be taken now."""
        if traces < 1:
            raise UserError("a request needs at least one trace")
        self._check_serving()
        most, limit = self.engine.max_num_seqs + self.config.max_queue, self.config.max_requests_per_key
        if traces > most:
            raise UserError(f"a request of {traces} traces; this server runs and queues {most} in all, ask for fewer")
        if self._traces + traces > most:
            raise Busy(
                f"the server is busy: {self._traces} traces run or wait, and at most {most} may; try again later",
                self._until_free(self.engine.max_num_seqs),
            )
        if limit is not None and self._of_key[key] >= limit:
            raise Busy(
                f"this key has {limit} requests that run or wait, and may have no more at once; wait for one to end",
                self._until_free(limit),
            )

    def _until_free(self, at_once: int) -> float:
        """Seconds until one of so many requests that run at once ends, about: from one to sixty."""
        return min(max(self._duration / at_once, 1.0), 60.0)

    # --- what happens

    def _deliver(self, news: list[News]) -> None:
        """In the worker's thread: hand over a step's news."""
        try:
            self._loop.call_soon_threadsafe(self._receive, news)
        except RuntimeError:  # the event loop has been closed, and nobody is left to tell
            self._worker.send(self._worker.close)

    def _receive(self, news: list[News]) -> None:
        for each in news:
            generation = each.job.generation
            self._traces -= sum(update.event.rollout is not None for update in each.updates)
            generation.receive(each.updates, each.finished, each.error)
            if each.finished:
                key, came = self._open.pop(generation)
                self._of_key[key] -= 1
                if not self._of_key[key]:
                    del self._of_key[key]
                self._traces -= each.lost
                if each.error is None:
                    self._duration += 0.2 * (time.monotonic() - came - self._duration)
        self._rest()

    def _rest(self) -> None:
        """Say so if nothing is to be done."""
        if not self._open and not self._scoring:
            self._idle.set()

    def counters(self) -> dict[str, float]:
        """For `/metrics`; totals are since the start.

        running, waiting: traces now. finished, aborted, failed: traces so far. prompt_tokens, tokens: of the requests
        taken, of the traces done. forwarded: tokens run through the model. kv_bytes: keys and values that traces and
        shared prompts hold, 0 for backends that do not bound theirs.
        """
        running = len(self.engine.scheduler.live)
        return {
            "running": running,
            "waiting": max(self._traces - running, 0),
            "requests": len(self._open),
            "preempted": self.engine.preempted,
            "forwarded": self.engine.forwarded,
            "kv_bytes": self._worker.kv_bytes,
            **self._worker.totals,
        }
