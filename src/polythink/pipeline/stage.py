"""Running one stage in its folder, in this process or, for the experiment runner, as

    python -m polythink.pipeline.stage SPEC.json      # {"plan": ..., "folder": ..., "previous": folder or null}

The folder holds stage.json (the plan, and the environment of each attempt, the last of which finished it), what the
stage writes, model/ if it trained one, and result.json, written last: a stage that has it is done and is not run again.
A stage that was stopped resumes from what its folder holds: a checkpoint, a teacher's responses, evaluated samples.

In result.json `seconds` is the work time over all attempts; work lost to an interruption is not counted.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from polythink.errors import UserError, out_of_memory
from polythink.pipeline.identity import counted
from polythink.pipeline.plan import Plan, StagePlan
from polythink.run.config import parse_config
from polythink.run.folder import TEMPORARY, environment, read_json, sweep, write_json
from polythink.run.launcher import launched
from polythink.run.plain import changes, short
from polythink.run.process import settle

PLAN, RESULT, MODEL, LOCK = "stage.json", "result.json", "model", "lock"
# files that say what a stage is about to do, or who does it
SCHEDULES = (LOCK, "spec.json", "log.txt")  # an experiment's schedule writes them, and shows the end of the log
SAID_BEFORE = (PLAN, *SCHEDULES, "environment.json", "settings.json", "training.json")
TRAINS = ("sft", "grpo", "text")  # kinds of stages that leave a model
Log = Callable[[str], None]


def run_stage(
    plan: Plan, folder: str | Path, previous: str | Path | None = None, resume: bool = False, log: Log = print
) -> dict:
    """Run a stage, or return the result of one that is done. `previous` is the folder of the stage `plan.previous`.

    Raises `UserError` where the folder holds another stage, or an unfinished one and `resume` is not set, and where a
    file that it reads is not what was planned. A stage that is refused before it has done anything leaves nothing.
    """
    folder = Path(folder)
    is_new = not folder.exists()
    state = check_folder(plan, folder)
    if state == "done":
        return read_result(folder)
    from polythink.pipeline.together import run  # with torch: after everything that can be refused without it

    if state == "begun" and not resume:
        raise UserError(f"{folder} holds an unfinished stage; resume it, or give another folder")
    check_inputs(plan)
    sweep(folder)
    before = os.path.relpath(previous, folder) if previous else None
    attempts = read_json(folder / PLAN).get("attempts", []) if (folder / PLAN).exists() else []
    write_json(folder / PLAN, {"name": plan.name, "kind": plan.stage.kind, "digest": plan.digest, "previous": before,
                               "plan": plan.model_dump(mode="json", exclude={"planned_inputs"}),
                               "inputs": plan.planned_inputs,
                               "attempts": [*attempts, environment()]})  # fmt: skip
    try:
        summary = run(plan, folder, Path(previous) if previous else None, log)
    except UserError:
        clear_unbegun(folder, is_new)
        raise
    result = {"name": plan.name, "kind": plan.stage.kind, "digest": plan.digest, **summary}
    write_json(folder / RESULT, result)
    return result


def read_result(folder: Path) -> dict:
    """The result of a finished stage; `UserError` where its file is damaged."""
    found = read_json(folder / RESULT)
    if not isinstance(found, dict):
        raise UserError(
            f"{folder / RESULT} is damaged: it should hold a mapping; delete {folder} to run the stage again"
        )
    return found


def check_inputs(plan: Plan) -> None:
    """`UserError` where a file that the stage reads is not what its digest stands for: hours may lie between."""
    then, now = plan.planned_inputs, plan.inputs()
    if changed := [name for name in {**then, **now} if then.get(name) != now.get(name)]:
        have = "has" if len(changed) == 1 else "have"
        raise UserError(
            f"{', '.join(changed)} {have} changed since the stage {plan.name} was planned; run the same command again"
        )


# ---- what a folder holds ----


def check_folder(plan: Plan, folder: Path) -> str:
    """`empty`, `begun` or `done`; `UserError` where the folder holds a stage that is not this one."""
    if not has_begun(folder):
        return "empty"
    found = read_json(folder / PLAN)
    if not isinstance(found, dict):
        raise UserError(f"{folder / PLAN} is damaged: it should hold a mapping; delete {folder} to run the stage again")
    if found.get("digest") != plan.digest:
        raise UserError(
            f"{folder} holds a stage of another recipe, data or seed ({differences(found, plan)}); give another "
            "folder, or delete this one to run it again"
        )
    return "done" if (folder / RESULT).exists() else "begun"


def has_begun(folder: Path) -> bool:
    """Whether a stage has done anything here, beyond saying what it was about to do."""
    if not (folder / PLAN).is_file():
        return False
    return any(path.stat().st_size for path in files_in(folder) if path.name not in SAID_BEFORE)


def files_in(folder: Path) -> list[Path]:
    """The files of a stage, without the temporary ones of a killed process."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return [path for path in found if not any(map(TEMPORARY.fullmatch, path.relative_to(folder).parts))]


