"""What is refused about a stage before the first one runs, and by `--dry-run`: one function per matter, over its plan.

Each would otherwise be found by the stage itself, after the stages before it have run. Imports without torch, except
for a random model whose architecture or options are not the default ones.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any

from polythink.engine.budgets import check_block_fits
from polythink.engine.remote.config import check_drawable
from polythink.errors import UserError
from polythink.evaluate.config import CompareConfig, TunnelConfig, numbers_of_paths
from polythink.models.config import ModelConfig
from polythink.pipeline.plan import (
    ColdstartConfig,
    EvalConfig,
    EvalStageBase,
    GRPOStage,
    SFTStage,
    StagePlan,
    TaskTeacherConfig,
    teacher_of,
)
from polythink.problems.prompts import PLACEHOLDER, get_prompt
from polythink.problems.sets import load_problems, sources, task_of_set
from polythink.problems.tasks.table import get_task
from polythink.problems.vocabulary import words_of
from polythink.rewards.combine import RewardConfig
from polythink.teachers.assemble import Assembler
from polythink.trace.dialect import DIALECTS, NUMBER, Dialect, get_dialect
from polythink.trace.modes import SEQUENTIAL, get_mode
from polythink.trace.validity import check_rule
from polythink.train.config import check_credit, check_sampling, trained_inexactly
from polythink.train.data_keys import DataConfig


def check_plan(plan: StagePlan) -> None:
    """`UserError` for what the stage could not do with its model, prompt, dialect and sampling parameters."""
    for check in CHECKS:
        with about(f"stages.{plan.name}"):
            check(plan, get_dialect(plan.dialect))


@contextmanager
def about(key: str) -> Iterator[None]:
    """Mistakes found inside begin with the key that they are about."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{key}: {error}") from None


# ---- the model and its prompts ----


def check_model(plan: StagePlan, dialect: Dialect) -> None:
    """The recipe's own model can be made, and has the thought embeddings that the stage trains."""
    model = plan.model
    if model.thought_embeddings and not dialect.inventory:
        raise UserError(
            f"model.thought_embeddings mark numbered paths, and the dialect {dialect.name} numbers none; leave it out, "
            "or choose another dialect"
        )
    if getattr(plan.stage, "trainable", "all") == "thoughts" and model.path is None and not model.thought_embeddings:
        raise UserError("trainable: thoughts, but the model has no thought embeddings; set model.thought_embeddings")
    if model.path is None and (model.options or model.architecture != ModelConfig.model_fields["architecture"].default):
        _check_architecture(model.model_dump_json(), plan.dialect)


@lru_cache
def _check_architecture(model: str, dialect: str) -> None:
    from polythink.models.build import architecture_config, check_shape, new_tokenizer  # with torch: last of all

    config = ModelConfig.model_validate_json(model)
    check_shape(architecture_config(config, new_tokenizer(config, dialect, words_of(config.tokenizer))))


def check_prompts(plan: StagePlan, dialect: Dialect) -> None:
    """Prompts speak of this dialect's tags, and a closed vocabulary has their words."""
    stage: Any = plan.stage
    prompts = {*(getattr(stage, "prompts", ()) or (plan.prompt,))}
    prompts |= {source.prompt for source in getattr(stage, "data", ()) if source.prompt}
    prompts |= {getattr(stage, "sequential_prompt", None)} - {None}
    vocabulary = words_of(plan.model.tokenizer) if plan.model.path is None else ()
    for name in sorted(prompts):
        text = get_prompt(name).text
        others = [d for d in DIALECTS.values() if d.name != dialect.name.partition(":")[0] and _names_tags(text, d)]
        if others and not _names_tags(text, dialect):
            raise UserError(
                f"the prompt {name} explains the tags of the dialect {others[0].name}, and the recipe has dialect: "
                f"{dialect.name}; give another prompt, or dialect: {others[0].name}"
            )
        words = text.replace(PLACEHOLDER, " ").split()
        lacking = [word for word in words if vocabulary and word not in vocabulary and word not in dialect.tags]
        if lacking and not isinstance(stage, ColdstartConfig):  # there the teacher reads it
            raise UserError(
                f"the prompt {name} has {len(lacking)} words that model.tokenizer: {plan.model.tokenizer} lacks, such "
                f"as {lacking[0]!r}; give a prompt for this task, or model.tokenizer: bytes"
            )


