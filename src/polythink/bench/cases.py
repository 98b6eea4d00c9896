"""What is timed: so many traces with so many paths on prompts of some length. Without torch."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from polythink.errors import UserError

CASES = ("1x1", "1x2", "1x4", "1x8", "1x16", "8x8", "32xragged", "1:16x1")
RAGGED = (1, 2, 3, 4)  # paths of the traces of a ragged case, in turn
FORM = re.compile(r"(?:(\d+):)?(\d+)x(\d+|ragged)(?:@(\d+))?")
MOST = 1 << 20  # of each number


@dataclass(frozen=True)
class Trace:
    """One response that is decoded: its prompt's tokens, its number of paths, and which problem and sample it is."""

    prompt: tuple[int, ...]
    paths: int
    problem: int
    sample: int


@dataclass(frozen=True)
class Case:
    """`problems` prompts with `samples` responses each.

    `paths` None: ragged, 1 to 4 paths in turn, on prompts of a quarter to all of the length.
    """

    problems: int
    samples: int
    paths: int | None
    prompt: int  # tokens; of a ragged case at most

    @property
    def name(self) -> str:
        count = f"{self.problems}:{self.samples}" if self.samples > 1 else f"{self.problems}"
        return f"{count}x{self.paths or 'ragged'}@{self.prompt}"

    @property
    def alone(self) -> bool:
        """One trace, which is what paths are compared on with one path."""
        return self.problems == self.samples == 1

    def traces(self, words: Sequence[int]) -> list[Trace]:
        """The traces, their prompts drawn from `words`; no two problems begin with the same token, if words suffice."""
        rng = random.Random(0)
        found = []
        for problem in range(self.problems):
            size = self.prompt if self.paths else rng.randint(max(1, self.prompt // 4), self.prompt)
            prompt = (words[problem % len(words)], *rng.choices(words, k=size - 1))
            paths = self.paths or RAGGED[problem % len(RAGGED)]
            found += [Trace(prompt, paths, problem, sample) for sample in range(self.samples)]
        return found


def parse_case(text: str, prompt: int) -> Case:
    """The case meant by `[PROBLEMS:]TRACESxPATHS[@PROMPT]`; `UserError` for anything else."""
    found = FORM.fullmatch(text)
    if not found:
        raise UserError(
            f"no case {text!r}; a case is TRACESxPATHS such as 1x8, 32xragged, or PROBLEMS:SAMPLESxPATHS such as "
            "8:8x2 (samples of one problem share its prompt), with @TOKENS for another prompt length: 1x8@8192"
        )
    group, traces, paths, length = found.groups()
    problems, samples = (int(group), int(traces)) if group else (int(traces), 1)
    case = Case(problems, samples, None if paths == "ragged" else int(paths), int(length or prompt))
    for what, value in (
        ("traces", problems * samples),
        ("paths", 1 if case.paths is None else case.paths),
        ("prompt tokens", case.prompt),
    ):
        if not 1 <= value <= MOST:
            raise UserError(f"case {text!r} has {value} {what}; it must be 1 to {MOST}")
    return case


def parse_cases(text: str, prompt: int) -> list[Case]:
    """The cases of a list with commas, each once."""
    return list(dict.fromkeys(parse_case(part.strip(), prompt) for part in text.split(",") if part.strip()))


def branches(traces: Iterable[Trace]) -> int:
    """How many tokens a decoding step has."""
    return sum(trace.paths for trace in traces)
