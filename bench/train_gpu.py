"""Training forwards at speed: dense masks, flex attention and compiled layers, on one GPU, as one table.

    python bench/train_gpu.py --out train.json                        # everything, under six minutes
    python bench/train_gpu.py --only sft-bf16,profile,grpo --seconds 130  # the most important, in 150
    python bench/train_gpu.py --tiny                                  # from start to end on a CPU: is the script whole?

Parts (`--only`, done in the order that it names): sft-bf16, grpo, lora-4b, agree, profile, sft-autocast. Weights and
tokens are random. The variants of a part take turns; a step is the loop's own: collate, forward, backward, clipped
update. "first" holds the compilation. A part or variant that fails loses itself only; its error stands below the table.
"""

from __future__ import annotations

import argparse
import gc
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

import torch
from train_data import long_trace, rollouts, seen_share, sft_traces
from train_table import report
from transformers import Qwen3Config, Qwen3ForCausalLM

from polythink.bench.machine import describe, wait
from polythink.bench.model import make
from polythink.bench.shapes import CONTEXT, SHAPES
from polythink.models import compiled
from polythink.models.batch import pack
from polythink.models.lm import LanguageModel, checkpoint_activations
from polythink.run.folder import write_json
from polythink.trace.layout import Layout
from polythink.train import grpo_step, sft
from polythink.train.adapters import add_adapters
from polythink.train.config import PolicyConfig, SFTConfig
from polythink.train.grpo_step import update_policy
from polythink.train.kernels import kernels_of
from polythink.train.optimiser import head_options, make_optimiser, update

SMALL_LR = 1e-7  # the weights stay nearly what they are, and every part of the update runs
FLEX = {"attention": "flex_attention", "compile": False}
VARIANTS = {
    "dense": {"attention": "sdpa", "compile": False},
    "flex": FLEX,
    "flex, layers compiled": {**FLEX, "compile": True, "plain_head": True},
    "flex, compiled, 1 GB of logits": {**FLEX, "compile": True, "logits_memory_bytes": 1 << 30},
    "flex, compiled": {**FLEX, "compile": True},
}
EXTRA = ("flex, layers compiled", "flex, compiled, 1 GB of logits")  # for the first part only
TINY_VARIANTS = {"dense": {}, "compiled": {"compile": True, "logits_memory_bytes": 1 << 18}}  # no flex on a CPU


@dataclass
class Run:
    """What all parts share: options, sizes, what was found and what failed."""

    tiny: bool
    device: str
    deadline: float
    steps: int
    rows: list[dict] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    found: dict = field(default_factory=dict)
    wanted: tuple[str, ...] = ()  # variants; empty: all
    shape: str = ""
    lm: LanguageModel | None = None

    @property
    def variants(self) -> dict[str, dict]:
        known = TINY_VARIANTS if self.tiny else VARIANTS
        return {name: keys for name, keys in known.items() if not self.wanted or name in self.wanted}

    @property
    def fastest(self) -> str:
        return list(self.variants)[-1]

    def subject(self, shape: str, dtype: str) -> LanguageModel:
        """A random Qwen3 of a shape, one at a time; its tokenizer is a small one, since no text is read."""
        shape = "tiny" if self.tiny else shape
        if self.shape != shape or self.lm is None:
            self.lm = None
            emptied()
            sizes = {key: value for key, value in SHAPES[shape].items() if key != "vocabulary"}
            config = Qwen3Config(
                **sizes, vocab_size=SHAPES[shape]["vocabulary"], max_position_embeddings=CONTEXT, rope_theta=1e6,
                tie_word_embeddings=True, attn_implementation="sdpa",
            )  # fmt: skip
            torch.manual_seed(0)
            with torch.device(self.device):
                model = Qwen3ForCausalLM(config)
            self.lm, self.shape = replace(make("tiny", "float32"), model=model), shape
        for own in self.lm.model.parameters():  # not buffers: rotary frequencies stay exact
            own.data = own.data.to(getattr(torch, dtype))
            own.grad = None
        return self.lm

    def check_time(self) -> None:
        """`TimeoutError` where nothing new is to begin."""
        if time.perf_counter() > self.deadline:
            raise TimeoutError("no time left")

    @contextmanager
    def trying(self, what: str) -> Iterator[None]:
        """What fails inside is noted, and the next one goes on."""
        try:
            yield
        except Exception as error:
            lines = [line for line in str(error).strip().splitlines() if line.strip()] or [""]
            self.failed[what] = f"{type(error).__name__}: {lines[0][:300]}"
            print(f"-- {what} failed: {self.failed[what]}", flush=True)
            if not isinstance(error, TimeoutError):
                traceback.print_exc(limit=-12)


def emptied() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def head_as(plain: bool) -> Iterator[None]:
    """With `plain` the pieces of the loss are not compiled, whatever the recipe says."""
    if not plain:
        yield
        return
    for module in (sft, grpo_step):
        module.head_options = lambda *given: {**head_options(*given), "fused": False}
    try:
        yield
    finally:
        for module in (sft, grpo_step):
            module.head_options = head_options