def _names_tags(text: str, dialect: Dialect) -> bool:
    return any(tag in text for tag in dialect.tags)


# ---- sampling ----


def check_drawing(plan: StagePlan, dialect: Dialect) -> None:
    """A stage that samples has parameters that it can take, and blocks that the dialect can have."""
    decoding, stage, forks = plan.decoding, plan.stage, get_mode(plan.mode).isolated
    if isinstance(stage, GRPOStage):
        with about("decoding"):
            check_sampling(decoding)
        check_credit(stage.credit, plan.mode)
        if stage.rollouts:
            with about("rollouts"):
                check_drawable(decoding)
    if isinstance(stage, CompareConfig | TunnelConfig):  # these have numbers of paths of their own
        numbers_of_paths(stage.paths, plan.mode, dialect)
    elif forks and isinstance(stage, EvalStageBase | GRPOStage):
        with about("decoding.paths"):
            dialect.draw_labels(decoding.paths, None)
            check_block_fits(decoding, dialect)
    if not (forks and isinstance(stage, EvalStageBase | GRPOStage)):
        return
    if decoding.max_blocks == 0 and dialect.runtime_forks and not decoding.fork_at:
        raise UserError(
            f"decoding.max_blocks is 0, but in the dialect {dialect.name} the runtime forks at the end of the prompt; "
            f"allow one block, or set mode: {SEQUENTIAL.name}"
        )


def check_measuring(plan: StagePlan, dialect: Dialect) -> None:
    """An evaluation has as many samples as it chooses among, a study paths that are longer than its prefixes."""
    stage, most = plan.stage, plan.decoding.max_path_tokens
    if isinstance(stage, EvalConfig) and (too_many := [n for n in stage.best_of if not 1 <= n <= stage.samples]):
        raise UserError(f"best_of {too_many[0]} must be from 1 to the number of samples, which is {stage.samples}")
    if isinstance(stage, TunnelConfig) and (long := [n for n in stage.prefixes if n >= most]):
        raise UserError(f"a prefix of {long[0]:g} tokens leaves nothing of max_path_tokens={most}")


# ---- data and rewards ----


def check_data(plan: StagePlan, dialect: Dialect) -> None:
    """Demonstrations have steps, and paths that the dialect can number."""
    for source in plan.stage.data if isinstance(plan.stage, SFTStage) else ():
        if source.problems is None:
            continue
        if plan.stage.epochs is not None:
            raise UserError("demonstrations have no end and so no epochs; give steps instead")
        if task := task_of_set(source.problems):
            task.check_dialect(dialect)
        style = source.demonstrations.demo_style()
        if style.most_paths:
            with about("data.demonstrations.paths"):
                dialect.draw_labels(style.most_paths, None)
        with about("data.demonstrations"):
            most = replace(style, paths=(max(style.paths),))
            for problem in load_problems(source.problems, limit=1):
                problem.task.demonstrate(problem, most, random.Random(0), dialect)


def check_teacher(plan: StagePlan, dialect: Dialect) -> None:
    """The teacher can answer these problems, and what it writes can be checked and assembled."""
    stage = plan.stage
    if not isinstance(stage, ColdstartConfig):
        return
    teacher = stage.teacher
    check_rule(stage.rule, dialect)
    if isinstance(teacher, TaskTeacherConfig):
        task, own = get_task(teacher.kind), teacher_of(teacher, plan.seed, dialect)
        if teacher.styles.get("parallel"):
            with about("teacher.paths"):
                dialect.draw_labels(teacher.paths, None)
        named = (name.partition(":")[0] for name in stage.problems)
        if other := [name for name in named if name in sources() and (task_of_set(name) or get_task()) is not task]:
            raise UserError(f"the {task.name} teacher solves {task.name} problems, not those of {other[0]}")
        for problem in (load_problems(name, limit=1).problems[0] for name in stage.problems if task_of_set(name)):
            with about("teacher"):
                for style in (style for style, weight in teacher.styles.items() if weight):
                    own.demonstrate(problem, style, random.Random(0))
    if stage.assemble:
        Assembler((), stage.assemble, dialect, plan.seed, summariser=_nobody)
    if isinstance(teacher, TaskTeacherConfig):
        with about("teacher.styles"):
            _check_styles(stage, {style for style, weight in teacher.styles.items() if weight}, plan.prompt)


