"""A verdict on an answer."""

from __future__ import annotations

from dataclasses import dataclass

# `unparsed`: no answer was found. `timeout`: the comparison, or the program that is the answer, ran out of its time or
# its memory.
VERDICTS = ("right", "wrong", "unparsed", "timeout")


@dataclass(frozen=True)
class Grade:
    """A verdict (one of `VERDICTS`) and the extracted answer, None if there was none.

    `share`: which share of the answer is right, for tasks that count parts (`attribution`: lines of the summary).
    `lenient`: the answer stands in a form that only the rule `lenient` reads; `strict` would say `unparsed`.
    """

    verdict: str
    extracted: str | None
    share: float | None = None
    lenient: bool = False

    @property
    def decided(self) -> bool:
        """Whether the answer was judged: not if the comparison ran out of time. A program that does so is no answer."""
        return self.verdict != "timeout" or self.share is not None
