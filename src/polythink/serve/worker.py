"""The thread that owns the engine: it takes requests in, steps, and hands over what has happened, once a step."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from polythink.engine.engine import Engine
from polythink.engine.params import Event
from polythink.engine.scoring import Scores, Scoring
from polythink.engine.trace_state import TraceState
from polythink.errors import UserError
from polythink.serve.detokenise import Decoding
from polythink.serve.following import Follower
from polythink.serve.generation import Generation, Interrupted, Update

log = logging.getLogger(__name__)
TOO_LONG = "the request has run out of its time; ask for less, or allow more"
COUNTED = 0.25  # seconds between two counts of the bytes of keys and values


@dataclass(eq=False)
class Job:
    """A request as the worker sees it. `deadline` is on the monotonic clock."""

    generation: Generation
    key: str
    followers: list[Follower]
    deadline: float | None
    ids: list[int] = field(default_factory=list)  # of its traces in the engine; empty while it waits
    left: int = 0  # traces that are not done


@dataclass
class News:
    """What one step has brought for one request."""

    job: Job
    updates: list[Update] = field(default_factory=list)
    finished: bool = False
    lost: int = 0  # traces that ended without a rollout
    error: Interrupted | None = None


@dataclass(eq=False)
class Change:
    """Other weights of the model. `fail` is called in the worker's thread where `work` will not be."""

    work: Callable[[], None]
    fail: Callable[[Interrupted], None]


@dataclass(eq=False)
class ScoreJob:
    """A prompt to be scored; `tell` is called in the worker's thread with the scores or what went wrong."""

    scoring: Scoring
    tell: Callable[[Scores | Interrupted], None]


Deliver = Callable[[list[News]], None]


