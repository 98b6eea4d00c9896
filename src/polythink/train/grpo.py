"""Reinforcement learning with group-relative advantages: draw, grade, reward, advantage, step.

The loop is `train_grpo`; what a step learns from its rollouts is in `policy.py`, the formulas in `loss.py`.

Left out: a learned value function, dynamic sampling, and drawing in another process than training.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Literal

import torch
from pydantic import Field, model_validator

from polythink.engine.engine import Engine
from polythink.engine.params import Request, SamplingParams
from polythink.errors import UserError
from polythink.evaluate.run import sample_row
from polythink.models.lm import LanguageModel
from polythink.problems.answers import Grade, Grader
from polythink.problems.problem import Problem
from polythink.problems.prompts import Prompt
from polythink.rewards.combine import Reward, RewardConfig, build_reward
from polythink.run.jsonl import JsonlWriter, read_jsonl
from polythink.run.progress import Progress
from polythink.trace.dialect import Dialect
from polythink.trace.rollout import Rollout
from polythink.trace.statistics import rollout_statistics
from polythink.train import distributed
from polythink.train.checkpoint import load_checkpoint, save_checkpoint, truncate_after
from polythink.train.data import epoch_index
from polythink.train.grpo_step import PolicyConfig, to_items, update_policy
from polythink.train.loss import group_advantages
from polythink.train.optimiser import autocast, learning_rate, make_optimiser


class GRPOConfig(PolicyConfig):
    """Group-relative policy optimisation on problems with checkable answers."""

    kind: Literal["grpo"]
    problems: tuple[str, ...] = Field(min_length=1)  # all of these sets together
    reward: RewardConfig
    steps: int = Field(ge=1)
    prompts_per_step: int = Field(32, ge=1)  # problems a step
    group_size: int = Field(8, ge=2)  # rollouts a problem: a group
    max_num_seqs: int = Field(64, ge=1)  # rollouts that the engine draws at once
    log_samples: int = Field(8, ge=0)  # rollouts a step that are written to samples.jsonl

    @model_validator(mode="after")
    def _whole_groups(self) -> GRPOConfig:
        if self.mini_batches > self.prompts_per_step:
            raise ValueError(f"{self.prompts_per_step} groups cannot be divided into {self.mini_batches} mini-batches")
        return self


@dataclass(frozen=True)
class GradedBatch:
    """The rollouts of one step with what became of them, group after group: P groups of G."""

    rollouts: list[Rollout]
    problems: list[Problem]  # of each rollout
    grades: list[Grade]
    rewards: list[float]


def train_grpo(
    lm: LanguageModel,
    config: GRPOConfig,
    problems: Sequence[Problem],
    prompt: Prompt,
    decoding: SamplingParams,
    seed: int,
    folder: Path,
    grader: Grader,
) -> dict:
    """Train `lm` in place, or go on from the checkpoint in `folder`. Returns a summary; metrics.jsonl has the steps."""
    check_decoding(decoding)
    engine, reward = Engine(lm, max_num_seqs=config.max_num_seqs), build_reward(config.reward, lm.dialect)
    reference = copy.deepcopy(lm.model).eval().requires_grad_(False) if config.kl_coef else None
    optimiser = make_optimiser(lm.model, config, config.trainable)
    done = load_checkpoint(folder / "checkpoint", lm.model, optimiser)
    for name in ("metrics.jsonl", "samples.jsonl"):
        truncate_after(folder / name, done)
    with (
        JsonlWriter(folder / "metrics.jsonl") as metrics,
        JsonlWriter(folder / "samples.jsonl") as samples,
        Progress(config.steps, "grpo") as bar,
    ):
        bar.advance(done)
        for step in range(done, config.steps):
            started = time.perf_counter()
            problem_P = distributed.shard(problems_of_step(problems, config.prompts_per_step, seed, step))
            with autocast(config, lm.device):  # in the arithmetic that the policy is trained in
                rollouts = draw(engine, problem_P, config.group_size, prompt, decoding, seed * 1_000_003 + step)
            drawn = grade_and_reward(rollouts, problem_P, grader, reward, step + 1)
            drawn_at = time.perf_counter()
            reward_PG = torch.tensor(drawn.rewards).view(-1, config.group_size)
            advantage_PG, zero_spread_P = group_advantages(reward_PG, config.scale_rewards, config.negative_scale)
            groups = to_items(rollouts, advantage_PG, config.train_mode)
            lr = learning_rate(config, step, config.steps)
            learnt = update_policy(lm, config, groups, zero_spread_P, optimiser, lr, reference)
            row = {
                "step": step + 1,
                "reward_name": reward.active(step + 1),
                **describe(drawn, lm.dialect),
                "zero_spread": zero_spread_P.float().mean().item(),
                **learnt,
                "lr": lr,
                "draw_seconds": drawn_at - started,
                "train_seconds": time.perf_counter() - drawn_at,
            }
            metrics.write(row)
            for shown in show(drawn, config, grader, lm.dialect):
                samples.write({"step": step + 1, **shown})
            bar.advance(1, reward=row["reward"], accuracy=row["accuracy"])
            if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
                save_checkpoint(folder / "checkpoint", step + 1, lm.model, optimiser)
    lm.model.eval()
    return summarise(read_jsonl(folder / "metrics.jsonl"), config)


def check_decoding(decoding: SamplingParams) -> None:
    """Refuse settings under which the recorded log-probabilities are not those of the drawn tokens."""
    if decoding.top_p < 1 or decoding.top_k > 0:
        raise UserError(
            f"reinforcement learning draws from the whole distribution; set top_p: 1 and top_k: 0 "
            f"(given top_p={decoding.top_p:g}, top_k={decoding.top_k})"
        )
    if any(decoding.temperature_of(kind) == 0 for kind in ("main", "path", "summary")):
        raise UserError("reinforcement learning needs samples that differ; set temperatures above 0")


# ---- a step, piece by piece ----


def problems_of_step(problems: Sequence[Problem], groups: int, seed: int, step: int) -> list[Problem]:
    """The problems of a step, counted from 0: all are asked once before any is asked again."""
    return [problems[epoch_index(len(problems), seed, step * groups + p)] for p in range(groups)]


def draw(
    engine: Engine, problem_P: Sequence[Problem], samples: int, prompt: Prompt, decoding: SamplingParams, seed: int
) -> list[Rollout]:
    """`samples` rollouts of each problem, group after group, from the policy as it is."""
    prompt_P = [tuple(engine.lm.encode_prompt(prompt.fill(problem.question))) for problem in problem_P]
    # numbered through the step, so that a problem that is asked twice is not answered twice alike
    requests = [
        Request(prompt_P[p], problem.key, p * samples + g)
        for p, problem in enumerate(problem_P)
        for g in range(samples)
    ]
    return engine.generate(requests, decoding, seed)


def grade_and_reward(
    rollouts: list[Rollout], problem_P: Sequence[Problem], grader: Grader, reward: Reward, reward_step: int
) -> GradedBatch:
    """The rollouts with their grades and rewards. `reward_step` counts from 1, as reward schedules do."""
    samples = len(rollouts) // len(problem_P)
    asked = [problem for problem in problem_P for _ in range(samples)]
    grades = grader.grade_many([(r.text, problem) for r, problem in zip(rollouts, asked, strict=True)])
    rewards = [
        reward(r, grade.verdict == "right", reward_step, answered=grade.verdict != "unparsed")
        for r, grade in zip(rollouts, grades, strict=True)
    ]
    return GradedBatch(rollouts, asked, grades, rewards)


def describe(drawn: GradedBatch, dialect: Dialect) -> dict:
    """Means over the rollouts of a step. `entropy` is the mean surprisal of the drawn tokens, an unbiased estimate."""
    found = [rollout_statistics(r, dialect) for r in drawn.rollouts]
    first = [f["first_block"] for f in found if f["first_block"] is not None]
    surprisal = [
        -p for r in drawn.rollouts for s in r.segments for p, own in zip(s.logprobs, s.sampled, strict=True) if own
    ]
    return {
        "reward": fmean(drawn.rewards),
        "accuracy": fmean(g.verdict == "right" for g in drawn.grades),
        "unparsed": fmean(g.verdict == "unparsed" for g in drawn.grades),
        "timeouts": sum(g.verdict == "timeout" for g in drawn.grades),
        "parallel_ratio": fmean(f["complete_blocks"] > 0 for f in found),
        **{name: fmean(f[name] for f in found) for name in ("well_formed", "tokens", "critical_path", "truncated")},
        "first_block": fmean(first) if first else None,
        "entropy": fmean(surprisal),
    }


def show(drawn: GradedBatch, config: GRPOConfig, grader: Grader, dialect: Dialect) -> list[dict]:
    """Rows for samples.jsonl: the first rollout of the first groups."""
    chosen = range(0, len(drawn.rollouts), config.group_size)[: config.log_samples]
    return [
        {"reward": drawn.rewards[i]}
        | sample_row(drawn.problems[i], drawn.rollouts[i], drawn.grades[i], grader, dialect)
        for i in chosen
    ]


def summarise(rows: Sequence[dict], config: GRPOConfig) -> dict:
    """What result.json says: the last step's numbers, and what all of them cost."""
    last = {name: rows[-1][name] for name in ("reward", "accuracy", "parallel_ratio", "logprob_gap")}
    tokens = sum(row["tokens"] for row in rows) * config.prompts_per_step * config.group_size
    seconds = sum(row["draw_seconds"] + row["train_seconds"] for row in rows)
    return {"steps": len(rows), **last, "tokens": round(tokens), "seconds": seconds}
