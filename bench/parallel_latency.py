"""The latency of P paths relative to one path of the same length: ParaThinker's claim, measured on this engine.

    python bench/parallel_latency.py                             # P = 1, 2, 4, 8, 16 in both dtypes
    python bench/parallel_latency.py --paths 1 8 --rounds 2 --tokens 16 --layers 2    # a first look

One question is answered with P paths of exactly `--tokens` tokens each and a short summary. The model is a random Qwen3
whose weights do not fit into a CPU cache; it never samples a tag or the end, so that budgets end paths and summary.
The paper (arXiv 2509.04475) compares with one path of the same budget, not with as many tokens in sequence:

    total      seconds from the request to the answer: prompt, paths, join, summary
    step       milliseconds of one decoding step of all paths together, scheduling and sampling included
    join       milliseconds of the one step that closes the paths and opens the summary
    summary    milliseconds of one decoding step of the summary, which reads all paths
    CPU        milliseconds of processor time of all threads per step, which other load hardly changes

Every round measures each P in each dtype once, in random order, so that other load hits all of them. A cell is the
median over rounds (of the medians over steps) with the least and the greatest; ratios are taken within a round.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from statistics import median

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: waiting threads that spin slow shared cores down

import torch
import transformers

from polythink.engine.engine import Engine
from polythink.engine.params import Request, SamplingParams
from polythink.models.build import ModelConfig, from_config
from polythink.run.table import markdown_table

NEVER = -1e4  # added to the logit of a token that is never to be sampled
COLUMNS = (
    "dtype", "P", "total s", "total / P=1", "step ms", "step / P=1", "CPU ms", "CPU / P=1", "join ms", "join / step",
    "summary ms",
)  # fmt: skip


def make_engine(dtype: str, options: argparse.Namespace) -> Engine:
    """An engine on a random Qwen3 that samples bytes only."""
    width = options.width
    shape = dict(hidden_size=width, num_hidden_layers=options.layers, num_attention_heads=width // 64, head_dim=64)
    config = ModelConfig(
        **shape, num_key_value_heads=width // 128, intermediate_size=3 * width, tokenizer="bytes", dtype=dtype,
        max_position_embeddings=1 << 15,
    )  # fmt: skip
    lm = from_config(config, "parathinker")
    bias = torch.zeros(lm.model.config.vocab_size, dtype=lm.model.dtype, device=lm.device)
    bias[[lm.eos, lm.pad, *lm.tag_ids.values()]] = NEVER
    lm.model.get_output_embeddings().register_forward_hook(lambda module, inputs, logits: logits + bias)
    return Engine(lm, max_num_seqs=1, backend=options.backend)


def now(engine: Engine) -> float:
    if engine.lm.device.type == "cuda":
        torch.cuda.synchronize(engine.lm.device)
    return time.perf_counter()


def answer(engine: Engine, paths: int, options: argparse.Namespace) -> dict[str, float]:
    """Seconds of one answer with P paths: `total`, `join`, medians of a `step`, its `cpu` time, a `summary` step."""
    params = SamplingParams(
        paths=paths, max_blocks=1, max_main_tokens=1, max_path_tokens=options.tokens, max_trace_tokens=1 << 20,
        max_summary_tokens=options.summary, length_scaling_above=0,
    )  # fmt: skip
    prompt = tuple(engine.lm.encode("so it goes " * options.prompt)[: options.prompt])
    tokens, seconds, worked = [], [], []  # of each step: tokens run, wall and processor seconds
    started = now(engine)
    engine.add(Request(prompt), params)
    with engine.hold():
        while engine.unfinished:
            before, wall, cpu = engine.forwarded, now(engine), time.process_time()
            events = engine.step()
            seconds.append(now(engine) - wall)
            worked.append(time.process_time() - cpu)
            tokens.append(engine.forwarded - before)
    total = now(engine) - started
    sampled = [sum(s.sampled) for s in events[-1].rollout.segments]
    assert sampled[: paths + 1] == [options.tokens] * paths + [options.summary], sampled
    # prompt and tags; all tokens but the last of each path; the last ones, the closing tags and <summary>
    sizes = [len(prompt) + paths, *[paths] * (options.tokens - 1), 2 * paths + 1]
    assert tokens[: len(sizes)] == sizes, tokens
    return {
        "total": total,
        "step": median(seconds[1 : options.tokens]),
        "cpu": median(worked[1 : options.tokens]),
        "join": seconds[options.tokens],
        "summary": median(seconds[options.tokens + 1 : options.tokens + options.summary]),
    }


Rounds = dict[tuple[str, int], list[dict[str, float]]]  # by dtype and P


def measure(options: argparse.Namespace) -> Rounds:
    """All rounds of all cases, after one short answer per case that is not counted."""
    engines = {dtype: make_engine(dtype, options) for dtype in options.dtypes}
    cases = [(dtype, paths) for dtype in engines for paths in options.paths]
    found: Rounds = defaultdict(list)
    short = argparse.Namespace(**{**vars(options), "tokens": 2, "summary": 2})
    for dtype, paths in cases:
        answer(engines[dtype], paths, short)
    for number in range(options.rounds):
        for dtype, paths in random.Random(number).sample(cases, len(cases)):
            found[dtype, paths].append(answer(engines[dtype], paths, options))
        print(f"round {number + 1} of {options.rounds}, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    return found


def rows_of(found: Rounds, options: argparse.Namespace) -> Iterable[list[str]]:
    """The table, by dtype and P; everything is compared with one path."""
    for dtype in options.dtypes:
        alone = found[dtype, 1]
        for paths in options.paths:
            rounds = found[dtype, paths]

            def cell(value: Callable[[dict, dict], float], digits: int = 1, rounds=rounds, alone=alone) -> str:
                values = sorted(value(r, a) for r, a in zip(rounds, alone, strict=True))
                return f"{median(values):.{digits}f} ({values[0]:.{digits}f}-{values[-1]:.{digits}f})"

            yield [
                dtype,
                str(paths),
                cell(lambda r, a: r["total"], 2),
                cell(lambda r, a: r["total"] / a["total"], 2),
                cell(lambda r, a: 1000 * r["step"]),
                cell(lambda r, a: r["step"] / a["step"], 2),
                cell(lambda r, a: 1000 * r["cpu"]),
                cell(lambda r, a: r["cpu"] / a["cpu"], 2),
                cell(lambda r, a: 1000 * r["join"]),
                cell(lambda r, a: r["join"] / r["step"], 2),
                cell(lambda r, a: 1000 * r["summary"]),
            ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paths", type=int, nargs="+", default=(1, 2, 4, 8, 16), help="numbers of paths, 1 among them")
    parser.add_argument("--dtypes", nargs="+", default=("float32", "bfloat16"), choices=("float32", "bfloat16"))
    parser.add_argument("--prompt", type=int, default=32, help="tokens of the question")
    parser.add_argument("--tokens", type=int, default=64, help="tokens per path")
    parser.add_argument("--summary", type=int, default=16, help="tokens of the summary")
    parser.add_argument("--width", type=int, default=1024, help="of the model, a multiple of 128")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--backend", default="auto", choices=("auto", "flat", "padded"))
    options = parser.parse_args()
    if 1 not in options.paths:
        parser.error("--paths needs 1 among its numbers: everything is compared with one path")
    torch.set_num_threads(options.threads)
    before = os.getloadavg()[0]
    found = measure(options)
    cuda = torch.cuda.is_available()
    where = torch.cuda.get_device_name() if cuda else f"{platform.machine()} CPU, {options.threads} threads"
    print(f"{time.strftime('%Y-%m-%d')}, {where}, torch {torch.__version__}, transformers {transformers.__version__}")
    print(f"load {before:.1f} at the start, {os.getloadavg()[0]:.1f} at the end; width {options.width}, ", end="")
    print(f"{options.layers} layers; prompt {options.prompt}, {options.tokens} tokens per path, summary ", end="")
    print(f"{options.summary}; {options.rounds} rounds: median (least-greatest)\n")
    print(markdown_table(COLUMNS, rows_of(found, options)), end="")


if __name__ == "__main__":
    main()
