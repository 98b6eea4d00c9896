"""Run folders as a run would leave them: real traces of the synthetic task, made-up curves."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from polythink.evaluate.metrics import compute_metrics, interval
from polythink.evaluate.samples import sample_row
from polythink.pipeline.plan import StagePlan
from polythink.pipeline.recipe import Recipe, load_recipe, run_recipe
from polythink.pipeline.stage import run_stage
from polythink.problems.answers import Grader
from polythink.problems.problem import Problem
from polythink.problems.tasks.countdown import demonstrate, problems
from polythink.problems.tasks.demonstrations import DemoStyle
from polythink.run.config import dump_yaml
from polythink.run.folder import environment, write_json, write_text
from polythink.run.jsonl import write_jsonl
from polythink.trace.dialect import PARALLEL_R1
from polythink.trace.rollout import Rollout, Segment


def run_of(recipe: str, folder: Path) -> Path:
    """The folder of a run of a recipe's text in this process, with nothing in its way."""
    (folder / "small.yaml").write_text(recipe)
    run_recipe(load_recipe(folder / "small.yaml"), folder / "run", log=lambda text: None)
    return folder / "run"


def run_arm(recipe: Recipe, root: Path, folders: dict[str, Path]) -> Iterator[tuple[StagePlan, Path, bool]]:
    """Run the stages of an arm that no arm before it had; each stage, its folder, and whether it ran now."""
    plans = {plan.name: plan for plan in recipe.plan()}
    for plan in plans.values():
        is_new = plan.digest not in folders
        if is_new:
            folder = root / f"{plan.name}-{plan.digest[:12]}"
            before = folders[plans[plan.previous].digest] if plan.previous else None
            run_stage(plan, folder, before, resume=False, log=lambda line: None)
            folders[plan.digest] = folder
        yield plan, folders[plan.digest], is_new


def rollout_of(text: str, problem: str = "p", sample: int = 0, mode: str = "structured") -> Rollout:
    """A response as the engine would record it, one token a word or tag."""
    segments: list[Segment] = []
    block = -1
    for part in re.split(r"(?<=<Parallel>)|(?<=</Path>)|(?<=</Summary>)", text):
        kind = "path" if part.startswith("<Path>") else "summary" if part.startswith("</Parallel>") else "main"
        opened = segments[-1] if segments else None
        if kind == "path" and opened.kind == "main":
            block += 1
        number = (opened.path + 1 if opened.kind == "path" else 1) if kind == "path" else 0
        stop = "fork" if part.endswith("<Parallel>") else "tag" if kind != "main" else "eos"
        words = re.findall(r"<[^>]+>|[^\s<]+", part)
        tokens, n = [1 + len(word) for word in words], len(words)
        if n:
            at = block if kind != "main" else -1
            segments.append(Segment(kind, at, number, tokens, [True] * n, [-0.5] * n, finish_reason=stop, text=part))
    return Rollout(problem, sample, mode, (1, 2, 3), segments)


@pytest.fixture(scope="session")
def as_rollout():
    return rollout_of


def responses(problem: Problem, samples: int, skill: float, parallel: float, seed: int) -> list[str]:
    """Demonstrations of one problem: chains right with probability `skill`, a block with probability `parallel`."""
    rng = random.Random(f"{seed}/{problem.key}")
    styles = ["parallel" if rng.random() < parallel else "sequential" for _ in range(samples)]
    return [demonstrate(problem, DemoStyle(style, p_right=skill), rng) for style in styles]


def graded(level: str, n: int, samples: int, skill: float, parallel: float, seed: int) -> list[dict]:
    rows = []
    with Grader() as grader:
        for problem in problems(level, "heldout", n, seed=0):
            for i, text in enumerate(responses(problem, samples, skill, parallel, seed)):
                rollout = rollout_of(text, problem.key, i)
                rows.append(sample_row(problem, rollout, grader.grade(text, problem), grader, PARALLEL_R1))
    for row in rows[::7]:
        if row["blocks"]:
            row["segments"][1] |= {"finish_reason": "length"}
    return rows


def write_eval(folder: Path, name: str, rows: list[dict], n: int, samples: int) -> None:
    metrics = {metric: vars(interval(measure)) for metric, measure in compute_metrics(rows, best_of=[3]).items()}
    result = {"problems": f"countdown-{name}:heldout", "n": n, "samples": samples, "seed": 0, "notes": []}
    write_json(folder / f"eval-{name}.json", {**result, "metrics": metrics})
    write_jsonl(folder / f"samples-{name}.jsonl", rows)


