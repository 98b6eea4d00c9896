"""Code: a response gives a Python function, and hidden assertions about it are run (`problems.sandbox`).

The answer is the last closed block of a response, after its last join, that begins with ```python; if none does, the
last one that begins with bare ```. A block may be indented, as in a list, and hold fences of its own that are deeper
or have fewer backticks than it. A path's answer is its own last block. A problem's reference answer is the text of
its `sandbox.Test` (`code_rows.to_text`).

A response is right if all assertions hold; `Grade.share` is the share of them that do. Its verdict is `timeout` if the
first that does not hold ran out of time, or of memory; this is decided, unlike a comparison that could not be made, so
that in reinforcement learning a program without end earns no more than a wrong one.
"""

from __future__ import annotations

import io
import random
import re
import tokenize
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from polythink.errors import UserError, did_you_mean
from polythink.problems.extract import final_part
from polythink.problems.grade import Grade
from polythink.problems.problem import Problem
from polythink.problems.references import raw_reference
from polythink.problems.sandbox import Sandbox, Test
from polythink.problems.tasks import code_mini
from polythink.problems.tasks.code_rows import from_text, own_row, test_of_value, to_text
from polythink.problems.tasks.demonstrations import SPLITS, STYLES, DemoStyle, Work, split_of, write
from polythink.problems.tasks.task import Task, path_content
from polythink.trace.dialect import Dialect

if TYPE_CHECKING:
    from polythink.problems.answers import Grader

SET = "code-mini"
FAILS = "own solution"  # the fault of a problem whose own solution does not pass (faults.json)
OVERRUNS = ("timeout", "memory")  # reasons for the verdict `timeout`
_FENCE = re.compile(r"([ \t]*)(`{3,})[ \t]*([\w+-]*)([^`]*)")  # indentation, backticks, language, more about it
_DEEPER = 4  # columns deeper than its beginning a line of backticks is part of a block, as in Markdown
_PYTHON = ("python", "py", "python3")


def last_block(text: str) -> str | None:
    """The program that a text gives; None if it gives none. Linear in the text."""
    blocks: list[tuple[str, str]] = []  # the language of each closed block, and what it holds
    opened: tuple[re.Match[str], list[str]] | None = None
    for line in text.split("\n"):
        fence = _FENCE.fullmatch(line)
        if fence and opened and not _ends(fence, opened[0]):
            fence = None
        if fence and (fence[3] or opened is None):  # the beginning of another also ends one that was left open
            opened = (fence, [])
        elif fence:
            blocks.append((opened[0][3].lower(), _moved_out(opened[1], opened[0][1])))
            opened = None
        elif opened:
            opened[1].append(line)
    for tags in (_PYTHON, ("",)):
        found = [code for tag, code in blocks if tag in tags and code.strip()]
        if found:
            return found[-1].rstrip()
    return None


def _ends(fence: re.Match[str], opening: re.Match[str]) -> bool:
    """Whether a line of backticks ends the block that `opening` began, rather than being part of what it holds."""
    deeper = len(fence[1].expandtabs(4)) - len(opening[1].expandtabs(4))
    if len(fence[2]) < len(opening[2]) or deeper >= _DEEPER:
        return False
    return not fence[4].strip() or fence[3].lower() in _PYTHON


def _moved_out(lines: list[str], indent: str) -> str:
    """What a block holds less the indentation of its beginning, unless that alone is indented."""
    if next(filter(str.strip, lines), "").startswith(indent):
        lines = [line[: len(indent)].lstrip(" \t") + line[len(indent) :] for line in lines]
    return "\n".join(lines)


