"""Running one stage in its folder, in this process or, for the experiment runner, as

    python -m polythink.pipeline.stage SPEC.json      # {"plan": ..., "folder": ..., "previous": folder or null}

The folder holds stage.json (the plan), what the stage writes, model/ if it trained one, and result.json, written last:
a stage that has it is done and is not run again. A stage that was stopped goes on from what its folder holds: a
checkpoint, a teacher's responses, finished evaluations.

The `seconds` of result.json are those that this work took, over all attempts: it is the sum of what the rows of
metrics.jsonl, the responses, or the evaluations say of themselves. What was lost in a stop and done again counts once.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import product
from pathlib import Path

from polythink.engine.engine import Engine
from polythink.engine.selfcheck import choose_backend
from polythink.errors import UserError
from polythink.evaluate import heads
from polythink.evaluate.compare import CompareConfig, compare
from polythink.evaluate.run import evaluate
from polythink.evaluate.tunnel import tunnel
from polythink.models.build import ModelConfig, from_config, from_pretrained
from polythink.models.lm import LanguageModel, checkpoint_activations, load, save, with_settings
from polythink.pipeline.plan import ColdstartConfig, CountdownTeacherConfig, EvalConfig, Plan, StagePlan, file_name
from polythink.pipeline.text import TextPlan
from polythink.pipeline.text_stages import evaluate_stage, train_stage
from polythink.problems.answers import Grader
from polythink.problems.problem import Problem
from polythink.problems.prompts import get_prompt
from polythink.problems.sets import load_problems
from polythink.problems.tasks.countdown import CountdownTeacher
from polythink.problems.vocabulary import words_of
from polythink.run.config import parse_config
from polythink.run.folder import read_json, read_jsonl, write_json
from polythink.teachers.assemble import run_assembly
from polythink.teachers.coldstart import run_coldstart, show_table
from polythink.teachers.endpoint import Endpoint
from polythink.trace.dialect import get_dialect
from polythink.train import distributed
from polythink.train.data import DataConfig, TraceEncoder, make_mixture
from polythink.train.grpo import train_grpo
from polythink.train.sft import train_sft

PLAN, RESULT, MODEL = "stage.json", "result.json", "model"
Log = Callable[[str], None]


def run_stage(
    plan: Plan, folder: str | Path, previous: str | Path | None = None, resume: bool = False, log: Log = print
) -> dict:
    """Run a stage, or return the result of one that is done. `previous` is the folder of the stage `plan.previous`.

    Raises `UserError` where the folder holds another stage, or an unfinished one and `resume` is not set.
    """
    distributed.refuse_many()
    folder = Path(folder)
    if check_folder(plan, folder) == "done":
        return read_json(folder / RESULT)
    if (folder / PLAN).exists():
        if not resume:
            raise UserError(f"{folder} holds an unfinished stage; resume it, or give another folder")
        sweep(folder)
    before = os.path.relpath(previous, folder) if previous else None
    write_json(folder / PLAN, {"name": plan.name, "kind": plan.stage.kind, "digest": plan.digest,
                               "previous": before, "plan": plan.model_dump(mode="json")})  # fmt: skip
    summary = RUNNERS[plan.stage.kind](plan, folder, Path(previous) if previous else None, log)
    result = {"name": plan.name, "kind": plan.stage.kind, "digest": plan.digest, **summary}
    write_json(folder / RESULT, result)
    return result


def check_folder(plan: Plan, folder: Path) -> str:
    """`empty`, `begun` or `done`; `UserError` where the folder holds a stage that is not this one."""
    if not (folder / PLAN).exists():
        return "empty"
    if (found := read_json(folder / PLAN).get("digest")) != plan.digest:
        raise UserError(
            f"{folder} holds a stage of another recipe, data or seed (identity {str(found)[:12]}, now "
            f"{plan.digest[:12]}); give another folder, or delete this one to run it again"
        )
    return "done" if (folder / RESULT).exists() else "begun"


def sweep(folder: Path) -> None:
    """Delete the temporary files that a killed process left behind."""
    for temporary in folder.rglob(".*.tmp"):
        temporary.unlink(missing_ok=True)


# ---- what came before ----


def earlier(folder: Path | None) -> list[Path]:
    """This stage's folder and those it was built on, nearest first."""
    chain: list[Path] = []
    while folder is not None:
        chain.append(folder)
        before = read_json(folder / PLAN)["previous"]
        folder = folder / before if before else None
    return chain


def left_model(previous: Path | None) -> Path | None:
    """The model of the nearest earlier stage that left one."""
    return next((folder / MODEL for folder in earlier(previous) if (folder / MODEL).is_dir()), None)


def starting_model(plan: StagePlan, previous: Path | None) -> LanguageModel:
    """The model of the nearest earlier stage that left one, otherwise the recipe's; with the plan's settings."""
    left = left_model(previous)
    lm = load(left) if left else first_model(plan.model, plan.dialect, plan.seed)
    if plan.model.gradient_checkpointing:
        checkpoint_activations(lm.model)
    prompt = get_prompt(plan.prompt)
    return with_settings(
        lm, dialect=plan.dialect, mode=plan.mode, prompt=prompt.text, prompt_name=prompt.name, prompt_hash=prompt.hash,
        chat=plan.chat, decoding=plan.decoding.model_dump(mode="json"),
    )  # fmt: skip


