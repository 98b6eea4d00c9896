"""Problem sets by name or from a file.

A name stands for a published set on the Hugging Face hub, or for a synthetic task. Published sets are looked up in the
folder that the environment variable POLYTHINK_DATA names, then on the hub. Files have the hub's columns: a question
(`question`, `problem` or `prompt`) and an answer (`answer`, `solution` or `reward_model.ground_truth`), which may be
bare, end in GSM8K's `#### n`, or be in the last box of a worked solution.
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
from polythink.problems.extract import last_box
from polythink.problems.hub import hub_rows
from polythink.problems.problem import CHECKERS, Problem, ProblemSet
from polythink.run.jsonl import read_rows

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
    level: str = ""  # of the synthetic task

    def file_stem(self, split: str) -> str:
        return self.stem.format(split=split)


SOURCES: dict[str, Source] = {
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
    "math300": Source("the 316 integer problems of MATH that Parallel-R1 reports", ("test",), stem="math300"),
    "aime24": Source(
        "AIME 2024, evaluation only", ("test",), "HuggingFaceH4/aime_2024", hub_splits={"test": "train"}, stem="aime24"
    ),
    "aime25": Source("AIME 2025, evaluation only", ("test",), "math-ai/aime25", stem="aime25"),
    "amc23": Source("AMC 12 2023, evaluation only", ("test",), "math-ai/amc23", stem="amc23"),
    "countdown-mini": Source("synthetic: one operator to choose", ("heldout", "train"), level="mini"),
    "countdown-easy": Source("synthetic: two operators to choose", ("heldout", "train"), level="easy"),
    "countdown-hard": Source("synthetic: three operators to choose", ("heldout", "train"), level="hard"),
    "attribution": Source("synthetic: which path said what", ("heldout", "train"), level="attribution"),
}  # fmt: skip


def load_problems(
    name_or_file: str | Path,
    *,
    split: str | None = None,
    limit: int | None = None,
    seed: int | None = None,
    keep_repeats: bool = False,
) -> ProblemSet:
    """The problems of a named set (`gsm8k`, `gsm8k:train`, `countdown-hard:heldout`) or of a file.

    `limit` takes the first `limit` problems, or with a `seed` a random choice, in the order of the set. Questions that
    occur again word for word are dropped unless `keep_repeats`: the first one stays, and a note gives their number.
    Notes are about the whole set, also under a limit.
    """
    text = str(name_or_file)
    if limit is not None and limit < 1:
        raise UserError(f"a limit of {limit} leaves no problems; give 1 or more")
    if Path(text).suffix.lower() in SUFFIXES:
        if split:
            raise UserError(f"{text} is a file and has no splits; leave the split {split!r} out")
        name, rows = Path(text).stem, read_rows(text)
    else:
        base, _, named = text.partition(":")
        source = get_source(base)
        split = _split(base, source, split or named)
        if source.level:
            return _synthetic(base, source, split, limit, seed)
        name, rows = f"{base}:{split}" if split != source.splits[0] else base, _rows(base, source, split)
    problems, notes = _read(name, rows, keep_repeats)
    return ProblemSet(name, _choose(problems, limit, seed), (*notes, *known_notes(problems)))


def get_source(name: str) -> Source:
    """The source of that name; `UserError` if there is none, with the nearest name."""
    if name not in SOURCES:
        if Path(name).exists():
            raise UserError(f"{name} is not a problem file: its name must end in {' or '.join(SUFFIXES)}")
        raise UserError(f"no problem set {name!r}{did_you_mean(name, SOURCES)}; a file ends in {' or '.join(SUFFIXES)}")
    return SOURCES[name]


def local_file(source: Source, split: str) -> Path | None:
    """The file of a set in the folder that POLYTHINK_DATA names, if there is one."""
    folder = os.environ.get(DATA_FOLDER)
    if not (folder and source.stem):
        return None
    if not Path(folder).is_dir():
        raise UserError(f"{DATA_FOLDER} names {folder}, which is not a folder; correct or unset it")
    files = (Path(folder) / (source.file_stem(split) + suffix) for suffix in SUFFIXES)
    return next((file for file in files if file.is_file()), None)


def reference_answer(row: Mapping[str, Any], column: str | None = None) -> tuple[str, str, bool]:
    """(reference answer, worked solution or "", whether it was completed) of a row; "" if the row has no answer.

    Some copies of MATH cut answers with nested braces at the first closing one (`\\frac{\\sqrt{3`): if the box of the
    worked solution begins with what is left, the box is taken.
    """
    raw = _text(row.get(column)) if column else _raw_answer(row)
    solution = _text(row.get("solution"))
    if "####" in raw:  # GSM8K: the worked solution, then the number
        return raw.rpartition("####")[2].strip().replace(",", ""), raw, False
    if r"\boxed" in raw:
        return last_box(raw) or "", raw, False
    if raw.count("{") > raw.count("}"):
        whole = last_box(solution) or ""
        if whole.startswith(raw):
            return whole, solution, True
    return raw, solution if solution != raw else "", False


def _raw_answer(row: Mapping[str, Any]) -> str:
    reward = row.get("reward_model")
    truth = reward.get("ground_truth") if isinstance(reward, Mapping) else None
    return next((text for value in (row.get("answer"), truth, row.get("solution")) if (text := _text(value))), "")


def _split(name: str, source: Source, split: str | None) -> str:
    if split and split not in source.splits:
        raise UserError(f"{name} has no split {split!r}{did_you_mean(split, source.splits)}")
    return split or source.splits[0]


def _synthetic(name: str, source: Source, split: str, limit: int | None, seed: int | None) -> ProblemSet:
    from polythink.problems.tasks import attribution, countdown

    if name == "attribution":
        return ProblemSet(f"{name}:{split}", attribution.problems(split, limit, seed or 0))
    return ProblemSet(f"{name}:{split}", countdown.problems(source.level, split, limit=limit, seed=seed or 0))


def _rows(name: str, source: Source, split: str) -> Iterable[Mapping[str, Any]]:
    file = local_file(source, split)
    if file:
        return read_rows(file)
    wanted = f"{source.file_stem(split)}.parquet"
    otherwise = f"give a .parquet or .jsonl file, or name a folder that holds {wanted} in {DATA_FOLDER}"
    if not source.repo:
        raise UserError(f"the set {name} is not on the hub; {otherwise}")
    return hub_rows(name, source.repo, source.config, source.hub_splits.get(split, split), otherwise)


def _read(name: str, rows: Iterable[Mapping[str, Any]], keep_repeats: bool) -> tuple[list[Problem], list[str]]:
    """The problems of the rows, and notes about what was dropped or completed."""
    problems: list[Problem] = []
    first: dict[str, str] = {}  # question -> answer
    counts: Counter[str] = Counter()
    for number, row in enumerate(rows):
        problem, completed = _problem(name, number, row)
        counts["completed"] += completed
        if problem.question in first and not keep_repeats:
            counts["dropped"] += 1
            counts["conflicts"] += first[problem.question] != problem.answer
            continue
        first.setdefault(problem.question, problem.answer)
        problems.append(problem)
    if not problems:
        raise UserError(f"{name} holds no problems")
    if not keep_repeats:
        _check_keys(name, problems)
    notes = []
    if counts["dropped"]:
        notes.append(
            f"{counts['dropped']:,} repeated questions were dropped, {counts['conflicts']:,} with another answer"
        )
    if counts["completed"]:
        notes.append(f"{counts['completed']:,} answers were cut inside a brace and are completed from their solutions")
    return problems, notes


def _problem(name: str, number: int, row: Mapping[str, Any]) -> tuple[Problem, bool]:
    question = next(filter(None, (_question(row.get(column)) for column in QUESTION_COLUMNS)), None)
    if question is None:
        raise UserError(f"row {number} of {name} has no question; give one of {', '.join(QUESTION_COLUMNS)}")
    answer, solution, completed = reference_answer(row)
    if not answer:
        raise UserError(f"row {number} of {name} has no answer in a column `answer` or `solution`")
    checker = row.get("checker") or "math"
    if checker not in CHECKERS:
        raise UserError(f"row {number} of {name} has checker {checker!r}{did_you_mean(str(checker), CHECKERS)}")
    extra = row.get("extra_info")
    keys = (row.get("key"), row.get("id"), extra.get("index") if isinstance(extra, Mapping) else None, number)
    key = next(key for key in keys if key is not None)
    return Problem(str(key), question, answer, checker, name, solution), completed


def _question(value: Any) -> str:
    """The bare problem: the last user turn of a chat, without the wrapping that DAPO-Math-17k puts around it."""
    if not isinstance(value, list):
        return _text(value)
    turns = [_text(turn.get("content")) for turn in value if isinstance(turn, Mapping) and turn.get("role") == "user"]
    text = turns[-1].strip() if turns else ""
    if text.startswith("Solve the following math problem") and text.endswith('"Answer:".'):
        text = text.partition("\n\n")[2].rpartition("\n\n")[0]
    return text.strip()


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _check_keys(name: str, problems: Sequence[Problem]) -> None:
    key, times = Counter(problem.key for problem in problems).most_common(1)[0]
    if times > 1:
        raise UserError(f"{name} has {times} problems with the id {key!r}; ids must differ, or be left out altogether")


def _choose(problems: Sequence[Problem], limit: int | None, seed: int | None) -> tuple[Problem, ...]:
    if limit is None or limit >= len(problems):
        return tuple(problems)
    if seed is None:
        return tuple(problems[:limit])
    chosen = sorted(random.Random(seed).sample(range(len(problems)), limit))
    return tuple(problems[i] for i in chosen)
