"""Milliseconds per decoding step: the engine's backends beside `generate` of transformers with the same sequences.

    python bench/decode.py                                   # every case in both dtypes
    python bench/decode.py --cases 1x4 --steps 8 --rounds 1  # a first look

A case is TRACESxPATHS: traces whose one block is being sampled. `32xragged` are 32 traces with 1, 2, 3, 4, 1, .. paths
and prompts of unequal length. `generate` decodes one sequence per path, in one batch padded on the left, each with a
copy of its prompt. The model is a random Qwen3 of about 29M parameters; everything samples at temperature 1.

Timed is a whole step (scheduling, forward, sampling) once the prompts have been read and the paths opened; contenders
take turns, so that a busy machine hits all of them. Not measured: prompts, joins, refills, memory.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from time import perf_counter

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: waiting threads that spin slow shared cores down

import numpy as np
import torch
import transformers
from transformers import StoppingCriteria

from polythink.engine.engine import Engine
from polythink.engine.params import Request, SamplingParams
from polythink.models.build import ModelConfig, from_config
from polythink.models.lm import LanguageModel
from polythink.run.table import markdown_table

CASES = ("1x1", "1x2", "1x4", "1x8", "32xragged")
BACKENDS = ("flat", "padded")
NEVER = -1e4  # added to the logit of a token that is never to be sampled


def make_model(dtype: str) -> LanguageModel:
    shape = dict(hidden_size=512, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=4, head_dim=64)
    words = [f"w{i}" for i in range(8192 - 9)]  # and six tags, end, padding, unknown
    return from_config(ModelConfig(**shape, intermediate_size=1536, dtype=dtype), "parallel_r1", words)


def make_prompts(case: str, length: int, words: int) -> list[tuple[tuple[int, ...], int]]:
    """(prompt, paths) of each trace of a case."""
    traces, paths = case.split("x")
    rng = random.Random(0)
    ragged = paths == "ragged"
    lengths = [rng.randint(length // 4, length) if ragged else length for _ in range(int(traces))]
    return [
        (tuple(rng.randrange(3, words) for _ in range(n)), i % 4 + 1 if ragged else int(paths))
        for i, n in enumerate(lengths)
    ]


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter()


def engine_steps(engine: Engine, prompts: list, bias: torch.Tensor, steps: int) -> list[float]:
    """Seconds of each step after the fork, which every trace samples first of all and never again."""
    fork, ends = engine.lm.tag_ids[engine.dialect.opening.text], []
    bias[fork] = -NEVER
    for i, (prompt, paths) in enumerate(prompts):
        engine.add(Request(prompt, "", i), settings(paths, steps + 2))
    with engine.hold():
        while engine.unfinished:
            engine.step()
            bias[fork] = NEVER
            ends.append(now(bias.device))
    return [after - before for before, after in pairwise(ends[1 : steps + 2])]  # without the prompt's and the fork's


def settings(paths: int, tokens: int) -> SamplingParams:
    """One block whose paths are all truncated after `tokens` tokens."""
    return SamplingParams(
        paths=paths, max_blocks=1, max_main_tokens=1, max_path_tokens=tokens, max_summary_tokens=1,
        max_trace_tokens=1 << 20,
    )  # fmt: skip


class Clock(StoppingCriteria):
    """Never stops; notes when each step has ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs) -> torch.Tensor:
        self.ends.append(now(input_ids.device))
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def generate_steps(lm: LanguageModel, prompts: list, bias: torch.Tensor, steps: int) -> list[float]:
    """Seconds of each step of `generate` after the first."""
    bias[lm.tag_ids[lm.dialect.opening.text]] = NEVER
    sequences = [prompt for prompt, paths in prompts for _ in range(paths)]
    longest = max(map(len, sequences))
    ids = torch.tensor([[lm.pad] * (longest - len(s)) + list(s) for s in sequences], device=bias.device)
    clock = Clock()
    lm.model.generate(
        ids, attention_mask=(ids != lm.pad).long(), do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
        max_new_tokens=steps + 2, pad_token_id=lm.pad, stopping_criteria=[clock],
    )  # fmt: skip
    return [after - before for before, after in pairwise(clock.ends[1:])]


def measure(dtype: str, options: argparse.Namespace) -> Iterator[list[str]]:
    """The rows of the table, one per case, as they are measured."""
    lm = make_model(dtype)
    vocabulary = lm.model.config.vocab_size
    contenders = {kind: partial(engine_steps, Engine(lm, max_num_seqs=64, backend=kind)) for kind in BACKENDS}
    contenders["generate"] = partial(generate_steps, lm)
    bias = torch.zeros(vocabulary, dtype=lm.model.dtype, device=lm.device)
    bias[[lm.eos, lm.pad, *lm.tag_ids.values()]] = NEVER
    lm.model.get_output_embeddings().register_forward_hook(lambda module, inputs, logits: logits + bias)
    for case in options.cases:
        prompts = make_prompts(case, options.prompt, vocabulary - len(lm.tag_ids))
        for run in contenders.values():  # warm-up, not counted
            run(prompts, bias, 1)
        seconds: dict[str, list[float]] = defaultdict(list)
        for _ in range(options.rounds):
            for name, run in contenders.items():
                seconds[name] += run(prompts, bias, options.steps)
        yield [dtype, case, str(sum(paths for _, paths in prompts)), *cells(seconds)]


def cells(seconds: dict[str, list[float]]) -> list[str]:
    """Median and quartiles in milliseconds of each contender, and its speed relative to `generate`."""
    quartiles = {name: np.percentile(values, (25, 50, 75)) * 1000 for name, values in seconds.items()}
    reference = quartiles["generate"][1]
    return [
        f"{middle:.1f} ({low:.1f}-{high:.1f})" + (f" x{reference / middle:.2f}" if name in BACKENDS else "")
        for name, (low, middle, high) in quartiles.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=CASES, help="TRACESxPATHS, or TRACESxragged")
    parser.add_argument("--dtypes", nargs="+", default=("float32", "bfloat16"), choices=("float32", "bfloat16"))
    parser.add_argument("--prompt", type=int, default=256, help="tokens per prompt (of ragged ones: at most)")
    parser.add_argument("--steps", type=int, default=24, help="steps per contender and round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for dtype in options.dtypes:
        for row in measure(dtype, options):
            print(*row, sep="  ", file=sys.stderr)
            rows.append(row)
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {options.threads} threads"
    print(f"{where}, {platform.machine()}, torch {torch.__version__}, transformers {transformers.__version__}")
    print(f"prompt {options.prompt}, {options.rounds} rounds of {options.steps} steps: median ms (quartiles)\n")
    print(markdown_table(("dtype", "case", "branches", *BACKENDS, "generate"), rows), end="")


if __name__ == "__main__":
    main()
