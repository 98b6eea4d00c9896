"""The engine of this package as a contender."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import torch

from polythink.bench.cases import Case, Trace, branches
from polythink.bench.model import Subject
from polythink.bench.timing import Run, Skipped
from polythink.engine.engine import Engine
from polythink.engine.params import Event, Request, SamplingParams
from polythink.errors import UserError

SPARE = 8  # tokens that a path may have beyond those that are timed
SUMMARY = 8  # of a run that is joined


class OwnEngine:
    """Timed are steps in which every path of every trace has one token; they are aborted after the last of them."""

    def __init__(self, subject: Subject, backend: str, max_num_seqs: int, prefill_chunk: int = 512) -> None:
        self.subject = subject
        self.engine = Engine(subject.lm, max_num_seqs=max_num_seqs, prefill_chunk=prefill_chunk, backend=backend)
        self.name = self.engine.backend.kind if backend == "auto" else backend

    def prepare(self, case: Case, traces: Sequence[Trace], steps: int) -> None:
        longest = max(len(trace.prompt) for trace in traces) + self._budget(traces, steps) + SUMMARY
        if longest > self.engine.context:
            raise Skipped(f"needs {longest} positions, the model's context holds {self.engine.context}")
        if self.subject.lm.dialect.declares_paths:
            raise Skipped(f"the model declares the paths of the dialect {self.subject.lm.dialect.name!r} itself")

    def run(self, traces: Sequence[Trace], steps: int) -> Run:
        run = Run([])
        for seconds, tokens in self.decode(traces, steps, run.worked):
            run.seconds.append(seconds)
            run.tokens.append(tokens)
            run.kv_bytes = cache_bytes(self.engine)
        if len(traces) == 1:
            run.join = self.join(traces)
        return run

    def close(self) -> None:
        """Nothing is kept between runs."""

    def decode(
        self, traces: Sequence[Trace], steps: int, worked: list[float] | None = None
    ) -> Iterator[tuple[float, int]]:
        """Seconds and tokens of each step, from the first in which all decode; processor seconds to `worked`."""
        engine, wanted, steady, given = self.engine, branches(traces), False, 0
        ids = self._add(traces, self._budget(traces, steps))
        try:
            with engine.hold():
                while engine.unfinished and given < steps:
                    before, started, busy = engine.forwarded, time.perf_counter(), time.process_time()
                    engine.step()
                    seconds, busy = time.perf_counter() - started, time.process_time() - busy
                    tokens = engine.forwarded - before
                    steady |= tokens == wanted
                    if steady and tokens <= wanted:  # of a trained model some paths may end early
                        given += 1
                        if worked is not None:
                            worked.append(busy)
                        yield seconds, tokens
        finally:
            for id in ids:
                engine.abort(id)
        if not given:
            raise Skipped(f"{wanted} branches were never all decoding at once")

    def join(self, traces: Sequence[Trace]) -> float | None:
        """Seconds from the end of the last path to the first sampled token of the summary; None if it has none."""
        (id,) = self._add(traces, 4, stream=True)
        joined, summary, total = False, -1, 0.0
        with self.engine.hold():
            while self.engine.unfinished:
                started = time.perf_counter()
                events = self.engine.step()
                total += (time.perf_counter() - started) * joined
                for event in events:
                    if event.kind == "join":
                        joined, summary, total = True, event.segment, 0.0
                    if _is_first(event, summary):
                        self.engine.abort(id)
                        return total
        return None

    def _budget(self, traces: Sequence[Trace], steps: int) -> int:
        """Tokens of a path: enough for `steps` steps after the last of the prompts has been read, one after another."""
        chunks = sum(-(-len(trace.prompt) // self.engine.prefill_chunk) for trace in traces)
        return steps + SPARE + min(chunks, self.engine.context // 4)

    def _add(self, traces: Sequence[Trace], budget: int, stream: bool = False) -> list[int]:
        word = self.subject.words[-1]
        prefix = self.subject.lm.decode([word])  # an ordinary token after each forced tag: see `model._never_sample`
        room = {"max_main_tokens": 1, "max_path_tokens": budget + 1, "max_summary_tokens": SUMMARY, "max_blocks": 1}
        ids = []
        for trace in traces:
            most = trace.paths * (budget + 8) + 4 * SUMMARY
            params = SamplingParams(
                paths=trace.paths, max_paths=max(16, trace.paths), mode="structured", fork_at=0, max_trace_tokens=most,
                summary_prefix=prefix, length_scaling_above=0, **room,
            )  # fmt: skip
            prefixes = ((word,),) * trace.paths
            request = Request(trace.prompt, f"p{trace.problem}", trace.sample, path_prefixes=prefixes)
            ids.append(self.engine.add(request, params, stream=stream))
        return ids


def _is_first(event: Event, summary: int) -> bool:
    return event.kind == "token" and event.segment == summary and not event.forced


def cache_bytes(engine: Engine) -> int | None:
    """Bytes that the engine holds for keys and values; None for a backend that does not say and has no layers of them.

    A cache that knows says so itself; otherwise the tensors of its layers are counted.
    """
    cache = getattr(engine.backend, "cache", None)
    for name in ("peak_bytes", "held_bytes", "allocated_bytes"):
        if isinstance(known := getattr(cache, name, None), int):
            return known
    layers = getattr(cache, "layers", None)
    if layers is None:
        return None
    kept = (getattr(layer, name, None) for layer in layers for name in ("keys", "values"))
    return sum(tensor.nbytes for tensor in kept if isinstance(tensor, torch.Tensor))


def open_engine(subject: Subject, backend: str, max_num_seqs: int) -> OwnEngine:
    """The engine with that backend; `Skipped` for one that does not take this model or is not in this version."""
    try:
        return OwnEngine(subject, backend, max_num_seqs)
    except UserError as error:
        raise Skipped(str(error)) from error
