"""What each kind of stage does: one short function per kind, from a plan and a folder to what result.json says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from typing import Any

from polythink.engine.selfcheck import choose_backend
from polythink.evaluate import head_file, heads
from polythink.evaluate.compare import compare
from polythink.evaluate.run import evaluate
from polythink.evaluate.tunnel import tunnel
from polythink.models.build import from_config, from_pretrained
from polythink.models.config import ModelConfig
from polythink.models.lm import LanguageModel, checkpoint_activations, load, with_settings
from polythink.pipeline.plan import (
    ColdstartConfig,
    EvalConfig,
    EvalStageBase,
    Plan,
    StagePlan,
    TaskTeacherConfig,
    file_name,
    teacher_of,
)
from polythink.pipeline.shared_engine import open_engine
from polythink.pipeline.stage import PLAN, Log, earlier, left_model
from polythink.pipeline.text import TextPlan
from polythink.pipeline.text_stages import evaluate_stage, train_stage
from polythink.problems.answers import Grader
from polythink.problems.problem import Problem
from polythink.problems.prompts import get_prompt
from polythink.problems.sets import load_problems
from polythink.problems.vocabulary import words_of
from polythink.run.folder import read_json
from polythink.run.jsonl import read_jsonl
from polythink.teachers.assemble import run_assembly
from polythink.teachers.coldstart import run_coldstart
from polythink.teachers.endpoint import Endpoint
from polythink.teachers.rows import check_kept, show_table
from polythink.trace.dialect import get_dialect
from polythink.train import distributed
from polythink.train.data import TraceEncoder, stage_seed
from polythink.train.data_keys import DataConfig
from polythink.train.grpo import train_grpo
from polythink.train.mixture import Mixture, make_mixture
from polythink.train.sft import train_sft

# ---- models, problems and data ----


def starting_model(plan: StagePlan, previous: Path | None) -> LanguageModel:
    """The model of the nearest earlier stage that left one, otherwise the recipe's; with the plan's settings."""
    left = left_model(previous)
    seed = plan.seed if plan.model_seed is None else plan.model_seed
    dtype, own = getattr(plan.stage, "dtype", None), plan.model
    if dtype and not left:
        own = own.model_copy(update={"dtype": dtype})
    lm = load(left, dtype=dtype) if left else first_model(own, plan.dialect, seed, plan.mode)
    if plan.model.gradient_checkpointing:
        checkpoint_activations(lm.model)
    prompt = get_prompt(plan.prompt)
    return with_settings(
        lm, dialect=plan.dialect, mode=plan.mode, prompt=prompt.text, prompt_name=prompt.name, prompt_hash=prompt.hash,
        chat=plan.chat, decoding=plan.decoding.model_dump(mode="json"),
    )  # fmt: skip


def first_model(config: ModelConfig, dialect: str, seed: int, mode: str | None = None) -> LanguageModel:
    """The recipe's own model, refused before anything is trained if it cannot do what the mode asks of it."""
    fresh = config.path is None
    lm = (
        from_config(config, dialect, words_of(config.tokenizer), seed)
        if fresh
        else from_pretrained(config, dialect, seed, mode)
    )
    choose_backend(lm)
    return lm


def problems_of(names: Sequence[str], log: Log, limit: int | None = None) -> tuple[Problem, ...]:
    """The problems of all these sets together. `log` is told the notes on each: what was dropped, what is wrong."""
    sets = [load_problems(name, limit=limit) for name in names]
    for found in sets:
        for note in found.notes:
            log(f"note on {found.name}: {note}")
    return tuple(problem for found in sets for problem in found)


def kept_rows(source: DataConfig, previous: Path | None) -> Path:
    """The file of a source: its own, or what the named coldstart stage kept."""
    if source.file is not None:
        return Path(source.file)
    found = [folder for folder in earlier(previous) if read_json(folder / PLAN)["name"] == source.stage]
    assert found, f"the plan was made with an earlier stage {source.stage}"
    return found[0] / "kept.jsonl"


# ---- the kinds of stages ----


def coldstart(plan: StagePlan, folder: Path, previous: Path | None, log: Log) -> dict:
    stage = plan.stage
    assert isinstance(stage, ColdstartConfig)
    config, dialect, seed = stage.teacher, get_dialect(plan.dialect), stage_seed(plan.seed, plan.name)
    if isinstance(config, TaskTeacherConfig):
        teacher = nullcontext(teacher_of(config, seed, dialect))
    else:
        teacher = Endpoint(config, connections=stage.concurrency)
    asked = folder / "solutions" if stage.assemble else folder
    prompt = get_prompt(plan.prompt)
    with teacher as ask, Grader(dialect=dialect) as grader:
        table = run_coldstart(
            problems_of(stage.problems, log, stage.limit), ask,
            get_prompt(stage.assemble.prompt) if stage.assemble else prompt, stage.rule, asked,
            samples=stage.samples, right_only=stage.right_only and not stage.assemble, concurrency=stage.concurrency,
            about_teacher=ask.about, dialect=dialect, grader=grader,
        )  # fmt: skip
        log(show_table(table))
        if stage.assemble:
            summariser = ask if stage.assemble.summary == "teacher" else None
            table = run_assembly(
                asked, folder, stage.assemble, prompt, dialect, seed=seed, summariser=summariser,
                concurrency=stage.concurrency, grader=grader,
            )  # fmt: skip
            log(show_table(table))
    check_kept(table, folder)
    responses = (row for place in {asked, folder} for row in read_jsonl(place / "all.jsonl"))
    return {"table": table, "seconds": sum(row["seconds"] for row in responses)}