class Worker:
    """Requests wait in a queue for each key, and the keys take turns: the next one is given to the engine when all
    before it have a row. Other threads call `send` alone."""

    def __init__(self, engine: Engine, deliver: Deliver) -> None:
        self.engine, self.deliver = engine, deliver
        self.decoding = Decoding(engine.lm.codec)
        self.totals = dict.fromkeys(("finished", "aborted", "failed", "prompt_tokens", "tokens", "steps"), 0)
        self.kv_bytes = 0
        self.waiting = 0  # traces that the engine has not been given yet
        self._counted = 0.0
        self._queues: OrderedDict[str, deque[Job]] = OrderedDict()  # by key, in the order of their turns
        self._jobs: dict[Job, None] = {}  # all that are not finished
        self._of: dict[int, tuple[Job, Follower]] = {}  # by id in the engine
        self._news: dict[Job, News] = {}
        self._scores: deque[ScoreJob] = deque()  # the first is being read
        self._changes: deque[Change] = deque()  # to the model, each while no trace is live
        self.weight_version = ""
        self._commands: deque[Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self.thread = threading.Thread(target=self._run, name="polythink-engine", daemon=True)

    # --- from other threads

    def send(self, command: Callable[[], None]) -> None:
        """Have this done between two steps."""
        with self._wake:
            self._commands.append(command)
            self._wake.notify()

    # --- commands

    def take(self, job: Job) -> None:
        """Queue a request."""
        job.left = len(job.followers)
        self._jobs[job] = None
        self._queues.setdefault(job.key, deque()).append(job)
        self.waiting += job.left
        self.totals["prompt_tokens"] += sum(len(f.wanted.request.prompt) for f in job.followers)

    def end(self, job: Job, error: Interrupted | None = None) -> None:
        """End a request's traces where they are; then it raises `error`."""
        if job not in self._jobs:
            return
        if not job.ids:
            self._unqueue(job)
            for follower in job.followers:
                self._done(job, follower, self._stopped(follower.state))
        for id in job.ids:
            if id in self._of:
                self._read(id, self.engine.stop(id, "abort"))
        assert job not in self._jobs
        self._news_of(job).error = error

    def score(self, job: ScoreJob) -> None:
        """Queue a prompt to be scored."""
        self._scores.append(job)

    def end_score(self, job: ScoreJob) -> None:
        """Score it no more."""
        if job in self._scores:
            self._scores.remove(job)
            self.engine.scheduler.end_score(job.scoring)

    def change(self, change: Change) -> None:
        """Do this once no trace is live: what has a row finishes first, all others wait for it."""
        self._changes.append(change)

    def close(self) -> None:
        """End what is left, and the thread."""
        error = Interrupted("the server is shutting down; send the request again later", "shutdown")
        for job in list(self._jobs):
            self.end(job, error)
        for score in list(self._scores):
            self.end_score(score)
            score.tell(error)
        self._fail_changes(error)
        self._closing = True

    # --- the thread

    def _run(self) -> None:
        try:
            self._serve()
        except BaseException as error:
            log.exception("the engine's thread has ended; the server must be started again")
            told = _told(error)
            while self._commands:  # what was asked for meanwhile fails too
                with suppress(Exception):
                    self._obey()
            self._fail_scores(error)
            self._fail_changes(told)
            self._hand_over()
            self.deliver([News(job, finished=True, lost=job.left, error=told) for job in self._jobs])
            raise

    def _serve(self) -> None:
        while not self._closing:
            with self._wake:
                self._wake.wait_for(lambda: self._commands or self._jobs or self._scores or self._changes)
            try:
                with self.engine.hold():
                    self._obey()
                    while (self._jobs or self._scores) and not self._closing and not self._may_change():
                        self._turn()
                        self._obey()
                if self._may_change():  # outside of `hold`, in which weights stay as they are
                    self._changes.popleft().work()
            except Exception as error:  # the model cannot be made ready, or a fault of ours: the service goes on
                self._fail(list(self._jobs), error)
                self._fail_scores(error)
            self._count()
            self._hand_over()

    def _may_change(self) -> bool:
        reads = self._scores and self._scores[0].scoring.row is not None
        return bool(self._changes) and not self.engine.unfinished and not reads

    def _obey(self) -> None:
        while self._commands:
            self._commands.popleft()()

    def _turn(self) -> None:
        self._check_deadlines()
        self._feed()
        if self.engine.unfinished:
            try:
                events = self.engine.step()
            except Exception as error:
                self._fail(self._lost(), error)
                events = []
            self.totals["steps"] += 1
            self._sort(events)
        if self._scores:
            self._score()
        if not self._jobs or time.monotonic() > self._counted + COUNTED:
            self._count()
        self._hand_over()

    def _feed(self) -> None:
        """Give the engine the next request once all that it has been given have rows, and so has what is scored."""
        if self._changes or (self._scores and self._scores[0].scoring.row is None):
            return
        while self._queues and not self.engine.scheduler.queued:
            key, queue = next(iter(self._queues.items()))
            job = queue.popleft()
            self._queues.move_to_end(key)
            if not queue:
                del self._queues[key]
            self.waiting -= job.left
            job.generation.weight_version = self.weight_version
            for follower in job.followers:
                id = self.engine.enqueue(follower.state)
                job.ids.append(id)
                self._of[id] = (job, follower)

    def _score(self) -> None:
        """Read a chunk of the prompt that is being scored."""
        job = self._scores[0]
        if self._changes and job.scoring.row is None:
            return
        try:
            if self.engine.score(job.scoring):
                self._scores.popleft()
                job.tell(job.scoring.scores)
        except Exception as error:
            self._fail(self._lost(), error)
            self._fail_scores(error)

    def _unqueue(self, job: Job) -> None:
        self._queues[job.key].remove(job)
        if not self._queues[job.key]:
            del self._queues[job.key]
        self.waiting -= job.left

    def _check_deadlines(self) -> None:
        now = time.monotonic()
        for job in [job for job in self._jobs if job.deadline is not None and job.deadline < now]:
            self.end(job, Interrupted(TOO_LONG, "timeout"))

    def _lost(self) -> list[Job]:
        """The requests with a trace that the engine has dropped: live when the model failed, or failed by itself."""
        lost = set(self.engine.lost(self._of))
        return [job for job in self._jobs if not lost.isdisjoint(job.ids)]

    def _fail(self, jobs: list[Job], error: Exception) -> None:
        """The model has failed: its live traces are lost, and so are the requests that they belong to."""
        told = _told(error)
        for job in jobs:
            for id in job.ids:
                self.engine.abort(id)
                self._of.pop(id, None)
            if not job.ids:
                self._unqueue(job)
            self.totals["failed"] += job.left
            del self._jobs[job]
            news = self._news_of(job)
            news.finished, news.lost = True, job.left
            news.error = told

    def _fail_scores(self, error: BaseException) -> None:
        """What is scored has failed."""
        while self._scores:
            self._scores.popleft().tell(_told(error))

    def _fail_changes(self, told: Interrupted) -> None:
        """The model will not be changed any more."""
        while self._changes:
            self._changes.popleft().fail(told)

    # --- what has happened

    def _sort(self, events: list[Event]) -> None:
        """Hand a step's events to the traces that they are of."""
        by_id: dict[int, list[Event]] = {}
        for event in events:
            by_id.setdefault(event.request, []).append(event)
        for id, own in by_id.items():
            self._read(id, own)

    def _read(self, id: int, events: list[Event]) -> None:
        job, follower = self._of[id]
        updates = follower.read(events)
        if follower.stopped and events[-1].kind != "done":
            updates += follower.read(self.engine.stop(id))
        self._news_of(job).updates += updates
        if updates and updates[-1].event.rollout is not None:
            del self._of[id]
            self._finish(job, updates[-1])

    def _stopped(self, state: TraceState) -> Event:
        """The end of a trace that the engine has never seen."""
        state.stop_here("abort")
        return state.event("done", state.last, rollout=state.rollout())

    def _done(self, job: Job, follower: Follower, event: Event) -> None:
        updates = follower.read([event])
        self._news_of(job).updates += updates
        self._finish(job, updates[-1])

    def _finish(self, job: Job, update: Update) -> None:
        """One of its traces is done."""
        rollout = update.event.rollout
        self.totals["aborted" if rollout.finish_reason == "abort" else "finished"] += 1
        self.totals["tokens"] += rollout.tokens
        job.left -= 1
        if not job.left:
            del self._jobs[job]
            self._news_of(job).finished = True

    def _news_of(self, job: Job) -> News:
        return self._news.setdefault(job, News(job))

    def _hand_over(self) -> None:
        if self._news:
            news, self._news = list(self._news.values()), {}
            self.deliver(news)

    def _count(self) -> None:
        self._counted = time.monotonic()
        self.kv_bytes = self.engine.scheduler.claimed


def _told(error: BaseException) -> Interrupted:
    """What clients are told of a failure of the model; the log has more."""
    known = isinstance(error, UserError)
    log.error("the model failed: %s", error, exc_info=None if known else error)
    why = str(error) if known else f"{type(error).__name__}; the server's log has more"
    return Interrupted(f"the model failed on this request: {why}", "model_error")
