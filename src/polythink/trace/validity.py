"""Whether a trace is well formed: three named rules, from the whole grammar to what the published reward accepts.

`strict`     the grammar of `trace.parse`: every tag in its place, nothing between the paths, each block summarised.
`stack`      Algorithm 1 of Parallel-R1 (arXiv 2509.07980): tags open and close in matching order. The number of paths,
             the place of the summary and text between the paths do not matter.
`reference`  the checker behind the published rewards, with its leniencies: a missing or stray `</Summary>`, text
             between the paths or before the summary, paths outside a block, blocks nested in paths, a path within a
             path (both count) are all accepted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from polythink.errors import UserError, did_you_mean
from polythink.trace.dialect import PARALLEL_R1, Dialect
from polythink.trace.parse import TraceError, parse, place
from polythink.trace.scan import Token, scan


@dataclass(frozen=True)
class Verdict:
    """`reason` is `ok` or the stable key of the first mistake; `detail` says where it is and what, for people."""

    valid: bool
    reason: str
    detail: str = ""


OK = Verdict(True, "ok")


def check(text: str, rule: str = "strict", dialect: Dialect = PARALLEL_R1) -> Verdict:
    """The verdict of one of `RULES` on any text. `UserError` only for a rule that the dialect does not have."""
    check_rule(rule, dialect)
    return _CHECKERS[rule](text, dialect)


def check_rule(rule: str, dialect: Dialect = PARALLEL_R1) -> None:
    """`UserError` unless `rule` is one of `RULES` and applies to the dialect."""
    if rule not in RULES:
        raise UserError(f"no validity rule {rule!r}{did_you_mean(rule, RULES)}")
    if rule == "reference" and not dialect.published_check:
        raise UserError(f"rule 'reference' is the checker published with Parallel-R1; dialect {dialect.name} has none: "
                        "use 'strict' or 'stack'")  # fmt: skip


def _strict(text: str, dialect: Dialect) -> Verdict:
    try:
        parse(text, dialect)
    except TraceError as error:
        return Verdict(False, error.reason, str(error))
    return OK


def _stack(text: str, dialect: Dialect) -> Verdict:
    open_tags: list[Token] = []
    for tag in _tags(text, dialect):
        element, side = tag.kind.split("_")
        if element == "block" and tag.text not in dialect.pair:
            continue  # it stands alone: nothing opens or closes with it
        if side == "open":
            open_tags.append(tag)
        elif not open_tags:
            return _invalid("not_open", f"{tag.text} closes nothing", tag, text)
        elif open_tags[-1].kind != f"{element}_open" or not _closes(tag, open_tags[-1], dialect):
            return _invalid("wrong_close", f"{tag.text} while {open_tags[-1].text} is open", tag, text)
        else:
            open_tags.pop()
    if open_tags:
        return _invalid("not_closed", f"{open_tags[-1].text} is never closed", open_tags[-1], text)
    return OK


def _closes(tag: Token, opened: Token, dialect: Dialect) -> bool:
    """Whether a closing tag shows the number of the tag that opened its element."""
    return opened.kind != "path_open" or tag.text == dialect.path_tags(opened.label)[1]


def _reference(text: str, dialect: Dialect) -> Verdict:
    open_tags: list[Token] = []  # blocks and paths only: summaries are counted, never matched with their closing tag
    paths: list[int] = []  # closed paths of each open block
    blocks = summaries = 0
    summary_due = False
    for tag in _tags(text, dialect):
        if tag.kind in ("block_open", "path_open"):
            open_tags.append(tag)
            if tag.kind == "block_open":
                paths.append(0)
                summary_due = False
        elif tag.kind in ("block_close", "path_close"):
            if not open_tags or open_tags.pop().kind != tag.kind.replace("close", "open"):
                return _invalid(f"unexpected_{tag.kind}", f"{tag.text} where none is open", tag, text)
            if tag.kind == "path_close":
                paths[-1:] = [n + 1 for n in paths[-1:]]  # of the innermost block; outside a block none is counted
                continue
            if (count := paths.pop()) < dialect.paths.least:
                return _invalid(
                    "too_few_paths", f"closed paths in the block: {count}, needed: {dialect.paths.least}", tag, text
                )
            blocks += 1
            summary_due = True
        elif tag.kind == "summary_open":
            if not summary_due:
                return _invalid("summary_without_block", f"{tag.text} follows no {dialect.pair[1]}", tag, text)
            summaries += 1
            summary_due = False
    if open_tags:
        return _invalid("not_closed", f"{open_tags[-1].text} is never closed", open_tags[-1], text)
    if summaries != blocks:
        return Verdict(False, "missing_summary", f"blocks: {blocks}, summaries: {summaries}")
    return OK


def _tags(text: str, dialect: Dialect) -> Iterator[Token]:
    return (token for token in scan(text, dialect) if token.kind not in ("text", "end"))


def _invalid(reason: str, message: str, tag: Token, text: str) -> Verdict:
    line, column = place(text, tag.start)
    return Verdict(False, reason, f"line {line}, column {column}: {message}")


_CHECKERS = {"strict": _strict, "stack": _stack, "reference": _reference}
RULES = tuple(_CHECKERS)
