"""An experiment: arms (recipes with overrides) times seeds. Shared stages run once; one table compares the arms.

    name: countdown
    seeds: [0, 1]
    jobs: 2                      # stages that run at once
    threads: 1                   # of each stage
    columns: [mean@8, tokens]    # metrics in the table; all if left out
    arms:
      sequential: {recipe: countdown, overrides: [mode=sequential]}
      parallel:   {recipe: countdown}

Writes, under `out`:

    stages/NAME-DIGEST/   every stage once, however many runs use it
    runs/ARM-seedK/       recipe.yaml, environment.json, stages.json, report.html of each run
    table.md, table.json, table.html, report.html
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from polythink.errors import UserError
from polythink.pipeline.arms import Experiment
from polythink.pipeline.board import Board
from polythink.pipeline.evaluated import KINDS, Evaluated
from polythink.pipeline.experiment_report import write_reports
from polythink.pipeline.requirements import check_requirements
from polythink.pipeline.results_table import make_table
from polythink.pipeline.schedule import RESULT, Job, Schedule
from polythink.pipeline.stage import LOCK, read_result
from polythink.run.config import dump_yaml
from polythink.run.folder import ENVIRONMENT, os_errors, read_json, record_attempt, sweep, write_json, write_text

if TYPE_CHECKING:  # an experiment itself needs no torch: its stages are processes of their own
    from polythink.pipeline.plan import Plan
    from polythink.pipeline.recipe import Recipe
    from polythink.pipeline.text import TextRecipe


EVALUATIONS = (*KINDS, "text_eval")  # kinds of stages whose results are in the table


@dataclass(frozen=True)
class Run:
    """One arm with one seed: its resolved recipe and its stages."""

    arm: str
    seed: int
    recipe: Recipe | TextRecipe
    plans: dict[str, Plan]  # its stages in order, by name

    @property
    def name(self) -> str:
        return f"{self.arm}-seed{self.seed}"


@dataclass(frozen=True)
class Outcome:
    """The table of an experiment in Markdown, and a paragraph per failed stage."""

    table: str
    failures: tuple[str, ...]


Load = Callable[[str | Path, Sequence[str]], "Recipe | TextRecipe"]


def run_experiment(
    experiment: Experiment,
    out: Path,
    jobs: int | None = None,
    *,
    load: Load | None = None,
    command: Sequence[str] | None = None,
) -> Outcome:
    """Run what is missing under `out`, then write the table and the reports.

    At most `jobs` stages run at once (None: as many as the experiment says). `load` and `command` replace
    `pipeline.recipe.load_recipe` and the program that runs one stage (see `Schedule`), for tests.
    """
    out = Path(out).expanduser()
    runs = resolve(experiment, load or _load_recipe)
    stages = collect(runs, out)
    plans = {plan.digest: plan for run in runs for plan in run.plans.values()}
    check_requirements([plan for digest, plan in plans.items() if not stages[digest].done])
    with at_work(out):
        for run in runs:
            _write_run(run, out / "runs" / run.name, stages)
        schedule = Schedule(list(stages.values()), jobs or experiment.jobs, command, experiment.threads)
        with Board(list(stages.values())) as board:
            schedule.run(board.show)
        unreadable = damaged(stages)
        failures = schedule.failures | unreadable
        evaluated = [found for run in runs for found in evaluations(run, stages, failures)]
        table = make_table(experiment.name, next(iter(experiment.arms)), evaluated, experiment.columns)
        table.write(out)
        readable = [run for run in runs if not any(plan.digest in unreadable for plan in run.plans.values())]
        arms: dict[str, list[Path]] = {}
        for run in readable:
            arms.setdefault(run.arm, []).append(out / "runs" / run.name)
        write_reports(table, arms, out, failures)
    return Outcome(table.markdown, tuple(failures.values()))


@contextmanager
def at_work(out: Path) -> Iterator[None]:
    """Hold the folder, together with other processes of the experiment. The first of them sweeps it.

    `UserError` where it holds a run of `train`.
    """
    import fcntl  # not on every system

    if (out / "stages.json").exists():
        raise UserError(f"{out} holds the run of a recipe, not an experiment; give another folder")
    with os_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        lock = os.open(out / LOCK, os.O_RDWR | os.O_CREAT)
    try:
        with suppress(BlockingIOError):  # others are at work: their temporary files are not left over
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for folder in (out, *out.glob("runs/*/")):
                sweep(folder, deep=False)
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is at work in {out}; wait until it ends, or give another folder"
            ) from None
        yield
    finally:
        os.close(lock)


def resolve(experiment: Experiment, load: Load) -> list[Run]:
    """Every arm with every seed. A mistake in any recipe or override raises here, before anything runs."""
    runs = []
    for seed in experiment.seeds:  # all arms with the first seed come first: something to compare early
        for name, arm in experiment.arms.items():
            try:
                recipe = load(arm.recipe, [*arm.overrides, f"seed={seed}"])
            except UserError as error:
                raise UserError(f"arm {name}: {error}") from None
            runs.append(Run(name, seed, recipe, {plan.name: plan for plan in recipe.plan()}))
    return runs


def collect(runs: Sequence[Run], out: Path) -> dict[str, Job]:
    """The stages of all runs by digest, each in its own folder; an existing folder is recognised by its digest."""
    needed: dict[str, list[str]] = {}
    jobs: dict[str, Job] = {}
    for run in runs:
        for plan in run.plans.values():
            short = plan.digest[:12]
            folder = next(out.glob(f"stages/*-{short}"), out / "stages" / f"{plan.name}-{short}")
            after = run.plans[plan.previous].digest if plan.previous else None
            needed.setdefault(plan.digest, []).append(run.name)
            jobs[plan.digest] = Job(plan.name, plan.digest, after, plan.model_dump(mode="json"), folder, ())
    return {digest: replace(job, runs=tuple(needed[digest])) for digest, job in jobs.items()}


def damaged(stages: Mapping[str, Job]) -> dict[str, str]:
    """By digest: what is wrong with the results of stages that are done, where they cannot be read."""
    found = {}
    for digest, job in stages.items():
        try:
            if job.done:
                read_result(job.folder)
                for file in (file for kind in KINDS for file in sorted(job.folder.glob(f"{kind}-*.json"))):
                    data = read_json(file)
                    if not (isinstance(data, dict) and isinstance(data.get("metrics"), dict) and "n" in data):
                        raise UserError(
                            f"{file} is damaged: it lacks its metrics; delete {job.folder} to measure again"
                        )
        except UserError as error:
            found[digest] = f"stage {job.name} of {', '.join(job.runs)}: {error}"
    return found


def evaluations(
    run: Run, stages: Mapping[str, Job], failures: MutableMapping[str, str] | None = None
) -> list[Evaluated]:
    """The finished evaluations of a run, in order. One whose model's stages failed is left out, and a failure too."""
    failures = {} if failures is None else failures
    evals = [plan for plan in run.plans.values() if plan.stage.kind in EVALUATIONS]
    found = []
    for position, plan in enumerate(evals, start=-len(evals)):
        folder = stages[plan.digest].folder
        if not stages[plan.digest].done:
            continue
        chain = _chain(plan, run.plans)
        lost = [p.name for p in chain if p.digest in failures or not stages[p.digest].done]
        if lost and plan.digest not in failures:
            failures[plan.digest] = (
                f"stage {plan.name} of {', '.join(stages[plan.digest].runs)} was done before and is left out of the "
                f"table: the stage {lost[0]}, whose model it measured, is not there any more"
            )
        if plan.digest in failures:
            continue
        results = [read_json(stages[p.digest].folder / RESULT) for p in chain]
        seconds = sum(result.get("seconds") or 0 for result in results)
        gap = max((g for result in results if (g := result.get("logprob_gap_max")) is not None), default=None)
        kl = [k for result in results if (k := result.get("mismatch_kl")) is not None]
        mismatch = sum(kl) / len(kl) if kl else None
        after = plan.previous or "nothing"
        found.append(Evaluated(run.arm, run.seed, position, plan.name, after, folder, seconds, gap, mismatch))
    return found


def _chain(plan: Plan, plans: Mapping[str, Plan]) -> list[Plan]:
    """The stages that made the model which `plan` evaluates."""
    chain = []
    while plan.previous:
        plan = plans[plan.previous]
        chain.append(plan)
    return chain


def _write_run(run: Run, folder: Path, stages: Mapping[str, Job]) -> None:
    """Write a run folder that points to the shared stages."""
    listed = [
        {"name": name, "kind": plan.stage.kind, "folder": os.path.relpath(stages[plan.digest].folder, folder)}
        for name, plan in run.plans.items()
    ]
    write_text(folder / "recipe.yaml", dump_yaml(run.recipe.model_dump(mode="json")))
    if not (folder / ENVIRONMENT).exists():  # stage.json says which attempts trained each stage
        record_attempt(folder)
    write_json(folder / "stages.json", listed)


def _load_recipe(name_or_path: str | Path, overrides: Sequence[str]) -> Recipe | TextRecipe:
    from polythink.pipeline.recipe import load_recipe

    return load_recipe(name_or_path, overrides)
