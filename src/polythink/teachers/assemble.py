"""Several solutions of one problem, assembled into a trace of numbered paths: fine-tuning data for ParaThinker.

The solutions come from a cold start (`all.jsonl` of its folder): any teacher, several responses per problem, right and
wrong ones. `run_assembly` draws paths among them, numbers them, and appends a summary: a template that states the
reference answer (as in ParaThinker, arXiv 2509.04475), or the teacher's own summary of the paths, which is kept only if
it arrives at the right answer.

Assembling is a cold start itself, whose teacher is the `Assembler`: the folder has the same files, it can be used and
resumed like any cold start, and the table says what was dropped and why. One more file, `solutions.json`, counts the
solutions that were found and those that could not be used.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveInt, field_validator

from polythink.errors import UserError
from polythink.problems.answers import Grader
from polythink.problems.problem import Problem
from polythink.problems.prompts import Prompt, get_prompt
from polythink.problems.tasks.demonstrations import FLAT
from polythink.problems.tasks.table import TEACHERS, get_task
from polythink.run.config import Config, Place, digest
from polythink.run.folder import read_json, write_json
from polythink.teachers.coldstart import run_coldstart
from polythink.teachers.folder import check_finished
from polythink.teachers.rows import rows_so_far
from polythink.teachers.teacher import RetryPolicy, Teacher, TeacherError
from polythink.trace.dialect import DIALECTS, Dialect
from polythink.trace.parse import first_block
from polythink.trace.render import render
from polythink.trace.scan import scan
from polythink.trace.tree import Block, Trace

ANSWER = "{answer}"
ASSEMBLED = "assembled"  # the kind of teacher, in settings.json
THINKING = ("<think>", "</think>")  # what reasoning models put around the work before their answer


class AssembleConfig(Config):
    """How solutions become traces."""

    paths: tuple[PositiveInt, ...] = Field((4,), min_length=1)
    """Paths per trace: a number, or a list to draw from."""
    traces: int = Field(1, ge=1)
    """Traces per problem, each with its own choice of solutions."""
    filter: Literal["any", "right_only", "mixed"] = "any"
    """Which solutions become paths: any, right ones only, or a mixture with a fixed share of wrong ones."""
    wrong: float = Field(0.5, ge=0, le=1)
    """Share of wrong paths under filter: mixed; at least one path is right."""
    labels: Literal["random", "ordered"] = "random"
    """Numbers of the paths: random ones of the dialect's inventory, or 1..P in order."""
    summary: Literal["template", "teacher"] = "template"
    """Who writes the summary: the template, or the teacher, which is shown the paths."""
    template: str = "Comparing the attempts, I come to the final answer \\boxed{{answer}}."
    """Text of the summary; {answer} stands for the reference answer."""
    summary_prompt: Place = "summary"
    """Prompt for the teacher's summary, by name or file; {problem} stands for the question and the paths."""

    @field_validator("paths", mode="before")
    @classmethod
    def _one_or_several(cls, paths: Any) -> Any:
        return (paths,) if isinstance(paths, int) and not isinstance(paths, bool) else paths

    @field_validator("template")
    @classmethod
    def _states_the_answer(cls, template: str) -> str:
        if ANSWER not in template:
            raise ValueError(f"the template of a summary must hold {ANSWER}, the place of the reference answer")
        return template


@dataclass
class Solutions:
    """The usable solutions of one problem."""

    problem: Problem
    right: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)  # including those that state no answer


def read_solutions(rows: Iterable[Mapping[str, Any]], dialect: Dialect) -> tuple[list[Solutions], Counter[str]]:
    """The solutions in the rows of an all.jsonl, in the order of the problems' keys, and the reasons to drop others."""
    found: dict[Problem, Solutions] = {}
    dropped: Counter[str] = Counter()
    for row in sorted(rows, key=lambda row: (row["source"], row["problem"], row["sample"])):
        problem = Problem(row["problem"], row["question"], row["answer"], row["checker"], row["source"])
        solutions = found.setdefault(problem, Solutions(problem))
        text = without_thinking_tags(row["trace"] or "")
        if reason := _unusable(row, text, solutions, dialect):
            dropped[reason] += 1
        else:
            (solutions.right if row["verdict"] == "right" else solutions.wrong).append(text)
    return list(found.values()), dropped


