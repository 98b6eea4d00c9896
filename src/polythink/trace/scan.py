"""A text as tokens: the tags of a dialect, and the runs of text between them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from polythink.trace.production import Dialect

REPEATABLE = ("path_open", "summary_open")  # what stands for a misplaced tag in its own element


class Token(NamedTuple):
    """A tag, a run of `text` between tags, or the `end`.

    `kind` of a tag: `block_open`, `path_close`, ..: an element and a side. Tags that close a block share a kind.
    """

    kind: str
    text: str
    start: int
    label: int = 0  # the number in a path's tag


def scan(text: str, dialect: Dialect) -> Iterator[Token]:
    """The tags of a text and the text between them, in order, closed by one `end` token.

    Where the runtime replaces misplaced tags, an opening tag that repeats the tag before it is part of the text:
    nothing nests there, so it is inside the element that it would open. A closing tag that several elements share
    closes the one that was opened last and is still open.
    """
    pattern, kinds, numbered, shared = dialect.spelled
    replaced = dialect.misplaced_tags == "replace"
    opened = _Opened(dialect) if shared else None
    done, last = 0, ""
    for match in pattern.finditer(text):
        tag, start, group = match[0], match.start(), match.lastindex
        kind, label = (numbered[group - 1], int(match[group])) if group else (kinds[tag], 0)
        if replaced and tag == last and kind in REPEATABLE:
            continue
        last = tag
        if opened:
            kind = opened.kind(kind, tag)
        if start > done:
            yield Token("text", text[done:start], done)
        yield Token(kind, tag, start, label)
        done = match.end()
    if done < len(text):
        yield Token("text", text[done:], done)
    yield Token("end", "", len(text))


class _Opened:
    """The elements that are open, innermost last: which of them a shared closing tag closes."""

    def __init__(self, dialect: Dialect) -> None:
        self.shared = dialect.spelled.shared
        self.elements: list[str] = []

    def kind(self, kind: str, tag: str) -> str:
        """The kind of the next tag; `kind` is what it is where nothing is open."""
        element, side = kind.split("_")
        innermost = self.elements[-1] if self.elements else ""
        if side == "open" and element != "block":
            self.elements.append(element)
        elif side == "close" and innermost in self.shared.get(tag, (element,)):
            kind = f"{self.elements.pop()}_close"
        return kind