def grpo_rows(steps: int, start: float, end: float, parallel: float, rng: random.Random) -> list[dict]:
    rows = []
    for step in range(1, steps + 1):
        done = 1 - math.exp(-3 * step / steps)
        accuracy = start + (end - start) * done + rng.gauss(0, 0.035)
        ratio = min(1, max(0, 0.48 + (parallel - 0.48) * done + rng.gauss(0, 0.03)))
        rows.append(
            {
                "step": step,
                "reward": 2 * accuracy - 1,
                "reward_name": "tiered" if (step - 1) % 10 >= 8 else "accuracy",
                "accuracy": accuracy,
                "parallel_ratio": ratio,
                "well_formed": min(1, 0.97 + rng.gauss(0, 0.01)),
                "tokens": 24 + 41 * ratio + rng.gauss(0, 1),
                "sampled_tokens": 20 + 35 * ratio,
                "critical_path": 24 + 8 * ratio + rng.gauss(0, 0.5),
                "first_block": 0.02 + 0.01 * done if step % 5 else None,
                "logprob_gap": 10 ** (-6 + rng.gauss(0, 0.15)),
                "zero_spread": 0.2 + 0.2 * done,
                "truncated": 0.02,
                "entropy": 0.9 - 0.5 * done + rng.gauss(0, 0.02),
                "grad_norm": 0.5 + abs(rng.gauss(0, 0.1)),
                "kl": 0.0,
                "lr": 1e-4,
                "draw_seconds": 0.9,
                "train_seconds": 0.5,
            }
        )
    return rows


def make_run(folder: Path, name: str = "countdown", seed: int = 0, parallel: float = 0.9, n: int = 40) -> Path:
    """A whole run: fine-tuning, evaluation, two stages of reinforcement learning, evaluation."""
    rng = random.Random(seed)
    kinds = {"cold_start": "coldstart", "sft": "sft", "eval_sft": "eval", "rl_easy": "grpo", "rl_hard": "grpo"}
    kinds["eval_rl"] = "eval"
    recipe = {"name": name, "seed": seed, "mode": "structured", "stages": {k: {"kind": v} for k, v in kinds.items()}}
    write_text(folder / "recipe.yaml", dump_yaml(recipe))
    write_json(folder / "environment.json", {**environment(), "command": ["polythink", "train", f"{name}.yaml"]})
    write_json(folder / "stages.json", [{"name": k, "kind": v, "folder": k} for k, v in kinds.items()])
    loss = [
        {"step": s, "loss": 3.2 * math.exp(-s / 70) + 0.55 + rng.gauss(0, 0.03), "lr": 3e-3 * (1 - s / 400)}
        for s in range(1, 401)
    ]
    write_jsonl(folder / "sft" / "metrics.jsonl", [{**row, "grad_norm": 0.4, "seconds": 0.3} for row in loss])
    taught = {
        "problems": "countdown-easy:train",
        "responses": 500,
        "well_formed_rate": 1.0,
        "right_rate": 0.62,
        "kept": 310,
    }
    write_json(folder / "cold_start" / "result.json", {"table": [{**taught, "rejected": {"wrong": 190}}], "seconds": 2})
    write_jsonl(folder / "rl_easy" / "metrics.jsonl", grpo_rows(20, 0.5, 0.62, parallel, rng))
    write_jsonl(folder / "rl_hard" / "metrics.jsonl", grpo_rows(80, 0.3, 0.47, parallel, rng))
    for stage, skill, ratio in (("eval_sft", 0.12, 0.5), ("eval_rl", 0.26, parallel)):
        for level in ("easy", "hard"):
            write_eval(folder / stage, level, graded(level, n, 4, skill, ratio, seed), n, 4)
    return folder


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("run") / "countdown")


@pytest.fixture(scope="session")
def arm_folders(tmp_path_factory) -> dict[str, list[Path]]:
    """Three arms, the first with two seeds."""
    folder = tmp_path_factory.mktemp("arms")
    return {
        "parallel, accuracy": [make_run(folder / f"accuracy-{s}", "accuracy", s, 0.8, n=6) for s in (0, 1)],
        "parallel, alternating": [make_run(folder / "alternating", "alternating", 2, 0.95, n=6)],
        "sequential": [make_run(folder / "sequential", "sequential", 3, 0.0, n=6)],
    }
