"""The strict parser: text to `Trace` by recursive descent, and one rule that names every mistake in the grammar.

    trace   = (text | block)*
    block   = the elements of the dialect's production, in order (`trace.production`):
    plan    = <Goal> text (<Outline> text </Outline>)* </Goal>
    paths   = (<Path> trace </Path>){least,}     or as many as the plan has outlines
    summary = <Summary> trace </Summary>
    tag     = <Parallel>, </Parallel>

Where paths are numbered, a path's two tags show the same number, and no number occurs twice in a block.

Where the runtime replaces misplaced tags (`Dialect.misplaced_tags`), it leaves an element's own opening tag within the
text. Such a tag is text, not structure, also in a teacher's response, which is trained on as if the runtime had written
it (`trace.tokens`).

White space between the structural tags of a block carries no meaning and is dropped; everything else is kept verbatim.
Only a response is ever parsed: a prompt that quotes the tags is plain text.
"""

from __future__ import annotations

from unicodedata import east_asian_width

from polythink.errors import UserError
from polythink.trace.dialect import PARALLEL_R1, Dialect, get_dialect
from polythink.trace.scan import Token, scan
from polythink.trace.tree import Block, Plan, Trace

MAX_DEPTH = 50  # blocks within blocks; far beyond any data, and well within Python's own recursion limit
WINDOW = 100  # characters of a long source line that an error shows

