"""The strict parser: text to `Trace` by recursive descent, and one message for every mistake in the grammar.

    trace   = (text | block)*
    block   = <Parallel> space* (path space*){min_paths,} </Parallel> space* summary
    path    = <Path> trace </Path>
    summary = <Summary> trace </Summary>

In a dialect whose runtime forks, a block has no tags of its own and begins with its first path; where paths are
numbered, a path's two tags show the same number, and no number stands twice in a block.

Where the runtime replaces stray tags (`Dialect.misplaced_tags`), it leaves an element's own opening tag in mid-text. Such a tag
is text, not structure, whoever wrote the response: a teacher's may hold one as well, since it is trained on as what the
runtime writes (`trace.tokens`).

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

# (where the parser stands, what it meets there) -> (reason, message). `d` is the dialect, its path tags those of the
# path that is meant; `met` is the tag met, `opened` the place of the innermost open tag, `number` the path's number or
# the number of paths so far.
MISTAKES = {
    ("text", "block_close"): ("block_not_open", "{d.block_close} closes a block, but none is open"),
    ("text", "path_open"): (
        "path_outside_block",
        "{d.path_open} outside a block: paths stand between {d.block_open} and {d.block_close}",
    ),
    ("text", "path_close"): ("path_not_open", "{d.path_close} closes a path, but none is open"),
    ("text", "summary_open"): (
        "summary_without_block",
        "{d.summary_open} without a block: a summary follows {d.block_close}, one for each block",
    ),
    ("text", "summary_close"): ("summary_not_open", "{d.summary_close} closes a summary, but none is open"),
    ("block", "text"): (
        "text_between_paths",
        "text in the block outside its paths: between {d.block_open} and {d.block_close} all text stands inside paths",
    ),
    ("block", "block_open"): (
        "block_between_paths",
        "{d.block_open} between the paths of the block opened at {opened}: a nested block stands inside a path",
    ),
    ("block", "path_close"): (
        "path_closed_twice",
        "{d.path_close} between the paths of the block opened at {opened}, where no path is open",
    ),
    ("block", "summary_open"): (
        "summary_in_block",
        "{d.summary_open} inside the block opened at {opened}: the summary stands after {d.block_close}",
    ),
    ("block", "summary_close"): (
        "summary_close_in_block",
        "{d.summary_close} inside the block opened at {opened}, where no summary is open",
    ),
    ("block", "block_close"): (
        "too_few_paths",
        "the block opened at {opened} has {number} of at least {d.min_paths} paths",
    ),
    ("block", "end"): ("cut_in_block", "the text ends in the block opened at {opened}, before {d.block_close}"),
    ("path", "path_open"): (
        "path_in_path",
        "{d.path_open} inside path {number}, opened at {opened}: close that one first with {d.path_close}",
    ),
    ("path", "block_close"): (
        "path_not_closed",
        "{d.block_close} while path {number}, opened at {opened}, is still open: expected {d.path_close}",
    ),
    ("path", "summary_open"): (
        "summary_in_path",
        "{d.summary_open} inside path {number}, opened at {opened}: a summary follows {d.block_close}",
    ),
    ("path", "summary_close"): (
        "summary_close_in_path",
        "{d.summary_close} inside path {number}, opened at {opened}: expected {d.path_close}",
    ),
    ("path", "end"): ("cut_in_path", "the text ends in path {number}, opened at {opened}, before {d.path_close}"),
    ("join", "text"): (
        "text_before_summary",
        "text between {d.block_close} and {d.summary_open}: only white space may stand there",
    ),
    ("join", "other"): (
        "missing_summary",
        "the block opened at {opened} has no summary: expected {d.summary_open} right after {d.block_close}",
    ),
    ("join", "end"): ("cut_before_summary", "the text ends after {d.block_close}, before the block's {d.summary_open}"),
    ("summary", "path_open"): (
        "path_in_summary",
        "{d.path_open} inside the summary opened at {opened}: paths stand between {d.block_open} and {d.block_close}",
    ),
    ("summary", "path_close"): (
        "path_close_in_summary",
        "{d.path_close} inside the summary opened at {opened}: expected {d.summary_close}",
    ),
    ("summary", "block_close"): (
        "block_close_in_summary",
        "{d.block_close} inside the summary opened at {opened}: expected {d.summary_close}",
    ),
    ("summary", "summary_open"): (
        "summary_in_summary",
        "{d.summary_open} inside the summary opened at {opened}: close that one first with {d.summary_close}",
    ),
    ("summary", "end"): ("cut_in_summary", "the text ends in the summary opened at {opened}, before {d.summary_close}"),
    ("text", "depth"): ("too_deep", "the block is nested more than {number} levels deep"),
}
# What is met only where paths are numbered.
NUMBER_MISTAKES = {
    ("path", "number"): ("wrong_number", "{met} inside path {number}, opened at {opened}: expected {d.path_close}"),
    ("block", "number"): ("number_twice", "{met} for a second time in the block opened at {opened}"),
    ("block", "inventory"): ("unknown_number", "{met} in a dialect with the numbers 1 to {d.inventory}"),
}
# What differs where a block has no tags of its own.
MISTAKES_WITHOUT_BLOCK_TAGS = {
    ("text", "summary_open"): (
        "summary_without_block",
        "{d.summary_open} without a path before it: a summary follows the last path of its block",
    ),
    ("join", "text"): (
        "text_before_summary",
        "text between the block's last path and {d.summary_open}: only white space may stand there",
    ),
    ("join", "between"): ("text_between_paths", "text between the paths of the block opened at {opened}"),
    ("join", "path_close"): (
        "path_closed_twice",
        "{met} behind the paths of the block opened at {opened}, where no path is open",
    ),
    ("join", "other"): (
        "missing_summary",
        "the block opened at {opened} has no summary: expected {d.summary_open} behind its last path",
    ),
    ("join", "end"): ("cut_before_summary", "the text ends behind the block's paths, before {d.summary_open}"),
    ("summary", "path_open"): (
        "path_in_summary",
        "{met} inside the summary opened at {opened}: paths stand before their summary",
    ),
    ("summary", "path_close"): (
        "path_close_in_summary",
        "{met} inside the summary opened at {opened}: expected {d.summary_close}",
    ),
    ("path", "path_open"): (
        "path_in_path",
        "{met} inside path {number}, opened at {opened}: close that one first with {d.path_close}",
    ),
}


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
        before, behind = (_visible(part) for part in (line[start:at], line[at : start + WINDOW]))
        head = "…" if start else ""
        tail = "…" if start + WINDOW < len(line) else ""
        indent = " " * sum(2 if east_asian_width(c) in "WF" else 1 for c in head + before)
        return f"line {self.line}, column {self.column}: {self.message}\n  {head}{before}{behind}{tail}\n  {indent}^"

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
    """What finds tags, and the kind of each. A number is found whether or not the inventory has it.

    It is written as the dialect writes it: `<think01>` is text, as it is for a tokenizer.
    """
    kinds = {getattr(dialect, kind): kind for kind in TAG_KINDS if getattr(dialect, kind)}
    longest_first = sorted(kinds, key=len, reverse=True)
    number = "(0|[1-9][0-9]{0,3})" if dialect.inventory else re.escape(NUMBER)
    return re.compile("|".join(re.escape(tag).replace(re.escape(NUMBER), number) for tag in longest_first)), kinds


def scan(text: str, dialect: Dialect) -> Iterator[Token]:
    """The tags of a text and the text between them, in order, closed by one `end` token.

    Where the runtime replaces strays, an opening tag that repeats the tag before it is part of the text: nothing nests
    there, so it stands in the very element that it would open.
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
        raise parser.mistake("text")
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


