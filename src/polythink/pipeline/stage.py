"""Running one stage in its folder, in this process or, for the experiment runner, as

    python -m polythink.pipeline.stage SPEC.json      # {"plan": ..., "folder": ..., "previous": folder or null}

The folder holds stage.json (the plan, and the environment of each attempt, the last of which finished it), what the
stage writes, model/ if it trained one, and result.json, written last: a stage that has it is done and is not run again.
A stage that was stopped resumes from what its folder holds: a checkpoint, a teacher's responses, evaluated samples.

In result.json `seconds` is the work time over all attempts; work lost to an interruption is not counted.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from polythink.errors import UserError
from polythink.pipeline.plan import Plan, StagePlan
from polythink.run.config import parse_config
from polythink.run.folder import environment, read_json, sweep, write_json

PLAN, RESULT, MODEL = "stage.json", "result.json", "model"
Log = Callable[[str], None]


def run_stage(
    plan: Plan, folder: str | Path, previous: str | Path | None = None, resume: bool = False, log: Log = print
) -> dict:
    """Run a stage, or return the result of one that is done. `previous` is the folder of the stage `plan.previous`.

    Raises `UserError` where the folder holds another stage, or an unfinished one and `resume` is not set.
    """
    folder = Path(folder)
    if check_folder(plan, folder) == "done":
        return read_json(folder / RESULT)
    from polythink.pipeline.runners import RUNNERS  # with torch: after everything that can be refused without it
    from polythink.train import distributed

    distributed.refuse_many()
    if (folder / PLAN).exists():
        if not resume:
            raise UserError(f"{folder} holds an unfinished stage; resume it, or give another folder")
        sweep(folder)
    before = os.path.relpath(previous, folder) if previous else None
    attempts = read_json(folder / PLAN).get("attempts", []) if (folder / PLAN).exists() else []
    write_json(folder / PLAN, {"name": plan.name, "kind": plan.stage.kind, "digest": plan.digest,
                               "previous": before, "plan": plan.model_dump(mode="json"),
                               "attempts": [*attempts, environment()]})  # fmt: skip
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
    """The model folder of the nearest earlier stage that left one."""
    return next((folder / MODEL for folder in earlier(previous) if (folder / MODEL).is_dir()), None)


# ---- the program ----


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stage that a file describes; exit status 2 and one sentence for a mistake in it."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
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
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _text_plan() -> type[Plan]:
    from polythink.pipeline.text import TextPlan

    return TextPlan


if __name__ == "__main__":
    # an experiment that is stopped ends its stages: exit normally, so that files are closed and workers ended
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    sys.exit(main())
