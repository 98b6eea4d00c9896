"""Faults of problem sets: those that the text of a set shows, and those known of the published sets (`faults.json`).

A problem is recognised by a fingerprint of its question, so a renamed file, a part of a set or another copy of it is
recognised too.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from polythink.problems.equality import compare
from polythink.problems.extract import last_box
from polythink.problems.problem import Problem, ProblemSet
from polythink.problems.references import is_prose

SHORT = 24  # characters; a problem shorter than that and without a digit asks nothing that could be answered
_FORMULA = re.compile(r"\$[^$]*\$|\\\[.*?\\\]|\\\(.*?\\\)", re.DOTALL)
_TYPESETTING = re.compile(r"\\(?:left|right|displaystyle|quad|qquad)\b")
_PRINTED = re.compile(r"""\[['"].*['"]\]|\{['"].*\}|b'.*'|None|[Nn]a[Nn]|null""", re.DOTALL)  # as Python prints them
_OTHER = re.compile(r"(?:[^\w+\-=<>/*^!|]|_)+")


@dataclass(frozen=True)
class Finding:
    """One fault and the problems that have it: groups of keys, of one key each unless the fault is between problems."""

    fault: str
    groups: tuple[tuple[str, ...], ...]
    where: str = ""  # the other set of an overlap

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(key for group in self.groups for key in group)

    @property
    def meaning(self) -> str:
        """What is wrong, as the end of a sentence that begins with a number."""
        return f"{faults()['meanings'][self.fault]} {self.where}".rstrip()


@dataclass(frozen=True)
class Audit:
    """The faults found in a set of `problems` problems."""

    name: str
    problems: int
    findings: tuple[Finding, ...]

    def find(self, fault: str) -> tuple[str, ...]:
        """Keys of the problems with that fault."""
        assert fault in faults()["meanings"], fault
        return next((finding.keys for finding in self.findings if finding.fault == fault), ())

    def to_json(self) -> dict[str, Any]:
        found = [{**asdict(f), "count": len(f.groups), "meaning": f.meaning} for f in self.findings]
        return {"name": self.name, "problems": self.problems, "findings": found}


@cache
def faults() -> dict[str, dict[str, Any]]:
    """The data file: meanings of all faults, patterns, and the fingerprints and ids of known ones."""
    known = json.loads(Path(__file__).with_name("faults.json").read_text(encoding="utf-8"))
    for kind in ("questions", "ids"):
        known[kind] = {fault: frozenset(" ".join(lines).split()) for fault, lines in known[kind].items()}
    return known


def audit(problem_set: ProblemSet, against: ProblemSet | None = None) -> Audit:
    """Look for every fault. Load the set with `keep_repeats`, otherwise its repeats have been dropped already."""
    problems, minus_one = problem_set.problems, faults()["ids"]["minus one"]
    found = _by_fault(problems, _text_faults)
    found += _repeats("repeat", "conflict", problems, lambda problem: problem.question)
    seen: set[str] = set()
    first = [problem for problem in problems if not (problem.question in seen or seen.add(problem.question))]
    found += _repeats("near repeat", "near conflict", first, lambda problem: bare(problem.question))
    found += known_faults(problems)
    for task in {problem.checker: problem.task for problem in problems}.values():
        own = task.find_faults(problem for problem in problems if problem.checker == task.name)
        found += [Finding(fault, tuple((key,) for key in keys)) for fault, keys in own.items()]
    if any(problem.key[:8] in minus_one for problem in problems):
        found += _by_fault(problems, lambda problem: ["minus one"] * (problem.answer == "-1"))
    if against:
        theirs = {bare(problem.question) for problem in against}
        shared = tuple((problem.key,) for problem in problems if bare(problem.question) in theirs)
        found.append(Finding("against", shared, against.name))
    return Audit(problem_set.name, len(problems), tuple(f for f in found if f.groups or f.fault == "against"))


def known_faults(problems: Iterable[Problem]) -> list[Finding]:
    """What is known of problems of the published sets."""
    return _by_fault(problems, _known_faults)


def known_notes(problems: Iterable[Problem]) -> tuple[str, ...]:
    """One sentence for each known fault of the set, to be shown beside every number measured on it."""
    problems = tuple(problems)
    return tuple(f"{len(f.groups):,} of {len(problems):,} problems {f.meaning}" for f in known_faults(problems))


@lru_cache(maxsize=50_000)
def bare(question: str) -> str:
    """The question's letters, digits and operators in lower case: equal for copies that differ only in typesetting."""
    s = _TYPESETTING.sub("", question).replace(r"\dfrac", r"\frac").replace(r"\tfrac", r"\frac")
    return _OTHER.sub("", s).casefold()


def fingerprint(question: str) -> str:
    """Eight hex digits that stand for a question."""
    return hashlib.sha256(bare(question).encode()).hexdigest()[:8]


def _text_faults(problem: Problem) -> Iterator[str]:
    """The faults that a problem shows by itself."""
    question, answer = problem.question.strip(), problem.answer
    yield from (fault for fault, pattern in faults()["patterns"].items() if re.search(pattern, problem.question))
    words = re.search(r"\w", _FORMULA.sub("", question))
    if not words or (len(question) < SHORT and not re.search(r"\d", question)):
        yield "stub"
    if question.count("[asy]") > question.count("[/asy]"):
        yield "open figure"
    if not problem.task.by_value:  # what follows is about formulas
        return
    if answer.count("{") > answer.count("}"):
        yield "cut answer"
    if is_prose(answer):
        yield "prose answer"
    if _PRINTED.fullmatch(answer):
        yield "printed answer"
    box = last_box(problem.solution)
    if box and compare(answer, box) is False:  # None: it takes algebra to tell
        yield "other box"


def _known_faults(problem: Problem) -> Iterator[str]:
    """What is known of a problem of a published set."""
    known, mark = faults(), fingerprint(problem.question)
    yield from (fault for fault, marks in known["questions"].items() if mark in marks)
    yield from (fault for fault, answers in known["answers"].items() if answers.get(mark) == problem.answer)
    if problem.key[:8] in known["ids"]["several answers"]:
        yield "several answers"


def _by_fault(problems: Iterable[Problem], faults_of: Callable[[Problem], Iterable[str]]) -> list[Finding]:
    keys: dict[str, list[str]] = defaultdict(list)
    for problem in problems:
        for fault in faults_of(problem):
            keys[fault].append(problem.key)
    return [Finding(fault, tuple((key,) for key in keys[fault])) for fault in faults()["meanings"] if fault in keys]


def _repeats(
    fault: str, conflict: str, problems: Iterable[Problem], mark: Callable[[Problem], str]
) -> tuple[Finding, Finding]:
    """Groups of problems with the same mark, and those groups whose answers differ."""
    groups: dict[str, list[Problem]] = defaultdict(list)
    for problem in problems:
        groups[mark(problem)].append(problem)
    several = [group for group in groups.values() if len(group) > 1]
    differing = [group for group in several if len({problem.answer for problem in group}) > 1]
    one, other = (tuple(tuple(problem.key for problem in group) for group in found) for found in (several, differing))
    return Finding(fault, one), Finding(conflict, other)
