"""A stand-in for llama.cpp's memory: cells with positions and sequences, its rules, and logits by masked forwards.

What llama.cpp only tolerates is an error here: a cell that is added twice to a sequence, a sequence that is not there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from polythink.engine.llama.memory import BLOCK, MOST_SEQUENCES
from polythink.models.forward import rendered
from polythink.models.lm import LanguageModel


@dataclass(eq=False)
class Cell:
    """`sees`: the cells that its token read, itself among them. Cells of no sequence stay, for those that read them."""

    token: int
    position: int
    sequences: set[int]
    sees: list[Cell]
    origin: int  # the sequence that it was run in


class StandIn:
    """Weights of a transformers model, see `polythink.engine.llama.memory.Source`."""

    float32 = True

    def __init__(self, lm: LanguageModel) -> None:
        self.model = lm.model
        self.made: list[StandInCells] = []
        self.peak = 0  # sequences at a time

    def cells(self, size: int, exact: bool) -> StandInCells:
        self.made.append(StandInCells(self, size))
        return self.made[-1]

    def slot_bytes(self, exact: bool) -> int:
        return 64


class StandInCells:
    def __init__(self, source: StandIn, size: int, cells: tuple[Cell, ...] = ()) -> None:
        self.source, self.size, self.all = source, -(-size // BLOCK) * BLOCK, list(cells)

    def _of(self, sequence: int) -> list[Cell]:
        assert 0 <= sequence < MOST_SEQUENCES
        return [cell for cell in self.all if sequence in cell.sequences]

    @property
    def used(self) -> int:
        return sum(bool(cell.sequences) for cell in self.all)

    def decode(self, token, position, sequence, wanted):
        assert len(token) == len(position) == len(sequence) == len(wanted)
        last = {s: max((c.position for c in self._of(s)), default=-1) for s in map(int, sequence)}
        for t, p, s in zip(token.tolist(), position.tolist(), sequence.tolist(), strict=True):
            assert p == last[s] + 1, f"position {p} of sequence {s} after {last[s]}"
            last[s] = p
            self.all.append(Cell(t, p, {s}, [], s))
        assert self.used <= self.size, "no free cell"
        self.source.peak = max(self.source.peak, len({s for cell in self.all for s in cell.sequences}))
        own = self.all[-len(token) :]
        for cell in own:
            cell.sees = self.seen_by(cell)
        logits = self._logits([cell for cell, want in zip(own, wanted, strict=True) if want])
        read = self.read()
        self.all = [cell for cell in self.all if cell in read]
        return logits

    def seen_by(self, cell: Cell) -> list[Cell]:
        """What a token reads, as it is run."""
        return [c for c in self.all if cell.origin in c.sequences and c.position <= cell.position]

    def read(self) -> set[Cell]:
        """The cells that are in a sequence, and those that were read by them."""
        found, waiting = set(), [cell for cell in self.all if cell.sequences]
        while waiting:
            cell = waiting.pop()
            if cell not in found:
                found.add(cell)
                waiting += [other for other in cell.sees if other not in found]
        return found

    @torch.no_grad()
    def _logits(self, asked: list[Cell]) -> np.ndarray:
        model, place = self.source.model, {cell: i for i, cell in enumerate(self.all)}
        mask = torch.zeros(len(self.all), len(self.all), dtype=torch.bool)
        for i, cell in enumerate(self.all):
            mask[i, [place[other] for other in cell.sees]] = True
        out = model(
            input_ids=torch.tensor([[cell.token for cell in self.all]]),
            position_ids=torch.tensor([[cell.position for cell in self.all]]),
            attention_mask=rendered(model, mask[None, None]),
            use_cache=False,
        )
        return out.logits[0, [place[cell] for cell in asked]].float().numpy()

    def copy(self, source: int, target: int, first: int = 0) -> None:
        moved = [cell for cell in self._of(source) if cell.position >= first]
        assert source != target
        assert moved, f"nothing to copy from sequence {source}"
        assert not any(target in cell.sequences for cell in moved), f"a cell is in sequence {target} already"
        for cell in moved:
            cell.sequences.add(target)

    def drop(self, sequence: int) -> None:
        for cell in self._of(sequence):
            cell.sequences.discard(sequence)

    def clear(self) -> None:
        self.all.clear()

    def grown(self, size: int) -> StandInCells:
        assert size > self.size
        larger = StandInCells(self.source, size, tuple(self.all))
        self.close()
        self.source.made.append(larger)
        return larger

    def close(self) -> None:
        self.all, self.size = [], 0