def clear_unbegun(folder: Path, whole: bool) -> None:
    """Remove what a stage wrote before it did anything; with `whole` the folder too, if nothing else is in it."""
    if (folder / PLAN).is_file() and not has_begun(folder):
        sweep(folder)
        for path in files_in(folder):
            if path.relative_to(folder).as_posix() not in SCHEDULES:
                path.unlink()
        remove_empty(folder, whole)


def remove_empty(folder: Path, whole: bool) -> None:
    """Remove the folders inside that hold no files, and with `whole` the folder itself if it holds none."""
    for path in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
        if not any(path.iterdir()):
            path.rmdir()
    if whole and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def differences(found: dict, plan: Plan, most: int = 4) -> str:
    """In words, the keys and files in which a stage that was run differs from the plan of one that is to be run."""
    was = found.get("plan")
    readable = isinstance(was, dict) and all(isinstance(was.get(key), dict) for key in ("stage", "model"))
    found_changes = changes(counted(was) if readable else {}, counted(plan.model_dump(mode="json")))
    own = {re.sub(r"^stage\.", f"{plan.name}.", key): change for key, change in found_changes.items()}
    said = [f"{key}: {short(before, 40)} -> {short(now, 40)}" for key, (before, now) in own.items()]
    inputs = found.get("inputs") or {}
    said += [f"{name} has changed" for name, value in plan.planned_inputs.items() if inputs.get(name, value) != value]
    more = f", and {len(said) - most} more" if len(said) > most else ""
    return ", ".join(said[:most]) + more if said else "the stages before it, or a file that it reads, have changed"


# ---- the chain of folders ----


def earlier(folder: Path | None) -> list[Path]:
    """This stage's folder and those that it was built on, nearest first."""
    chain: list[Path] = []
    while folder is not None:
        chain.append(folder)
        before = read_json(folder / PLAN)["previous"]
        folder = folder / before if before else None
    return chain


def left_model(previous: Path | None) -> Path | None:
    """The model folder of the nearest earlier stage that trained one; `UserError` where it is gone."""
    for folder in earlier(previous):
        if read_json(folder / PLAN)["kind"] in TRAINS:
            if not (folder / MODEL / "config.json").is_file():
                raise UserError(
                    f"{folder} was trained, but its model is gone: there is no {folder / MODEL / 'config.json'}; put "
                    f"it back, or delete {folder} to train it again"
                )
            return folder / MODEL
    return None


def check_models(plans: Sequence[Plan], folder_of: Callable[[Plan], Path]) -> None:
    """`UserError` if a stage that is still to run needs the model of a finished one, and that is gone."""
    by_name = {plan.name: plan for plan in plans}
    for plan in plans:
        if (folder_of(plan) / RESULT).exists() or plan.stage.kind == "coldstart":
            continue
        before = by_name.get(plan.previous)
        while before and before.stage.kind not in TRAINS:
            before = by_name.get(before.previous)
        if before and (folder_of(before) / RESULT).exists():
            left_model(folder_of(before))


# ---- the program ----


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stage that a file describes; exit status 2 and one sentence for a mistake in it."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if launched():
            raise UserError("a stage is started as one process; give torchrun the whole recipe: polythink train RECIPE")
        if len(arguments) != 1:
            raise UserError("give one file: python -m polythink.pipeline.stage SPEC.json")
        spec = read_json(arguments[0])
        plan = spec.get("plan")
        plan_class = _text_plan() if isinstance(plan, dict) and "task" in plan else StagePlan
        plan = parse_config(plan_class, plan, f"{arguments[0]}: plan")
        run_stage(plan, spec["folder"], spec.get("previous"), resume=True)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        sentence = out_of_memory(error)
        if sentence is None:
            raise
        print(f"error: {sentence}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _text_plan() -> type[Plan]:
    from polythink.pipeline.text import TextPlan

    return TextPlan


def run_as_program(arguments: Sequence[str]) -> int:
    """`main` as a process of its own, that ends normally when it is told to: files are closed and workers ended."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    settle()
    try:
        return main(arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1


if __name__ == "__main__":
    sys.exit(run_as_program(sys.argv[1:]))
