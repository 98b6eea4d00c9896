"""What evaluation and the studies (`compare`, `tunnel`) share: a model on a problem set, its samples, its result."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from polythink.engine.budgets import check_sampled
from polythink.engine.params import Request, SamplingParams
from polythink.engine.protocol import RolloutBackend
from polythink.errors import UserError
from polythink.evaluate.journal import Finishing, Journal, refuse_another
from polythink.evaluate.metrics import Estimate, Metric, few_cases_note, write_measures
from polythink.evaluate.provenance import provenance_of
from polythink.evaluate.samples import Grading, Samples, askable, make_requests
from polythink.problems.answers import Grader
from polythink.problems.problem import Problem, ProblemSet
from polythink.problems.prompts import Prompt, get_prompt
from polythink.problems.sets import check_keys, load_problems
from polythink.run.folder import read_json, write_json
from polythink.run.jsonl import write_jsonl
from polythink.trace.dialect import dialect_facts

if TYPE_CHECKING:
    from polythink.models.lm import LanguageModel
    from polythink.models.settings import ModelSettings

Log = Callable[[str], None]
Problems = ProblemSet | Sequence[Problem] | Sequence[Mapping[str, Any]] | str | Path


class StudyOptions(TypedDict, total=False):
    """Keyword arguments of `evaluate`, `compare` and `tunnel`; `open_study` says what they are without them."""

    prompt: Prompt | str | None  # itself or by name
    params: SamplingParams | None
    seed: int  # random streams are named by it, the problem's key and the sample's number
    grader: Grader | None
    out: str | Path | None  # the folder to write to; None: nothing is written
    name: str  # part of every file name, so that one folder holds several problem sets
    resume: bool  # go on with what `out` holds of the same question
    answers: str  # the rule for what is read as an answer (ANSWER_RULES), unless a grader is given
    overlong_prompts: str  # "skip" or "refuse" problems whose prompt cannot be asked
    about: Mapping[str, Any]  # what only the caller knows of the provenance: model, problems, limit
    log: Log


@dataclass(frozen=True)
class Study:
    """One model on one problem set, and the folder that holds what is found."""

    kind: str  # eval, compare or tunnel
    backend: RolloutBackend
    problems: ProblemSet  # those that can be asked
    prompt: Prompt
    params: SamplingParams
    seed: int
    grader: Grader
    place: Place | None
    log: Log
    notes: list[str] = field(default_factory=list)
    asked: dict[str, Any] = field(default_factory=dict)  # the question: what a resumed attempt has in common with it
    skipped: dict[str, str] = field(default_factory=dict)  # key of a problem that cannot be asked -> why
    provenance: dict[str, Any] = field(default_factory=dict)
    journal: Journal | None = None
    finished: dict | None = None  # the result that `out` holds already
    started: float = field(default_factory=time.monotonic)
    earlier: list[float] = field(default_factory=list)  # seconds of calls in attempts before this one
    late: Counter[str] = field(default_factory=Counter)  # problem -> answers that were not compared in time

    def note(self, text: str) -> None:
        """Log a sentence that belongs beside the numbers, and keep it for the result."""
        self.log(f"note on {self.problems.name}: {text}")
        self.notes.append(text)

    def requests(self, samples: int, prompt: Prompt | None = None, start: int = 0) -> list[Request]:
        return make_requests(self.backend, self.problems, prompt or self.prompt, samples, start)

    def draw(
        self, requests: Sequence[Request], params: SamplingParams, label: str = "", seed: int | None = None
    ) -> Samples:
        """Draw and grade, under the study's seed unless another is given. Seconds are those of drawing.

        Each response is kept in the journal as soon as it is graded. What an earlier attempt kept under this label is
        not drawn again: since random streams are named, the others are what they would have been. In `forwarded` a
        response that was kept counts with its prompt and all but its last token, which is what the engine runs, but for
        what a cut by max_trace_tokens leaves unread.
        """
        before, begun = getattr(self.backend, "forwarded", nan), time.perf_counter()
        kept = self.journal.of(label, requests) if self.journal else {}
        missing = [i for i in range(len(requests)) if i not in kept]
        carried = max((each.seconds for each in kept.values()), default=0.0)
        if self.journal:
            self.journal.begin()
            self.earlier.append(carried)
        grading = Grading({problem.key: problem for problem in self.problems}, self.grader, self.backend.dialect)
        with Finishing(grading, self.journal, label, lambda: carried + time.perf_counter() - begun) as finishing:
            try:
                rollouts = self.backend.generate(
                    [requests[i] for i in missing], params, self.seed if seed is None else seed,
                    on_event=finishing.on_event if self.journal else None,
                    label=f"{self.problems.name}, {label}" if label else self.problems.name, done_only=True,
                )  # fmt: skip
            except (KeyboardInterrupt, SystemExit):
                self._say_what_is_kept(len(kept) + len(finishing.announced), len(requests))
                raise
            seconds = carried + time.perf_counter() - begun
            kept |= zip(missing, finishing.finished(rollouts), strict=True)
        found = [kept[i] for i in range(len(requests))]
        forwarded = getattr(self.backend, "forwarded", nan) - before
        forwarded += sum(len(kept[i].rollout.prompt) + kept[i].rollout.tokens - 1 for i in kept.keys() - set(missing))
        check_sampled([each.rollout for each in found], params, self.backend.dialect, self.backend.context)
        self.late.update(each.row["problem"] for each in found if each.row["verdict"] == "timeout")
        rows = [each.row for each in found]
        paths = [grading.paths(each.rollout, each.row) for each in found]
        return Samples([each.rollout for each in found], rows, paths, seconds, forwarded)

    def _say_what_is_kept(self, finished: int, wanted: int) -> None:
        if self.journal:
            self.log(f"{finished} of {wanted} responses are kept in {self.journal.path}; --resume goes on with them")

    # ---- files ----

    def write_rows(self, stem: str, rows: Iterable[dict], of: str = "") -> None:
        """Write STEM-NAME.jsonl, or STEM-NAME-OF.jsonl."""
        if self.place:
            write_jsonl(self.place.file(stem, f"{f'-{of}' if of else ''}.jsonl"), rows)

    def conclude(self, found: Mapping[str, Metric], **facts: Any) -> dict:
        """Write KIND-NAME.json and return what it holds; `facts` are the kind's own keys."""
        for note in (late_note(self.late), few_cases_note(found)):
            if note:
                self.note(note)
        asked = {key: value for key, value in self.asked.items() if key not in ("kind", "weights", "dtype")}
        result = result_of(
            self.kind,
            **{**asked, **facts},
            n=len(self.problems),
            skipped=self.skipped,
            notes=self.notes,
            provenance=self.provenance,
            metrics={key: metric.estimate for key, metric in found.items()},
            seconds=sum(self.earlier) + time.monotonic() - self.started,
        )
        if self.place:
            if self.kind != "eval":  # whose metrics can be computed from its samples
                write_measures(self.place.file("measures", ".jsonl"), found)
            write_json(self.place.result, result)
            self.journal.delete()
        return result


