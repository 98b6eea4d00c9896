"""The log-probabilities of given tokens: a prompt that is read in a row of its own, chunk by chunk between the steps.

Axis legend: C tokens of a chunk, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from polythink.engine.backends.base import LocalBackend
from polythink.engine.sampling import Likeliest, check_finite
from polythink.engine.step import StepBatch

ELEMENTS = 1 << 24  # of logits that there are at a time: 64 MB in float32


@dataclass(frozen=True)
class Scores:
    """Of each token its natural log-probability after all before it (0.0 for the first, which follows nothing), its
    rank among all tokens (1 is the likeliest; 0 for the first), and the likeliest tokens at its place with their
    log-probabilities (none for the first). At temperature 1, one causal reading."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    ranks: tuple[int, ...]
    top: tuple[tuple[tuple[int, float], ...], ...]


class Scoring:
    """A reading under way. `row` is None before it has begun, and after it has lost its row: then it begins anew."""

    def __init__(self, ids: Sequence[int], top: int, chunk: int, vocabulary: int) -> None:
        self.ids, self.top = tuple(ids), top
        self.chunk = max(1, min(chunk, ELEMENTS // vocabulary))
        self.lose()

    def lose(self) -> None:
        """The row is gone."""
        self.row: int | None = None
        self.read = 0
        self._logprobs, self._ranks, self._top = [0.0], [0], [()]

    @property
    def done(self) -> bool:
        return self.read >= len(self.ids) - 1  # what the last token predicts is not asked

    @property
    def scores(self) -> Scores:
        assert self.done
        return Scores(self.ids, tuple(self._logprobs), tuple(self._ranks), tuple(self._top))

    def advance(self, backend: LocalBackend) -> int:
        """Read a chunk; how many tokens it had."""
        first, last = self.read, min(self.read + self.chunk, len(self.ids) - 1)
        n = last - first
        batch = StepBatch.every(self.ids[first:last], np.zeros(n), np.arange(first, last), self.row, first)
        with backend.hold():
            logits = backend.logits(batch)
            following = torch.tensor(self.ids[first + 1 : last + 1], device=logits.device)
            x = logits.float()
            own = x.gather(1, following[:, None])
            logprobs = own[:, 0] - x.logsumexp(-1)
            self._ranks += ((x > own).sum(-1) + 1).tolist()
            self._logprobs += logprobs.double().tolist()
            check_finite(np.isfinite(self._logprobs[-n:]))
            if self.top:
                found = Likeliest(x, torch.ones(n, device=x.device), np.full(n, self.top))
                if x.is_cuda:
                    torch.cuda.synchronize(x.device)
                self._top += found.read().values()
            else:
                self._top += [()] * n
        self.read = last
        return n
