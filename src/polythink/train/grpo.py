"""Reinforcement learning with group-relative advantages: sample, grade, reward, advantage, step.

The loop is `train_grpo`; what a step learns from its rollouts is in `grpo_step.py`, the formulas are in `loss.py`.

Rollouts come from the engine in this process (`own_engine.py`), or from a server (`policy_server.py`). Left out: a
learned value function.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

import torch

from polythink.engine.params import Request, SamplingParams
from polythink.errors import UserError
from polythink.evaluate.samples import askable
from polythink.evaluate.study import Problems, hash_of_problems, params_of, problem_set_of, prompt_of
from polythink.models.forward import check_joins
from polythink.models.lm import LanguageModel, save
from polythink.models.logprobs import window_limit
from polythink.problems.answers import Grader
from polythink.problems.grade import Grade
from polythink.problems.problem import Problem
from polythink.problems.prompts import Prompt
from polythink.rewards.combine import Reward, build_reward
from polythink.run.folder import folder_lock
from polythink.run.jsonl import read_jsonl
from polythink.run.progress import Progress
from polythink.run.trackers import Trackers
from polythink.trace.rollout import Rollout
from polythink.train import distributed
from polythink.train.adapters import add_adapters, save_adapters
from polythink.train.begun import Training, begun
from polythink.train.checkpoint import resume, save_checkpoint
from polythink.train.config import GRPOConfig, check_credit, check_sampling, trained_inexactly
from polythink.train.cost import cost_of
from polythink.train.credit import grade_paths, path_credit
from polythink.train.data import epoch_index
from polythink.train.dropout import seeded
from polythink.train.dynamic_sampling import draw_step
from polythink.train.grpo_rows import GradedBatch, describe, mean, summarise, write
from polythink.train.grpo_step import MISMATCH, TrainItem, to_items, update_policy
from polythink.train.kept_settings import keep_settings
from polythink.train.loss import group_advantages
from polythink.train.optimiser import autocast, learning_rate, make_optimiser
from polythink.train.own_engine import Asked, OwnEngine
from polythink.train.pass_rate import Rate, sometimes_solved
from polythink.train.pass_rate_key import PassRateConfig
from polythink.train.policy_server import PolicyServer
from polythink.train.precision import warn_of_rounding
from polythink.train.sharding import finish, reference_of, refresh, to_train
from polythink.train.undo import left_usable

log = logging.getLogger(__name__)

MORE = 7_919  # added to the seed of the problems that a step asks after its first batch
BEFORE = -1  # the step that is none: what is drawn before the first
WAVES = 4  # times `max_num_seqs` rollouts are drawn at once to measure pass rates


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

    `problems` is a list of problems, a `ProblemSet`, or what `load_problems` takes: a name, a file, rows. Prompt and
    sampling parameters are those of the model's settings if left out, and kept in them if given. `folder` receives
    metrics.jsonl (one row per step; each term of the reward as reward/NAME), samples.jsonl, checkpoint/ and model/,
    which `load` reads. Raises `UserError` for sampling parameters that cannot be trained with, and for a folder that
    holds another training.
    """
    folder = Path(folder)
    prompt, params = prompt_of(lm.settings, prompt), params or params_of(lm.settings)
    config = with_length(config, params)
    with ExitStack() as stack:
        stack.enter_context(distributed.processes())
        given = distributed.shared(lambda: checked(lm, config, problems, params))
        data = hash_of_problems(given)
        training = begun(lambda: Training.of(lm, config, data, prompt, params, seed, config.steps))
        stack.enter_context(left_usable(lm))
        adapters = add_adapters(lm, config, seed)
        if distributed.is_main():
            warn_of_rounding(lm.model, config.lr, config.trainable)
        reference = reference_of(lm, config) if config.kl_coef and not adapters else None
        policy = stack.enter_context(to_train(lm, config, draws=config.rollouts is None))
        if config.kl_coef and adapters:
            reference = policy.model  # without its adapters it is what it was: no copy is kept
        if config.rollouts:
            source = PolicyServer(stack, lm, config, params, adapters)
        else:
            source = distributed.shared(lambda: OwnEngine.of(lm, config))
        asked = distributed.shared(lambda: fitting(source, given, prompt, params, config.overlong_prompts))
        reward = distributed.shared(lambda: build_reward(config.reward, lm.dialect))
        optimiser = make_optimiser(policy.model, config, config.trainable)
        distributed.entered_on_main(stack, lambda: folder_lock(folder / "checkpoint"))
        done = resume(folder, policy.model, optimiser, ("samples.jsonl",), training)
        grader = grader or stack.enter_context(Grader(dialect=lm.dialect, answers=config.answers))
        trackers = distributed.entered_on_main(stack, lambda: Trackers(folder, config))
        metrics = distributed.entered_on_main(stack, lambda: trackers.metrics())
        samples = distributed.entered_on_main(stack, lambda: trackers.samples())
        bar = stack.enter_context(Progress(config.steps, distributed.shown("grpo"), done))
        shown = ("reward", "accuracy", *(MISMATCH if trained_inexactly(params.mode, config.train_mode) else ()))
        drawing = Drawing(source, asked, config, prompt, params, seed, grader, reward)
        if config.pass_rate:
            refresh(lm, policy)
            drawing = drawing.chosen(config.pass_rate, folder, trained=done > 0)
        for step in range(done, config.steps):
            started = time.perf_counter()
            refresh(lm, policy)
            batch, groups, zero_spread_P, left_out_P, drawn = drawing.step(step)
            sampled_at = time.perf_counter()
            lr = learning_rate(config, step, config.steps)
            learnt = update_policy(policy, config, groups, left_out_P, optimiser, lr, reference)
            row = {"step": step + 1, "reward_name": reward.active(step + 1), **describe(batch, lm.dialect)}
            spread = [zero for zero, group in zip(zero_spread_P.tolist(), groups, strict=True) if group]
            row |= {"zero_spread": mean(spread), **drawn, **learnt, "lr": lr}
            row |= {"draw_seconds": sampled_at - started, "train_seconds": time.perf_counter() - sampled_at}
            distributed.on_main(lambda row=row, batch=batch: write(metrics, samples, row, batch, config, grader, lm))
            cost = cost_of(sum(r.tokens for r in batch.rollouts), time.perf_counter() - started, lm.device)
            bar.advance(1, **{name: row[name] for name in shown}, **cost)
            if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
                distributed.on_main(lambda: metrics.sync())
                save_checkpoint(folder / "checkpoint", step + 1, policy.model, optimiser)
        finish(lm, policy)
        save_adapters(lm, config, adapters, folder)
        keep_settings(lm, prompt, params)
        distributed.on_main(lambda: save(lm, folder / "model"))
        skipped = len(given) - len(asked)
        return distributed.on_main(lambda: summarise(read_jsonl(folder / "metrics.jsonl"), config, skipped))


