"""What evaluation and the studies (`compare`, `tunnel`) share: a model on a problem set, its samples, its result."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from polythink.engine.params import Request, SamplingParams
from polythink.engine.protocol import RolloutBackend
from polythink.errors import UserError
from polythink.evaluate.metrics import Estimate, Metric, write_measures
from polythink.evaluate.samples import Samples, grade_rollouts, make_requests
from polythink.problems.answers import Grader
from polythink.problems.problem import Problem, ProblemSet
from polythink.problems.prompts import Prompt, get_prompt
from polythink.problems.sets import load_problems
from polythink.run.folder import os_errors, write_json
from polythink.run.jsonl import write_jsonl

if TYPE_CHECKING:
    from polythink.models.lm import LanguageModel
    from polythink.models.settings import ModelSettings

Log = Callable[[str], None]
Problems = ProblemSet | Sequence[Problem] | str | Path


class StudyOptions(TypedDict, total=False):
    """Keyword arguments of `evaluate`, `compare` and `tunnel`; `open_study` says what they are without them."""

    prompt: Prompt | str | None  # itself or by name
    params: SamplingParams | None
    seed: int  # random streams are named by it, the problem's key and the sample's number
    grader: Grader | None
    out: str | Path | None  # the folder to write to; None: nothing is written
    name: str  # part of every file name, so that one folder holds several problem sets
    log: Log


@dataclass(frozen=True)
class Study:
    """One model on one problem set, and the folder that holds what is found."""

    backend: RolloutBackend
    problems: ProblemSet
    prompt: Prompt
    params: SamplingParams
    seed: int
    grader: Grader
    out: Path | None
    name: str
    log: Log
    notes: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def note(self, text: str) -> None:
        """Log a sentence that belongs beside the numbers, and keep it for the result."""
        self.log(f"note on {self.problems.name}: {text}")
        self.notes.append(text)

    def requests(self, samples: int, prompt: Prompt | None = None, start: int = 0) -> list[Request]:
        return make_requests(self.backend, self.problems, prompt or self.prompt, samples, start)

    def draw(
        self, requests: Sequence[Request], params: SamplingParams, label: str = "", seed: int | None = None
    ) -> Samples:
        """Draw and grade, under the study's seed unless another is given. Seconds are those of drawing."""
        if self.out is not None:
            with os_errors(self.out):  # fail before the expensive part
                self.out.mkdir(parents=True, exist_ok=True)
        label = f"{self.problems.name}, {label}" if label else self.problems.name
        before, started = getattr(self.backend, "forwarded", nan), time.perf_counter()
        rollouts = self.backend.generate(requests, params, self.seed if seed is None else seed, label=label)
        cost = time.perf_counter() - started, getattr(self.backend, "forwarded", nan) - before
        return Samples(rollouts, *grade_rollouts(rollouts, self.problems, self.grader, self.backend.dialect), *cost)

    # ---- files ----

    def file(self, stem: str, ending: str) -> Path:
        return self.out / f"{stem}{f'-{self.name}' if self.name else ''}{ending}"

    def write_rows(self, stem: str, rows: Iterable[dict], of: str = "") -> None:
        """Write STEM-NAME.jsonl, or STEM-NAME-OF.jsonl."""
        if self.out is not None:
            write_jsonl(self.file(stem, f"{f'-{of}' if of else ''}.jsonl"), rows)

    def conclude(self, kind: str, found: Mapping[str, Metric], **facts: Any) -> dict:
        """Write KIND-NAME.json and return what it holds; `facts` are the kind's own keys."""
        result = result_of(
            kind,
            problems=self.problems.name,
            n=len(self.problems),
            prompt={"name": self.prompt.name, "hash": self.prompt.hash},
            seed=self.seed,
            **facts,
            decoding=self.params.model_dump(mode="json"),
            notes=self.notes,
            metrics={key: metric.estimate for key, metric in found.items()},
            seconds=time.monotonic() - self.started,
        )
        if self.out is not None:
            if kind != "eval":  # whose metrics can be computed from its samples
                write_measures(self.file("measures", ".jsonl"), found)
            write_json(self.file(kind, ".json"), result)
        return result


def result_of(kind: str, *, metrics: Mapping[str, Estimate], seconds: float, **facts: Any) -> dict:
    """The content of eval.json, compare.json and tunnel.json; each has `problems`, `n`, `decoding` and `notes`."""
    estimates = {key: vars(estimate) for key, estimate in metrics.items()}
    return {"kind": kind, **facts, "metrics": estimates, "seconds": round(seconds, 3)}


# ---- opening a study ----


@contextmanager
def open_study(
    backend: RolloutBackend | LanguageModel,
    problems: Problems,
    *,
    prompt: Prompt | str | None = None,
    params: SamplingParams | None = None,
    seed: int = 0,
    grader: Grader | None = None,
    out: str | Path | None = None,
    name: str = "",
    log: Log = print,
) -> Iterator[Study]:
    """A study with what was left out filled in: an engine for a language model, the model's prompt and decoding.

    `problems` is a set, a list, or what `load_problems` takes. `UserError` for an empty set.
    """
    found = problem_set_of(problems)
    settings = getattr(getattr(backend, "lm", backend), "settings", None)
    if not hasattr(backend, "generate"):  # a LanguageModel: asked without importing torch for other backends
        from polythink.engine.engine import Engine

        backend = Engine(backend)
    with nullcontext(grader) if grader else Grader(dialect=backend.dialect) as grader:
        prompt, params, out = prompt_of(settings, prompt), params or params_of(settings), Path(out) if out else None
        study = Study(backend, found, prompt, params, seed, grader, out, name, log)
        for note in found.notes:
            study.note(note)
        yield study


def prompt_of(settings: ModelSettings | None, given: Prompt | str | None = None) -> Prompt:
    """The prompt given, itself or by name; otherwise that of the model's settings, or the bare problem."""
    if given is not None:
        return get_prompt(given) if isinstance(given, str) else given
    return Prompt(settings.prompt_name, settings.prompt) if settings else get_prompt("none")


def params_of(settings: ModelSettings | None) -> SamplingParams:
    """The sampling parameters of the model's settings, in its mode."""
    return SamplingParams(**{**settings.decoding, "mode": settings.mode}) if settings else SamplingParams()


def problem_set_of(problems: Problems) -> ProblemSet:
    """The problems as a set that is not empty."""
    if isinstance(problems, str | Path):
        problems = load_problems(problems)
    elif not isinstance(problems, ProblemSet):
        problems = ProblemSet("problems", tuple(problems))
    if not len(problems):
        raise UserError(f"the problem set {problems.name!r} is empty; give one with at least one problem")
    return problems
