"""What should be the same on a GPU as on a CPU: rotary frequencies, dropout in training, decoding against one forward.

    python bench/cuda_check.py [--device cuda]
    python bench/cuda_check.py --device cpu --tiny     # less of each: is the script whole?

Prints a Markdown table. Tiny random models; float32 unless said. `tests/engine` and `tests/models` run on a GPU with
POLYTHINK_TEST_DEVICE=cuda.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import transformers
from torch.nn.attention import SDPBackend, sdpa_kernel

from polythink.bench.cases import parse_case
from polythink.bench.model import open_subject
from polythink.engine.engine import Engine
from polythink.engine.kinds import KINDS
from polythink.engine.params import Request, SamplingParams
from polythink.engine.reference import reference_generate
from polythink.errors import UserError
from polythink.models.batch import Batch, collate
from polythink.models.build import from_config
from polythink.models.config import ModelConfig
from polythink.models.lm import LanguageModel, load, save
from polythink.models.logprobs import masked_logits, token_logprobs
from polythink.problems.problem import Problem, ProblemSet
from polythink.run.jsonl import read_jsonl
from polythink.trace.layout import Piece, lay_out
from polythink.trace.rollout import Rollout
from polythink.train.config import GRPOConfig
from polythink.train.grpo import train_grpo

SHAPE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "tokenizer": "bytes"}
KERNELS = {"torch's choice": None, "math": SDPBackend.MATH, "memory-efficient": SDPBackend.EFFICIENT_ATTENTION}
WORDS = ("a", "b", "c")
BUDGETS = {
    "max_blocks": 3,
    "max_main_tokens": 16,
    "max_path_tokens": 9,
    "max_summary_tokens": 6,
    "max_trace_tokens": 110,
}
PARAMS = SamplingParams(paths=3, temperature=0.8, **BUDGETS)


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
    train_grpo(lm, config, problems, folder / f"grpo{dropout}", params=params)
    gaps = [row["logprob_gap"] for row in read_jsonl(folder / f"grpo{dropout}" / "metrics.jsonl")]
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


def kernels(device: str, tiny: bool) -> Iterator[tuple[str, str]]:
    """One masked forward per token of a drawn trace, as the slow twin runs it, by attention kernel, against float64."""
    lm, exact = both(device)
    rollouts = Engine(lm).generate(asked(lm), PARAMS, seed=5)[: 1 if tiny else 2]
    for name, kernel in KERNELS.items():
        gaps = []
        for part in (part for rollout in rollouts for part in prefixes(rollout.pieces())):
            with torch.no_grad(), sdpa_kernel(kernel) if kernel else nullcontext():
                try:
                    got = masked_logits(lm.model, part.to(device))[0, -1].double().cpu()
                except RuntimeError as error:  # torch says that a kernel does not take such inputs
                    gaps = str(error).splitlines()[0][:60]
                    break
            with torch.no_grad():
                gaps.append(float((got - masked_logits(exact, part)[0, -1]).abs().max()))
        off = gaps if isinstance(gaps, str) else f"{max(gaps):.1e}; {sum(g > 1e-3 for g in gaps)} of {len(gaps)}"
        yield f"masked forward of every length, {name}: largest gap to float64; off by 1e-3", off


def both(device: str) -> tuple[LanguageModel, torch.nn.Module]:
    """A tiny model on the device, and the same in float64 on the CPU."""
    lm = from_config(ModelConfig(num_hidden_layers=2), "parallel_r1", WORDS, seed=2)
    exact = copy.deepcopy(lm.model).to("cpu", torch.float64)
    lm.model.to(device)
    return lm, exact


def asked(lm: LanguageModel) -> list[Request]:
    prompt = tuple(lm.encode("a b c c a b b a c b a c"))
    return [Request(prompt[: (1, 3, 12, 2, 5)[i % 5]], f"p{i // 4}", i % 4) for i in range(6)]


def against_float64(device: str, tiny: bool) -> Iterator[tuple[str, str]]:
    """Each backend and the slow twin: recorded log-probabilities against float64 on the CPU, and where they part."""
    lm, exact = both(device)
    for paths in (3,) if tiny else (1, 2, 3, 8):
        params = PARAMS.model_copy(update={"paths": paths})
        drawn = {"slow twin": reference_generate(lm, asked(lm), params, seed=5)}
        drawn |= {kind: engine.generate(asked(lm), params, seed=5) for kind, engine in engines(lm).items()}
        for who, rollouts in drawn.items():
            worst = max(worst_gap(exact, rollout, i) for i, rollout in enumerate(rollouts))
            yield f"{who}, {paths} paths: largest gap of a log-probability to float64 (trace, segment, token)", worst[1]
        texts = [[rollout.text for rollout in rollouts] for rollouts in drawn.values()]
        same = sum(len(set(each)) == 1 for each in zip(*texts, strict=True))
        yield f"traces in which all of them agree, {paths} paths", f"{same} of {len(texts[0])}"


def engines(lm: LanguageModel) -> dict[str, Engine]:
    """An engine with each backend that takes this model on this device."""
    made = {}
    for kind in KINDS:
        with suppress(UserError):
            made[kind] = Engine(lm, max_num_seqs=4, backend=kind)
    return {kind: engine for kind, engine in made.items() if engine.backend.joins_caches}


def half_precision(device: str, tiny: bool) -> Iterator[tuple[str, str]]:
    """Recorded log-probabilities in bfloat16 against one masked float32 forward of the same weights.

    The model samples a tag after a tag alone, so an ordinary token is forced after each.
    """
    subject = open_subject("tiny" if tiny else "29m", device, "bfloat16")
    begun, traces = ((subject.words[0],),) * 4, parse_case("4x4", 64).traces(subject.words)
    requests = [Request(t.prompt, f"p{t.problem}", path_prefixes=begun) for t in traces]
    exact = copy.deepcopy(subject.lm.model).float()
    params = SamplingParams(
        paths=4, max_path_tokens=32, max_summary_tokens=8, max_blocks=1, max_trace_tokens=400, length_scaling_above=0,
        summary_prefix=subject.lm.decode([subject.words[0]]),
    )  # fmt: skip
    for kind, engine in engines(subject.lm).items():
        gaps = []
        for rollout in engine.generate(requests, params):
            with torch.no_grad():
                right = token_logprobs(exact, collate([rollout.layout()]).to(device), 1.0).cpu().numpy()[0]
            drawn = np.concatenate([np.array(segment.logprobs) for segment in rollout.segments])
            sampled = np.concatenate([np.array(segment.sampled) for segment in rollout.segments])
            gaps.append(np.abs(right[len(rollout.prompt) :] - drawn)[sampled])
        gap = np.concatenate(gaps)
        found = f"{gap.max():.1e}; {gap.mean():.1e} of {len(gap)}"
        yield f"bfloat16, {subject.name}, {kind}: gap to one float32 forward, largest; mean of so many tokens", found


def worst_gap(exact: torch.nn.Module, rollout: Rollout, number: int) -> tuple[float, str]:
    """The largest gap of a trace's recorded log-probabilities to those of one masked forward, and where it is."""
    batch = collate([rollout.layout()])
    with torch.no_grad():
        right = token_logprobs(exact, batch, PARAMS.temperature).numpy()[0]
    worst, at = (0.0, "0"), len(rollout.prompt)
    for s, segment in enumerate(rollout.segments):
        for t, (value, sampled) in enumerate(zip(segment.logprobs, segment.sampled, strict=True)):
            gap = abs(right[at] - value) * sampled
            where = f"{number}, {s} {segment.kind}, {t} of {len(segment.tokens)}; token {at}"
            worst = max(worst, (gap, f"{gap:.1e} ({where})"))
            at += 1
    return worst


def rows(device: str, folder: Path, tiny: bool) -> Iterator[tuple[str, str]]:
    """All that is checked, as it is found: (what, value)."""
    yield rotary(device, folder)
    yield grpo_gap(device, folder, 0.1)
    yield grpo_gap(device, folder, 0.0)
    yield same_tokens(device)
    yield from kernels(device, tiny)
    yield from against_float64(device, tiny)
    yield from half_precision(device, tiny)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="less of each")
    given = parser.parse_args()
    device = given.device
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, transformers {transformers.__version__}\n")
    print("| what | value |\n| --- | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        for row in rows(device, Path(folder), given.tiny):
            print("| {} | {} |".format(*row), flush=True)


if __name__ == "__main__":
    main()