# Every mistake follows one rule: TAG (or text, or the end) inside ELEMENT opened at PLACE: expected X.
PLACES = {
    "text": "outside a block",
    "begun": "inside the block opened at {opened}",  # its plan is due
    "plan": "inside the plan opened at {opened}",
    "outline": "inside outline {number} opened at {opened}",
    "block": "inside the block opened at {opened}",
    "path": "inside path {number} opened at {opened}",
    "joined": "after the paths of the block opened at {opened}",  # another tag is due
    "join": "after the paths of the block opened at {opened}",
    "summary": "inside the summary opened at {opened}",
    "summed": "after the summary of the block opened at {opened}",
}
# (where the parser is, what it meets) -> reason, for mistakes with a plainer name than the rule gives (`reason_of`)
REASONS = {
    ("text", "path_open"): "path_outside_block",
    ("text", "summary_open"): "summary_without_block",
    ("text", "plan_open"): "plan_outside_block",
    ("text", "outline_open"): "outline_outside_block",
    ("text", "depth"): "too_deep",
    ("begun", "text"): "text_before_plan",
    ("begun", "end"): "cut_in_block",
    ("begun", "other"): "missing_plan",
    ("plan", "text"): "text_between_outlines",
    ("plan", "few"): "too_few_outlines",
    ("block", "text"): "text_between_paths",
    ("block", "block_open"): "block_between_paths",
    ("block", "path_close"): "path_closed_twice",
    ("block", "few"): "too_few_paths",
    ("block", "closed"): "block_close_in_block",
    ("block", "more"): "paths_not_outlined",
    ("block", "repeated_number"): "number_twice",
    ("block", "number"): "unknown_number",
    ("path", "block_close"): "path_not_closed",
    ("path", "number"): "wrong_number",
    ("join", "text"): "text_before_summary",
    ("join", "between"): "text_between_paths",
    ("join", "path_close"): "path_closed_twice",
    ("join", "other"): "missing_summary",
    ("join", "end"): "cut_before_summary",
    ("join", "more"): "paths_not_outlined",
    ("joined", "text"): "text_before_close",
    ("joined", "end"): "cut_before_close",
    ("joined", "other"): "block_not_closed",
    ("summed", "text"): "text_before_close",
    ("summed", "end"): "cut_before_close",
    ("summed", "other"): "block_not_closed",
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


def parse(text: str, dialect: Dialect | str = PARALLEL_R1) -> Trace:
    """The trace that a response spells, or `TraceError` at its first mistake.

    `dialect`: one, or the name or file of one (`get_dialect`).
    """
    if isinstance(dialect, str):
        dialect = get_dialect(dialect)
    parser = _Parser(text, dialect)
    trace = parser.trace()
    if parser.token.kind != "end":
        raise parser.mistake("text", f"text or {dialect.first_tag}")
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
        opened = self.take() if d.opening else self.token
        plan = self.plan(opened) if d.plan else None
        paths, labels = self.paths(opened, depth, len(plan.outlines) if plan and d.declares_paths else None)
        for tag in d.joining[1:]:
            self.tag("joined", tag.text, opened)
        summary = Trace()
        if d.summary:
            if not self.structural("summary_open"):
                raise self.mistake("join", d.summary.open, opened, met=self.missing_summary())
            summary = self.element("summary", depth, d.summary.close)
        for tag in d.closing:
            self.tag("summed", tag.text, opened)
        return Block(paths, summary, labels, plan)

    def plan(self, block: Token) -> Plan:
        """The plan: its text up to the first outline, without the white space at its end, and the outlines."""
        tags, least = self.dialect.plan, self.dialect.paths.least if self.dialect.declares_paths else 0
        if not self.structural("plan_open"):
            raise self.mistake("begun", tags.open, block, met="" if self.token.kind in ("text", "end") else "other")
        opened = self.take()
        goal = self.take().text.rstrip() if self.token.kind == "text" else ""
        outlines: list[str] = []
        while self.structural("outline_open"):
            begun = self.take()
            outlines.append(self.take().text if self.token.kind == "text" else "")
            if self.token.kind != "outline_close":
                raise self.mistake("outline", tags.item[1], begun, len(outlines))
            self.take()
        if self.token.kind != "plan_close" or len(outlines) < least:
            few = len(outlines) < least
            wanted = f"{tags.item[0]}, {len(outlines)} of at least {least} outlines so far" if few else tags.close
            raise self.mistake("plan", wanted, opened, met="few" if self.token.kind == "plan_close" else "")
        self.take()
        return Plan(goal, tuple(outlines))

    def paths(self, block: Token, depth: int, outlines: int | None) -> tuple[tuple[Trace, ...], tuple[int, ...]]:
        """The paths and the first tag after them. `outlines`: how many there are, where outlines say so."""
        d, paths, labels = self.dialect, [], []
        while len(paths) != outlines and self.structural("path_open"):
            label = self.number(labels, block)
            number = label or len(paths) + 1
            paths.append(self.element("path", depth, d.path_tags(label)[1], label, number))
            labels += [label] if label else []
        fewest = d.paths.least if outlines is None else outlines
        if len(paths) < fewest or d.joining:
            self.after_paths(len(paths), fewest, block, outlined=outlines is not None)
        elif outlines is not None and self.structural("path_open"):
            raise self.mistake("join", d.summary.open, block, met="more")
        return tuple(paths), tuple(labels)

    def after_paths(self, paths: int, fewest: int, block: Token, outlined: bool) -> None:
        """Read the tag after the paths, or say what is in its place."""
        d, (kind, tag), found = self.dialect, self.dialect.follows_paths[0], self.structural("block_close")
        follows = (self.token.kind, self.token.text) == (kind, tag)
        if follows and paths >= fewest:
            self.take()
            return
        first = d.path_tags(1)[0]
        if paths < fewest:
            of = f"{fewest} outlined" if outlined else f"at least {fewest}"
            raise self.mistake("block", f"{first}, {paths} of {of} paths so far", block, met="few" if follows else "")
        met = "closed" if found else "more" if outlined and self.token.kind == "path_open" else ""
        raise self.mistake("block", tag if outlined else f"{first} or {tag}", block, met=met)

    def tag(self, where: str, tag: str, block: Token) -> None:
        """Read one of the tags that stand alone after the paths or the summary."""
        if not self.structural("block_close") or self.token.text != tag:
            raise self.mistake(where, tag, block, met="" if self.token.kind in ("text", "end") else "other")
        self.take()

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
        if self.token.kind != f"{kind}_close" or self.token.text != close:
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
        if not self.dialect.joining:
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
