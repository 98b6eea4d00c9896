"""The backend for models with recurrent, linear or convolutional layers: each branch has a cache of its own.

Such a layer folds the tokens that it has read into a state of fixed size, in one order. So a fork copies the state (and
with it the keys and values of the layers that keep some), and several paths cannot be joined by reading the caches of
all: every segment follows exactly one other. That is so in the modes `sequential` and `reread`.

Caches are the model's own, as trees of tensors (`caches.py`). Branches that write one token each run as one batch, keys
and values of shorter ones padded on the left. A batch stays together until another set of branches runs; then the
caches are copied into new batches.

Memory: a segment has a cache from its first token until the engine says that it is neither run nor followed any more
(`keep`). A batch is given up as soon as a branch has left it, and those that stay get copies, so that no cache keeps
others alive. A trace in a block of P paths holds P + 1 caches, any other one.

Axis legend: W wanted tokens, b branches of a batch, t tokens of a branch in this step, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from polythink.engine.backends.base import TorchBackend
from polythink.engine.backends.caches import Dims, Row, copied, measure, signature, stack
from polythink.engine.step import StepBatch
from polythink.errors import UserError
from polythink.models.forward import cannot_join, returned_cache
from polythink.models.lm import LanguageModel
from polythink.models.thoughts import forward_kwargs, thoughts_of

Key = tuple[int, int]  # cache row and segment


@dataclass(eq=False)
class _Group:
    """The cache of a batch, and the segments that its rows belong to; None for one that has left."""

    cache: Any
    members: list[Key | None]
    lengths: list[int]  # tokens that each row has read
    signature: Hashable = None  # made when it is asked for


@dataclass(frozen=True, eq=False)
class _Run:
    """The tokens of one segment in a step, as indices into the batch."""

    key: Key
    tokens: list[int] = field(default_factory=list)


class RecurrentBackend(TorchBackend):
    """`stacks`: several branches in one forward. `pads`: such of different lengths too. `chunks`: several tokens of a
    branch in one forward, on top of a state.

    A model that does not allow one of them runs without, more slowly; its self-check says which.
    """

    kind = "recurrent"
    joins_caches = False
    forgets = True

    def __init__(self, lm: LanguageModel, stacks: bool = True, pads: bool = True, chunks: bool = True) -> None:
        super().__init__(lm)
        self.stacks, self.pads, self.chunks = stacks, pads and stacks and "attention_mask" in self._takes, chunks
        self._known_dims: Dims | None = None
        self.clear()

    @property
    def about(self) -> str:
        """The kind in words, with what makes it slower than it could be."""
        apart = "" if self.pads else "lengths apart" if self.stacks else "branch by branch"
        return ", ".join(filter(None, (apart, "" if self.chunks else "token by token", self.kind)))

    # --- the caches

    def clear(self) -> None:
        """Free all caches."""
        self._follows: dict[Key, Key | None] = {}
        self._prefixes: dict[int, int] = {}  # of rows that are attached to one
        self._gone: set[Key] = set()  # segments that have run and have been given up
        self._caches: dict[Key, tuple[_Group, int]] = {}  # of each segment that has run: its batch, and its row there

    def bytes_for(self, tokens: int, prefix: int = 0, segments: int = 1) -> int:
        """0: what a row occupies depends on how many of its branches are open."""
        return 0

    def reserve(self, rows: int, slots: int, memory: int | None = None) -> None:
        """Nothing to do: caches grow with their tokens."""
        assert memory is None

    def attach(self, row: int, prefix: int) -> None:
        """The row goes on from a copy of the prefix's cache."""
        self.keep(row, ())
        self._prefixes[row] = prefix

    def open(self, row: int, segment: int, follows: Sequence[int]) -> None:
        """Enter a segment; segment 0 starts a new trace in that row. `UserError` where it would follow several."""
        if len(follows) > 1:
            raise UserError(cannot_join(self.lm.model))
        before = (row, follows[0]) if follows else None
        if segment == 0:
            if row in self._prefixes:
                before = (self._prefixes.pop(row), 0)
            else:
                self.keep(row, ())
        self._follows[row, segment] = before

    def keep(self, row: int, segments: Collection[int]) -> None:
        """Forget all segments of a row but these: no other is run or followed any more."""
        kept = {self._source((row, segment)) for segment in segments}
        for key in [key for key in self._caches if key[0] == row and key not in kept]:
            self._leave(key)
            self._gone.add(key)
        if not segments:
            for key in [key for key in self._follows if key[0] == row]:
                del self._follows[key]
                self._gone.discard(key)

    def check_scaling(self) -> None:
        """`UserError`: attention is scaled after a join, and there is none."""
        raise UserError(cannot_join(self.lm.model))

    @property
    def held_caches(self) -> int:
        """How many segments have a cache."""
        return len(self._caches)

    def _source(self, key: Key | None) -> Key | None:
        """The segment whose cache a segment goes on from: its own, or that of the last before it that has tokens."""
        while key is not None and key not in self._caches:
            assert key not in self._gone, f"segment {key[1]} of row {key[0]} is followed after it has been given up"
            key = self._follows[key]
        return key

    def _leave(self, key: Key) -> None:
        group, index = self._caches.pop(key)
        group.members[index] = None

    # --- one step

    def logits(self, batch: StepBatch) -> torch.Tensor:
        """Run the tokens: logits (W, V) after each wanted one. The self-check reads these."""
        wanted: dict[int, list[int]] = {}  # of each token: which of the W rows it gives
        for place, token in enumerate(batch.wanted.tolist()):
            wanted.setdefault(token, []).append(place)
        waiting: dict[Key, _Run] = {}
        for token, key in enumerate(zip(batch.row.tolist(), batch.segment.tolist(), strict=True)):
            waiting.setdefault(key, _Run(key)).tokens.append(token)
        found: dict[int, torch.Tensor] = {}  # by place
        with self.hold():
            while waiting:  # a segment may have its first token in the step in which the one it follows has its last
                ready = [run for run in waiting.values() if not self._waits(run.key, waiting)]
                for runs in self._batches(ready):
                    self._forward(batch, runs, wanted, found)
                for run in ready:
                    del waiting[run.key]
            self._compact()
            if not found:
                return torch.empty(0, self.config.vocab_size, device=self.lm.device)
            return torch.stack([found[place] for place in range(len(batch.wanted))])

    def _waits(self, key: Key, waiting: Collection[Key]) -> bool:
        """Must a segment that this one goes on from run first?"""
        while key not in self._caches:
            key = self._follows[key]
            if key is None or key in waiting:
                return key is not None
        return False

    def _batches(self, runs: Iterable[_Run]) -> list[list[_Run]]:
        """The runs that make up one forward each: with as many tokens, on caches that can be stacked."""
        if not self.stacks:
            return [[run] for run in runs]
        alike: dict[Hashable, list[_Run]] = {}
        for run in runs:
            source, shapes, length = self._source(run.key), None, None
            if source is not None:
                group, row = self._caches[source]
                group.signature = shapes = group.signature or signature(group.cache, self._dims)
                padded = self.pads and len(run.tokens) == 1 and self._dims.may_be_padded
                length = None if padded or not self._dims.tokens else group.lengths[row]
            alike.setdefault((len(run.tokens), shapes, length), []).append(run)
        return list(alike.values())

    def _forward(
        self, batch: StepBatch, runs: list[_Run], wanted: dict[int, list[int]], found: dict[int, torch.Tensor]
    ) -> None:
        """Run a batch on the caches that it goes on from; each segment has a cache of its own afterwards."""
        cache, lengths = self._gathered(runs)
        index = np.array([run.tokens for run in runs])  # (b, t)
        width = index.shape[1]
        size = width if cache is None or self.chunks else 1
        for begin in range(0, width, size):
            part = index[:, begin : begin + size]
            columns = sorted({column for column in range(part.shape[1]) if any(x in wanted for x in part[:, column])})
            logits, cache = self._call(batch, part, columns, cache, lengths)
            lengths = [length + part.shape[1] for length in lengths]
            for row, tokens in enumerate(part[:, columns].tolist()):
                for column, token in enumerate(tokens):
                    for place in wanted.get(token, ()):
                        found[place] = logits[row, column]
        group = _Group(cache, [run.key for run in runs], lengths)
        for row, run in enumerate(runs):
            if run.key in self._caches:
                self._leave(run.key)
            self._caches[run.key] = (group, row)

    def _gathered(self, runs: Sequence[_Run]) -> tuple[Any, list[int]]:
        """The cache of a batch, and how long each of its rows is; None at the start of traces."""
        sources = [self._source(run.key) for run in runs]
        if sources[0] is None:
            return None, [0] * len(runs)
        rows = [self._caches[source] for source in sources]
        group = rows[0][0]
        if sources == group.members == [run.key for run in runs]:
            return group.cache, group.lengths
        return self._stacked(rows), [group.lengths[row] for group, row in rows]

    def _stacked(self, rows: Sequence[tuple[_Group, int]]) -> Any:
        """A cache of copies of these rows."""
        if len(rows) == 1 and len(rows[0][0].members) == 1:
            return copied(rows[0][0].cache)
        return stack([Row(group.cache, row, group.lengths[row]) for group, row in rows], self._dims)

    @property
    def _dims(self) -> Dims:
        """The dimensions of a cache's tensors; found out once, by forwards of a few tokens."""
        if self._known_dims is None:
            self._known_dims = measure(
                lambda rows, n: self._call_model(torch.arange(n, device=self.lm.device).expand(rows, -1), None, {})[1]
            )
        return self._known_dims

    def _call(
        self, batch: StepBatch, index: np.ndarray, columns: list[int], cache: Any, lengths: Sequence[int]
    ) -> tuple[torch.Tensor, Any]:
        """Logits (b, columns, V) and the cache after the tokens of that index (b, t)."""
        model, device = self.lm.model, self.lm.device

        def tensor(values: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(values[index]).to(device)

        extras: dict[str, Any] = {}
        if "position_ids" in self._takes:
            extras["position_ids"] = tensor(batch.position)
        if len(set(lengths)) > 1 and self._dims.tokens:
            before = max(lengths) - torch.tensor(lengths, device=device)
            slots = torch.arange(max(lengths) + index.shape[1], device=device)
            extras["attention_mask"] = (slots >= before[:, None]).long()
        picked = torch.tensor(columns or [0], device=device)
        if self._keeps_logits:
            extras["logits_to_keep"] = picked
        if thoughts_of(model) is not None or batch.scale.max() > 1:
            extras |= forward_kwargs(model, tensor(batch.label), tensor(batch.scale))
        logits, cache = self._call_model(tensor(batch.token), cache, extras)
        logits = logits if self._keeps_logits else logits[:, picked]
        assert logits.shape[1] == len(picked), "the model does not heed logits_to_keep"
        return logits, cache

    def _call_model(self, tokens: torch.Tensor, cache: Any, extras: dict[str, Any]) -> tuple[torch.Tensor, Any]:
        """Logits, and the cache after these tokens (b, t): a new one of the model's own making where none is given."""
        given = {} if cache is None else {self._cache_argument: cache}
        out = self.lm.model(input_ids=tokens, use_cache=True, **given, **extras)
        after = returned_cache(out)
        if cache is None and after is None:
            raise NotImplementedError("the model returns no cache: it keeps its state to itself, or has none")
        return out.logits, cache if after is None else after

    def _compact(self) -> None:
        """Give up batches that a branch has left; those that stay get caches of their own."""
        for key, (group, row) in list(self._caches.items()):
            if None in group.members:
                self._caches[key] = (_Group(self._stacked([(group, row)]), [key], [group.lengths[row]]), 0)
