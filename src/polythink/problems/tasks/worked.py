"""Demonstrations made by rule from worked solutions: what can be computed apart becomes the paths of a block.

Two rules, both on a solution as GSM8K writes it, a step of arithmetic in every line (`.. <<48/2=24>>24 clips in May.`):

    split    The solution's middle lines fall into groups that use nothing of each other, and its last lines use what
             every group came to: a path for each group, the last lines as summary. Lines before the groups stay before
             the block.
    twice    Where nothing can be split: a path with the solution as it stands, and one that writes the whole
             calculation as a single expression and works it out from the inside, `(48/2) + 48 = 24 + 48 = 72`.

What is in a path is thus the solution's own, or follows from it by arithmetic that is checked here. Numbers say what a
line uses: one that occurred as the result of an earlier line is that line's. A line may also use numbers of the
question and small ones (units, halves, dozens); with any other number in it the solution is not divided.

A task whose problems have several worked solutions gives them as they are (`ways`), a path each.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from polythink.problems.tasks import arithmetic
from polythink.problems.tasks.demonstrations import DemoStyle, NotDemonstrable, Work, write
from polythink.trace.dialect import Dialect

LONGEST = 60  # characters of a calculation written as one expression
MOST_BEFORE, MOST_AFTER = 2, 2  # lines before the block and in the summary of a split solution
KNOWN = {*map(Fraction, (*range(13), 24, 30, 52, 60, 100, 365, "0.5", "0.1", "0.01"))}  # numbers that need no source

_STEP = re.compile(r"<<([^<>=]+)=([^<>=]+)>>")
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?|\.\d+")
_LAST = re.compile(r"\n?#### .*\Z", re.DOTALL)


@dataclass(frozen=True)
class Ways:
    """What a block of a demonstration says: `before` it, in its paths, in the summary. `flat`: the same as one text."""

    paths: tuple[str, ...]
    summary: str
    before: str = ""
    flat: tuple[str, ...] = ()  # sequential texts to choose from


@dataclass(frozen=True)
class Line:
    """A line of a worked solution: its text, the calculations in it, the numbers that it uses and comes to."""

    text: str
    steps: tuple[tuple[str, Fraction], ...]
    uses: frozenset[Fraction] = field(default_factory=frozenset)

    @property
    def results(self) -> set[Fraction]:
        return {value for _, value in self.steps}


def demonstrate(ways: Ways, answer: str, style: DemoStyle, rng: random.Random, dialect: Dialect) -> str:
    """The response: flat text, or a block with the paths in random order."""
    end = f"Final Answer: {answer}"
    if style.flat:
        return f"{rng.choice(ways.flat)}\n{end}"
    paths = list(ways.paths)
    rng.shuffle(paths)
    outlines = [f"way {number}" for number in range(1, len(paths) + 1)]
    labels = dialect.draw_labels(len(paths), rng if style.labels == "random" else None) if dialect.inventory else ()
    closing = f"{ways.summary} {end}"
    return write(Work("Work it out.", outlines, paths, labels, ways.summary, end, closing, ways.before), dialect)


def same_in(ways: Sequence[str], answer: str, most: int) -> Ways:
    """Several whole solutions of one problem, at most so many of them."""
    if len(ways) < 2 or most < 2:
        raise NotDemonstrable("has fewer than two worked solutions, and a path needs one of its own")
    return Ways(
        tuple(ways[:most]), f"{'Both' if len(ways[:most]) == 2 else 'All'} ways give {answer}.", "", tuple(ways)
    )


def by_rule(solution: str, question: str, answer: str, most: int) -> Ways:
    """The paths of an annotated solution by the rules above, at most so many. `NotDemonstrable` where neither holds."""
    lines = read_lines(solution)
    if not lines:
        raise NotDemonstrable("has no worked solution with its steps marked, as in <<48/2=24>>")
    if _number(answer) not in lines[-1].results:
        raise NotDemonstrable("has a worked solution whose last step is not its answer")
    flat = ("\n".join(line.text for line in lines),)
    if found := split(lines, numbers_in(question), most):
        before, groups, after = found
        return Ways(tuple(map(_text, groups)), _text(after), _text(before), flat)
    if len(lines) < 2 or (whole := one_expression(lines)) is None:
        raise NotDemonstrable("has a worked solution that neither divides nor fits in one expression")
    return Ways((_text(lines), whole), f"Both ways give {answer}.", "", flat)


# ---- reading a solution ----


def read_lines(solution: str) -> list[Line]:
    """The lines of an annotated solution. One without a step goes with the next, or at the end with the one before."""
    lines: list[Line] = []
    waiting: list[str] = []
    for raw in _LAST.sub("", solution).splitlines():
        if not (text := " ".join(_STEP.sub("", raw).split())):
            continue
        text += "" if text[-1] in ".!?:;," else "."  # lines become sentences of one text
        steps = tuple((step, value) for step, given in _STEP.findall(raw) if (value := _number(given)) is not None)
        if not steps:
            waiting.append(text)
            continue
        uses = {number for step, _ in steps for number in numbers_in(step)}
        made = {value for _, value in steps[:-1]}
        lines.append(Line(" ".join([*waiting, text]), steps, frozenset(uses - made)))
        waiting = []
    if waiting and lines:
        last = lines[-1]
        lines[-1] = Line(" ".join([last.text, *waiting]), last.steps, last.uses)
    return lines


def numbers_in(text: str) -> set[Fraction]:
    """The numbers that are written with digits in a text."""
    return {number for found in _NUMBER.findall(text) if (number := _number(found)) is not None}


def _number(text: str) -> Fraction | None:
    try:
        return Fraction(text.strip().replace(",", "").removeprefix("$"))
    except (ValueError, ZeroDivisionError):
        return None


def _text(lines: Sequence[Line]) -> str:
    return " ".join(line.text for line in lines)


# ---- split ----


def split(
    lines: Sequence[Line], asked: Collection[Fraction], most: int
) -> tuple[Sequence[Line], list[list[Line]], Sequence[Line]] | None:
    """The lines before the block, those of each path, and those of the summary; None where nothing can be divided.

    The fewest lines stay before the block, then the fewest go to the summary. Of more groups than paths, those that
    begin last are put together.
    """
    for before in range(MOST_BEFORE + 1):
        for after in range(1, MOST_AFTER + 1):
            middle, end = lines[before : len(lines) - after], lines[len(lines) - after :]
            groups = _groups(middle)
            if len(groups) < 2 or most < 2:
                continue
            known = {*asked, *KNOWN, *(value for line in lines[:before] for value in line.results)}
            wanted = {number for line in end for number in line.uses}
            if all(_stands_alone(group, known) and _feeds(group, wanted) for group in groups):
                last = [line for group in groups[most - 1 :] for line in group]
                return lines[:before], [*groups[: most - 1], *([last] if last else [])], end
    return None


def _groups(lines: Sequence[Line]) -> list[list[Line]]:
    """The lines in groups, so that no line uses a result of another group; equal results go together too."""
    groups: list[list[Line]] = []
    for line in lines:
        own = [g for g in groups if any((line.uses | line.results) & other.results for other in g)]
        groups = [g for g in groups if g not in own]
        groups.append([*(earlier for g in own for earlier in g), line])
    place = {id(line): number for number, line in enumerate(lines)}
    return sorted((sorted(g, key=lambda line: place[id(line)]) for g in groups), key=lambda g: place[id(g[0])])


def _stands_alone(group: Sequence[Line], known: Collection[Fraction]) -> bool:
    have = set(known)
    for line in group:
        if not line.uses <= have:
            return False
        have |= line.results
    return True


def _feeds(group: Sequence[Line], wanted: Collection[Fraction]) -> bool:
    return group[-1].steps[-1][1] in wanted


# ---- twice ----


def one_expression(lines: Sequence[Line]) -> str | None:
    """The whole calculation as one expression, worked out from the inside: `(48/2) + 48 = 24 + 48 = 72.`

    None where it would leave out a step, is too long, is no plain arithmetic, or does not come to what the lines say.
    """
    steps = [step for line in lines for step in line.steps]
    made: dict[Fraction, tuple[str, set[int]]] = {}  # a result: the expression that makes it, and the steps in it
    for number, (step, value) in enumerate(steps):
        inside: set[int] = {number}

        def written(found: re.Match[str], inside: set[int] = inside) -> str:
            known = made.get(_number(found[0]))
            if known is None:
                return found[0].replace(",", "")
            inside |= known[1]
            return f"({known[0]})"

        text = _NUMBER.sub(written, step.replace(" ", ""))
        if len(text) > LONGEST:
            return None
        made[value] = (text, inside)
    text, inside = made[steps[-1][1]]
    if len(inside) < len(steps) or "(" not in text:
        return None
    return _worked_out(text, steps[-1][1])


def _worked_out(text: str, answer: Fraction) -> str | None:
    """`(48/2)+48 = 24+48 = 72.` with spaces around signs; None if it is no arithmetic, or comes to something else."""
    shown = [text]
    while "(" in shown[-1]:
        last = shown[-1]
        inner = re.sub(r"\(([^()]*)\)", lambda found: _shown(_evaluate(found[1])), last)
        if "?" in inner or len(shown) > 6:
            return None
        shown.append(inner)
    if _evaluate(shown[-1]) != answer or _evaluate(text) != answer:
        return None
    if shown[-1] != _shown(answer):
        shown.append(_shown(answer))
    return f"In one expression it is {' = '.join(map(_spaced, shown))}."


def _evaluate(text: str) -> Fraction | None:
    try:
        return arithmetic.value(arithmetic.parsed(text))
    except arithmetic.ERRORS:
        return None


def _shown(value: Fraction | None) -> str:
    """The number as people write it; "?" for none, and for one without an end, or below zero."""
    if value is None or value < 0 or value.denominator not in (1, 2, 4, 5, 8, 10, 20, 25, 50, 100):
        return "?"
    return str(value.numerator) if value.denominator == 1 else f"{float(value):.10g}"


def _spaced(text: str) -> str:
    return re.sub(r"([-+*/])", r" \1 ", text)