def checked(lm: LanguageModel, config: GRPOConfig, problems: Problems, params: SamplingParams) -> Sequence[Problem]:
    """The problems; `UserError` for what cannot be trained with, warnings of what is not exact."""
    given = problem_set_of(problems).problems
    check_sampling(params)
    check_credit(config.credit, params.mode)
    for mode in (params.mode, config.train_mode or params.mode):
        check_joins(lm.model, mode)
    if distributed.is_main() and (inexact := trained_inexactly(params.mode, config.train_mode)):
        log.warning("%s", inexact)
    return given


def fitting(
    source: OwnEngine | PolicyServer, problems: Sequence[Problem], prompt: Prompt, params: SamplingParams, overlong: str
) -> Sequence[Problem]:
    """The problems that can be asked: every prompt is encoded, and one of each length checked, before the first step.

    With `overlong` "skip" the others are left out with a warning; with "refuse" they are a `UserError`, as they always
    are when no problem is left.
    """

    fine: set[int] = set()

    def check(ids: Sequence[int]) -> None:
        if len(ids) not in fine:
            source.check(ids, within_window(source.lm, params, len(ids)))
            fine.add(len(ids))

    kept, _, note = askable(source, problems, prompt, overlong_prompts=overlong, name="this stage", check=check)
    if note:
        log.warning("%s", note)
    return kept


