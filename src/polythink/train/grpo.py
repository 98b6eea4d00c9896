"""Reinforcement learning with group-relative advantages: sample, grade, reward, advantage, step.

The loop is `train_grpo`; what a step learns from its rollouts is in `grpo_step.py`, the formulas are in `loss.py`.

Left out: a learned value function, dynamic sampling, and sampling in another process than training.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch

from polythink.engine.engine import Engine
from polythink.engine.params import Request, SamplingParams
from polythink.engine.protocol import RolloutBackend
from polythink.errors import UserError
from polythink.evaluate.samples import sample_row
from polythink.evaluate.study import Problems, params_of, problem_set_of, prompt_of
from polythink.models.lm import LanguageModel, save
from polythink.problems.answers import Grade, Grader
from polythink.problems.problem import Problem
from polythink.problems.prompts import Prompt
from polythink.rewards.combine import Reward, build_reward
from polythink.run.jsonl import JsonlWriter, read_jsonl
from polythink.run.progress import Progress
from polythink.trace.dialect import Dialect
from polythink.trace.rollout import Rollout
from polythink.trace.statistics import rollout_statistics
from polythink.train import distributed
from polythink.train.checkpoint import load_checkpoint, save_checkpoint, truncate_after
from polythink.train.config import GRPOConfig
from polythink.train.data import epoch_index
from polythink.train.grpo_step import to_items, update_policy
from polythink.train.loss import group_advantages
from polythink.train.optimiser import autocast, learning_rate, make_optimiser


@dataclass(frozen=True)
class GradedBatch:
    """The rollouts of one step with their grades and rewards, group after group: P groups of G."""

    rollouts: list[Rollout]
    problems: list[Problem]  # of each rollout
    grades: list[Grade]
    terms: list[dict[str, float]]  # the parts of each reward, by name

    @property
    def rewards(self) -> list[float]:
        """The reward of each rollout."""
        return [sum(parts.values()) for parts in self.terms]


def train_grpo(
    lm: LanguageModel,
    config: GRPOConfig,
    problems: Problems,
    folder: str | Path,
    *,
    prompt: Prompt | str | None = None,
    params: SamplingParams | None = None,
    seed: int = 0,
    grader: Grader | None = None,
) -> dict:
    """Train `lm` in place, resuming from the checkpoint in `folder` if there is one; returns a summary.

    `problems` is a list of problems, a `ProblemSet`, or what `load_problems` takes. Prompt and sampling parameters are
    those of the model's settings if left out. `folder` receives metrics.jsonl (one row per step; each term of the
    reward as reward/NAME), samples.jsonl, checkpoint/ and model/, which `load` reads. Raises `UserError` for sampling
    parameters that cannot be trained with.
    """
    folder, problems = Path(folder), problem_set_of(problems).problems
    prompt, params = prompt_of(lm.settings, prompt), params or params_of(lm.settings)
    check_params(params)
    engine, reward = Engine(lm, max_num_seqs=config.max_num_seqs), build_reward(config.reward, lm.dialect)
    reference = copy.deepcopy(lm.model).eval().requires_grad_(False) if config.kl_coef else None
    optimiser = make_optimiser(lm.model, config, config.trainable)
    done = load_checkpoint(folder / "checkpoint", lm.model, optimiser)
    with ExitStack() as stack:
        grader = grader or stack.enter_context(Grader(dialect=lm.dialect))
        metrics, samples = (stack.enter_context(resumed(folder / name, done)) for name in ("metrics", "samples"))
        bar = stack.enter_context(Progress(config.steps, "grpo"))
        bar.advance(done)
        for step in range(done, config.steps):
            started = time.perf_counter()
            problem_P = distributed.shard(problems_of_step(problems, config.prompts_per_step, seed, step))
            with autocast(config, lm.device):  # in the arithmetic that the policy is trained in
                rollouts = sample(engine, problem_P, config.group_size, prompt, params, seed * 1_000_003 + step)
            batch = grade_and_reward(rollouts, problem_P, grader, reward, step + 1)
            sampled_at = time.perf_counter()
            reward_PG = torch.tensor(batch.rewards).view(-1, config.group_size)
            advantage_PG, zero_spread_P = group_advantages(reward_PG, config.scale_rewards, config.negative_scale)
            groups = to_items(rollouts, advantage_PG, config.train_mode)
            lr = learning_rate(config, step, config.steps)
            learnt = update_policy(lm, config, groups, zero_spread_P, optimiser, lr, reference)
            row = {"step": step + 1, "reward_name": reward.active(step + 1), **describe(batch, lm.dialect)}
            row |= {"zero_spread": zero_spread_P.float().mean().item(), **learnt, "lr": lr}
            row |= {"draw_seconds": sampled_at - started, "train_seconds": time.perf_counter() - sampled_at}
            metrics.write(row)
            for shown in sample_rows(batch, config, grader, lm.dialect):
                samples.write({"step": step + 1, **shown})
            bar.advance(1, reward=row["reward"], accuracy=row["accuracy"])
            if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
                save_checkpoint(folder / "checkpoint", step + 1, lm.model, optimiser)
    lm.model.eval()
    save(lm, folder / "model")
    return summarise(read_jsonl(folder / "metrics.jsonl"), config)


def check_params(params: SamplingParams) -> None:
    """Refuse parameters with which the recorded log-probabilities are not those that the tokens were sampled with."""
    if params.top_p < 1 or params.top_k > 0:
        raise UserError(
            f"reinforcement learning samples from the whole distribution; set top_p: 1 and top_k: 0 "
            f"(given top_p={params.top_p:g}, top_k={params.top_k})"
        )
    if any(params.temperature_of(kind) == 0 for kind in ("main", "path", "summary")):
        raise UserError("reinforcement learning needs samples that differ; set temperatures above 0")


def resumed(path: Path, step: int) -> JsonlWriter:
    """A writer of NAME.jsonl that continues after the rows of `step`."""
    path = path.with_suffix(".jsonl")
    truncate_after(path, step)
    return JsonlWriter(path)


# ---- a step, piece by piece ----


def problems_of_step(problems: Sequence[Problem], groups: int, seed: int, step: int) -> list[Problem]:
    """The problems of a step, counted from 0: each problem is asked once before any is asked again."""
    return [problems[epoch_index(len(problems), seed, step * groups + p)] for p in range(groups)]


def sample(
    engine: RolloutBackend,
    problem_P: Sequence[Problem],
    group_size: int,
    prompt: Prompt,
    params: SamplingParams,
    seed: int,
) -> list[Rollout]:
    """`group_size` rollouts of each problem, group after group, from the current policy."""
    prompt_P = [tuple(engine.encode_prompt(prompt.fill(problem.question))) for problem in problem_P]
    # numbered through the step, so that a problem that is asked twice gets two different sets of answers
    requests = [
        Request(prompt_P[p], problem.key, p * group_size + g)
        for p, problem in enumerate(problem_P)
        for g in range(group_size)
    ]
    return engine.generate(requests, params, seed)


def grade_and_reward(
    rollouts: list[Rollout], problem_P: Sequence[Problem], grader: Grader, reward: Reward, step: int
) -> GradedBatch:
    """The rollouts with their grades and rewards. `step` counts from 1, as reward schedules do."""
    group_size = len(rollouts) // len(problem_P)
    asked = [problem for problem in problem_P for _ in range(group_size)]
    grades = grader.grade_many([(r.text, problem) for r, problem in zip(rollouts, asked, strict=True)])
    terms = [
        reward.terms(
            r, grade.verdict == "right", step, answered=grade.verdict != "unparsed", extracted=grade.extracted,
            question=problem.question, answer=problem.answer,
        )
        for r, problem, grade in zip(rollouts, asked, grades, strict=True)
    ]  # fmt: skip
    return GradedBatch(rollouts, asked, grades, terms)


def describe(batch: GradedBatch, dialect: Dialect) -> dict:
    """Means over the rollouts of a step, each term of the reward as reward/NAME among them.

    `entropy` is the mean surprisal of the sampled tokens in nats, an unbiased estimate.
    """
    found = [rollout_statistics(r, dialect) for r in batch.rollouts]
    first = [f["first_block"] for f in found if f["first_block"] is not None]
    surprisal = [
        -p for r in batch.rollouts for s in r.segments for p, own in zip(s.logprobs, s.sampled, strict=True) if own
    ]
    return {
        "reward": fmean(batch.rewards),
        **{f"reward/{name}": fmean(parts[name] for parts in batch.terms) for name in batch.terms[0]},
        "accuracy": fmean(g.verdict == "right" for g in batch.grades),
        "unparsed": fmean(g.verdict == "unparsed" for g in batch.grades),
        "timeouts": sum(g.verdict == "timeout" for g in batch.grades),
        "parallel_ratio": fmean(f["complete_blocks"] > 0 for f in found),
        **{name: fmean(f[name] for f in found) for name in ("well_formed", "tokens", "critical_path", "truncated")},
        "first_block": fmean(first) if first else None,
        "entropy": fmean(surprisal),
    }


def sample_rows(batch: GradedBatch, config: GRPOConfig, grader: Grader, dialect: Dialect) -> list[dict]:
    """Rows for samples.jsonl: the first rollout of the first groups."""
    chosen = range(0, len(batch.rollouts), config.group_size)[: config.log_samples]
    rewards = batch.rewards
    return [
        {"reward": rewards[i]} | sample_row(batch.problems[i], batch.rollouts[i], batch.grades[i], grader, dialect)
        for i in chosen
    ]


def summarise(rows: Sequence[dict], config: GRPOConfig) -> dict:
    """What result.json says: the numbers of the last step, and what all steps cost."""
    last = {name: rows[-1][name] for name in ("reward", "accuracy", "parallel_ratio", "logprob_gap")}
    tokens = sum(row["tokens"] for row in rows) * config.prompts_per_step * config.group_size
    seconds = sum(row["draw_seconds"] + row["train_seconds"] for row in rows)
    return {"steps": len(rows), **last, "tokens": round(tokens), "seconds": seconds}