def measure(
    run: Run, part: str, variants: dict[str, dict], step_of: Callable, tokens: int, seen: float, rounds: int = 2
) -> None:
    """Rows of the table for the variants of a part: `step_of(variant's keys)` is a function that does one step."""
    device = torch.device(run.device)
    steps, times, first, peak = {}, {}, {}, {}
    for name, keys in variants.items():
        with run.trying(f"{part}: {name}"):
            run.check_time()
            keys = dict(keys)
            plain = keys.pop("plain_head", False)
            steps[name] = plain, step_of(keys)
            began = [timed(steps[name], device) for _ in range(3)]
            first[name], times[name] = began[0], []
            print(f"{part}: {name}: first {began[0]:.2f} s, then {began[2] * 1e3:.1f} ms", flush=True)
    for number in range(rounds):
        for name in list(times)[:: -1 if number % 2 else 1]:
            with run.trying(f"{part}: {name}, round {number}"):
                run.check_time()
                if device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                times[name] += [timed(steps[name], device) for _ in range(run.steps)]
                if device.type == "cuda":
                    peak[name] = torch.cuda.max_memory_allocated() / 1e9
    for name, own in times.items():
        if own:
            run.rows.append({
                "part": part, "variant": name, "tokens": tokens, "seen": seen, "first_s": first[name],
                "s": median(own), "low_s": min(own), "high_s": max(own), "steps": len(own),
                "tokens_per_s": tokens / median(own), "peak_gb": peak.get(name),
            })  # fmt: skip


def timed(step: tuple[bool, Callable], device: torch.device) -> float:
    plain, function = step
    with head_as(plain):
        wait(device)
        started = time.perf_counter()
        function()
        wait(device)
        return time.perf_counter() - started


def sft_step(run: Run, lm: LanguageModel, layouts: list[Layout], optimiser, keys: dict) -> Callable[[], None]:
    """One step of supervised fine-tuning, as `train_sft` does it."""
    config = SFTConfig(steps=1, lr=SMALL_LR, batch=len(layouts), **keys)

    def step() -> None:
        with kernels_of(config, lm.model):
            sft.accumulate_gradient(lm, config, layouts)
        update(lm.model, optimiser, config.lr, config.max_grad_norm)

    return step


def sft_part(run: Run, dtype: str, autocast: bool) -> None:
    lm = run.subject("0.6b", dtype)
    lm.model.train()
    layouts = sft_traces(lm, run.tiny)
    optimiser = make_optimiser(lm.model, SFTConfig(steps=1, lr=SMALL_LR))
    name = "SFT, float32 + autocast" if autocast else f"SFT, {dtype}"
    variants = {k: {**v, "autocast": autocast} for k, v in run.variants.items()}
    if autocast and not run.tiny:  # each compilation takes its time
        variants = {k: v for k, v in variants.items() if k in ("dense", "flex, compiled")}
    measure(
        run, name, variants, lambda keys: sft_step(run, lm, layouts, optimiser, keys),
        sum(map(len, layouts)), seen_share(layouts),
    )  # fmt: skip


def part_sft_bf16(run: Run) -> None:
    sft_part(run, "float32" if run.tiny else "bfloat16", False)


def part_sft_autocast(run: Run) -> None:
    sft_part(run, "float32", True)


def part_grpo(run: Run) -> None:
    """One training pass with its update over 8 groups of 8 samples."""
    lm = run.subject("0.6b", "float32" if run.tiny else "bfloat16")
    groups = rollouts(lm, run.tiny)
    layouts = [item.layout for group in groups for item in group]
    optimiser = make_optimiser(lm.model, PolicyConfig(lr=SMALL_LR))
    spread = torch.zeros(len(groups), dtype=torch.bool)

    def step_of(keys: dict) -> Callable[[], None]:
        config = PolicyConfig(lr=SMALL_LR, **keys)
        return lambda: update_policy(lm, config, groups, spread, optimiser, config.lr, None)

    packed = {"pack": 256 if run.tiny else 2048}
    variants = {"dense": VARIANTS["dense"], "dense, packed": {**VARIANTS["dense"], **packed}} | {
        f"{k}, packed": {**v, **packed} for k, v in run.variants.items() if k not in ("dense", *EXTRA)
    }
    measure(run, "GRPO pass", variants, step_of, sum(map(len, layouts)), seen_share([pack(layouts[:13])]))


def part_lora_4b(run: Run) -> None:
    """Adapters on the 4B shape, one trace of 16k tokens, activations computed again."""
    lm = run.subject("4b", "float32" if run.tiny else "bfloat16")
    keys = {"lora": {"r": 1 if run.tiny else 32}, "lr": SMALL_LR, "steps": 1}
    add_adapters(lm, SFTConfig(**keys), 0)
    checkpoint_activations(lm.model)
    lm.model.train()
    layouts = long_trace(lm, run.tiny)
    optimiser = make_optimiser(lm.model, SFTConfig(**keys))
    variants = {k: {**v, "autocast": not run.tiny} for k, v in run.variants.items() if k == run.fastest}
    step_of = lambda own: sft_step(run, lm, layouts, optimiser, own)  # noqa: E731
    measure(run, "LoRA, 4B", variants, step_of, sum(map(len, layouts)), seen_share(layouts), rounds=1)
    run.lm = None


