"""Read a run folder leniently: an unfinished run, or rows without some metric, are taken as far as they go."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

from polythink.errors import UserError
from polythink.run.config import parse_yaml
from polythink.run.folder import ENVIRONMENT, read_attempts, read_json
from polythink.run.jsonl import first_row, read_jsonl

SAMPLED = "tokens sampled"  # along this axis a step counts as long as what the model drew in it


@dataclass(frozen=True)
class Stage:
    """One stage of a run: its metrics by step, its evaluations (name -> eval.json) and its folder."""

    name: str
    kind: str
    folder: Path
    rows: list[dict]
    evals: dict[str, dict]
    result: dict
    findings: list[dict] = field(default_factory=list)  # of `compare` and `tunnel`, one per problem set
    plan: dict = field(default_factory=dict)  # what stage.json says of its mode, prompt, decoding and keys

    def series(self, key: str, along: str = "steps") -> tuple[list[float], list[float]]:
        """Where along the steps or tokens, and the values, of one metric; rows without it are left out."""
        places = self.places(along)
        found = [(at, row[key]) for at, row in zip(places, self.rows, strict=bool(places)) if is_number(row.get(key))]
        return [float(at) for at, _ in found], [float(value) for _, value in found]

    def places(self, along: str = "steps") -> list[float]:
        """The step of every row, or the tokens up to it: those of `tokens`, along `SAMPLED` of `sampled_tokens`.

        In reinforcement learning `tokens` are whole responses, with forced tokens and what a join reads again; the rows
        of older runs have nothing else. Empty where the rows do not say how many tokens.
        """
        if along == "steps":
            return [row.get("step", i + 1) for i, row in enumerate(self.rows)]
        traces = 1
        if self.kind == "grpo":  # its rows have the mean of the step's traces
            planned = self.plan.get("stage") or {}
            traces = (planned.get("prompts_per_step") or 0) * (planned.get("group_size") or 0)
        key = "sampled_tokens" if along == SAMPLED else "tokens"
        if not traces or not all(is_number(row.get(key)) for row in self.rows):
            return []
        return list(accumulate(row[key] * traces * (row.get("gen_batches") or 1) for row in self.rows))

    def samples(self, name: str = "") -> list[dict]:
        """The rows of its samples file; empty without one."""
        return _rows(self.samples_file(name))

    def first_sample(self, name: str = "") -> dict:
        """The first of these rows, which tells what they are; empty without one."""
        return first_row(file) if (file := self.samples_file(name)).is_file() else {}

    def samples_file(self, name: str = "") -> Path:
        return self.folder / f"samples{'-' + name if name else ''}.jsonl"


@dataclass(frozen=True)
class RunRecord:
    """The contents of a run folder."""

    name: str
    folder: Path
    recipe: dict
    attempts: list[dict]  # where and when it ran: the first attempt, then every one that resumed it
    stages: list[Stage]

    @property
    def environment(self) -> dict:
        """Of the first attempt; empty where nothing was recorded."""
        return self.attempts[0] if self.attempts else {}

    @property
    def provenance(self) -> dict:
        """What the first evaluation says of the model and the program that it measured; empty in older folders."""
        results = (found for stage in self.stages for found in (*stage.evals.values(), *stage.findings))
        return next((found["provenance"] for found in results if found.get("provenance")), {})


def read_run(folder: str | Path) -> RunRecord:
    """The record of a run. The folder of a single stage or evaluation counts as a run with one stage.

    Raises `UserError` where there is no folder, or nothing of a run in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no run folder {str(folder)!r}; give the folder that `polythink train` or `eval` wrote")
    file = folder / "recipe.yaml"
    text = file.read_text(encoding="utf-8") if file.is_file() else "{}"
    recipe = _held(file, parse_yaml(text, str(file)) or {}, dict, "a recipe (names and values)")
    _object(folder / ENVIRONMENT)
    file = folder / "stages.json"
    listed = _held(file, read_json(file), list, "a list of stages") if file.is_file() else []
    for stage in listed:
        _held(file, stage, dict, "a list of stages (objects with name, kind and folder)")
    stages = [
        _stage(s.get("name", "?"), s.get("kind", "?"), folder / s.get("folder", s.get("name", ""))) for s in listed
    ]
    if not stages:
        stages = [_stage(folder.name, "eval" if list(folder.glob("eval*.json")) else "?", folder)]
        if not (recipe or stages[0].rows or stages[0].evals or stages[0].findings):
            raise UserError(f"{str(folder)!r} holds no run; give the folder that `polythink train` or `eval` wrote")
    return RunRecord(recipe.get("name", folder.name), folder, recipe, read_attempts(folder), stages)


def _stage(name: str, kind: str, folder: Path) -> Stage:
    evals = {path.stem.removeprefix("eval").lstrip("-"): _object(path) for path in sorted(folder.glob("eval*.json"))}
    found = [_object(path) for kind in ("compare", "tunnel") for path in sorted(folder.glob(f"{kind}*.json"))]
    result = _object(folder / "result.json")
    plan = _object(folder / "stage.json").get("plan") or {}
    return Stage(name, kind, folder, _rows(folder / "metrics.jsonl"), evals, result, found, plan)


def _object(path: Path) -> dict:
    """The object that a file holds, empty without a file; `UserError` where it holds something else."""
    return _held(path, read_json(path), dict, "an object (names and values)") if path.is_file() else {}


def _held(path: Path, found: Any, kind: type, shown: str) -> Any:
    if not isinstance(found, kind):
        said = f"{found!r:.40}"
        raise UserError(f"{path} holds {said}, not {shown}; no run wrote that: move the file away and try again")
    return found


def _rows(path: Path) -> list[dict]:
    return read_jsonl(path) if path.is_file() else []


def is_number(value: Any) -> bool:
    """Whether a metric has a value that can be shown: a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
