"""What text training reads: pairs as token ids, put together in batches of so many examples or of so many tokens.

The batches of a step depend on (seed, step) alone, so a resumed run reads what an uninterrupted one would have read.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from polythink.errors import UserError
from polythink.text.evaluate import groups
from polythink.text.model import Example
from polythink.train.data import epoch_index
from polythink.train.optimiser import micro_batches


def without_long(examples: Sequence[Example], max_tokens: int, dropped: Counter) -> list[Example]:
    """Those with no more than `max_tokens` on a side; the others are counted in `dropped`."""
    found = [example for example in examples if example.longest <= max_tokens]
    dropped["too long"] += len(examples) - len(found)
    if not found:
        raise UserError(f"none of the {len(examples)} pairs has at most {max_tokens} tokens a side; raise max_tokens")
    return found


@dataclass(frozen=True)
class ByCount:
    """So many examples a step, in forwards of at most `micro`; all once an epoch, in another order each time."""

    examples: Sequence[Example]
    size: int
    micro: int
    seed: int

    def forwards(self, step: int) -> list[list[Example]]:
        """The examples of a step, counted from 0, forward by forward."""
        places = range(step * self.size, (step + 1) * self.size)
        taken = [self.examples[epoch_index(len(self.examples), self.seed, place)] for place in places]
        return [[taken[i] for i in micro] for micro in micro_batches([e.longest for e in taken], self.micro)]

    @property
    def an_epoch(self) -> float:
        """Steps in an epoch."""
        return len(self.examples) / self.size


@dataclass(frozen=True)
class ByTokens:
    """Fixed batches of neighbours in length, in another order each epoch; `accumulate` of them a step."""

    examples: Sequence[Example]
    batches: Sequence[Sequence[int]]
    accumulate: int
    seed: int

    def forwards(self, step: int) -> list[list[Example]]:
        places = range(step * self.accumulate, (step + 1) * self.accumulate)
        taken = [self.batches[epoch_index(len(self.batches), self.seed, place)] for place in places]
        return [[self.examples[i] for i in batch] for batch in taken]

    @property
    def an_epoch(self) -> float:
        return len(self.batches) / self.accumulate


def by_tokens(examples: Sequence[Example], tokens: int, accumulate: int, seed: int) -> ByTokens:
    """Batches whose longer side, padded, has at most so many tokens in all; a longer example is a batch of its own."""
    order = list(range(len(examples)))
    random.Random(seed).shuffle(order)
    order.sort(key=lambda i: (len(examples[i].source), len(examples[i].target)))
    return ByTokens(examples, groups(order, examples, tokens), accumulate, seed)
