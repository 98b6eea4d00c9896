"""Seconds of a whole job of ragged traces on a CPU, beside llama.cpp on the same weights.

    python bench/ragged.py 29m --traces 32 --prompt 512 --tokens 128 --threads 2 --rounds 3

The traces have prompts of a quarter to all of `--prompt`, 1 to 4 paths in turn, and paths of a quarter to all of
`--tokens`. Timed from the first token of the first prompt to the last of the last path, in turns, in another order in
every round, after one run each of a few tokens that is not counted. This package also joins the paths of each trace
and draws one token of a summary. llama.cpp gets all traces at once: prompts in batches of up to 512 tokens, one
sequence for each path, the prompt's cells shared; a sequence that has ended leaves the batch.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

import numpy as np
import torch

from polythink.bench.cases import Case, Trace
from polythink.bench.llama import read_prompts
from polythink.bench.model import Subject, open_subject
from polythink.engine.backends.llama_cpp import LlamaCppBackend
from polythink.engine.engine import Engine
from polythink.engine.llama.native import Context, Weights
from polythink.engine.params import Request, SamplingParams
from polythink.models.to_gguf import write_gguf
from polythink.run.table import markdown_table


@dataclass(frozen=True)
class Job:
    trace: Trace
    tokens: int  # of each path


def jobs_of(subject: Subject, traces: int, prompt: int, tokens: int) -> list[Job]:
    rng, case = random.Random(1), Case(traces, 1, None, prompt)
    return [Job(trace, rng.randint(max(1, tokens // 4), tokens)) for trace in case.traces(subject.words)]


def wanted(jobs: Sequence[Job]) -> int:
    """Tokens of all paths."""
    return sum(job.tokens * job.trace.paths for job in jobs)


def own(subject: Subject, backend: str | LlamaCppBackend, most: int) -> Callable[[Sequence[Job]], int]:
    """Runs jobs with this package's engine; returns the number of tokens that its paths have drawn."""
    engine = Engine(subject.lm, max_num_seqs=most, backend=backend)
    word = subject.words[-1]  # an ordinary token after each forced tag: see `bench.model._never_sample`

    def run(jobs: Sequence[Job]) -> int:
        requests, params = [], []
        for job in jobs:
            paths, room = job.trace.paths, job.tokens + 1
            requests.append(Request(job.trace.prompt, f"p{job.trace.problem}", 0, path_prefixes=((word,),) * paths))
            params.append(SamplingParams(
                paths=paths, mode="structured", fork_at=0, max_blocks=1, max_main_tokens=1, max_path_tokens=room,
                max_summary_tokens=2, max_trace_tokens=paths * (room + 8) + 32, length_scaling_above=0,
                summary_prefix=subject.lm.decode([word]),
            ))  # fmt: skip
        found = engine.generate(requests, params)
        return sum(sum(s.sampled) for rollout in found for s in rollout.segments if s.kind == "path")

    return run


def llama(subject: Subject, weights: Weights, exact: bool) -> Callable[[Sequence[Job]], int]:
    """Runs jobs with llama.cpp alone."""

    def run(jobs: Sequence[Job]) -> int:
        cells = sum(len(job.trace.prompt) + job.trace.paths * (job.tokens + 1) for job in jobs)
        left = np.repeat([job.tokens for job in jobs], [job.trace.paths for job in jobs])
        context = Context(weights, cells, len(left), exact)
        tokens, positions = read_prompts(context, [job.trace for job in jobs], subject.words[-1])
        sequences, drawn = np.arange(len(left)), 0
        while len(sequences):
            logits = torch.from_numpy(context.decode(tokens, positions, sequences, np.ones(len(sequences), bool)))
            tokens = torch.multinomial(logits.softmax(-1), 1)[:, 0].numpy()
            drawn, left = drawn + len(tokens), left - 1
            for ended in sequences[left == 0]:
                context.drop(int(ended))
            goes_on = left > 0
            tokens, positions, sequences, left = (x[goes_on] for x in (tokens, positions + 1, sequences, left))
        context.close()
        return drawn

    return run


CONTENDERS: dict[str, Callable[[Subject, int, Weights], Callable[[Sequence[Job]], int]]] = {
    "lean": lambda subject, most, weights: own(subject, "lean", most),
    "llama_cpp": lambda subject, most, weights: own(subject, LlamaCppBackend(subject.lm, weights), most),
    "llama_cpp_fast": lambda subject, most, weights: own(
        subject, LlamaCppBackend(subject.lm, weights, fast=True), most
    ),
    "llama.cpp": lambda subject, most, weights: llama(subject, weights, exact=False),
    "llama.cpp exact": lambda subject, most, weights: llama(subject, weights, exact=True),
}  # of this package, by backend; then llama.cpp alone


def contenders(subject: Subject, only: str, most: int, folder: Path) -> dict[str, Callable[[Sequence[Job]], int]]:
    write_gguf(subject.lm.model, folder / "model.gguf")
    weights = Weights(folder / "model.gguf")
    return {name: CONTENDERS[name](subject, most, weights) for name in only.split(",")}


def measure(
    each: dict[str, Callable[[Sequence[Job]], int]], jobs: Sequence[Job], rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """(seconds, processor seconds) of every counted run."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in each}
    few = [Job(job.trace, 2) for job in jobs[:4]]
    for number in range(rounds + 1):
        order = list(each)
        random.Random(number).shuffle(order)
        for name in order:
            started, busy = time.perf_counter(), time.process_time()
            drawn = each[name](jobs if number else few)
            seconds = time.perf_counter() - started, time.process_time() - busy
            assert drawn == wanted(jobs if number else few), (name, drawn)
            found[name] += [seconds] if number else []
            print(number, name, *(f"{x:.1f}" for x in seconds), file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    for name, default in (("traces", 32), ("prompt", 512), ("tokens", 128), ("threads", 2), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument(
        "--only", default=",".join(CONTENDERS), help="contenders, with commas; the first is compared with"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    subject = open_subject(options.model, "cpu", "float32")
    jobs = jobs_of(subject, options.traces, options.prompt, options.tokens)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(contenders(subject, options.only, options.traces, Path(folder)), jobs, options.rounds)
    total, rows, result = wanted(jobs), [], {}
    first = next(iter(found))
    for name, runs in found.items():
        wall, busy = (sorted(column) for column in zip(*runs, strict=True))
        spread = [quantiles(x, n=4, method="inclusive") if len(x) > 1 else x * 3 for x in (wall, busy)]
        # rounds are compared within themselves: what else the machine does changes from one to the next
        ratios = [[x[i] / y[i] for x, y in zip(runs, found[first], strict=True)] for i in (0, 1)]
        result[name] = {"seconds": wall, "cpu_seconds": busy, "over_first": [median(r) for r in ratios]}
        cells = [f"{middle:.1f} ({low:.1f}-{high:.1f})" for low, middle, high in spread]
        rows.append(
            [
                name,
                *cells,
                f"{total / median(wall):.0f}",
                *(f"{median(r):.2f} ({min(r):.2f}-{max(r):.2f})" for r in ratios),
            ]
        )
    head = ["contender", "seconds", "CPU s", "tokens/s", f"seconds / {first}", f"CPU s / {first}"]
    print(markdown_table(head, rows))
    print(json.dumps({"bench": "ragged", **vars(options), "tokens_drawn": total, "contenders": result}))


if __name__ == "__main__":
    main()
