"""Reinforcement learning with group-relative advantages: sample, grade, reward, advantage, step.

The loop is `train_grpo`; what a step learns from its rollouts is in `grpo_step.py`, the formulas are in `loss.py`.

Left out: a learned value function, dynamic sampling, and sampling in another process than training.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from statistics import fmean

import torch

from polythink.engine.engine import Engine
from polythink.engine.params import Request, SamplingParams
from polythink.errors import UserError
from polythink.evaluate.samples import askable, sample_row
from polythink.evaluate.study import Problems, params_of, problem_set_of, prompt_of
from polythink.models.forward import check_joins
from polythink.models.lm import LanguageModel, save
from polythink.models.logprobs import sliding_window
from polythink.problems.answers import Grader
from polythink.problems.grade import Grade
from polythink.problems.problem import Problem
from polythink.problems.prompts import Prompt
from polythink.rewards.combine import Reward, build_reward
from polythink.run.folder import folder_lock
from polythink.run.jsonl import JsonlWriter, read_jsonl
from polythink.run.progress import Progress
from polythink.trace.dialect import Dialect
from polythink.trace.rollout import STOPPED, Rollout
from polythink.trace.statistics import rollout_statistics
from polythink.train import distributed
from polythink.train.checkpoint import resume, save_checkpoint
from polythink.train.config import GRPOConfig, check_sampling, sampled_inexactly, trained_inexactly
from polythink.train.cost import cost_of
from polythink.train.data import epoch_index
from polythink.train.dropout import seeded
from polythink.train.grpo_step import MISMATCH, TrainItem, to_items, update_policy
from polythink.train.loss import group_advantages
from polythink.train.optimiser import autocast, learning_rate, make_optimiser
from polythink.train.precision import warn_of_rounding
from polythink.train.sharding import finish, reference_of, refresh, to_train

log = logging.getLogger(__name__)

# of a rollout: their means are logged
AMOUNTS = ("well_formed", "tokens", "critical_path", "truncated", *STOPPED, "bounded", "empty_plans")


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

    @property
    def graded(self) -> list[bool]:
        """Whether each rollout has a verdict; one whose grading ran out of time has none, right or wrong."""
        return [grade.decided for grade in self.grades]


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
    folder = Path(folder)
    prompt, params = prompt_of(lm.settings, prompt), params or params_of(lm.settings)
    with ExitStack() as stack:
        stack.enter_context(distributed.processes())
        given = distributed.shared(lambda: checked(lm, config, problems, params))
        reference = reference_of(lm, config) if config.kl_coef else None
        policy = to_train(lm, config, draws=True)
        engine = distributed.shared(lambda: engine_of(lm, config))
        asked = distributed.shared(lambda: fitting(engine, given, prompt, params, config.overlong_prompts))
        reward = distributed.shared(lambda: build_reward(config.reward, lm.dialect))
        optimiser = make_optimiser(policy.model, config, config.trainable)
        distributed.entered_on_main(stack, lambda: folder_lock(folder / "checkpoint"))
        done = resume(folder, policy.model, optimiser, also=("samples.jsonl",))
        grader = grader or stack.enter_context(Grader(dialect=lm.dialect, answers=config.answers))
        metrics, samples = (
            distributed.entered_on_main(stack, lambda name=name: JsonlWriter(folder / f"{name}.jsonl"))
            for name in ("metrics", "samples")
        )
        bar = stack.enter_context(Progress(config.steps, distributed.shown("grpo"), done))
        shown = ("reward", "accuracy", *(MISMATCH if trained_inexactly(params.mode, config.train_mode) else ()))
        for step in range(done, config.steps):
            started = time.perf_counter()
            refresh(lm, policy)
            problem_P = problems_of_step(asked, config.prompts_per_step, seed, step)
            with autocast(config, lm.device):  # in the arithmetic that the policy is trained in
                rollouts = sample(engine, problem_P, config.group_size, prompt, params, seed * 1_000_003 + step)
            with seeded(seed, step, lm.device):  # a reward of the user's may draw random numbers
                batch = grade_and_reward(rollouts, problem_P, grader, reward, step + 1)
            sampled_at = time.perf_counter()
            groups, zero_spread_P = with_advantages(batch, config)
            lr = learning_rate(config, step, config.steps)
            learnt = update_policy(policy, config, groups, zero_spread_P, optimiser, lr, reference)
            row = {"step": step + 1, "reward_name": reward.active(step + 1), **describe(batch, lm.dialect)}
            spread = [zero for zero, group in zip(zero_spread_P.tolist(), groups, strict=True) if group]
            row |= {"zero_spread": mean(spread), **learnt, "lr": lr}
            row |= {"draw_seconds": sampled_at - started, "train_seconds": time.perf_counter() - sampled_at}
            distributed.on_main(lambda row=row, batch=batch: write(metrics, samples, row, batch, config, grader, lm))
            cost = cost_of(sum(r.tokens for r in rollouts), time.perf_counter() - started, lm.device)
            bar.advance(1, **{name: row[name] for name in shown}, **cost)
            if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
                distributed.on_main(lambda: metrics.sync())
                save_checkpoint(folder / "checkpoint", step + 1, policy.model, optimiser)
        finish(lm, policy)
        distributed.on_main(lambda: save(lm, folder / "model"))
        skipped = len(given) - len(asked)
        return distributed.on_main(lambda: summarise(read_jsonl(folder / "metrics.jsonl"), config, skipped))


def checked(lm: LanguageModel, config: GRPOConfig, problems: Problems, params: SamplingParams) -> Sequence[Problem]:
    """The problems; `UserError` for what cannot be trained with, warnings of what is not exact."""
    given = problem_set_of(problems).problems
    check_sampling(params)
    for mode in (params.mode, config.train_mode or params.mode):
        check_joins(lm.model, mode)
    if distributed.is_main():
        if inexact := trained_inexactly(params.mode, config.train_mode):
            log.warning("%s", inexact)
        warn_of_rounding(lm.model, config.lr)
    return given


def engine_of(lm: LanguageModel, config: GRPOConfig) -> Engine:
    """What draws the rollouts of this process, from the whole model."""
    engine = Engine(lm, config.max_num_seqs, kv_cache_memory_bytes=config.kv_cache_memory_bytes)
    note = sampled_inexactly(engine.backend.logprob_error, config.importance_sampling_mode)
    if note and distributed.is_main():
        log.warning("%s", note)
    return engine


def fitting(
    engine: Engine, problems: Sequence[Problem], prompt: Prompt, params: SamplingParams, overlong: str
) -> Sequence[Problem]:
    """The problems that the engine can be asked: every prompt is encoded, and one of each length queued, before the
    first step.

    With `overlong` "skip" the others are left out with a warning; with "refuse" they are a `UserError`, as they always
    are when no problem is left.
    """

    fine: set[int] = set()

    def check(ids: Sequence[int]) -> None:
        if len(ids) not in fine:
            engine.abort(engine.add(Request(tuple(ids), ""), within_window(engine, params, len(ids))))
            fine.add(len(ids))

    kept, _, note = askable(engine, problems, prompt, overlong_prompts=overlong, name="this stage", check=check)
    if note:
        log.warning("%s", note)
    return kept


def within_window(engine: Engine, params: SamplingParams, prompt_tokens: int) -> SamplingParams:
    """The parameters, with a trace that ends where a sliding window does: training forwards cannot go beyond it."""
    window = sliding_window(engine.lm.model.config)
    if window is None:
        return params
    if params.stride or prompt_tokens >= window:
        what = "path_position_stride" if params.stride else f"a prompt of {prompt_tokens} tokens"
        raise UserError(f"the model has a sliding window of {window} positions, and {what} goes beyond it in training")
    return params.model_copy(update={"max_trace_tokens": min(params.max_trace_tokens, window - prompt_tokens)})


# ---- a step, piece by piece ----


def problems_of_step(problems: Sequence[Problem], groups: int, seed: int, step: int) -> list[Problem]:
    """The problems of a step, counted from 0: each problem is asked once before any is asked again."""
    return [problems[epoch_index(len(problems), seed, step * groups + p)] for p in range(groups)]


def sample(
    engine: Engine,
    problem_P: Sequence[Problem],
    group_size: int,
    prompt: Prompt,
    params: SamplingParams,
    seed: int,
) -> list[Rollout]:
    """`group_size` rollouts of each problem, group after group, from the current policy.

    Each process draws a part of them; all have all. They do not depend on the number of processes.
    """
    prompt_P = [tuple(engine.encode_prompt(prompt.fill(problem.question), prompt.text)) for problem in problem_P]
    # numbered through the step, so that a problem that is asked twice gets two different sets of answers
    requests = [
        Request(prompt_P[p], problem.key, p * group_size + g)
        for p, problem in enumerate(problem_P)
        for g in range(group_size)
    ]
    own = distributed.own_run(requests)
    each = [within_window(engine, params, len(request.prompt)) for request in own]
    return distributed.joined(lambda: engine.generate(own, each, seed))


def grade_and_reward(
    rollouts: list[Rollout], problem_P: Sequence[Problem], grader: Grader, reward: Reward, step: int
) -> GradedBatch:
    """The rollouts with their grades and rewards. `step` counts from 1, as reward schedules do.

    Each process grades a part of them; the first gives all rewards, since a reward of the user's may be of any kind.
    """
    group_size = len(rollouts) // len(problem_P)
    asked = [problem for problem in problem_P for _ in range(group_size)]
    texts = distributed.own_run([(r.text, problem) for r, problem in zip(rollouts, asked, strict=True)])
    grades = distributed.joined(lambda: grader.grade_many(texts))
    terms = distributed.on_main(
        lambda: [
            reward.terms(
                r, grade.verdict == "right", step, answered=grade.verdict != "unparsed", extracted=grade.extracted,
                question=problem.question, answer=problem.answer,
            )
            for r, problem, grade in zip(rollouts, asked, grades, strict=True)
        ]
    )  # fmt: skip
    return GradedBatch(rollouts, asked, grades, terms)


def with_advantages(batch: GradedBatch, config: GRPOConfig) -> tuple[list[list[TrainItem]], torch.Tensor]:
    """The graded rollouts of each group with their advantages, and (P,) bool: groups whose rewards are all equal."""
    reward_PG, graded_PG = (torch.tensor(x).view(-1, config.group_size) for x in (batch.rewards, batch.graded))
    advantage_PG, zero_spread_P = group_advantages(
        reward_PG, config.scale_rewards, config.negative_scale, graded_PG=graded_PG
    )
    return to_items(batch.rollouts, advantage_PG, config.train_mode, graded_PG), zero_spread_P


def describe(batch: GradedBatch, dialect: Dialect) -> dict:
    """Means over the rollouts of a step (None of nothing), each term of the reward as reward/NAME among them.

    Reward and accuracy are over the rollouts that were graded in time; `timeouts` counts the others, which are not
    trained on. `unsampled` counts rollouts without a sampled token, which carry no loss. `entropy` is the mean
    surprisal of the sampled tokens in nats, an unbiased estimate.
    """
    found = [rollout_statistics(r, dialect) for r in batch.rollouts]
    first = [f["first_block"] for f in found if f["first_block"] is not None]
    surprisal = [
        -p for r in batch.rollouts for s in r.segments for p, own in zip(s.logprobs, s.sampled, strict=True) if own
    ]
    rewards, terms, grades = (list(compress(x, batch.graded)) for x in (batch.rewards, batch.terms, batch.grades))
    return {
        "reward": mean(rewards),
        **{f"reward/{name}": mean(parts[name] for parts in terms) for name in batch.terms[0]},
        "accuracy": mean(g.verdict == "right" for g in grades),
        "unparsed": fmean(g.verdict == "unparsed" for g in batch.grades),
        "timeouts": len(batch.grades) - len(grades),
        "unsampled": sum(not any(any(s.sampled) for s in r.segments) for r in batch.rollouts),
        "parallel_ratio": fmean(f["complete_blocks"] > 0 for f in found),
        **{name: fmean(f[name] for f in found) for name in AMOUNTS},
        "first_block": mean(first),
        "entropy": mean(surprisal),
    }


def mean(values: Iterable[float]) -> float | None:
    """The mean; None of nothing."""
    values = list(values)
    return fmean(values) if values else None


def write(
    metrics: JsonlWriter, samples: JsonlWriter, row: dict, batch: GradedBatch, config: GRPOConfig, grader: Grader,
    lm: LanguageModel,
) -> None:  # fmt: skip
    """The rows of a step."""
    metrics.write(row)
    for sample_of_step in sample_rows(batch, config, grader, lm.dialect):
        samples.write({"step": row["step"], **sample_of_step})


def sample_rows(batch: GradedBatch, config: GRPOConfig, grader: Grader, dialect: Dialect) -> list[dict]:
    """Rows for samples.jsonl: the first rollout of the first groups."""
    chosen = range(0, len(batch.rollouts), config.group_size)[: config.log_samples]
    rewards = [reward if graded else None for reward, graded in zip(batch.rewards, batch.graded, strict=True)]
    return [
        {"reward": rewards[i]} | sample_row(batch.problems[i], batch.rollouts[i], batch.grades[i], grader, dialect)
        for i in chosen
    ]


def summarise(rows: Sequence[dict], config: GRPOConfig, skipped: int) -> dict:
    """What result.json says: the numbers of the last step, what all steps cost, and how many problems were left out.

    `logprob_gap_max` is the largest gap of any step, `mismatch_kl` the mean over the steps.
    """
    last = {name: rows[-1][name] for name in ("reward", "accuracy", "parallel_ratio", "logprob_gap")}
    gaps = [row["logprob_gap"] for row in rows if row["logprob_gap"] is not None]
    last["logprob_gap_max"] = max(gaps, default=None)
    last["mismatch_kl"] = mean(row["mismatch_kl"] for row in rows if row.get("mismatch_kl") is not None)
    tokens = sum(row["tokens"] for row in rows) * config.prompts_per_step * config.group_size
    seconds = sum(row["draw_seconds"] + row["train_seconds"] for row in rows)
    return {"steps": len(rows), **last, "tokens": round(tokens), "seconds": seconds, "skipped_prompts": skipped}