def _check_styles(stage: ColdstartConfig, styles: set[str], own: str) -> None:
    """Traces are kept under the stage's prompt. Of solutions that are assembled, those in another style are dropped."""
    prompt = get_prompt(stage.assemble.prompt if stage.assemble else own)
    prompt.check_styles((stage.assemble and styles & {prompt.style}) or styles)


def _nobody(*asked: object) -> None:
    raise AssertionError("nothing is asked while a plan is checked")


def check_reward(plan: StagePlan, dialect: Dialect) -> None:
    """A reward that looks at validity does so by a rule that the dialect has."""
    with about("reward"):
        for rule in _rules(plan.stage.reward) if isinstance(plan.stage, GRPOStage) else ():
            check_rule(rule, dialect)


def _rules(reward: RewardConfig, outer: str | None = None) -> Iterator[str]:
    """The rules by which its conditions and terms judge a response; the outermost that is given holds."""
    rule = outer or reward.rule
    conditions = {name for part in (*reward.cases, *reward.add) for name in part.when}
    conditions |= {added.term for added in reward.add if isinstance(added.term, str)}
    if conditions & {"well_formed", "malformed"}:
        yield rule or "strict"
    for phase in reward.cycle + reward.switch:
        yield from _rules(phase.reward, rule)


def notes(plans: Sequence[StagePlan]) -> Iterator[str]:
    """What is allowed and may not be meant: rollouts trained in another layout than they were sampled in, and sampled
    paths that have less room than every path of the demonstrations.
    """
    shortest: dict[str, int] = {}
    for plan in plans:
        dialect, stage = get_dialect(plan.dialect), plan.stage
        for source in stage.data if isinstance(stage, SFTStage) else ():
            if source.problems and (lengths := _path_lengths(source, dialect)):
                shortest[plan.name] = min(shortest.get(plan.name, lengths[0]), *lengths)
        if isinstance(stage, GRPOStage) and (inexact := trained_inexactly(plan.mode, stage.train_mode)):
            yield f"stages.{plan.name}, {inexact}"
        if not (get_mode(plan.mode).isolated and isinstance(stage, EvalStageBase | GRPOStage)):
            continue
        most = plan.decoding.max_path_tokens
        if too_long := [name for name, length in shortest.items() if length + 1 > most]:  # and the closing tag
            yield (
                f"stages.{plan.name} samples paths of at most max_path_tokens={most} tokens, and those of the "
                f"demonstrations in {too_long[0]} have {shortest[too_long[0]]} words or more: all will be truncated"
            )


def _path_lengths(source: DataConfig, dialect: Dialect, problems: int = 20) -> list[int]:
    """The words in each path of the first demonstrations; a word has at least one token."""
    opened, closed = (
        re.escape(tag).replace(re.escape(NUMBER), r"\d+") for tag in (dialect.paths.open, dialect.paths.close)
    )
    style = source.demonstrations.demo_style()
    found: list[int] = []
    for problem in load_problems(source.problems, limit=problems):
        trace = problem.task.demonstrate(problem, style, random.Random(problem.key), dialect)
        found += [len(path.split()) for path in re.findall(f"{opened}(.*?){closed}", trace, re.DOTALL)]
    return found


# what needs torch comes last, so that other mistakes are found without it
CHECKS = (
    check_prompts,
    check_drawing,
    check_measuring,
    check_data,
    check_teacher,
    check_reward,
    check_model,
)