def late_note(late: Counter[str]) -> str | None:
    """What is said of answers whose comparison with the reference was stopped; None where there are none."""
    if not late:
        return None
    named = ", ".join(repr(key) for key in sorted(late)[:5]) + (", ..." if len(late) > 5 else "")
    return (
        f"{late.total()} answers could not be compared with the reference in time (verdict timeout; problems {named}): "
        "neither right nor known to be wrong, they stay in the denominator of every share and do not count as right"
    )


def result_of(kind: str, *, metrics: Mapping[str, Estimate], seconds: float, **facts: Any) -> dict:
    """The content of eval.json, compare.json and tunnel.json; each has `problems`, `n`, `decoding` and `notes`."""
    estimates = {key: vars(estimate) for key, estimate in metrics.items()}
    return {"kind": kind, **facts, "metrics": estimates, "seconds": round(seconds, 3)}


# ---- opening a study ----


@contextmanager
def open_study(
    backend: RolloutBackend | LanguageModel,
    problems: Problems,
    kind: str = "eval",
    *,
    prompt: Prompt | str | None = None,
    params: SamplingParams | None = None,
    seed: int = 0,
    grader: Grader | None = None,
    out: str | Path | None = None,
    name: str = "",
    resume: bool = False,
    overlong_prompts: str = "skip",
    answers: str = "strict",
    about: Mapping[str, Any] | None = None,
    log: Log = print,
    also: Sequence[Prompt] = (),
    **facts: Any,
) -> Iterator[Study]:
    """A study with what was left out filled in: an engine for a language model, the model's prompt and decoding.

    `problems` is a set, a list, or what `load_problems` takes; `also` are further prompts under which they are asked,
    and `facts` what else belongs to the question. `UserError` for an empty set, for one with equal keys or that
    cannot be asked, for a used `out` without `resume`, and with it for another question than that of `out`.
    """
    found, place = measurable(problems), None if out is None else Place(Path(out), kind, name)
    if place:
        place.check(resume)
    settings = getattr(getattr(backend, "lm", backend), "settings", None)
    if not hasattr(backend, "generate"):  # a LanguageModel: asked without importing torch for other backends
        from polythink.engine.engine import Engine

        backend = Engine(backend)
    with nullcontext(grader) if grader else Grader(dialect=backend.dialect, answers=answers) as grader:
        prompt, params = prompt_of(settings, prompt), params or params_of(settings)
        kept, skipped, note = askable(
            backend, found, prompt, *also, overlong_prompts=overlong_prompts, name=found.name
        )  # fmt: skip
        ran = own() if (own := getattr(getattr(backend, "backend", None), "ran", None)) else {}
        model = None if ran else getattr(getattr(backend, "lm", None), "model", None)
        source = provenance_of(model, {**ran, "problems": found.name, "seed": seed, **(about or {})})
        asked = {
            "kind": kind, "problems": found.name, "problem_hash": hash_of_problems(found), "seed": seed,
            "prompt": hashed(prompt), **dialect_facts(backend.dialect), **facts,
            "overlong_prompts": overlong_prompts, "answers": grader.answers, "decoding": params.model_dump(mode="json"),
            "weights": source["weights"], "dtype": source["dtype"],
        }  # fmt: skip
        finished = place.finished(asked) if place else None
        journal = Journal(place.journal, asked) if place and not finished else None
        study = Study(
            kind, backend, ProblemSet(found.name, kept, found.notes), prompt, params, seed, grader, place, log,
            asked=asked, skipped=skipped, provenance=source, journal=journal, finished=finished,
        )  # fmt: skip
        for text in () if finished else (*found.notes, *filter(None, [note])):
            study.note(text)
        try:
            yield study
        finally:
            if journal:
                journal.close()