def part_agree(run: Run) -> None:
    """Losses and gradients of each variant against the dense one, same weights and batch."""
    table = {}
    for dtype in ("float32",) if run.tiny else ("bfloat16", "float32"):
        lm = run.subject("0.6b", dtype)
        lm.model.train()
        lm.model.zero_grad(set_to_none=True)
        layouts = sft_traces(lm, run.tiny)[:2]
        for name, keys in run.variants.items():
            if name in EXTRA:
                continue
            with run.trying(f"agree, {dtype}: {name}"):
                run.check_time()
                config = SFTConfig(steps=1, batch=len(layouts), **keys)
                with kernels_of(config, lm.model):
                    loss, _ = sft.accumulate_gradient(lm, config, layouts)
                grads = [p.grad for p in lm.model.parameters()]
                lm.model.zero_grad(set_to_none=True)
                norm = torch.stack([g.float().norm() for g in grads]).norm().item()
                right = table.setdefault(dtype, (loss, norm, grads))
                apart = (
                    torch.stack([(a.float() - b.float()).norm() for a, b in zip(grads, right[2], strict=True)])
                    .norm()
                    .item()
                )
                run.found.setdefault("agree", []).append({
                    "dtype": dtype, "variant": name, "loss": loss, "grad_norm": norm,
                    "loss_apart": abs(loss - right[0]) / abs(right[0]), "norm_apart": abs(norm - right[1]) / right[1],
                    "gradient_apart": apart / right[1],
                })  # fmt: skip


def part_profile(run: Run) -> None:
    """Which kernels take the time of a step of the fastest variant, and how much of it the GPU works."""
    from torch.profiler import ProfilerActivity, profile

    lm = run.subject("0.6b", "float32" if run.tiny else "bfloat16")
    lm.model.train()
    layouts = sft_traces(lm, run.tiny)
    optimiser = make_optimiser(lm.model, SFTConfig(steps=1, lr=SMALL_LR))
    step = sft_step(run, lm, layouts, optimiser, dict(run.variants[run.fastest]))
    device = torch.device(run.device)
    alone = min([timed((False, step), device) for _ in range(5)][2:])
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=kinds) as found:
        step()
        wait(device)
    kernels: dict[str, list[float]] = {}
    for event in found.events():
        if device.type == "cpu" or event.device_type == torch.autograd.DeviceType.CUDA:
            own = event.self_cpu_time_total if device.type == "cpu" else event.self_device_time_total
            kernels.setdefault(event.name, []).append(own / 1e3)
    ranked = sorted(kernels.items(), key=lambda x: -sum(x[1]))
    busy = sum(sum(x) for _, x in ranked)
    run.found["profile"] = {
        "variant": run.fastest, "step_ms": alone * 1e3, "kernels_ms": busy, "busy": busy / (alone * 1e3),
        "kernels": sum(len(x) for _, x in ranked),
        "top": [{"kernel": name[:110], "ms": sum(x), "calls": len(x)} for name, x in ranked[:25]],
    }  # fmt: skip


PARTS = {
    "sft-bf16": part_sft_bf16, "grpo": part_grpo, "lora-4b": part_lora_4b, "agree": part_agree,
    "profile": part_profile, "sft-autocast": part_sft_autocast,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a tiny model on the CPU, compiled without code generation")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas")
    parser.add_argument(
        "--variants", default="", help="of the model's forward, separated by semicolons; all if left out"
    )
    parser.add_argument("--seconds", type=float, default=330, help="no part or variant begins after these")
    parser.add_argument("--steps", type=int, default=4, help="timed steps of a variant in each of two rounds")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    if unknown := set(options.only.split(",")) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; the parts are {', '.join(PARTS)}")
    wanted = tuple(options.variants.split(";")) if options.variants else ()
    if unknown := set(wanted) - set(TINY_VARIANTS if options.tiny else VARIANTS):
        parser.error(f"no variant {', '.join(sorted(unknown))}; give some of: {'; '.join(VARIANTS)}")
    started = time.perf_counter()
    if options.tiny:
        compiled.BACKEND = "aot_eager"
    run = Run(options.tiny, "cpu" if options.tiny else "cuda", started + options.seconds, options.steps, wanted=wanted)
    machine = describe(torch.device(run.device))
    for name in options.only.split(","):
        began = time.perf_counter()
        with run.trying(name):
            run.check_time()
            PARTS[name](run)
        emptied()
        print(f"== {name}: {time.perf_counter() - began:.1f} s", flush=True)
        if options.out is not None:  # after each part, so that a run that is stopped loses one
            result = {"machine": machine, "rows": run.rows, "failed": run.failed, **run.found}
            write_json(options.out, result)
    print(report(run, machine))
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
