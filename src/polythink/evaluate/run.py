"""Evaluation: k samples per problem, all graded, every metric with its interval.

Writes, under `out`:

    samples.jsonl   one row per sample: text, verdict, extracted answer, statistics, segments with each path's own grade
    greedy.jsonl    the same for one greedy response per problem, if asked for
    eval.json       what was evaluated and how, verdict counts, and each metric with its 95% interval over problems

With a `name` the files are samples-NAME.jsonl and so on, so that one folder holds several problem sets. While responses
are sampled, those that are graded lie in samples.partial.jsonl (see `journal`), from which `resume` goes on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polythink.engine.params import SamplingParams
from polythink.engine.protocol import RolloutBackend
from polythink.errors import UserError
from polythink.evaluate.metrics import compute_metrics, headline
from polythink.evaluate.study import Log, Problems, Study, open_study
from polythink.problems.answers import Grader
from polythink.problems.prompts import Prompt

if TYPE_CHECKING:
    from polythink.models.lm import LanguageModel


def evaluate(
    backend: RolloutBackend | LanguageModel,
    problems: Problems,
    *,
    prompt: Prompt | str | None = None,
    params: SamplingParams | None = None,
    samples: int = 8,
    seed: int = 0,
    grader: Grader | None = None,
    out: str | Path | None = None,
    name: str = "",
    greedy: bool = False,
    best_of: Sequence[int] = (),
    resume: bool = False,
    overlong_prompts: str = "skip",
    answers: str = "strict",
    about: Mapping[str, Any] | None = None,
    log: Log = print,
) -> dict:
    """Draw `samples` responses per problem, grade them, and return what eval.json holds.

    `backend` is an engine or a language model, whose prompt and sampling parameters are used unless others are given.
    `problems` is a problem set, a list of problems, or the name or file of a set. `greedy` adds one response per
    problem at temperature 0 (isolated paths are still sampled, see `SamplingParams`). Each n of `best_of` adds the
    accuracy of choosing one of n samples (`metrics.best_of_n`), which is what n paths have to beat. Without `out`
    nothing is written; `log` is told the notes on the set and the headline.

    With `resume` an unfinished evaluation of the same question in `out` goes on, and the result is the same as without
    the interruption; a finished one is returned as it is. Problems that cannot be asked (`samples.fitting`) are skipped
    and counted, or refused with `overlong_prompts="refuse"`. `answers`, one of `ANSWER_RULES`, says what is read as an
    answer; the result counts correct responses to mathematics under both `strict` and `lenient`. `about` holds keys of
    `provenance` that only the caller knows: model, problems, limit. `UserError` for a set that is empty or cannot be
    asked at all, for numbers of samples that cannot be, and for an `out` that holds an evaluation or, with `resume`,
    that of another question.
    """
    if samples < 1:
        raise UserError(f"samples must be 1 or more, not {samples}")
    if too_many := [n for n in best_of if not 1 <= n <= samples]:
        raise UserError(f"best_of {too_many[0]} needs at least as many samples per problem; there are {samples}")
    with open_study(
        backend, problems, "eval", prompt=prompt, params=params, seed=seed, grader=grader, out=out, name=name, log=log,
        resume=resume, overlong_prompts=overlong_prompts, answers=answers, about=about, samples=samples, greedy=greedy,
        best_of=list(best_of),
    ) as study:  # fmt: skip
        result = study.finished or _measured(study, samples, greedy, best_of)
    counts = ", ".join(f"{count} {verdict}" for verdict, count in result["verdicts"].items())
    study.log(f"{result['problems']}: {headline(result['metrics'])} ({counts})")
    return result


def _measured(study: Study, samples: int, greedy: bool, best_of: Sequence[int]) -> dict:
    rows = study.draw(study.requests(samples), study.params).rows
    study.write_rows("samples", rows)
    found = compute_metrics(rows, best_of)
    if greedy:
        cold = study.params.model_copy(update={"temperature": 0.0})
        greedy_rows = study.draw(study.requests(1), cold, "greedy").rows
        study.write_rows("greedy", greedy_rows)
        found["greedy"] = compute_metrics(greedy_rows)["mean@1"]
    ruled = [row for row in rows if "strict" in row]  # a set may mix tasks, and not all have these rules
    right = {rule: sum(row[rule] == "right" for row in ruled) for rule in ("strict", "lenient") if ruled}
    if len(set(right.values())) == 2:
        which = "" if len(ruled) == len(rows) else " to mathematics"
        study.note(
            f"{right['lenient'] - right['strict']} of {len(ruled)} responses{which} state the correct answer in a form "
            f"that only the rule lenient reads; this is {study.grader.answers}"
        )
    return study.conclude(found, right=right, verdicts=dict(Counter(row["verdict"] for row in rows).most_common()))