class Code(Task):
    name = "code"
    about = "programs: a Python function, of which hidden assertions are run"
    sets: Mapping[str, str] = {SET: "synthetic: small Python functions, with hidden assertions"}
    styles = STYLES
    demo_keys = ("style", "paths", "p_right", "labels", "summary")
    teacher_prompt = "code_parallel"
    sequential_teacher_prompt = "code_sequential"
    answer_form = "a block that begins with ```python and ends with ```"

    def problems(self, name: str, split: str, limit: int | None = None, seed: int = 0) -> tuple[Problem, ...]:
        if split not in SPLITS:
            raise UserError(f"{name} has no split {split!r}{did_you_mean(split, SPLITS)}")
        chosen = [made for made in code_mini.everything() if split_of(made.key) == split]
        random.Random(seed).shuffle(chosen)
        return tuple(
            Problem(made.key, made.question, to_text(made.test), self.name, name, made.sources(right=True)[0])
            for made in chosen[:limit]
        )

    # ---- rows ----

    def own_row(self, row: Mapping[str, Any]) -> dict[str, Any] | None:
        return own_row(row)

    def reference(self, row: Mapping[str, Any], column: str | None = None) -> tuple[str, str, bool]:
        """The tests; also a list of assertions, as in the column `test_list` of MBPP."""
        value = row.get(column or "answer")
        if isinstance(value, list | tuple) and value:
            return to_text(test_of_value(value)), str(row.get("solution") or ""), False
        return raw_reference(row, column)

    def reference_mistake(self, answer: str) -> str:
        try:
            _test(answer)
        except UserError as error:
            return str(error)
        return ""

    def find_faults(self, problems: Iterable[Problem]) -> dict[str, list[str]]:
        """Keys of the problems whose own solution does not pass their tests."""
        solved = [problem for problem in problems if problem.solution]
        with Sandbox() as sandbox, ThreadPoolExecutor(sandbox.workers) as pool:
            passed = pool.map(lambda problem: sandbox.run(problem.solution, _test(problem.answer)).passed, solved)
            return {FAILS: [problem.key for problem, fine in zip(solved, passed, strict=True) if not fine]}

    # ---- demonstrations ----

    def demonstrate(self, problem: Problem, style: DemoStyle, rng: random.Random, dialect: Dialect) -> str:
        """A response to a problem of code-mini: `sequential`, one solution; `parallel`, one per path and a choice.

        Each path's is right with probability `p_right`, and as long as there are some it is one that no path has yet.
        The first right one is chosen, or any if all are wrong, unless `summary` is "reference".
        """
        made = code_mini.find(problem.key)
        if made is None:
            raise UserError(f"demonstrations of the task {self.name} are of the set {SET}; {problem.key} is not in it")
        right = made.sources(right=True)
        if style.flat:
            return _fenced(_draw(made, [], style.p_right, rng)).strip()
        paths = style.draw_paths(rng)
        labels = dialect.draw_labels(paths, rng if style.labels == "random" else None) or (0,) * paths
        sources: list[str] = []
        for _ in range(paths):
            sources.append(_draw(made, sources, style.p_right, rng))
        chosen = next((source for source in sources if source in right), None) or rng.choice(sources)
        block = _fenced(right[0] if style.summary == "reference" else chosen)
        summary = f"{sources.index(chosen) + 1} of {paths} {'is right' if chosen in right else 'it is'}."
        ways = [f"way {number}" for number in range(1, paths + 1)]
        said = [_fenced(source) for source in sources]
        goal = f"write {made.family.function(made.value)}"
        return write(Work(goal, ways, said, labels, summary, block, closing=summary + block), dialect).rstrip()

    # ---- grading. An extracted answer is the program as `normal` writes it; what is run is the program as it stands

    def grade(self, text: str, problem: Problem, grader: Grader) -> Grade:
        return _run(last_block(final_part(text, grader.dialect)), problem, grader)

    def equal(self, given: str, reference: str, grader: Grader) -> bool | None:
        """Whether two programs are the same but for comments and empty lines. What they do is not compared."""
        return normal(given) == normal(reference)

    def vote(self, answer: str) -> str:
        return normal(answer)

    def path_answer(self, text: str, problem: Problem, grader: Grader) -> str | None:
        program = last_block(path_content(text, grader.dialect)[0])
        return None if program is None else normal(program)

    def grade_path(self, text: str, problem: Problem, grader: Grader) -> bool | None:
        """Whether the path's program is right: one that overruns is not. None if it gives none."""
        verdict = _run(last_block(path_content(text, grader.dialect)[0]), problem, grader).verdict
        return None if verdict == "unparsed" else verdict == "right"


def _run(program: str | None, problem: Problem, grader: Grader) -> Grade:
    if program is None:
        return Grade("unparsed", None, 0.0)
    outcome = grader.sandbox.run(program, _test(problem.answer))
    failed = "timeout" if outcome.reason in OVERRUNS else "wrong"
    return Grade("right" if outcome.passed else failed, normal(program), outcome.share)


def normal(program: str) -> str:
    """The program without comments, empty lines and spaces at ends of lines; as it is if these cannot be told.

    By its tokens: to parse it is for the confined process alone, as a parser can be made to crash.
    """
    lines = program.splitlines()
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(program).readline))
    except (SyntaxError, tokenize.TokenError):
        return program.strip()
    for token in tokens:
        row, column = token.start
        if token.type == tokenize.COMMENT:
            lines[row - 1] = lines[row - 1][:column]
        elif token.type in (tokenize.NEWLINE, tokenize.NL) and row <= len(lines):
            lines[row - 1] = lines[row - 1].rstrip()
    empty = {
        t.start[0] for t in tokens if t.type == tokenize.NL and t.start[0] <= len(lines) and not lines[t.start[0] - 1]
    }
    return "\n".join(line for row, line in enumerate(lines, 1) if row not in empty)


@lru_cache(maxsize=4096)
def _test(answer: str) -> Test:
    return from_text(answer)


def _draw(made: code_mini.Made, taken: list[str], p_right: float, rng: random.Random) -> str:
    sources = made.sources(right=rng.random() < p_right)
    return rng.choice([source for source in sources if source not in taken] or sources)


def _fenced(source: str) -> str:
    return f"\n```python\n{source}\n```\n"


CODE = Code()
