"""Well-formed blocks in a text that may be malformed elsewhere, counted in one pass, however many tags it holds.

A mistake fails every block that is open where it is met, and none that was complete before. So each token is read once:
the open blocks lie on a stack, each knows how many complete blocks it holds, and these count when it fails.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from polythink.trace.dialect import PARALLEL_R1, Dialect
from polythink.trace.parse import MAX_DEPTH
from polythink.trace.scan import Token, scan


def complete_blocks(text: str, dialect: Dialect = PARALLEL_R1) -> int:
    """Number of outermost well-formed blocks, as `parse` would read each from its opening tag."""
    return complete_among(scan(text, dialect), dialect)


def complete_among(tokens: Iterable[Token], dialect: Dialect) -> int:
    """`complete_blocks` of a text that has been scanned."""
    counter = _Counter(dialect)
    for token in tokens:
        counter.read(token)
    return counter.count


@dataclass
class _Open:
    """A block that is not complete yet.

    `state`: the element that is open; or `begun` (the plan is due), `between` paths, or `after` them.
    """

    state: str
    close: str = ""  # the closing tag of the path or summary that is open
    outlines: int = 0
    paths: list[int] = field(default_factory=list)  # numbers of the paths so far
    inside: list[int] = field(default_factory=list)  # complete blocks in each of them, the summary's last
    followed: int = 0  # how many of the tags after the paths have been read


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
            if token.text == block.close and token.kind == f"{block.state}_close":
                self.close(block)
                return True
            nested = token.kind == self.dialect.opens_block and self.dialect.nests
            return token.kind == "text" or (nested and self.begin(token))
        if block.state in ("plan", "outline"):
            return self.plan(block, token)
        if token.kind == "text":
            return token.text.isspace()
        if block.state == "begun":
            block.state = "plan"
            return token.kind == "plan_open"
        if block.state == "between" and token.kind == "path_open":
            return self.path(block, token)
        return self.follow(block, token)

    def begin(self, token: Token) -> bool:
        """Open a block; False if its first path cannot begin it. The outermost one fails where it is too deep."""
        if len(self.open) == MAX_DEPTH:
            self.fail(1)
        d = self.dialect
        if d.opening:
            self.open.append(_Open("begun" if d.plan else "between"))
            return True
        self.open.append(_Open("plan" if d.plan else "between"))
        if d.plan or self.path(self.open[-1], token):
            return True
        self.open.pop()
        return False

    def plan(self, block: _Open, token: Token) -> bool:
        """Take a token of the plan, or of the outline that is open."""
        d, kind = self.dialect, token.kind
        if block.state == "outline":
            if kind == "outline_close":
                block.state = "plan"
            return kind in ("text", "outline_close")
        if kind == "text":
            return not block.outlines or token.text.isspace()
        if kind == "outline_open":
            block.state = "outline"
            block.outlines += 1
            return True
        block.state = "between"
        return kind == "plan_close" and (not d.declares_paths or block.outlines >= d.paths.least)

    def path(self, block: _Open, token: Token) -> bool:
        """Open a path. In a block that begins with a path, a repeated number fails only what begins up to its first
        path."""
        d, label = self.dialect, token.label
        if d.inventory and not 1 <= label <= d.inventory:
            return False
        if d.declares_paths and len(block.paths) == block.outlines:
            return False
        if label and label in block.paths:
            if d.opens_block != "path_open":
                return False
            rest = block.paths.index(label) + 1
            self.open.pop()
            self.fail(len(self.open))
            self.count += sum(block.inside[:rest])
            block.paths, block.inside = block.paths[rest:], block.inside[rest:]
            self.open.append(block)
        block.state, block.close = "path", d.path_tags(label)[1]
        block.paths.append(label)
        block.inside.append(0)
        return True

    def follow(self, block: _Open, token: Token) -> bool:
        """Take the next of the tags after the paths; with the last of them the block is complete."""
        d = self.dialect
        if block.state == "between" and len(block.paths) < (block.outlines if d.declares_paths else d.paths.least):
            return False
        if (token.kind, token.text) != d.follows_paths[block.followed]:
            return False
        block.followed += 1
        if token.kind == "summary_open":
            block.state, block.close = "summary", d.summary.close
            block.inside.append(0)
        else:
            self.after(block)
        return True

    def close(self, block: _Open) -> None:
        """Leave a path or a summary."""
        if block.state == "path":
            block.state = "between"
        else:
            self.after(block)

    def after(self, block: _Open) -> None:
        """After a summary or a tag: the block is complete if nothing more follows."""
        block.state = "after"
        if block.followed < len(self.dialect.follows_paths):
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
