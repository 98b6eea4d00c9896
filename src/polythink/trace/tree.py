"""A trace as a tree: text, and blocks of paths with a summary. Paths and summaries are traces themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Trace:
    """Alternating text and blocks. Text parts are non-empty and never adjacent, so equal traces compare equal."""

    parts: tuple[str | Block, ...] = ()

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks of this level, in order (not those nested inside a path or summary)."""
        return tuple([p for p in self.parts if isinstance(p, Block)])

    def walk(self) -> Iterator[Block]:
        """Every block at every depth, outer before inner."""
        waiting = [*reversed(self.blocks)]  # no recursion: a tree that was made by hand may be of any depth
        while waiting:
            block = waiting.pop()
            yield block
            waiting += reversed([inner for part in (*block.paths, block.summary) for inner in part.blocks])


@dataclass(frozen=True)
class Plan:
    """What is said before the paths: free text (`goal`), and one outline for each path, verbatim."""

    goal: str = ""
    outlines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Block:
    """Independent paths and the summary that joins them (empty in dialects that have none).

    `labels`: the paths' numbers, in dialects that number them. `plan`: in dialects that have one.
    """

    paths: tuple[Trace, ...]
    summary: Trace = Trace()
    labels: tuple[int, ...] = ()
    plan: Plan | None = None

    def numbered(self) -> Iterator[tuple[int, Trace]]:
        """Each path with its number, 0 where paths have none."""
        return zip(self.labels or (0,) * len(self.paths), self.paths, strict=True)
