"""Where one way of answering is drawn after another, on the same problems with the same engine: `compare`, `tunnel`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from polythink.engine.params import Request, SamplingParams
from polythink.errors import UserError
from polythink.evaluate.metrics import Metric, interval, write_measures
from polythink.evaluate.run import grade_rollouts
from polythink.evaluate.votes import Paths, paths_of
from polythink.problems.answers import Grader
from polythink.problems.problem import ProblemSet
from polythink.problems.prompts import Prompt
from polythink.run.folder import os_errors, write_json
from polythink.run.jsonl import write_jsonl
from polythink.trace.dialect import Dialect
from polythink.trace.rollout import Rollout

PATHS = (1, 2, 4, 8, 16)  # unless others are asked for
ROOM_AT_A_JOIN = 256  # tokens for tags and a forced opening of the summary


@dataclass(frozen=True)
class Drawn:
    """What one call of the engine gave: rollouts and graded rows, seconds, tokens run through the model."""

    rows: list[dict]
    rollouts: list[Rollout]
    seconds: float
    forwarded: int


@dataclass(frozen=True)
class Bench:
    """Where arms are drawn: the engine, the problems, and the folder `out` with what is found."""

    engine: Any  # has `.lm`, `.generate(requests, decoding, seed, label=)` and `.forwarded`
    problem_set: ProblemSet
    grader: Grader
    seed: int
    out: Path
    name: str = ""  # told apart by it in one folder: compare-NAME.json
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        with os_errors(self.out):
            self.out.mkdir(parents=True, exist_ok=True)

    def file(self, stem: str, ending: str) -> Path:
        return self.out / f"{stem}{f'-{self.name}' if self.name else ''}{ending}"

    def generate(self, requests: Sequence[Request], decoding: SamplingParams, seed: int, label: str) -> Drawn:
        """Draw, and take the time of that alone; nothing is graded yet."""
        before, started = self.engine.forwarded, time.perf_counter()
        rollouts = self.engine.generate(requests, decoding, seed, label=f"{self.problem_set.name}, {label}")
        return Drawn([], rollouts, time.perf_counter() - started, self.engine.forwarded - before)

    def draw(self, requests: Sequence[Request], decoding: SamplingParams, label: str, seed: int | None = None) -> Drawn:
        """Draw and grade, under the bench's own seed unless another is given."""
        drawn = self.generate(requests, decoding, self.seed if seed is None else seed, label)
        rows = grade_rollouts(drawn.rollouts, self.problem_set, self.grader, self.engine.lm.dialect)
        return replace(drawn, rows=rows)

    def write(self, rows: Sequence[dict], arm: str) -> None:
        """The samples of one arm."""
        write_jsonl(self.file("samples", f"-{arm}.jsonl"), rows)

    def paths_of(self, drawn: Drawn) -> list[Paths]:
        problems = {problem.key: problem for problem in self.problem_set}
        return [
            paths_of(row, rollout, problems[rollout.problem], self.grader)
            for row, rollout in zip(drawn.rows, drawn.rollouts, strict=True)
        ]

    def conclude(
        self, kind: str, prompt: Prompt, decoding: SamplingParams, facts: Mapping[str, Any], notes: Sequence[str],
        found: Mapping[str, Metric], log: Callable[[str], None],
    ) -> dict:  # fmt: skip
        """Write what was found as KIND.json and measures.jsonl, `facts` being the kind's own; returns the former."""
        for note in notes:
            log(f"note on {self.problem_set.name}: {note}")
        write_measures(self.file("measures", ".jsonl"), found)
        result = {
            "kind": kind,
            "problems": self.problem_set.name,
            "n": len(self.problem_set),
            "prompt": {"name": prompt.name, "hash": prompt.hash},
            "seed": self.seed,
            "decoding": decoding.model_dump(mode="json"),
            "notes": list(notes),
            **facts,
            "metrics": {metric: vars(interval(measure)) for metric, measure in found.items()},
            "seconds": round(time.monotonic() - self.started, 1),
        }
        write_json(self.file(kind, ".json"), result)
        return result


# ---- decodings ----


def numbers_of_paths(given: Sequence[int], mode: str, dialect: Dialect) -> tuple[list[int], list[str]]:
    """The numbers asked for, or `PATHS` as far as the dialect has numbers, and a sentence on what was left out."""
    if mode != "structured":
        raise UserError(f"paths are compared in the mode structured, where they are drawn at once; this one is {mode}")
    most = dialect.inventory or max(*PATHS, *given)
    if given and max(given) > most:
        raise UserError(
            f"{max(given)} paths are more than the {most} numbers of the dialect {dialect.name}; take fewer, or train "
            f"with a larger inventory"
        )
    kept = sorted(set(given)) or [paths for paths in PATHS if paths <= most]
    left = [] if given else [paths for paths in PATHS if paths > most]
    said = f"{', '.join(map(str, left))} paths were left out: the dialect {dialect.name} has {most} numbers"
    return kept, [said] if left else []


def with_fixed_path_temperature(decoding: SamplingParams) -> SamplingParams:
    """The same with the temperature of paths said outright, that of several: it must not depend on an arm's number."""
    several = decoding.model_copy(update={"paths": max(2, decoding.paths)})
    return decoding.model_copy(update={"path_temperature": several.temperature_of("path")})


def with_paths(decoding: SamplingParams, paths: int, path_tokens: int | None = None) -> SamplingParams:
    """The same decoding with so many paths, of so many tokens each. The trace's budget grows where these need more.

    Flattened positions keep their stride, which the model was trained with.
    """
    tokens = path_tokens or decoding.max_path_tokens
    block = paths * (tokens + 2) + decoding.max_summary_tokens + ROOM_AT_A_JOIN
    whole = decoding.max_main_tokens + max(1, decoding.max_blocks) * block
    changes = {"paths": paths, "max_path_tokens": tokens, "max_trace_tokens": max(decoding.max_trace_tokens, whole)}
    stride = max(decoding.stride, tokens + 2) if decoding.stride else 0
    return decoding.model_copy(update=changes | {"path_position_stride": stride})


def in_sequence(decoding: SamplingParams, tokens: int) -> SamplingParams:
    """One ordinary response of at most so many tokens, drawn as warmly as paths are."""
    warmth = decoding.temperature_of("path")
    changes = {"mode": "sequential", "temperature": warmth, "max_main_tokens": tokens, "max_trace_tokens": tokens}
    return decoding.model_copy(update=changes)