def first_model(config: ModelConfig, dialect: str, seed: int) -> LanguageModel:
    """The recipe's own model, refused before anything is trained if it cannot fork and join."""
    fresh = config.path is None
    lm = from_config(config, dialect, words_of(config.tokenizer), seed) if fresh else from_pretrained(config, dialect)
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
    config, dialect = stage.teacher, get_dialect(plan.dialect)
    if isinstance(config, CountdownTeacherConfig):
        own = CountdownTeacher(config.styles, config.p_right, config.paths, plan.seed, dialect, config.labels)
        teacher = nullcontext(own)
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
                asked, folder, stage.assemble, prompt, dialect, seed=plan.seed, summariser=summariser,
                concurrency=stage.concurrency, grader=grader,
            )  # fmt: skip
            log(show_table(table))
    responses = (row for place in {asked, folder} for row in read_jsonl(place / "all.jsonl"))
    return {"table": table, "seconds": sum(row["seconds"] for row in responses)}


def sft(plan: StagePlan, folder: Path, previous: Path | None, log: Log) -> dict:
    lm, stage = starting_model(plan, previous), plan.stage
    encode = TraceEncoder(lm, plan.decoding, get_prompt(plan.prompt))
    data = make_mixture(
        stage.data, encode, stage.batch, stage.max_tokens, plan.seed,
        problems_of=lambda name: problems_of([name], log), file_of=lambda source: kept_rows(source, previous),
    )  # fmt: skip
    summary = train_sft(lm, stage, data, folder)
    if lm.dialect.inventory:  # beyond it the engine scales attention
        lm = with_settings(lm, trained_paths=max(data.most_paths, lm.settings.trained_paths))
    save(lm, folder / MODEL)
    return summary


def grpo(plan: StagePlan, folder: Path, previous: Path | None, log: Log) -> dict:
    lm, stage = starting_model(plan, previous), plan.stage
    with Grader(dialect=lm.dialect) as grader:
        found = problems_of(stage.problems, log)
        summary = train_grpo(lm, stage, found, get_prompt(plan.prompt), plan.decoding, plan.seed, folder, grader)
    save(lm, folder / MODEL)
    return summary


def evaluation(plan: StagePlan, folder: Path, previous: Path | None, log: Log) -> dict:
    lm, stage = starting_model(plan, previous), plan.stage
    assert isinstance(stage, EvalConfig)
    engine = Engine(lm, max_num_seqs=stage.max_num_seqs)
    found: dict[str, dict] = {}
    with Grader(dialect=lm.dialect) as grader:
        for name, prompt in product(stage.problems, stage.prompts or (plan.prompt,)):
            label = file_name(name) + (f"-{file_name(prompt)}" if len(stage.prompts) > 1 else "")
            if (done := folder / f"eval-{label}.json").is_file():  # before the stage was stopped
                found[label] = read_json(done)
                continue
            found[label] = evaluate(
                engine, load_problems(name, limit=stage.limit), get_prompt(prompt), plan.decoding, stage.samples,
                plan.seed, grader, folder, name=label, greedy=stage.greedy, best_of=stage.best_of, log=log,
            )  # fmt: skip
    if stage.heads and not (folder / heads.FILE).is_file():
        found_problems, prompt = load_problems(stage.problems[0], limit=stage.limit), get_prompt(plan.prompt)
        heads.save(heads.analyse_traces(engine, found_problems, prompt, plan.decoding, plan.seed), folder / heads.FILE)
    return summary_of(found)


def run_study(plan: StagePlan, folder: Path, previous: Path | None, log: Log) -> dict:
    """`compare` or `tunnel`, one problem set after another."""
    lm, stage = starting_model(plan, previous), plan.stage
    run = compare if isinstance(stage, CompareConfig) else tunnel
    engine = Engine(lm, max_num_seqs=stage.max_num_seqs)
    found: dict[str, dict] = {}
    with Grader(dialect=lm.dialect) as grader:
        for name in stage.problems:
            label = file_name(name)
            done = folder / f"{stage.kind}-{label}.json"  # before the stage was stopped
            found[label] = read_json(done) if done.is_file() else run(
                engine, load_problems(name, limit=stage.limit), get_prompt(plan.prompt), plan.decoding, stage,
                plan.seed, grader, folder, name=label, log=log,
            )  # fmt: skip
    return summary_of(found)


def summary_of(found: dict[str, dict]) -> dict:
    """What result.json says of evaluations, by the names in their files."""
    values = {label: {name: m["value"] for name, m in result["metrics"].items()} for label, result in found.items()}
    return {"evaluations": values, "seconds": sum(result["seconds"] for result in found.values())}


def text(plan: TextPlan, folder: Path, previous: Path | None, log: Log) -> dict:
    return train_stage(plan, folder, left_model(previous), log)


def text_evaluation(plan: TextPlan, folder: Path, previous: Path | None, log: Log) -> dict:
    return summary_of(evaluate_stage(plan, folder, left_model(previous), log))


RUNNERS = {
    "coldstart": coldstart, "sft": sft, "grpo": grpo, "eval": evaluation, "compare": run_study, "tunnel": run_study,
    "text": text, "text_eval": text_evaluation,
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stage that a file describes; exit status 2 and one sentence for a mistake in it."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if len(arguments) != 1:
            raise UserError("give one file: python -m polythink.pipeline.stage SPEC.json")
        spec = read_json(arguments[0])
        plan = spec.get("plan")
        plan_class = TextPlan if isinstance(plan, dict) and "task" in plan else StagePlan
        plan = parse_config(plan_class, plan, f"{arguments[0]}: plan")
        run_stage(plan, spec["folder"], spec.get("previous"), resume=True)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    # when an experiment is stopped: what has come is saved, and workers are ended
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    sys.exit(main())
