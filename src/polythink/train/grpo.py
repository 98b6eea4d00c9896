"""Reinforcement learning with group-relative advantages: sample, grade, reward, advantage, step.

The loop is `train_grpo`; what a step learns from its rollouts is in `grpo_step.py`, the formulas are in `loss.py`.

Left out: a learned value function, and sampling in another process than training.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from functools import partial
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
from polythink.train.config import GRPOConfig, check_credit, check_sampling, sampled_inexactly, trained_inexactly
from polythink.train.cost import cost_of
from polythink.train.credit import Chain, grade_paths, path_credit
from polythink.train.data import epoch_index
from polythink.train.dropout import seeded
from polythink.train.dynamic_sampling import draw_step
from polythink.train.grpo_step import MISMATCH, TrainItem, to_items, update_policy
from polythink.train.loss import group_advantages
from polythink.train.optimiser import autocast, learning_rate, make_optimiser
from polythink.train.precision import warn_of_rounding

log = logging.getLogger(__name__)

MORE = 7_919  # added to the seed of the problems that a step asks after its first batch

# of a rollout: their means are logged
AMOUNTS = ("well_formed", "tokens", "critical_path", "truncated", *STOPPED, "bounded", "empty_plans")


@dataclass(frozen=True)
class GradedBatch:
    """The rollouts of one step with their grades and rewards, group after group: P groups of G."""

    rollouts: list[Rollout]
    problems: list[Problem]  # of each rollout
    grades: list[Grade]
    terms: list[dict[str, float]]  # the parts of each reward, by name
    paths: list[dict[Chain, bool]] | None = None  # whether each path is right; None: paths have no credit of their own

    def __add__(self, other: GradedBatch) -> GradedBatch:
        both = ((getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return GradedBatch(*(None if own is None else own + more for own, more in both))

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
    folder, given = Path(folder), problem_set_of(problems).problems
    prompt, params = prompt_of(lm.settings, prompt), params or params_of(lm.settings)
    check_sampling(params)
    check_credit(config.credit, params.mode)
    for mode in (params.mode, config.train_mode or params.mode):
        check_joins(lm.model, mode)
    if inexact := trained_inexactly(params.mode, config.train_mode):
        log.warning("%s", inexact)
    engine = Engine(lm, config.max_num_seqs, kv_cache_memory_bytes=config.kv_cache_memory_bytes)
    reward = build_reward(config.reward, lm.dialect)
    if note := sampled_inexactly(engine.backend.logprob_error, config.importance_sampling_mode):
        log.warning("%s", note)
    problems = fitting(engine, given, prompt, params, config.overlong_prompts)
    config = with_length(config, params)
    reference = copy.deepcopy(lm.model).eval().requires_grad_(False) if config.kl_coef else None
    optimiser = make_optimiser(lm.model, config, config.trainable)
    warn_of_rounding(lm.model, config.lr)
    with ExitStack() as stack:
        stack.enter_context(folder_lock(folder / "checkpoint"))
        done = resume(folder, lm.model, optimiser, also=("samples.jsonl",))
        grader = grader or stack.enter_context(Grader(dialect=lm.dialect, answers=config.answers))
        metrics, samples = (
            stack.enter_context(JsonlWriter(folder / f"{name}.jsonl")) for name in ("metrics", "samples")
        )
        bar = stack.enter_context(Progress(config.steps, "grpo", done))
        drawing = Drawing(engine, problems, config, prompt, params, seed, grader, reward)
        for step in range(done, config.steps):
            started = time.perf_counter()
            batch, groups, zero_spread_P, left_out_P, drawn = draw_step(partial(drawing.batch, step), config)
            sampled_at = time.perf_counter()
            lr = learning_rate(config, step, config.steps)
            learnt = update_policy(lm, config, groups, left_out_P, optimiser, lr, reference)
            row = {"step": step + 1, "reward_name": reward.active(step + 1), **describe(batch, lm.dialect)}
            spread = [zero for zero, group in zip(zero_spread_P.tolist(), groups, strict=True) if group]
            row |= {"zero_spread": mean(spread), **drawn, **learnt, "lr": lr}
            row |= {"draw_seconds": sampled_at - started, "train_seconds": time.perf_counter() - sampled_at}
            metrics.write(row)
            for sample_of_step in sample_rows(batch, config, grader, lm.dialect):
                samples.write({"step": step + 1, **sample_of_step})
            shown = {name: row[name] for name in ("reward", "accuracy", *(MISMATCH if inexact else ()))}
            cost = cost_of(sum(r.tokens for r in batch.rollouts), time.perf_counter() - started, lm.device)
            bar.advance(1, **shown, **cost)
            if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
                metrics.sync()
                save_checkpoint(folder / "checkpoint", step + 1, lm.model, optimiser)
        lm.model.eval()
        save(lm, folder / "model")
    return summarise(read_jsonl(folder / "metrics.jsonl"), config, len(given) - len(problems))


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


def with_length(config: GRPOConfig, params: SamplingParams) -> GRPOConfig:
    """The configuration with the number that `loss_type: sequence-sum` divides by."""
    if config.loss_type != "sequence-sum" or config.loss_length:
        return config
    return config.model_copy(update={"loss_length": params.max_trace_tokens})


# ---- a step, piece by piece ----


@dataclass(frozen=True)
class Drawing:
    """What the batches of a step are drawn, graded and rewarded with."""

    engine: Engine
    problems: Sequence[Problem]
    config: GRPOConfig
    prompt: Prompt
    params: SamplingParams
    seed: int
    grader: Grader
    reward: Reward

    def batch(self, step: int, number: int = 0) -> tuple[GradedBatch, list[list[TrainItem]], torch.Tensor]:
        """A step's batch `number` (all but the first: dynamic sampling), and what `with_advantages` says of it."""
        config, device = self.config, self.engine.lm.device
        groups, seed, turn = config.prompts_per_step, self.seed, step
        if number:  # problems in an order of their own: the first batches still ask each once before any again
            seed, turn = self.seed + MORE, step * (config.max_num_gen_batches - 1) + number - 1
        problem_P = distributed.shard(problems_of_step(self.problems, groups, seed, turn))
        first = number * groups * config.group_size
        with autocast(config, device):  # in the arithmetic that the policy is trained in
            draws = self.seed * 1_000_003 + step
            rollouts = sample(self.engine, problem_P, config.group_size, self.prompt, self.params, draws, first)
        with seeded(seed, turn, device):  # a reward of the user's may draw random numbers
            batch = grade_and_reward(rollouts, problem_P, self.grader, self.reward, step + 1)
        if config.credit == "path":
            batch = replace(batch, paths=grade_paths(batch.rollouts, batch.problems, self.grader))
        return batch, *with_advantages(batch, config)


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
    first: int = 0,
) -> list[Rollout]:
    """`group_size` rollouts of each problem, group after group, from the current policy; numbered from `first`."""
    prompt_P = [tuple(engine.encode_prompt(prompt.fill(problem.question), prompt.text)) for problem in problem_P]
    # numbered through the step, so that a problem that is asked twice gets two different sets of answers
    requests = [
        Request(prompt_P[p], problem.key, first + p * group_size + g)
        for p, problem in enumerate(problem_P)
        for g in range(group_size)
    ]
    return engine.generate(requests, [within_window(engine, params, len(r.prompt)) for r in requests], seed)


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


