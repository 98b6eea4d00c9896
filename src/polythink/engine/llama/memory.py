"""What the backend needs of llama.cpp: a memory of cells that belong to sequences.

A cell holds a token's keys and values. It has a position and the sequences that it belongs to; a token of a sequence
reads the cells of that sequence up to its own position. Positions of a sequence are consecutive over the batches, but
several cells may be at one position, which is what a join needs.

Axis legend: N tokens of a batch, W wanted tokens, V vocabulary.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

BLOCK = 256  # cells: their number is rounded up to a multiple of this
MOST_SEQUENCES = 256  # as llama.cpp is compiled


class Cells(Protocol):
    """A memory, and what runs batches over it."""

    size: int  # number of cells

    def decode(self, token: np.ndarray, position: np.ndarray, sequence: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """Run (N,) tokens; logits (W, V) float32 after those where `wanted` (N,) is true, in their order."""

    def copy(self, source: int, target: int, first: int = 0) -> None:
        """The cells of one sequence from a position on belong to another one too."""

    def drop(self, sequence: int) -> None:
        """The sequence is empty; cells of no other one are free."""

    def clear(self) -> None:
        """All sequences are empty."""

    def grown(self, size: int) -> Cells:
        """A memory of more cells, with what this one holds; this one is closed."""

    def close(self) -> None:
        """Free the memory."""


class Source(Protocol):
    """The weights, of which memories are made."""

    float32: bool  # no weight is of another type: then decoding is exact to rounding

    def facts(self) -> dict[str, str]:
        """For a result's provenance: `model` (its file), `weights` (a hash of it), `dtype`."""

    def cells(self, size: int, exact: bool) -> Cells:
        """An empty memory of at least so many cells. `exact`: keys, values and attention in float32."""

    def slot_bytes(self, exact: bool) -> int:
        """Bytes of a token's keys and values over all layers."""
