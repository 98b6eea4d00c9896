"""Problem sets by name or from a file.

A name stands for a published set on the Hugging Face hub, or for a synthetic task. Published sets are looked up in the
folder that the environment variable POLYTHINK_DATA names, then on the hub. Files have the hub's columns: a question
(`question`, `problem` or `prompt`) and an answer (`answer`, `solution` or `reward_model.ground_truth`): see
`problems.references`.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polythink.errors import UserError, did_you_mean
from polythink.problems.audit import known_notes
from polythink.problems.hub import hub_rows
from polythink.problems.problem import Problem, ProblemSet
from polythink.problems.references import ANSWER_COLUMNS, LONG, is_prose
from polythink.problems.tasks.table import TASKS, get_task
from polythink.problems.tasks.task import Task
from polythink.run.jsonl import kind_of, missing_column, read_placed

DATA_FOLDER = "POLYTHINK_DATA"
SUFFIXES = (".parquet", ".jsonl")
QUESTION_COLUMNS = ("question", "problem", "prompt")


@dataclass(frozen=True)
class Source:
    """Where a named set comes from. The first split is the default."""

    about: str
    splits: Sequence[str]
    repo: str = ""  # on the hub
    config: str | None = None
    hub_splits: Mapping[str, str] = field(default_factory=dict)  # split -> its name on the hub, where that differs
    stem: str = ""  # name of a local file, without its suffix
    elsewhere: str = ""  # where a set is found that is neither on the hub nor made here
    task: Task | None = None  # that makes the problems, for a synthetic set

    def file_stem(self, split: str) -> str:
        return self.stem.format(split=split)


PUBLISHED: dict[str, Source] = {
    "gsm8k": Source(
        "GSM8K, grade-school word problems", ("test", "train"), "openai/gsm8k", "main", stem="gsm8k_{split}"
    ),
    "dapo": Source(
        "DAPO-Math-17k, competition problems with integer answers", ("train",),
        "open-r1/DAPO-Math-17k-Processed", "all", stem="dapo_math_{split}",
    ),
    "math": Source(
        "MATH (Hendrycks et al.)", ("test", "train"), "DigitalLearningGmbH/MATH-lighteval", stem="math_{split}"
    ),
    "math500": Source("the 500 problems of MATH's test set known as MATH-500", ("test",), "HuggingFaceH4/MATH-500",
                      stem="math500"),
    "math300": Source(
        "the 316 integer problems of MATH that Parallel-R1 reports", ("test",), stem="math300",
        elsewhere="on no hub: some problems of MATH's test set, all with integer answers, among the evaluation data of "
        "github.com/zhengkid/Parallel-R1; a file math300.parquet or math300.jsonl has the columns problem and answer. "
        "On the hub are math500 and, for the whole test set, math",
    ),
    "aime24": Source(
        "AIME 2024, evaluation only", ("test",), "HuggingFaceH4/aime_2024", hub_splits={"test": "train"}, stem="aime24"
    ),
    "aime25": Source("AIME 2025, evaluation only", ("test",), "math-ai/aime25", stem="aime25"),
    "amc23": Source("AMC 12 2023, evaluation only", ("test",), "math-ai/amc23", stem="amc23"),
}  # fmt: skip


def sources() -> dict[str, Source]:
    """Every named set: the published ones, then those that the tasks make."""
    made = {name: Source(about, task.splits, task=task) for task in TASKS.values() for name, about in task.sets.items()}
    return PUBLISHED | made


def load_problems(
    given: str | Path | Iterable[Mapping[str, Any]],
    *,
    split: str | None = None,
    limit: int | None = None,
    seed: int | None = None,
    keep_repeats: bool = False,
) -> ProblemSet:
    """The problems of a named set (`gsm8k`, `gsm8k:train`, `countdown-hard:heldout`), of a file, or of rows like a
    file's: `[{"question": ..., "answer": ...}]`.

    `limit` takes the first `limit` problems, or with a `seed` a random choice, in the order of the set. Questions that
    occur again word for word are dropped unless `keep_repeats`: the first one stays, and a note gives their number.
    Notes are about the whole set, also under a limit.
    """
    if limit is not None and limit < 1:
        raise UserError(f"a limit of {limit} leaves no problems; give 1 or more")
    text = str(given)
    if not isinstance(given, str | Path | Iterable):
        raise UserError(f"the problems are {kind_of(given)}; give the name of a set, a file, or rows")
    if not isinstance(given, str | Path):
        if split:
            raise UserError(f"rows have no splits; leave the split {split!r} out")
        name, rows = "problems", _placed(given)
    elif Path(text).suffix.lower() in SUFFIXES:
        if split:
            raise UserError(f"{text} is a file and has no splits; leave the split {split!r} out")
        name, rows = Path(text).stem, read_placed(text)
    else:
        base, _, named = text.partition(":")
        source = get_source(base)
        if split and named and split != named:
            raise UserError(f"{text} names another split than {split!r}; give one of them")
        split = _split(base, source, split or named)
        if source.task:
            return ProblemSet(f"{base}:{split}", source.task.problems(base, split, limit, seed or 0))
        name, rows = f"{base}:{split}" if split != source.splits[0] else base, _rows(base, source, split)
    problems, notes = _read(name, rows, keep_repeats)
    return ProblemSet(name, _choose(problems, limit, seed), (*notes, *known_notes(problems)))


def _placed(rows: Iterable[Mapping[str, Any]]) -> Placed:
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise UserError(f"problem {number} is {type(row).__name__}; a row is a mapping with question and answer")
        yield "the rows given", row


def get_source(name: str) -> Source:
    """The source of that name; `UserError` if there is none, with the nearest name."""
    known = sources()
    if name not in known:
        if Path(name).exists():
            raise UserError(f"{name} is not a problem file: its name must end in {' or '.join(SUFFIXES)}")
        raise UserError(f"no problem set {name!r}{did_you_mean(name, known)}; a file ends in {' or '.join(SUFFIXES)}")
    return known[name]


def task_of_set(name: str) -> Task | None:
    """The task that makes a set named `NAME` or `NAME:SPLIT`; None for a published set, and for no set at all."""
    source = sources().get(name.partition(":")[0])
    return source.task if source else None


def local_file(source: Source, split: str) -> Path | None:
    """The file of a set in the folder that POLYTHINK_DATA names, if there is one."""
    folder = os.environ.get(DATA_FOLDER)
    if not (folder and source.stem):
        return None
    if not (place := Path(folder).expanduser()).is_dir():
        raise UserError(f"{DATA_FOLDER} names {folder}, which is not a folder; correct or unset it")
    files = (place / (source.file_stem(split) + suffix) for suffix in SUFFIXES)
    return next((file for file in files if file.is_file()), None)


def file_of_set(name: str) -> Path | None:
    """The file that `load_problems` reads for a name `NAME` or `NAME:SPLIT`; None where it is made, or from the hub."""
    base, _, split = name.partition(":")
    source = get_source(base)
    return local_file(source, split or source.splits[0])


def _split(name: str, source: Source, split: str | None) -> str:
    if split and split not in source.splits:
        raise UserError(f"{name} has no split {split!r}{did_you_mean(split, source.splits)}")
    return split or source.splits[0]


def check_keys(name: str, problems: Iterable[Problem]) -> None:
    """`UserError` where problems share a key, by which their responses are told apart."""
    for key, times in Counter(problem.key for problem in problems).most_common(1):
        if times > 1:
            raise UserError(f"{name} has {times} problems with the id {key!r}; ids differ, or are left out of a file")


Placed = Iterable[tuple[str, Mapping[str, Any]]]  # rows with their places, for messages


def _rows(name: str, source: Source, split: str) -> Placed:
    file = local_file(source, split)
    if file:
        return read_placed(file)
    wanted = f"{source.file_stem(split)}.parquet"
    otherwise = f"give a .parquet or .jsonl file, or name a folder that holds {wanted} in {DATA_FOLDER}"
    if not source.repo:
        raise UserError(f"the set {name} is on no hub (what it is: polythink explain {name}); {otherwise}")
    rows = hub_rows(name, source.repo, source.config, source.hub_splits.get(split, split), otherwise)
    return ((source.repo, row) for row in rows)


def _read(name: str, rows: Placed, keep_repeats: bool) -> tuple[list[Problem], list[str]]:
    """The problems of the rows, and notes about what was dropped, completed, or is hardly an answer."""
    problems: list[Problem] = []
    first: dict[str, str] = {}  # question -> answer
    counts: Counter[str] = Counter()
    mistakes: list[UserError] = []
    for number, (where, row) in enumerate(rows):
        try:
            problem, completed = _problem(name, number, where, row)
        except UserError as error:  # said once, with how many there are
            mistakes.append(error)
            continue
        counts["completed"] += completed
        if problem.question in first and not keep_repeats:
            counts["dropped"] += 1
            counts["conflicts"] += first[problem.question] != problem.answer
            continue
        first.setdefault(problem.question, problem.answer)
        counts["prose"] += problem.task.by_value and is_prose(problem.answer)
        problems.append(problem)
    if mistakes:
        more = f" ({len(mistakes) - 1:,} more rows cannot be used)" if len(mistakes) > 1 else ""
        raise UserError(f"{mistakes[0]}{more}")
    if not problems:
        raise UserError(f"{name} holds no problems")
    if not keep_repeats:
        check_keys(name, problems)
    return problems, _notes(counts)


def _notes(counts: Mapping[str, int]) -> list[str]:
    dropped, conflicts, completed, prose = (counts[key] for key in ("dropped", "conflicts", "completed", "prose"))
    notes = {
        f"{dropped:,} repeated questions were dropped, {conflicts:,} with another answer": dropped,
        f"{completed:,} answers were cut inside a brace and are completed from their solutions": completed,
        f"{prose:,} reference answers are sentences or longer than {LONG} characters: hardly a response equals them; "
        "a worked solution needs its answer in \\boxed{..}, after #### or after `Answer:`": prose,
    }
    return [note for note, count in notes.items() if count]


def _problem(name: str, number: int, where: str, row: Mapping[str, Any]) -> tuple[Problem, bool]:
    """The problem of a row, and whether its answer was completed. `UserError` names the set, the row and its place."""
    try:
        row = next((own for task in TASKS.values() if (own := task.own_row(row))), row)
        question = next(filter(None, (_question(row.get(column), column) for column in QUESTION_COLUMNS)), None)
        if question is None:
            raise UserError(_lacks("question", QUESTION_COLUMNS, row))
        checker = row.get("checker") or None
        if checker is not None and checker not in tuple(TASKS):  # it may be anything
            raise UserError(f"has checker {checker!r}{did_you_mean(str(checker), TASKS)}")
        task = get_task(checker)
        answer, solution, completed = task.reference(row)
        if not answer:
            raise UserError(_lacks("answer", ANSWER_COLUMNS, row))
        if wrong := task.reference_mistake(answer):
            raise UserError(wrong)
        return Problem(_key(row, number), question, answer, task.name, name, solution), completed
    except UserError as error:
        raise UserError(f"row {number} of {name} {error} ({where})") from None


def _lacks(what: str, needed: Sequence[str], row: Mapping[str, Any]) -> str:
    empty = [column for column in needed if column in row]
    if empty:
        return f"has no {what}: its column {empty[0]!r} is empty"
    return f"has no {what}: needed is a column {' or '.join(needed)}, {missing_column(row, *needed)}"


def _key(row: Mapping[str, Any], number: int) -> str:
    extra = row.get("extra_info")
    keys = (row.get("key"), row.get("id"), extra.get("index") if isinstance(extra, Mapping) else None, number)
    return str(next(key for key in keys if kind_of(key) != "null"))


def _question(value: Any, column: str) -> str:
    """The bare problem: the last user turn of a chat, without the wrapping that DAPO-Math-17k puts around it."""
    if not isinstance(value, list):
        return _text(value, column)
    turns = [turn.get("content") for turn in value if isinstance(turn, Mapping) and turn.get("role") == "user"]
    text = _turn(turns[-1], column) if turns else ""
    if text.startswith("Solve the following math problem") and text.endswith('"Answer:".'):
        text = text.partition("\n\n")[2].rpartition("\n\n")[0]
    return text.strip()


def _turn(content: Any, column: str) -> str:
    """The text of a chat turn, which may come in parts; other parts than text are refused."""
    if not isinstance(content, list):
        return _text(content, f"{column}.content")
    texts = [part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None for part in content]
    if not all(isinstance(text, str) for text in texts):
        raise UserError(
            f"has a chat turn with parts that are no text in its column {column!r}; a question is text alone"
        )
    return "".join(texts).strip()


def _text(value: Any, column: str) -> str:
    if kind_of(value) == "null":
        return ""
    if not isinstance(value, str):
        raise UserError(f"has {kind_of(value)} in its column {column!r}; a question is text")
    return value.strip()


def _choose(problems: Sequence[Problem], limit: int | None, seed: int | None) -> tuple[Problem, ...]:
    if limit is None or limit >= len(problems):
        return tuple(problems)
    if seed is None:
        return tuple(problems[:limit])
    chosen = sorted(random.Random(seed).sample(range(len(problems)), limit))
    return tuple(problems[i] for i in chosen)