def with_advantages(batch: GradedBatch, config: GRPOConfig) -> tuple[list[list[TrainItem]], torch.Tensor]:
    """The graded rollouts of each group with their advantages, and (P,) bool: groups whose rewards are all equal.

    Where paths have credit of their own (`credit.py`), a group whose paths differ is not one of those.
    """
    reward_PG, graded_PG = (torch.tensor(x).view(-1, config.group_size) for x in (batch.rewards, batch.graded))
    advantage_PG, zero_spread_P = group_advantages(
        reward_PG, config.scale_rewards, config.negative_scale, graded_PG=graded_PG
    )
    credit = None
    if batch.paths is not None:
        credit, alike_P = path_credit(batch.rollouts, batch.paths, batch.graded, advantage_PG, config)
        zero_spread_P &= alike_P
    return to_items(batch.rollouts, advantage_PG, config.train_mode, graded_PG, credit), zero_spread_P


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
        **({} if batch.paths is None else {"path_right": mean(right for own in batch.paths for right in own.values())}),
        "entropy": mean(surprisal),
    }


def mean(values: Iterable[float]) -> float | None:
    """The mean; None of nothing."""
    values = list(values)
    return fmean(values) if values else None


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
    tokens = (
        sum(row["tokens"] * row.get("gen_batches", 1) for row in rows) * config.prompts_per_step * config.group_size
    )
    seconds = sum(row["draw_seconds"] + row["train_seconds"] for row in rows)
    return {"steps": len(rows), **last, "tokens": round(tokens), "seconds": seconds, "skipped_prompts": skipped}