def sft(plan: StagePlan, folder: Path, previous: Path | None, log: Log) -> dict:
    stage, seed = plan.stage, stage_seed(plan.seed, plan.name)

    def opened() -> tuple[LanguageModel, Mixture, tuple[Problem, ...]]:
        lm = starting_model(plan, previous)
        mixture = make_mixture(
            stage.data, TraceEncoder(lm, plan.decoding, get_prompt(plan.prompt)), stage, seed,
            problems_of=lambda name: problems_of([name], log), file_of=lambda source: kept_rows(source, previous),
        )  # fmt: skip
        return lm, mixture, problems_of(stage.sample_problems, log, stage.log_samples)

    lm, data, asked = distributed.shared(opened)
    prompt = get_prompt(plan.prompt)
    return train_sft(lm, stage, data, folder, prompt=prompt, params=plan.decoding, problems=asked, seed=seed)


def grpo(plan: StagePlan, folder: Path, previous: Path | None, log: Log) -> dict:
    stage, prompt = plan.stage, get_prompt(plan.prompt)
    lm = distributed.shared(lambda: starting_model(plan, previous))
    problems = distributed.shared(lambda: problems_of(stage.problems, log))
    seed = stage_seed(plan.seed, plan.name)
    return train_grpo(lm, stage, problems, folder, prompt=prompt, params=plan.decoding, seed=seed)


def evaluation(plan: StagePlan, folder: Path, previous: Path | None, log: Log) -> dict:
    lm, stage = starting_model(plan, previous), plan.stage
    assert isinstance(stage, EvalConfig)
    engine = open_engine(lm, plan, previous)
    found: dict[str, dict] = {}
    with Grader(dialect=lm.dialect, answers=stage.answers) as grader:
        for name, prompt in product(stage.problems, stage.prompts or (plan.prompt,)):
            label = file_name(name) + (f"-{file_name(prompt)}" if len(stage.prompts) > 1 else "")
            if (done := folder / f"eval-{label}.json").is_file():  # before the stage was stopped
                found[label] = read_json(done)
                continue
            found[label] = evaluate(
                engine, load_problems(name, limit=stage.limit), prompt=prompt, params=plan.decoding,
                samples=stage.samples, seed=plan.seed, grader=grader, out=folder, name=label, greedy=stage.greedy,
                best_of=stage.best_of, log=log, **_resumed(name, stage),
            )  # fmt: skip
    if stage.heads and not (folder / head_file.FILE).is_file():
        found_problems, prompt = load_problems(stage.problems[0], limit=stage.limit), get_prompt(plan.prompt)
        head_file.save(
            heads.analyse_traces(engine, found_problems, prompt, plan.decoding, plan.seed), folder / head_file.FILE
        )
    return summary_of(found)


def run_study(plan: StagePlan, folder: Path, previous: Path | None, log: Log) -> dict:
    """`compare` or `tunnel`, one problem set after another."""
    lm, stage = starting_model(plan, previous), plan.stage
    run = compare if stage.kind == "compare" else tunnel
    engine = open_engine(lm, plan, previous)
    found: dict[str, dict] = {}
    with Grader(dialect=lm.dialect, answers=stage.answers) as grader:
        for name in stage.problems:
            label = file_name(name)
            done = folder / f"{stage.kind}-{label}.json"  # before the stage was stopped
            found[label] = read_json(done) if done.is_file() else run(
                engine, load_problems(name, limit=stage.limit), stage, prompt=plan.prompt, params=plan.decoding,
                seed=plan.seed, grader=grader, out=folder, name=label, log=log, **_resumed(name, stage),
            )  # fmt: skip
    return summary_of(found)


def _resumed(problems: str, stage: EvalStageBase) -> dict[str, Any]:
    """What the measurements of a stage have in common: whoever runs an unfinished stage goes on with it."""
    about = {"problems": problems, "limit": stage.limit}
    return {"resume": True, "overlong_prompts": stage.overlong_prompts, "about": about}


def summary_of(found: dict[str, dict]) -> dict:
    """What result.json says of evaluations, by the names in their files."""
    values = {label: {name: m["value"] for name, m in result["metrics"].items()} for label, result in found.items()}
    return {"evaluations": values, "seconds": sum(result["seconds"] for result in found.values())}


def text(plan: TextPlan, folder: Path, previous: Path | None, log: Log) -> dict:
    return train_stage(plan, folder, left_model(previous), log)


def text_evaluation(plan: TextPlan, folder: Path, previous: Path | None, log: Log) -> dict:
    return summary_of(evaluate_stage(plan, folder, left_model(previous), log))


RUNNERS: dict[str, Callable[[Plan, Path, Path | None, Log], dict]] = {
    "coldstart": coldstart, "sft": sft, "grpo": grpo, "eval": evaluation, "compare": run_study, "tunnel": run_study,
    "text": text, "text_eval": text_evaluation,
}  # fmt: skip