def _advice(source: Path) -> str:
    """How the teacher that wrote a folder is asked for solutions without blocks: not every teacher reads its prompt."""
    kind = read_json(source / "settings.json")["teacher"].get("kind") if (source / "settings.json").exists() else None
    if kind == ASSEMBLED:
        return "these are assembled traces; give the folder of the solutions that they were made of"
    if kind in TEACHERS and FLAT not in get_task(kind).styles:
        return f"the {kind} teacher writes no others; take the solutions of an endpoint"
    wanted = "ask for solutions that do not think in parallel"
    if kind in TEACHERS:
        return f"{wanted}: --teacher {kind} --style sequential (in a recipe: teacher.styles={{sequential: 1}})"
    return f"{wanted}, as under --prompt sequential (in a recipe: assemble.prompt=sequential)"


def _unusable(row: Mapping[str, Any], text: str, solutions: Solutions, dialect: Dialect) -> str:
    if row["error"]:
        return f"error: {row['error']}"
    if row["verdict"] == "timeout":
        return "answer: timeout"  # neither right nor wrong
    if not text:
        return "empty"
    known = (dialect, *DIALECTS.values())  # another dialect's block within a path would be a block within a block
    if any(first_block(text, each) for each in known):
        return "already parallel"
    if any(holds_tags(text, each) for each in known):
        return "tags"
    return "repeated" if text in (*solutions.right, *solutions.wrong) else ""


def without_thinking_tags(text: str) -> str:
    """A reasoning model's response as one text: its work and its answer, without the tags around the work."""
    for tag in THINKING:
        text = text.replace(tag, "")
    return text.strip()


def holds_tags(text: str, dialect: Dialect) -> bool:
    """Whether the text holds tags, which would be read as structure."""
    return any(token.kind not in ("text", "end") for token in scan(text, dialect))


def choose(config: AssembleConfig, solutions: Solutions, rng: random.Random) -> list[str]:
    """The paths of a trace, in random order. Numbers of paths for which there are too few solutions are not drawn.

    `TeacherError` if there are too few for any of the numbers; it says which solutions are missing.
    """
    right, wrong = solutions.right, solutions.wrong
    for paths in rng.sample(config.paths, len(config.paths)):
        if config.filter == "mixed":
            bad = min(int(paths * config.wrong + rng.random()), paths - 1)
            wanted = [(right, paths - bad, "right solutions"), (wrong, bad, "wrong solutions")]
        else:
            every = (right, "right solutions") if config.filter == "right_only" else (right + wrong, "solutions")
            wanted = [(every[0], paths, every[1])]
        short = [(name, len(pool), count) for pool, count, name in wanted if len(pool) < count]
        if not short:
            chosen = [text for pool, count, _ in wanted for text in rng.sample(pool, count)]
            rng.shuffle(chosen)
            return chosen
    name, found, count = short[0]
    detail = f"{found} of {count}; a cold start with more samples per problem has more"
    raise TeacherError(f"too few {name}", detail, permanent=True)


