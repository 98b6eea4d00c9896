"""`polythink train`, `experiment` and `report`: run a recipe, run several over seeds, write the page of a run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polythink.cli import console
from polythink.cli.options import Out, Overrides, argument
from polythink.cli.recipes import check_kind, complete_experiment, complete_recipe
from polythink.errors import UserError
from polythink.run.jsonl import read_rows
from polythink.run.launcher import is_follower, launched

if TYPE_CHECKING:
    from collections.abc import Sequence

    from polythink.pipeline.plan import Plan
    from polythink.report.runs import Stage

COLUMNS = {"mean@k", "pass@k", "maj@k", "greedy", "parallel_ratio", "well_formed", "tokens", "critical_path",
           "exact", "bleu", "rouge1", "rougeL", "loss", "perplexity"}  # fmt: skip


def train(
    recipe: Annotated[
        str,
        argument(
            "RECIPE", "A packaged recipe (see `polythink recipes`), a YAML file, or EXPERIMENT:ARM.", complete_recipe
        ),
    ],
    overrides: Overrides = None,
    out: Out = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved recipe and do nothing.")] = False,
) -> None:
    """Run the stages of a recipe, one after another, and write a report.

    Recipes with a task (translation, summarisation, language_modelling) train on plain text.

    Example: polythink train countdown-smoke rl_easy.steps=5 --out runs/smoke
    """
    if is_follower():  # the first process says and writes all
        from polythink.pipeline.together import follow

        if not dry_run:
            console.set_level("quiet")
            follow()
        return
    check_kind(recipe, experiment=False)
    from polythink.pipeline.recipe import holds_run, load_recipe, run_recipe
    from polythink.pipeline.requirements import check_requirements
    from polythink.run.config import dump_yaml

    resolved = load_recipe(recipe, overrides or [])
    if dry_run:
        print(dump_yaml(resolved.model_dump(mode="json")), end="")
        for note in resolved.notes():
            console.note(note)
        check_requirements(resolved.plan())
        return
    folder = out or Path("runs") / resolved.name
    if holds_run(folder) and not resume:
        raise UserError(f"{folder} holds a run already; add --resume to go on with it, or give another --out")
    console.announce(f"{resolved.name}: {len(resolved.stages)} stages in {folder}; importing torch ...")
    try:
        report = run_recipe(resolved, folder, resume, log=console.log)
    except (KeyboardInterrupt, SystemExit) as stopped:
        ending = SystemExit(getattr(stopped, "code", 130))
        ending.kept = what_is_kept(resolved.plan(), folder)  # `main` says it
        raise ending from None
    _print_end(folder, report)


def what_is_kept(plans: Sequence[Plan], folder: Path) -> str:
    """How far a run that was stopped has come, and how to go on, as the end of a sentence; "" before it began."""
    from polythink.pipeline.stage import RESULT, has_begun

    begun = [plan for plan in plans if has_begun(folder / plan.name)]
    if not begun:
        return ""
    last, number = begun[-1], plans.index(begun[-1]) + 1
    stage, place = f"stage {number} of {len(plans)}, {last.name},", folder / last.name
    if (place / RESULT).exists():
        kept = f"{stage} is done"
    elif (steps := getattr(last.stage, "steps", None)) or (place / "metrics.jsonl").exists():
        done = kept_steps(place)
        kept = f"{stage} is kept up to step {done}" + (f" of {steps}" if steps else "")
    else:
        kept = f"{stage} keeps what it has finished"
    return f"; {kept}; the same command with --resume goes on"


def kept_steps(folder: Path) -> int:
    """The step of a stage's newest checkpoint, 0 without one. Its folder is named after the step."""
    found = [path for path in folder.glob("checkpoint/step-*") if (path / ".metadata").is_file()]
    return max((int(path.name.rpartition("-")[2]) for path in found), default=0)


def experiment(
    file: Annotated[str, argument("FILE", "Name of a packaged experiment, or a YAML file.", complete_experiment)],
    out: Out = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Stages that run at once; as the file says if left out.")
    ] = None,
) -> None:
    """Compare recipes (arms) over seeds and print one table.

    Stages that arms have in common run once. Stopped at any moment, the same command goes on. Exit status 1 if a
    stage failed. It starts processes of its own; for a model that takes several, torchrun trains one arm
    (`polythink train FILE:ARM`).

    Example: polythink experiment countdown-experiment --out runs/countdown --jobs 2
    """
    if launched():
        raise UserError(
            "an experiment starts its own processes; run it without torchrun, or give torchrun one arm: "
            f"polythink train {file}:ARM"
        )
    check_kind(file, experiment=True)
    from polythink.pipeline.arms import load_experiment
    from polythink.pipeline.experiment import run_experiment

    found = load_experiment(file)
    folder = out or Path("runs") / found.name
    console.announce(f"{found.name}: {len(found.arms)} arms, {len(found.seeds)} seeds in {folder}")
    outcome = run_experiment(found, folder, jobs)
    print(outcome.table)
    for name in ("table.md", "report.html"):
        print(f"{name.partition('.')[0]}: {folder / name}")
    if outcome.failures:
        print("\n\n".join(outcome.failures))
        raise typer.Exit(1)


def report(run: Annotated[Path, argument("RUN", "Folder of a run, an evaluation or an experiment.")]) -> None:
    """Write the report of a run, an evaluation or an experiment: learning curves, results, traces.

    RUN/report.html is one self-contained page. The run may still be going on.

    Example: polythink report runs/smoke
    """
    from polythink.pipeline.experiment_report import is_experiment_folder, rewrite_reports
    from polythink.report.report import write_report

    print(rewrite_reports(run) if is_experiment_folder(run) else write_report(run))


def _print_end(folder: Path, report: Path) -> None:
    """The evaluations by problem set, stages in their order; the report's path; and what to type next."""
    from polythink.evaluate.metrics import general_key, show
    from polythink.report.report import ordered
    from polythink.report.runs import read_run
    from polythink.run.table import markdown_table

    stages = read_run(folder).stages
    found: dict[str, dict[str, dict]] = {}
    for stage in stages:
        for problems, metrics in stage.result.get("evaluations", {}).items():
            found.setdefault(problems, {})[stage.name] = metrics
    names = ordered(name for by_stage in found.values() for metrics in by_stage.values() for name in metrics)
    columns = [name for name in names if general_key(name) in COLUMNS]
    rows = [
        [problems, stage, *(show(name, {"value": metrics.get(name)}) for name in columns)]
        for problems, by_stage in found.items()
        for stage, metrics in by_stage.items()
    ]
    if columns:
        print(f"\n{markdown_table(['problems', 'stage', *columns], rows)}")
    print(f"report: {report}")
    if question := next(filter(None, map(_question, reversed(stages))), None):
        console.log(f"next: polythink generate {shlex.quote(str(folder))} {shlex.quote(question)}")


def _question(stage: Stage) -> str:
    """A short problem that a stage sampled, to try the model with; "" where it has none."""
    rows = (next(read_rows(file), {}) for file in sorted(stage.folder.glob("samples*.jsonl")))
    asked = (row.get("question", "") for row in rows)
    return next((text for text in asked if 0 < len(text) <= 60 and "\n" not in text), "")
