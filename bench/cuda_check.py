"""What should be the same on a GPU as on a CPU: rotary frequencies, dropout in training, decoding against one forward.

    python bench/cuda_check.py [--device cuda]

Prints a Markdown table. Tiny random models; float32 unless said. `tests/engine` and `tests/models` run on a GPU with
POLYTHINK_TEST_DEVICE=cuda.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
import transformers
from torch.nn.attention import SDPBackend, sdpa_kernel

from polythink.engine.engine import Engine
from polythink.engine.params import Request, SamplingParams
from polythink.models.batch import Batch, collate
from polythink.models.build import from_config
from polythink.models.config import ModelConfig
from polythink.models.lm import load, save
from polythink.models.logprobs import masked_logits, token_logprobs
from polythink.problems.problem import Problem, ProblemSet
from polythink.trace.layout import Piece, lay_out
from polythink.train.config import GRPOConfig
from polythink.train.grpo import train_grpo

SHAPE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "tokenizer": "bytes"}


KERNELS = {"torch's choice": None, "math": SDPBackend.MATH, "memory-efficient": SDPBackend.EFFICIENT_ATTENTION}


def rotary(device: str, folder: Path) -> tuple[str, str]:
    """A model made in bfloat16 against the same model saved and loaded: logits at positions up to 2,000."""
    made = from_config(ModelConfig(**SHAPE, dtype="bfloat16", max_position_embeddings=2048), "parallel_r1")
    made.model.to(device)
    save(made, folder / "made")
    loaded = load(folder / "made", dtype="bfloat16")
    loaded.model.to(device)
    ids = torch.randint(3, 200, (1, 2000), generator=torch.Generator().manual_seed(0)).to(device)
    with torch.no_grad():
        gap = (made.model.eval()(ids).logits - loaded.model.eval()(ids).logits).abs().max().item()
    return "made in bfloat16 - loaded, logits up to position 2,000", f"{gap:.1e}"


def grpo_gap(device: str, folder: Path, dropout: float) -> tuple[str, str]:
    """`logprob_gap` of three steps of reinforcement learning on a GPT-2 with dropout."""
    options = {"resid_pdrop": dropout, "embd_pdrop": dropout, "attn_pdrop": dropout}
    config = ModelConfig(
        architecture="gpt2", tokenizer="bytes", options={"n_embd": 64, "n_layer": 2, "n_head": 4, **options}
    )
    lm = from_config(config, "parallel_r1")
    lm.model.to(device)
    problems = ProblemSet("sums", tuple(Problem(f"p{i}", f"{i} + 1", str(i + 1)) for i in range(4)))
    config = GRPOConfig(reward="accuracy", steps=3, prompts_per_step=2, group_size=4, lr=1e-5, drop_zero_spread=False)
    params = SamplingParams(max_trace_tokens=48, max_path_tokens=12, max_blocks=1)
    found = train_grpo(lm, config, problems, folder / f"grpo{dropout}", params=params)
    from polythink.run.jsonl import read_jsonl

    gaps = [row["logprob_gap"] for row in read_jsonl(folder / f"grpo{dropout}" / "metrics.jsonl")]
    del found
    return f"logprob_gap in GRPO, GPT-2 with dropout {dropout}, largest of 3 steps", f"{max(gaps):.1e}"


def same_tokens(device: str) -> tuple[str, str]:
    """Whether the tokens that are drawn on the device are those that a CPU draws."""
    texts = []
    for place in ("cpu", device):
        lm = from_config(ModelConfig(**SHAPE), "parathinker", seed=1)
        lm.model.to(place)
        engine = Engine(lm)
        params = SamplingParams(paths=8, max_path_tokens=24, max_trace_tokens=400)
        rollouts = engine.generate([Request(tuple(lm.encode_prompt("1 + 1")), "p", i) for i in range(8)], params)
        texts.append([segment.text for rollout in rollouts for segment in rollout.segments])
    same = sum(a == b for a, b in zip(*texts, strict=True))
    return "segments with the tokens of the CPU, 8 responses of 8 paths", f"{same} of {len(texts[0])}"


def prefixes(pieces: list[Piece]) -> Iterator[Batch]:
    """The trace as far as it is written, token after token."""
    for last, piece in enumerate(pieces[1:], start=1):
        for cut in range(1, len(piece.tokens) + 1):
            part = replace(piece, tokens=piece.tokens[:cut], sampled=piece.sampled[:cut])
            yield collate([lay_out([*pieces[:last], part], "structured")])


def kernels(device: str) -> list[tuple[str, str]]:
    """One masked forward per token of drawn traces, as the slow twin runs it, by attention kernel, against float64.

    And the engine's recorded log-probabilities against the same float64 values.
    """
    lm = from_config(ModelConfig(**SHAPE), "parallel_r1", seed=2)
    lm.model.to(device)
    exact = copy.deepcopy(lm.model).to("cpu", torch.float64)
    params = SamplingParams(
        paths=3, max_blocks=2, max_main_tokens=24, max_path_tokens=12, max_trace_tokens=150, fork_at=4
    )
    asked = [Request(tuple(lm.encode_prompt(f"{i} + 1")), f"p{i}", 0) for i in range(4)]
    drawn, wrong = 0.0, {}
    for rollout in Engine(lm).generate(asked, params, seed=5):
        batch = collate([rollout.layout()])
        with torch.no_grad():
            right = token_logprobs(exact, batch).numpy()[0]
        recorded = [value for s in rollout.segments for value in s.logprobs]
        sampled = batch.sampled[0].numpy()
        gaps = abs(right[-len(recorded) :] - recorded)[sampled[-len(recorded) :]]
        drawn = max(drawn, float(gaps.max()))
        for name, kernel in KERNELS.items():
            for part in prefixes(rollout.pieces()):
                with torch.no_grad(), sdpa_kernel(kernel) if kernel else nullcontext():
                    got = masked_logits(lm.model, part.to(device))[0, -1].double().cpu()
                    want = masked_logits(exact, part)[0, -1]
                wrong.setdefault(name, []).append(float((got - want).abs().max()))
    rows = [("engine's log-probabilities - float64 on the CPU, largest", f"{drawn:.1e}")]
    for name, found in wrong.items():
        off = sum(gap > 1e-3 for gap in found)
        rows.append(
            (
                f"masked forward of every length, {name}: largest gap to float64; off by 1e-3",
                f"{max(found):.1e}; {off} of {len(found)}",
            )
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    device = parser.parse_args().device
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, transformers {transformers.__version__}\n")
    print("| what | value |\n| --- | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        rows = [lambda: rotary(device, Path(folder)), lambda: grpo_gap(device, Path(folder), 0.1),
                lambda: grpo_gap(device, Path(folder), 0.0), lambda: same_tokens(device)]  # fmt: skip
        for row in rows:
            print("| {} | {} |".format(*row()), flush=True)
        for row in kernels(device):
            print("| {} | {} |".format(*row), flush=True)


if __name__ == "__main__":
    main()