@dataclass(frozen=True)
class Place:
    """The folder of a study, whose files carry the study's name."""

    out: Path
    kind: str
    name: str

    def file(self, stem: str, ending: str) -> Path:
        return self.out / f"{stem}{f'-{self.name}' if self.name else ''}{ending}"

    @property
    def result(self) -> Path:
        return self.file(self.kind, ".json")

    @property
    def journal(self) -> Path:
        return self.file("samples", ".partial.jsonl")

    def check(self, resume: bool) -> None:
        """`UserError` where something is there that this study would write over, and is not asked to resume."""
        own = {"eval": ("samples", "greedy"), "compare": ("measures",), "tunnel": ("measures", "recovery")}[self.kind]
        files = [self.result, self.journal, *(self.file(stem, ".jsonl") for stem in own)]
        found = [file.name for file in files if file.exists()]
        if found and not resume:
            raise UserError(f"{self.out} holds {found[0]} already; resume it (--resume), or give another folder")

    def finished(self, asked: Mapping[str, Any]) -> dict | None:
        """The result that is there, if it answers what is asked; `UserError` if it answers something else."""
        if not self.result.exists():
            return None
        result = read_json(self.result)
        known = {**result.get("provenance", {}), **result}
        refuse_another(self.result, {key: known.get(key) for key in asked}, asked)
        self.journal.unlink(missing_ok=True)  # of a process that was killed after the result was written
        return result


def prompt_of(settings: ModelSettings | None, given: Prompt | str | None = None) -> Prompt:
    """The prompt given, itself or by name; otherwise that of the model's settings, or the bare problem."""
    if given is not None:
        return get_prompt(given) if isinstance(given, str) else given
    return Prompt(settings.prompt_name, settings.prompt) if settings else get_prompt("none")


def hashed(prompt: Prompt) -> dict[str, str]:
    """A prompt as results name it."""
    return {"name": prompt.name, "hash": prompt.hash}


def params_of(settings: ModelSettings | None) -> SamplingParams:
    """The sampling parameters of the model's settings, in its mode."""
    return SamplingParams(**{**settings.decoding, "mode": settings.mode}) if settings else SamplingParams()


def hash_of_problems(problems: Iterable[Problem]) -> str:
    """The identity of the problems: their keys, questions, answers and how they are graded, in order."""
    content = [[p.key, p.question, p.answer, p.checker] for p in problems]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def measurable(problems: Problems) -> ProblemSet:
    """The problems as a set that is not empty, each with a key of its own: samples are told apart by it.

    Training does not need that: there a problem may come twice, and sets may be joined.
    """
    found = problem_set_of(problems)
    check_keys(found.name, found)
    return found


def problem_set_of(problems: Problems) -> ProblemSet:
    """The problems as a set that is not empty."""
    if isinstance(problems, Iterable) and not isinstance(problems, str | ProblemSet):
        problems = tuple(problems)
        if all(isinstance(problem, Problem) for problem in problems):
            problems = ProblemSet("problems", problems)
    if not isinstance(problems, ProblemSet):
        problems = load_problems(problems)
    if not len(problems):
        raise UserError(f"the problem set {problems.name!r} is empty; give one with at least one problem")
    return problems
