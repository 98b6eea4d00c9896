"""The tokens that a trace has to run: what is given to a step, what waits, and what is run again.

What the open branches of a trace run next is one round: each of them samples one token from it. A round is given to one
step, or in parts to several where steps are bounded (`grant`). The tokens that are sampled meanwhile wait for the next
round. So siblings are never more than one token apart, and whatever depends on how far they have come (which path ends
first, what a controller is shown) comes out the same: see `drew`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from operator import attrgetter
from typing import NamedTuple

from polythink.trace.rollout import Segment


class Room(NamedTuple):
    """So many tokens, and the finish_reason where they run out."""

    tokens: int
    reason: str


@dataclass(slots=True)
class Branch:
    """The open end of a segment. `position` is that of its next token, `drawn` counts its sampled tokens."""

    segment: int
    record: Segment
    position: int
    key: int  # random stream
    temperature: float
    limit: int = 0  # tokens it may still sample before it is truncated
    limit_reason: str = ""  # the finish_reason it gets then: which budget the limit comes from
    drawn: int = 0
    written: int = 0  # tokens of its text so far, sampled or forced
    top: tuple[tuple[int, float], ...] = ()  # alternatives to the token that it has just sampled, if asked for


def tightest(*rooms: Room) -> Room:
    """The least of them; of equal ones the first."""
    return min(rooms, key=attrgetter("tokens"))


@dataclass(slots=True)
class Inputs:
    """Tokens to be run through the model, as columns; they go to consecutive slots from `slot` on.

    An index of -1 in `wanted` is the token before the first one: the prompt's last.
    """

    slot: int = 0
    tokens: list[int] = field(default_factory=list)
    segments: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    wanted: list[tuple[int, Branch]] = field(default_factory=list)  # the branch continues after the token of that index
    head: int = 0  # how many of them, at the beginning, are the prompt's or run again

    @property
    def columns(self) -> tuple[list[int], list[int], list[int]]:
        return self.tokens, self.segments, self.positions

    def after(self, first: Inputs, skipped: int = 0) -> Inputs:
        """These after others, of which some at the beginning are left out."""
        columns = (before[skipped:] + own for before, own in zip(first.columns, self.columns, strict=True))
        shifted = [(index + len(first.tokens) - skipped, branch) for index, branch in self.wanted]
        wanted = [(index - skipped, branch) for index, branch in first.wanted]
        return Inputs(first.slot, *columns, wanted + shifted)

    def cut(self, branches: int, most: int) -> tuple[Inputs, Inputs]:
        """So many of its branches and tokens, and the rest."""
        at = self.wanted[branches - 1][0] + 1 if branches < len(self.wanted) else len(self.tokens)
        at = min(at, max(most, 1))
        first = Inputs(0, *(column[:at] for column in self.columns), [w for w in self.wanted if w[0] < at])
        wanted = [(index - at, branch) for index, branch in self.wanted if index >= at]
        return first, Inputs(0, *(column[at:] for column in self.columns), wanted)


class Tokens:
    """What all that runs traces keeps of their tokens; `TraceState` writes them."""

    prompt: tuple[int, ...]

    def __init__(self) -> None:
        self.records: list[Segment] = []
        self.ends: list[int] = []  # last position of each segment
        self.opened: list[int] = []  # segments that the backend does not know yet
        self.pending = Inputs()  # the next round, as far as it is known
        self.round = Inputs()  # what has not been given of the round that is given in parts
        self.undrawn = 0  # branches that have not sampled in the round that is given in parts; 0: there is none
        self.again = Inputs()  # what is run again before it, after the trace has lost its row
        self.grant: int | None = None  # branches that the next step may run; None: all
        self.shared = 0  # prompt tokens that are read from another row
        self.read = 0  # prompt tokens that have been taken, or are shared
        self.slot = 0  # tokens that have been taken
        self._last_width = 1

    @property
    def width(self) -> int:
        """Branches that the next step would run if it may run all."""
        return len(self.round.wanted) or len(self.pending.wanted) or self._last_width

    @property
    def parted(self) -> bool:
        """Is a round given in parts, and not over?"""
        return bool(self.undrawn or self.round.tokens)

    @property
    def waiting(self) -> list[int]:
        """The segments of the tokens that wait, one for each."""
        return self.round.segments + self.pending.segments

    def take(self, most: int) -> Inputs:
        """The tokens of the next step.

        At most `most` tokens of the prompt and of what is run again; everything after these comes whole, so that
        sibling paths stay in lock step, or as much of it as `grant` says, and then no more than `most` tokens either.
        """
        first, size = self.read, len(self.prompt)
        if first == size and not self.again.tokens:
            return self._placed(self._next(most))
        self.read = min(first + most, size)
        n = self.read - first
        head = Inputs(0, list(self.prompt[first : self.read]), [0] * n, list(range(first, self.read)))
        for columns, taken in zip(self.again.columns, head.columns, strict=True):
            taken += columns[: most - n]
            del columns[: most - n]
        if self.read < size or self.again.tokens:
            return self._placed(head)
        whole = self._next(most).after(head)
        whole.head = len(head.tokens)
        return self._placed(whole)

    def _placed(self, inputs: Inputs) -> Inputs:
        inputs.slot = self.slot
        self.slot += len(inputs.tokens)
        return inputs

    def _next(self, most: int) -> Inputs:
        """The next round, or what may be given of it; nothing while all of the last one is given and not drawn."""
        if not self.parted:
            self._last_width = len(self.pending.wanted)
            if self.grant is None or (self._last_width <= self.grant and len(self.pending.tokens) <= most):
                whole, self.pending = self.pending, Inputs()
                return whole
            self.round, self.pending, self.undrawn = self.pending, Inputs(), self._last_width
        part, self.round = self.round.cut(self.grant or self._last_width, most)
        return part

    def drew(self) -> None:
        """A branch has sampled. While `undrawn`, others of its round have not: nothing may ask how far they are."""
        self.undrawn = max(self.undrawn - 1, 0)

    def put_back(self, inputs: Inputs) -> None:
        """What `take` has given last, a whole round, is pending again."""
        assert not self.parted, "a round that is given in parts"
        self.pending, self.slot = inputs, inputs.slot

    def attach(self, prefix: int) -> None:
        """The first tokens of the prompt are read from another row; comes before anything is taken."""
        self.shared = self.read = prefix

    def give_back(self, inputs: Inputs) -> None:
        """What was taken last will not be run: its branches wait again. Comes before `rewind`."""
        if inputs.wanted and self.parted:
            self.round = self.round.after(inputs, inputs.head)
        elif inputs.wanted:
            self.pending = self.pending.after(inputs, inputs.head)

    def rewind(self) -> None:
        """The trace has lost its row: all that has been taken is taken again. What has been sampled stands.

        Segments are run one after the other, in the order in which they opened: each after all that it follows.
        """
        waiting = Counter(self.waiting)
        self.again = Inputs()
        for segment, record in enumerate(self.records[1:], start=1):
            first, n = self.ends[segment] - len(record.tokens) + 1, len(record.tokens) - waiting[segment]
            self.again.tokens += record.tokens[:n]
            self.again.segments += [segment] * n
            self.again.positions += range(first, first + n)
        self.opened = list(range(len(self.records)))
        self.shared = self.read = self.slot = 0

    def _run(self, token: int, segment: int, position: int) -> None:
        self.pending.tokens.append(token)
        self.pending.segments.append(segment)
        self.pending.positions.append(position)

    def _want(self, branch: Branch) -> None:
        """Sample the branch's next token from the logits of the token that was added last."""
        self.pending.wanted.append((len(self.pending.tokens) - 1, branch))