def within_window(lm: LanguageModel, params: SamplingParams, prompt_tokens: int) -> SamplingParams:
    """The parameters, with a trace that ends where a window does that training forwards cannot go beyond."""
    window = window_limit(lm.model)
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

    source: OwnEngine | PolicyServer
    problems: Sequence[Problem]
    config: GRPOConfig
    prompt: Prompt
    params: SamplingParams
    seed: int
    grader: Grader
    reward: Reward

    def chosen(self, wanted: PassRateConfig, folder: Path, trained: bool) -> Drawing:
        """With the problems that the model solves sometimes, and without the others. `trained`: after some steps."""
        at_once, measure = max(1, WAVES * self.config.max_num_seqs // wanted.samples), partial(self.solved, wanted)
        kept = sometimes_solved(
            self.problems, wanted, measure, folder, seed=self.seed, at_once=at_once, trained=trained
        )
        return replace(self, problems=kept)

    def solved(self, wanted: PassRateConfig, problems: Sequence[Problem]) -> list[Rate]:
        """How often each problem is solved, before the first step."""
        self.source.update(0)
        samples, draws = wanted.samples, self.seed * 1_000_003 + BEFORE
        # each problem by itself, so that its samples do not depend on what else is asked
        each = [asked_of(self.source, [problem], samples, self.prompt, self.params, draws) for problem in problems]
        requests, params = (
            list(chain.from_iterable(getattr(a, name) for a in each)) for name in ("requests", "params")
        )
        with autocast(self.config, self.source.lm.device):
            rollouts = self.source.draw(Asked(requests, params, draws))
        grades = grade(rollouts, repeated(problems, samples), self.grader)
        own = [grades[i : i + samples] for i in range(0, len(grades), samples)]
        return [Rate(sum(g.verdict == "right" for g in found), sum(g.decided for g in found)) for found in own]

    def step(self, step: int) -> tuple:
        """All that a step draws (`draw_step`). A server has the policy by then, and goes on with the next step's."""
        self.source.update(step)
        *found, metrics = draw_step(partial(self.batch, step), self.config)
        metrics |= self.source.describe(step)
        self.source.go_ahead(step, partial(self.asked, step + 1))
        return *found, metrics

    def batch(self, step: int, number: int = 0) -> tuple[GradedBatch, list[list[TrainItem]], torch.Tensor]:
        """A step's batch `number` (all but the first: dynamic sampling), and what `with_advantages` says of it."""
        config, device = self.config, self.source.lm.device
        seed, turn = self._turn(step, number)
        problem_P = problems_of_step(self.problems, config.prompts_per_step, seed, turn)
        with autocast(config, device):  # in the arithmetic that the policy is trained in
            rollouts = self.source.draw(self.asked(step, number))
        with seeded(seed, turn, device):  # a reward of the user's may draw random numbers
            batch = grade_and_reward(rollouts, problem_P, self.grader, self.reward, step + 1)
        if config.credit == "path":
            paths = distributed.on_main(lambda: grade_paths(batch.rollouts, batch.problems, self.grader))
            return (credited := replace(batch, paths=paths)), *with_advantages(credited, config)
        return batch, *with_advantages(batch, config)

    def asked(self, step: int, number: int = 0) -> Asked:
        """What a step's batch `number` is drawn of."""
        groups, size = self.config.prompts_per_step, self.config.group_size
        problem_P = problems_of_step(self.problems, groups, *self._turn(step, number))
        draws, first = self.seed * 1_000_003 + step, number * groups * size
        return asked_of(self.source, problem_P, size, self.prompt, self.params, draws, first)

    def _turn(self, step: int, number: int) -> tuple[int, int]:
        """Seed and turn of the problems; all but the first batch have an order of their own: the first batches still
        ask each problem once before any again.
        """
        if not number:
            return self.seed, step
        return self.seed + MORE, step * (self.config.max_num_gen_batches - 1) + number - 1


def problems_of_step(problems: Sequence[Problem], groups: int, seed: int, step: int) -> list[Problem]:
    """The problems of a step, counted from 0: each problem is asked once before any is asked again."""
    return [problems[epoch_index(len(problems), seed, step * groups + p)] for p in range(groups)]


def asked_of(
    source: OwnEngine | PolicyServer,
    problem_P: Sequence[Problem],
    group_size: int,
    prompt: Prompt,
    params: SamplingParams,
    seed: int,
    first: int = 0,
) -> Asked:
    """Requests of `group_size` rollouts of each problem, group after group; numbered from `first`."""
    prompt_P = [tuple(source.encode_prompt(prompt.fill(problem.question), prompt.text)) for problem in problem_P]
    # numbered through the step, so that a problem that is asked twice gets two different sets of answers
    requests = [
        Request(prompt_P[p], problem.key, first + p * group_size + g)
        for p, problem in enumerate(problem_P)
        for g in range(group_size)
    ]
    each = [within_window(source.lm, params, len(request.prompt)) for request in requests]
    return Asked(requests, each, seed)


def repeated(problems: Sequence[Problem], times: int) -> list[Problem]:
    """The problem of each rollout, of so many rollouts per problem."""
    return [problem for problem in problems for _ in range(times)]


def grade(rollouts: Sequence[Rollout], asked: Sequence[Problem], grader: Grader) -> list[Grade]:
    """The grades of the rollouts, `asked` the problem of each; every process grades a part of them."""
    texts = distributed.own_run([(r.text, problem) for r, problem in zip(rollouts, asked, strict=True)])
    return distributed.joined(lambda: grader.grade_many(texts))


def grade_and_reward(
    rollouts: list[Rollout], problem_P: Sequence[Problem], grader: Grader, reward: Reward, step: int
) -> GradedBatch:
    """The rollouts with their grades and rewards. `step` counts from 1, as reward schedules do.

    The first process gives all rewards, since a reward of the user's may be of any kind.
    """
    asked = repeated(problem_P, len(rollouts) // len(problem_P))
    grades = grade(rollouts, asked, grader)
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