def complete_blocks(text: str, dialect: Dialect = PARALLEL_R1) -> int:
    """How many outermost well-formed blocks a text holds, whatever else is wrong with it."""
    parser, count = _Parser(text, dialect), 0
    while parser.token.kind != "end":
        start = parser.index
        if parser.token.kind != dialect.opens_block:
            parser.index += 1
            continue
        try:
            parser.block()
            count += 1
        except TraceError:
            parser.index = start + 1
    return count


class _Parser:
    """A cursor over the tokens. Each method reads one thing of the grammar and leaves the cursor behind it."""

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
        """Text and blocks up to the first tag that is neither; whose tag that is, the caller knows."""
        parts: list[str | Block] = []
        opens = self.dialect.opens_block if self.dialect.nests or depth == 0 else ""
        while self.token.kind in ("text", opens):
            parts.append(self.take().text if self.token.kind == "text" else self.block(depth + 1))
        return Trace(tuple(parts))

    def block(self, depth: int = 1) -> Block:
        if depth > MAX_DEPTH:
            raise self.mistake("text", "depth", number=MAX_DEPTH)
        opened = self.take() if self.dialect.block_open else self.token
        paths: list[Trace] = []
        labels: list[int] = []
        while self.structural("path_open"):
            label = self.number(labels, opened)
            paths.append(self.element("path", depth, label, number=label or len(paths) + 1))
            labels += [label] if label else []
        if self.dialect.block_open:
            if self.token.kind != "block_close" or len(paths) < self.dialect.min_paths:
                raise self.mistake("block", opened=opened, number=len(paths))
            self.take()
        if not self.structural("summary_open"):
            raise self.mistake("join", self.missing_summary(), opened=opened)
        return Block(tuple(paths), self.element("summary", depth), tuple(labels))

    def number(self, before: list[int], block: Token) -> int:
        """The number of the path that is about to be opened, 0 in a dialect without them."""
        label, inventory = self.token.label, self.dialect.inventory
        if inventory and (not 1 <= label <= inventory or label in before):
            raise self.mistake("block", "number" if label in before else "inventory", opened=block, number=label)
        return label

    def element(self, kind: str, depth: int, label: int = 0, number: int = 0) -> Trace:
        """A path or a summary: what stands between its two tags."""
        opened = self.take()
        content = self.trace(depth)
        if self.token.kind != f"{kind}_close":
            raise self.mistake(kind, opened=opened, number=number)
        if self.token.label != label:
            raise self.mistake(kind, "number", opened=opened, number=number)
        self.take()
        return content

    def structural(self, kind: str) -> bool:
        """Drop white space; is the next token of that kind?"""
        if self.token.kind == "text" and self.token.text.isspace():
            self.index += 1
        return self.token.kind == kind

    def missing_summary(self) -> str:
        """What stands where a summary should: text before it is one mistake, no summary at all is another."""
        if self.token.kind == "end" or self.cut_tag():
            return "end"
        behind = self.tokens[self.index + 1].kind if self.token.kind == "text" else ""
        if not self.dialect.block_open:
            if behind == "path_open":
                return "between"
            if self.token.kind == "path_close":
                return "path_close"
        return "text" if behind == "summary_open" else "other"

    def cut_tag(self) -> bool:
        """Is what comes next the beginning of a tag, and then the text ends?"""
        rest = self.token.text.lstrip()
        last = self.token.kind == "text" and self.tokens[self.index + 1].kind == "end"
        return last and any(tag.startswith(rest) for tag in self.dialect.tags)

    def mistake(self, where: str, met: str = "", opened: Token | None = None, number: int = 0) -> TraceError:
        """The error for what comes next, or for `met` if that is given."""
        token = self.token
        met = met or ("end" if self.cut_tag() else token.kind)
        offset = len(self.text) if met == "end" else token.start
        if met != "end" and token.kind == "text":
            offset += len(token.text) - len(token.text.lstrip())
        line, column = place(self.text, opened.start) if opened else (0, 0)
        own = MISTAKES_WITHOUT_BLOCK_TAGS if not self.dialect.block_open else {}
        reason, message = {**MISTAKES, **NUMBER_MISTAKES, **own}[where, met]
        d = self.dialect.showing(number if where in ("path", "block") else 0)
        message = message.format(d=d, met=token.text, opened=f"line {line}, column {column}", number=number)
        return TraceError(message, reason, self.text, offset)
