"""Seconds of drawing one step of reinforcement learning: 8 prompts x 8 samples of 2 paths, on a random model.

    python bench/grpo_drawing.py 0.6b --dtype bfloat16 --out drawing.json

Every path has 128 tokens and every summary 32, so that the critical path is about 166; nothing ends early. The first
drawing is a warm-up and is reported apart: with captured graphs or compiled kernels it is the slow one.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median

from polythink.bench.cases import parse_case
from polythink.bench.machine import describe, wait
from polythink.bench.model import open_subject
from polythink.bench.ours import cache_bytes
from polythink.engine.engine import Engine
from polythink.engine.params import Request, SamplingParams
from polythink.run.folder import write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="29m", help="a shape of `polythink bench decode`, or a folder")
    parser.add_argument("--dtype", default=None)
    parser.add_argument("--device", default=None)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--path", type=int, default=128, help="tokens of a path")
    parser.add_argument("--summary", type=int, default=32)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()

    subject = open_subject(options.model, options.device, options.dtype)
    engine = Engine(subject.lm, max_num_seqs=64, backend=options.backend)
    word = subject.words[-1]
    requests = [
        Request(t.prompt, f"p{t.problem}", t.sample, path_prefixes=((word,),) * 2)
        for t in parse_case("8:8x2", options.prompt).traces(subject.words)
    ]
    params = SamplingParams(
        paths=2, max_blocks=1, fork_at=0, max_main_tokens=1, max_path_tokens=options.path,
        max_summary_tokens=options.summary, max_trace_tokens=4096, summary_prefix=subject.lm.decode([word]),
    )  # fmt: skip
    seconds = []
    for seed in range(options.runs + 1):
        wait(subject.device)
        started = time.perf_counter()
        rollouts = engine.generate(requests, params, seed)
        wait(subject.device)
        seconds.append(time.perf_counter() - started)
    tokens = sum(rollout.tokens for rollout in rollouts)
    result = {
        "bench": "drawing", "model": options.model, "backend": engine.backend.kind, "machine": describe(subject.device),
        "samples": len(rollouts), "tokens": tokens, "critical_path": max(r.critical_path for r in rollouts),
        "first_s": seconds[0], "s": median(seconds[1:]), "kv_bytes_left": cache_bytes(engine),
    }  # fmt: skip
    if options.out is not None:
        write_json(options.out, result)
    rate = tokens / result["s"]
    print(f"{options.model}, {result['backend']}: {result['samples']} samples, {tokens} tokens, critical path ", end="")
    print(f"{result['critical_path']}: {result['s']:.2f} s ({rate:,.0f} tokens/s), first {seconds[0]:.2f} s")


if __name__ == "__main__":
    main()
