"""The strict parser: text to `Trace` by recursive descent, and one rule that names every mistake in the grammar.

    trace   = (text | block)*
    block   = <Parallel> space* (path space*){min_paths,} </Parallel> space* summary
    path    = <Path> trace </Path>
    summary = <Summary> trace </Summary>

In a dialect whose runtime forks, a block has no tags of its own and begins with its first path; where paths are
numbered, a path's two tags show the same number, and no number occurs twice in a block.

Where the runtime replaces misplaced tags (`Dialect.misplaced_tags`), it leaves an element's own opening tag within the
text. Such a tag is text, not structure, also in a teacher's response, which is trained on as if the runtime had written
it (`trace.tokens`).

White space between the structural tags of a block carries no meaning and is dropped; everything else is kept verbatim.
Only a response is ever parsed: a prompt that quotes the tags is plain text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from unicodedata import east_asian_width

from polythink.errors import UserError
from polythink.trace.dialect import NUMBER, PARALLEL_R1, TAG_KINDS, Dialect
from polythink.trace.tree import Block, Trace

MAX_DEPTH = 50  # blocks within blocks; far beyond any data, and well within Python's own recursion limit
WINDOW = 100  # characters of a long source line that an error shows

# Every mistake follows one rule: TAG (or text, or the end) inside ELEMENT opened at PLACE: expected X.
PLACES = {
    "text": "outside a block",
    "block": "inside the block opened at {opened}",
    "path": "inside path {number} opened at {opened}",
    "join": "after the paths of the block opened at {opened}",
    "summary": "inside the summary opened at {opened}",
}
# (where the parser is, what it meets) -> reason, for mistakes with a plainer name than the rule gives (`reason_of`)
REASONS = {
    ("text", "path_open"): "path_outside_block",
    ("text", "summary_open"): "summary_without_block",
    ("text", "depth"): "too_deep",
    ("block", "text"): "text_between_paths",
    ("block", "block_open"): "block_between_paths",
    ("block", "path_close"): "path_closed_twice",
    ("block", "block_close"): "too_few_paths",
    ("block", "repeated_number"): "number_twice",
    ("block", "number"): "unknown_number",
    ("path", "block_close"): "path_not_closed",
    ("path", "number"): "wrong_number",
    ("join", "text"): "text_before_summary",
    ("join", "between"): "text_between_paths",
    ("join", "path_close"): "path_closed_twice",
    ("join", "other"): "missing_summary",
    ("join", "end"): "cut_before_summary",
}


def reason_of(where: str, met: str) -> str:
    """The key of a mistake, to count by. Keys are stable: results that were counted earlier stay comparable."""
    if (where, met) in REASONS:
        return REASONS[where, met]
    if met == "end":
        return f"cut_in_{where}"
    element, side = met.split("_")
    if side == "close":
        return f"{element}_not_open" if where == "text" else f"{element}_close_in_{where}"
    return f"{element}_in_{where}"


class TraceError(UserError):
    """A mistake in a trace. `reason` is a short stable key to count by, `message` is for people.

    `offset` counts characters from 0, `line` and `column` from 1. `str` is the message, the source line and a caret.
    """

    def __init__(self, message: str, reason: str, text: str, offset: int) -> None:
        super().__init__(message, reason, text, offset)  # these as `args`, so that the error can be pickled
        self.message, self.reason, self.text, self.offset = message, reason, text, offset
        self.line, self.column = place(text, offset)

    def render(self) -> str:
        """`line L, column C: message`, the source line (a window of it if it is long) and a caret below the place."""
        line = self.text.split("\n")[self.line - 1]
        at = self.column - 1
        start = max(0, min(at - WINDOW // 2, len(line) - WINDOW))
        before, after = (_visible(part) for part in (line[start:at], line[at : start + WINDOW]))
        head = "…" if start else ""
        tail = "…" if start + WINDOW < len(line) else ""
        indent = " " * sum(2 if east_asian_width(c) in "WF" else 1 for c in head + before)
        return f"line {self.line}, column {self.column}: {self.message}\n  {head}{before}{after}{tail}\n  {indent}^"

    __str__ = render


def place(text: str, offset: int) -> tuple[int, int]:
    """Line and column of a character, both counted from 1."""
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)


def _visible(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


@dataclass(frozen=True)
class Token:
    """A tag (`kind` names its field in the dialect: `path_open`), a run of `text` between tags, or the `end`."""

    kind: str
    text: str
    start: int
    label: int = 0  # the number in a path's tag


@lru_cache
def _tag_pattern(dialect: Dialect) -> tuple[re.Pattern[str], dict[str, str]]:
    """A pattern that finds tags, and the kind of each. A number is found whether or not the inventory has it.

    Numbers have no leading zeros: `<think01>` is text, as it is for a tokenizer.
    """
    kinds = {getattr(dialect, kind): kind for kind in TAG_KINDS if getattr(dialect, kind)}
    longest_first = sorted(kinds, key=len, reverse=True)
    number = "(0|[1-9][0-9]{0,3})" if dialect.inventory else re.escape(NUMBER)
    return re.compile("|".join(re.escape(tag).replace(re.escape(NUMBER), number) for tag in longest_first)), kinds


def scan(text: str, dialect: Dialect) -> Iterator[Token]:
    """The tags of a text and the text between them, in order, closed by one `end` token.

    Where the runtime replaces misplaced tags, an opening tag that repeats the tag before it is part of the text:
    nothing nests there, so it is inside the element that it would open.
    """
    pattern, kinds = _tag_pattern(dialect)
    done, last = 0, ""
    for match in pattern.finditer(text):
        number = match[match.lastindex] if match.lastindex else ""
        kind = kinds[match[0].replace(number, NUMBER) if number else match[0]]
        if dialect.misplaced_tags == "replace" and kind.endswith("open") and match[0] == last:
            continue
        last = match[0]
        if match.start() > done:
            yield Token("text", text[done : match.start()], done)
        yield Token(kind, match[0], match.start(), int(number or 0))
        done = match.end()
    if done < len(text):
        yield Token("text", text[done:], done)
    yield Token("end", "", len(text))


def parse(text: str, dialect: Dialect = PARALLEL_R1) -> Trace:
    """The trace that a response spells, or `TraceError` at its first mistake."""
    parser = _Parser(text, dialect)
    trace = parser.trace()
    if parser.token.kind != "end":
        raise parser.mistake("text", f"text or {dialect.tags[0]}")
    return trace


def first_block(text: str, dialect: Dialect = PARALLEL_R1) -> Token | None:
    """The tag that opens the first block of a text, well formed or not; None without one."""
    return next((token for token in scan(text, dialect) if token.kind == dialect.opens_block), None)


def nested_block(text: str, dialect: Dialect = PARALLEL_R1) -> Token | None:
    """The tag that opens the first block inside a path of a well-formed text; None without one."""
    inside = 0
    for token in scan(text, dialect):
        if token.kind == dialect.opens_block and inside:
            return token
        inside += {"path_open": 1, "path_close": -1}.get(token.kind, 0)
    return None


class _Parser:
    """A cursor over the tokens. Each method reads one element of the grammar and leaves the cursor after it."""

    def __init__(self, text: str, dialect: Dialect) -> None:
        self.text, self.dialect = text, dialect
        self.tokens = list(scan(text, dialect))
        self.index = 0

    @property
    def token(self) -> Token:
        return self.tokens[self.index]

    def take(self) -> Token:
        self.index += 1
        return self.tokens[self.index - 1]

    def trace(self, depth: int = 0) -> Trace:
        """Text and blocks up to the first tag that is neither; the caller checks that tag."""
        parts: list[str | Block] = []
        opens = self.dialect.opens_block if self.dialect.nests or depth == 0 else ""
        while self.token.kind in ("text", opens):
            parts.append(self.take().text if self.token.kind == "text" else self.block(depth + 1))
        return Trace(tuple(parts))

    def block(self, depth: int = 1) -> Block:
        d = self.dialect
        if depth > MAX_DEPTH:
            raise self.mistake("text", f"no block more than {MAX_DEPTH} levels deep", met="depth")
        opened = self.take() if d.block_open else self.token
        paths: list[Trace] = []
        labels: list[int] = []
        while self.structural("path_open"):
            label = self.number(labels, opened)
            number = label or len(paths) + 1
            paths.append(self.element("path", depth, d.path_tags(label)[1], label, number))
            labels += [label] if label else []
        if d.block_open:
            first = d.path_tags(1)[0]
            if self.token.kind != "block_close" or len(paths) < d.min_paths:
                few = f"{first}, {len(paths)} of at least {d.min_paths} paths so far"
                wanted = few if len(paths) < d.min_paths else f"{first} or {d.block_close}"
                raise self.mistake("block", wanted, opened)
            self.take()
        if not self.structural("summary_open"):
            raise self.mistake("join", d.summary_open, opened, met=self.missing_summary())
        return Block(tuple(paths), self.element("summary", depth, d.summary_close), tuple(labels))

    def number(self, before: list[int], block: Token) -> int:
        """The number of the path that is about to be opened, 0 in a dialect without them."""
        label, inventory = self.token.label, self.dialect.inventory
        if label in before:
            raise self.mistake("block", "a number that no other path has", block, met="repeated_number")
        if inventory and not 1 <= label <= inventory:
            raise self.mistake("block", f"a number from 1 to {inventory}", block, met="number")
        return label

    def element(self, kind: str, depth: int, close: str, label: int = 0, number: int = 0) -> Trace:
        """The content of a path or summary; `close` is its closing tag."""
        opened = self.take()
        content = self.trace(depth)
        if (self.token.kind, self.token.label) != (f"{kind}_close", label):
            met = "number" if self.token.kind == f"{kind}_close" else ""
            raise self.mistake(kind, close, opened, number, met)
        self.take()
        return content

    def structural(self, kind: str) -> bool:
        """Skip white space; whether the next token is of that kind."""
        if self.token.kind == "text" and self.token.text.isspace():
            self.index += 1
        return self.token.kind == kind

    def missing_summary(self) -> str:
        """What is in place of a summary: text before a summary is one mistake, no summary at all is another."""
        if self.token.kind == "end" or self.cut_tag():
            return "end"
        after = self.tokens[self.index + 1].kind if self.token.kind == "text" else ""
        if not self.dialect.block_open:
            if after == "path_open":
                return "between"
            if self.token.kind == "path_close":
                return "path_close"
        return "text" if after == "summary_open" else "other"

    def cut_tag(self) -> bool:
        """Whether the text ends with what comes next, and that is the beginning of a tag."""
        rest = self.token.text.lstrip()
        last = self.token.kind == "text" and self.tokens[self.index + 1].kind == "end"
        return last and any(tag.startswith(rest) for tag in self.dialect.tags)

    def mistake(
        self, where: str, expected: str, opened: Token | None = None, number: int = 0, met: str = ""
    ) -> TraceError:
        """The error for the next token inside an element (of `PLACES`) that `opened` opened; `met`: a special case."""
        token = self.token
        met = met or ("end" if self.cut_tag() else token.kind)
        offset, what = token.start, token.text
        if met == "end":
            offset, what = len(self.text), "the end of the text"
        elif token.kind == "text":
            offset, what = offset + len(what) - len(what.lstrip()), "text"
        line, column = place(self.text, opened.start) if opened else (0, 0)
        inside = PLACES[where].format(number=number, opened=f"line {line}, column {column}")
        return TraceError(f"{what} {inside}: expected {expected}", reason_of(where, met), self.text, offset)
