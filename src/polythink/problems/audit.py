"""What is wrong with a problem set: what its text shows, and what is known of the published sets.

Heuristics err on the side of silence: on the 5,000 problems of the MATH test set they flag one.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from polythink.problems.answers import last_box
from polythink.problems.equality import compare
from polythink.problems.faults import MINUS_ONE, SENTENCES, bare, known_faults
from polythink.problems.problem import Problem, ProblemSet

SHORT = 24  # characters; a problem below that and without a digit asks nothing that could be answered
_CONTROL = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f]|\t(?:ext|imes|an|heta|riangle|frac|o)\b"
)  # \f of \frac, \t of \text
_OPEN_END = re.compile(
    r"\b(?:that|and|which|let|of|to|by|if|is|are|the|in|as|with|for|where|from|at|than|such|when|or|an?|following"
    r"|compute|evaluate|find|express|equations?|conditions?)$|[,，、]$",
    re.IGNORECASE,
)
_FORMULA = re.compile(r"\$[^$]*\$|\\\[.*?\\\]|\\\(.*?\\\)", re.DOTALL)

MEANING = {
    "colon": "end in a colon: what should follow is missing",
    "open end": "break off in the middle of a sentence",
    "stub": "are too short to ask anything",
    "open figure": "hold a figure that is cut ([asy] without [/asy])",
    "broken tex": "hold control characters where TeX commands should be (\\f for \\frac)",
    "cut answer": "have a reference answer with an open brace",
    "other box": "have a reference answer that is not the one in the box of their solution",
    "repeat": "questions occur more than once, word for word",
    "conflict": "repeated questions have different answers",
    "near repeat": "groups of questions differ only in typesetting, spacing or punctuation",
    "near conflict": "of these groups have different answers",
    "minus one": "have the reference answer -1, which stood for no answer in others of this set",
    "against": "also occur in",
    **SENTENCES,
}


@dataclass(frozen=True)
class Finding:
    """One fault and where it is: groups of problem keys, one key a group unless the fault is between problems."""

    fault: str
    groups: tuple[tuple[str, ...], ...]
    where: str = ""  # the other set of an overlap

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(key for group in self.groups for key in group)

    @property
    def meaning(self) -> str:
        """What is wrong, as the end of a sentence that begins with a number."""
        return f"{MEANING[self.fault]} {self.where}".rstrip()


@dataclass(frozen=True)
class Audit:
    """The findings on a set of `problems` problems, those without any hit left out."""

    name: str
    problems: int
    findings: tuple[Finding, ...]

    def find(self, fault: str) -> tuple[str, ...]:
        """Keys of the problems with that fault."""
        assert fault in MEANING, fault
        return next((finding.keys for finding in self.findings if finding.fault == fault), ())

    def to_json(self) -> dict[str, Any]:
        found = [{**asdict(f), "count": len(f.groups), "meaning": f.meaning} for f in self.findings]
        return {"name": self.name, "problems": self.problems, "findings": found}


def audit(problem_set: ProblemSet, against: ProblemSet | None = None) -> Audit:
    """Look for every fault in `MEANING`. Load the set with `keep_repeats`, or its repeats have gone already."""
    problems = problem_set.problems
    found = [_single(fault, test, problems) for fault, test in _TESTS.items()]
    found += _repeats("repeat", "conflict", problems, lambda problem: problem.question)
    found += _repeats("near repeat", "near conflict", _first_copies(problems), lambda problem: bare(problem.question))
    found += [Finding(fault, tuple((key,) for key in keys)) for fault, keys in known_faults(problems).items()]
    if any(problem.key[:8] in MINUS_ONE for problem in problems):
        found.append(_single("minus one", lambda problem: problem.answer == "-1", problems))
    if against:
        theirs = {bare(problem.question) for problem in against}
        shared = _single("against", lambda problem: bare(problem.question) in theirs, problems)
        found.append(Finding("against", shared.groups, against.name))
    return Audit(problem_set.name, len(problems), tuple(f for f in found if f.groups or f.fault == "against"))


def _is_stub(problem: Problem) -> bool:
    question = problem.question.strip()
    words = re.search(r"\w", _FORMULA.sub("", question))
    return not words or (len(question) < SHORT and not re.search(r"\d", question))


def _differs_from_box(problem: Problem) -> bool:
    """Spelt otherwise than the solution's box and not the same number; where that takes algebra it is not counted."""
    box = last_box(problem.solution)
    return bool(box) and compare(problem.answer, box) is False


_TESTS: dict[str, Callable[[Problem], bool]] = {
    "colon": lambda problem: problem.question.rstrip().endswith((":", "：")),
    "open end": lambda problem: bool(_OPEN_END.search(problem.question.rstrip())),
    "stub": _is_stub,
    "open figure": lambda problem: problem.question.count("[asy]") > problem.question.count("[/asy]"),
    "broken tex": lambda problem: bool(_CONTROL.search(problem.question)),
    "cut answer": lambda problem: problem.answer.count("{") > problem.answer.count("}"),
    "other box": _differs_from_box,
}


def _single(fault: str, test: Callable[[Problem], bool], problems: Sequence[Problem]) -> Finding:
    return Finding(fault, tuple((problem.key,) for problem in problems if test(problem)))


def _repeats(
    fault: str, conflict: str, problems: Iterable[Problem], mark: Callable[[Problem], str]
) -> tuple[Finding, Finding]:
    """Groups of problems with the same mark, and those of the groups whose answers differ."""
    groups: dict[str, list[Problem]] = defaultdict(list)
    for problem in problems:
        groups[mark(problem)].append(problem)
    several = [group for group in groups.values() if len(group) > 1]
    differing = [group for group in several if len({problem.answer for problem in group}) > 1]
    one, other = (tuple(tuple(problem.key for problem in group) for group in found) for found in (several, differing))
    return Finding(fault, one), Finding(conflict, other)


def _first_copies(problems: Iterable[Problem]) -> list[Problem]:
    first: dict[str, Problem] = {}
    for problem in problems:
        first.setdefault(problem.question, problem)
    return list(first.values())
