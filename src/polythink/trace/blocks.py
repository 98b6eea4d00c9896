"""Well-formed blocks in a text that may be malformed elsewhere, counted in one pass, however many tags it holds.

A mistake fails every block that is open where it is met, and none that was complete before. So each token is read once:
the open blocks lie on a stack, each knows how many complete blocks it holds, and these count when it fails.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from polythink.trace.dialect import PARALLEL_R1, Dialect
from polythink.trace.parse import MAX_DEPTH, Token, scan


def complete_blocks(text: str, dialect: Dialect = PARALLEL_R1) -> int:
    """Number of outermost well-formed blocks, as `parse` would read each from its opening tag."""
    counter = _Counter(dialect)
    for token in scan(text, dialect):
        counter.read(token)
    return counter.count


@dataclass
class _Open:
    """A block that is not complete yet. `state`: in which element it is, `between` its paths, or before its summary."""

    state: str = "between"
    label: int = 0  # of the path that is open
    paths: list[int] = field(default_factory=list)  # numbers of the paths so far
    inside: list[int] = field(default_factory=list)  # complete blocks in each of them, the summary's last


class _Counter:
    def __init__(self, dialect: Dialect) -> None:
        self.dialect, self.count = dialect, 0
        self.open: deque[_Open] = deque()  # outermost first

    def read(self, token: Token) -> None:
        if self.open:
            if self.fits(token):
                return
            self.fail(len(self.open))
        if token.kind == self.dialect.opens_block:  # where the open blocks have failed, a new one may begin
            self.begin(token)

    def fits(self, token: Token) -> bool:
        """Take the next token of the innermost open block; False if it is a mistake there."""
        block = self.open[-1]
        if block.state in ("path", "summary"):
            if (token.kind, token.label) == (f"{block.state}_close", block.label):
                self.close(block)
                return True
            nested = token.kind == self.dialect.opens_block and self.dialect.nests
            return token.kind == "text" or (nested and self.begin(token))
        if token.kind == "text":
            return token.text.isspace()
        if block.state == "between" and token.kind == "path_open":
            return self.path(block, token)
        if block.state == "between" and self.dialect.block_open:
            block.state = "join"
            return token.kind == "block_close" and len(block.paths) >= self.dialect.min_paths
        block.state, block.label = "summary", 0
        block.inside.append(0)
        return token.kind == "summary_open"

    def begin(self, token: Token) -> bool:
        """Open a block; False if its first path cannot begin it. The outermost one fails where it is too deep."""
        if len(self.open) == MAX_DEPTH:
            self.fail(1)
        self.open.append(_Open())
        if self.dialect.block_open or self.path(self.open[-1], token):
            return True
        self.open.pop()
        return False

    def path(self, block: _Open, token: Token) -> bool:
        """Open a path. Without block tags, a repeated number fails only what begins up to its first path."""
        label = token.label
        if self.dialect.inventory and not 1 <= label <= self.dialect.inventory:
            return False
        if label and label in block.paths:
            if self.dialect.block_open:
                return False
            rest = block.paths.index(label) + 1
            self.open.pop()
            self.fail(len(self.open))
            self.count += sum(block.inside[:rest])
            block.paths, block.inside = block.paths[rest:], block.inside[rest:]
            self.open.append(block)
        block.state, block.label = "path", label
        block.paths.append(label)
        block.inside.append(0)
        return True

    def close(self, block: _Open) -> None:
        """Leave a path or summary; after the summary the block is complete."""
        if block.state == "path":
            block.state = "between"
            return
        self.open.pop()
        if self.open:  # it counts when what is open around it fails
            self.open[-1].inside[-1] += 1
        else:
            self.count += 1

    def fail(self, blocks: int) -> None:
        """The outermost open blocks are malformed: what is complete inside them is outermost now."""
        for _ in range(blocks):
            self.count += sum(self.open.popleft().inside)