class Assembler:
    """A teacher without a model: its response to a problem is a trace made of existing solutions.

    `summariser` writes the summaries under `summary: teacher`. The choice of solutions and numbers depends on (seed,
    problem, sample) alone.
    """

    def __init__(
        self,
        solutions: Iterable[Solutions],
        config: AssembleConfig,
        dialect: Dialect,
        seed: int = 0,
        summariser: Teacher | None = None,
    ) -> None:
        if not dialect.answers_in_summary:
            raise UserError(f"assembled traces answer in their summary, those of dialect {dialect.name} after it; use "
                            "dialect: parathinker")  # fmt: skip
        if dialect.plan:
            raise UserError(f"assembled traces have no plans, those of dialect {dialect.name} have; use dialect: "
                            "parathinker")  # fmt: skip
        if config.summary == "teacher" and summariser is None:
            raise UserError("summary: teacher needs a teacher to ask; give one, or use summary: template")
        if config.summary == "template" and holds_tags(config.template, dialect):
            raise UserError(f"the template of a summary holds a tag of dialect {dialect.name}; remove it")
        dialect.draw_labels(max(config.paths), None)  # an error if there are more paths than numbers
        self.config, self.dialect, self.seed, self.summariser = config, dialect, seed, summariser
        self._solutions = {found.problem: found for found in solutions}
        self._prompt = get_prompt(config.summary_prompt)

    @property
    def problems(self) -> tuple[Problem, ...]:
        return tuple(self._solutions)

    @property
    def about(self) -> dict[str, Any]:
        """What its traces depend on: recorded with them, since other solutions make another cold start."""
        facts = self.config.model_dump(mode="json", exclude={"traces", "template", "summary_prompt"})
        if self.config.summary == "template":
            facts["template"] = self.config.template
        else:
            facts |= {"summary_prompt": self._prompt.hash, "summariser": getattr(self.summariser, "about", None)}
        responses = digest([[s.problem.key, s.problem.answer, s.right, s.wrong] for s in self._solutions.values()])
        return {"kind": ASSEMBLED, **facts, "seed": self.seed, "solutions": responses}

    def __call__(self, problem: Problem, prompt: str, sample: int) -> str:
        """A canonical trace. `TeacherError` if there are too few solutions, or if the summary is unusable."""
        rng = random.Random(f"{self.seed}/{problem.source}/{problem.key}/{sample}")
        texts = choose(self.config, self._solutions[problem], rng)
        labels = self.dialect.draw_labels(len(texts), rng if self.config.labels == "random" else None)
        if self.config.summary == "template":
            summary = self.config.template.replace(ANSWER, problem.answer)
        else:
            summary = self._ask(problem, dict(zip(labels, texts, strict=True)), sample)
        paths = tuple(Trace((f"\n{text}\n",)) for text in texts)
        # directly after its tag, where decoding forces `summary_prefix`
        return render(Trace((Block(paths, Trace((f"{summary}\n",)), labels),)), self.dialect)

    def _ask(self, problem: Problem, paths: dict[int, str], sample: int) -> str:
        """The teacher's summary of the paths, without the reasoning that precedes it."""
        attempts = [f"Attempt {label}:\n{paths[label]}" for label in sorted(paths)]
        asked = self._prompt.fill("\n\n".join((f"Problem: {problem.question}", *attempts)))
        summary = self.summariser(problem, asked, sample).rpartition(THINKING[1])[2].strip()
        if not summary or holds_tags(summary, self.dialect):
            raise TeacherError("tags in the summary" if summary else "empty summary")
        return summary


def run_assembly(
    source: str | Path,
    out: str | Path,
    config: AssembleConfig,
    prompt: Prompt,
    dialect: Dialect,
    *,
    seed: int = 0,
    summariser: Teacher | None = None,
    concurrency: int = 8,
    retry: RetryPolicy | None = None,
    grader: Grader | None = None,
) -> list[dict[str, Any]]:
    """Assemble the solutions in the cold start folder `source` into traces in `out`; returns the table (`tabulate`).

    `prompt` is the one under which a model will be trained on the traces. Continues where an earlier run stopped;
    `UserError` if that run had other settings or other solutions.
    """
    file = Path(source) / "all.jsonl"
    if not file.is_file():
        raise UserError(f"no cold start in {source}: there is no {file.name}; run one first, with several samples")
    check_finished(Path(source))
    solutions, dropped = read_solutions(rows_so_far(file).values(), dialect)
    if not any(found.right or found.wrong for found in solutions):
        reasons = ", ".join(f"{reason} {count}" for reason, count in dropped.most_common())
        advice = _advice(Path(source)) if dropped["already parallel"] else "run the cold start of solutions again"
        raise UserError(f"no response in {source} can become a path ({reasons or 'there is none'}); {advice}")
    assembler = Assembler(solutions, config, dialect, seed, summariser)
    table = run_coldstart(
        assembler.problems, assembler, prompt, "strict", out, samples=config.traces, concurrency=concurrency,
        retry=retry, about_teacher=assembler.about, dialect=dialect, grader=grader,
    )  # fmt: skip
    counts = {name: sum(len(getattr(s, name)) for s in solutions) for name in ("right", "wrong")}
    write_json(Path(out) / "solutions.json", {"problems": len(solutions), **counts, "dropped": dict(dropped)})
    return table
