"""A row of samples.jsonl as the events of its trace, step by step: what the page draws. Imports without torch.

A row has the text of each segment, not its tokens: here a step is a word of each text that was written at that time.
The row's own `tokens` and `critical_path` are what it cost.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, count, groupby, zip_longest
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from polythink.errors import UserError
from polythink.run.plain import short
from polythink.trace.blocks import complete_blocks
from polythink.trace.detect import find_dialect, opening_tags
from polythink.trace.parse import MAX_DEPTH, TraceError, parse
from polythink.trace.production import NUMBER, Dialect
from polythink.trace.rollout import STOPPED, TRUNCATIONS
from polythink.trace.scan import scan
from polythink.trace.tree import Block, Trace

CUT = {
    "length": "it reached its limit of tokens",
    "trace_length": "the trace reached its limit of tokens",
    "context": "the model has no positions left",
    "max_blocks": "it opened more blocks than are allowed",
    "max_paths": "it opened more paths than are allowed",
    **STOPPED,
}  # the reasons of "cut" events, for people
_WORD = re.compile(r"\s*\S{1,24}|\s+")
_FACTS = ("answer", "verdict", "extracted", "reward", "finish_reason", "reason")


class _Loose(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class Piece(_Loose):
    """A segment of a row."""

    kind: str = "main"
    block: int = -1
    path: int = 0
    label: int = 0
    text: str = ""
    finish_reason: str = ""
    right: bool | None = None
    tokens: int = 0  # of a copy

    @property
    def place(self) -> tuple[int, int]:
        return self.block, self.path


@dataclass
class Fork:
    """A block: the texts of its paths by number, and its summary; each is a list of pieces and forks."""

    block: int
    paths: dict[int, list[Piece | Fork]] = field(default_factory=dict)
    summary: list[Piece | Fork] = field(default_factory=list)
    reread: int = 0  # tokens that the join reads again


Flow = Sequence[Piece | Fork]
Step = list[dict[str, Any]]  # events of one step


def replay(row: Mapping[str, Any]) -> dict[str, Any]:
    """What the page needs to draw a row: its question, its facts, the format of its tags, and its events by step.

    A row without `segments` is drawn from the text in it that holds a block. `UserError` for a row that holds no text.
    """
    if not isinstance(row.get("segments", []), list):
        raise UserError(f"segments is {short(row['segments'])}; it must be a list of objects, one per segment")
    note = ""
    if row.get("segments"):
        pieces = [_piece(i, given) for i, given in enumerate(row["segments"])]
        dialect, _ = find_dialect([piece.text for piece in pieces], None, "the row")
        flow = _flow(pieces, (-1, 0))
    else:
        name, text = _text_of(row)
        dialect, _ = find_dialect([text], None, "the row")
        flow, note = _parsed(text, dialect)
        note = note or f"drawn from the column {name}"
    sizes = [row.get(name) for name in ("tokens", "critical_path")]
    known = all(type(size) is int and size >= 0 for size in sizes)
    again = row.get("read_again") or 0
    one_by_one = known and sizes[1] >= sizes[0] - (again if type(again) is int else 0)  # each path sees the earlier
    steps = list(_steps(flow, (-1, 0), dialect, not one_by_one, count(1)))
    return {
        "question": next((row[name] for name in ("question", "source") if isinstance(row.get(name), str)), ""),
        **{name: row[name] for name in _FACTS if isinstance(row.get(name), str | int | float)},
        "note": note,
        "totals": {"tokens": sizes[0], "critical_path": sizes[1]} if known else None,
        "format": {**format_of(dialect), "isolated": not one_by_one, "unit": "tokens" if known else "words"},
        "steps": steps,
    }


def format_of(dialect: Dialect) -> dict[str, Any]:
    """What the page is told about texts: which are tags, and of what kind; why a text was cut, in words."""
    kinds: dict[str, str] = {}
    for kind, tag in dialect.spellings:
        for text in [tag.replace(NUMBER, str(n)) for n in range(1, dialect.inventory + 1)] if NUMBER in tag else [tag]:
            kinds[text] = "path_close" if kind == "path_close" else kinds.get(text, kind)
    return {"dialect": dialect.name, "tags": kinds, "reasons": CUT}


def _piece(index: int, given: Any) -> Piece:
    try:
        return Piece.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, ("segments", index, *first["loc"])))
        raise UserError(
            f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}, given {short(first['input'])}"
        ) from None


def _text_of(row: Mapping[str, Any]) -> tuple[str, str]:
    """Name and text of the first column with a block in it, whole or begun; else of the longest text."""
    texts = {name: text for name, text in row.items() if isinstance(text, str) and text.strip()}
    if not texts:
        raise UserError(f"the row holds no text to draw; its columns are {', '.join(row) or 'none'}")
    for holds in (lambda text: complete_blocks(text, find_dialect([text], None, "")[0]), opening_tags):
        if name := next((name for name, text in texts.items() if holds(text)), None):
            return name, texts[name]
    return max(texts.items(), key=lambda item: len(item[1]))


# ---- the structure ----


def _flow(pieces: Sequence[Piece], own: tuple[int, int], depth: int = 0) -> list[Piece | Fork]:
    """`pieces` in text order: those of the place `own` are texts, what lies between them are forks."""
    if depth > MAX_DEPTH:
        raise UserError(f"the segments nest blocks more than {MAX_DEPTH} levels deep")
    nodes: list[Piece | Fork] = []
    for is_own, group in groupby(pieces, key=lambda piece: piece.place == own):
        run = list(group)
        nodes += run if is_own else [_fork(run, depth)]
    return nodes


def _fork(pieces: Sequence[Piece], depth: int) -> Fork:
    fork, parts, number = Fork(pieces[0].block), {}, 0
    for piece in pieces:
        number = piece.path if piece.block == fork.block else number  # what is nested belongs to the path that is open
        if piece.kind == "copy":
            fork.reread += piece.tokens
        else:
            parts.setdefault(number, []).append(piece)
    flows = {number: _flow(own, (fork.block, number), depth + 1) for number, own in parts.items()}
    fork.summary = flows.pop(0, [])
    fork.paths = flows
    return fork


def _parsed(text: str, dialect: Dialect) -> tuple[list[Piece | Fork], str]:
    """The structure that a text spells, or the text as it is and what is wrong with it."""
    try:
        return list(_flow_of_trace(parse(text, dialect), dialect, (-1, 0, 0), count())), ""
    except TraceError as error:
        return [Piece(text=text)], f"not well formed: line {error.line}, column {error.column}: {error.message}"


def _flow_of_trace(
    trace: Trace, dialect: Dialect, place: tuple[int, int, int], blocks: Iterator[int]
) -> Iterator[Piece | Fork]:
    block, path, label = place
    kind = "path" if path else "main" if block < 0 else "summary"
    for part in trace.parts:
        if isinstance(part, str):
            yield Piece(kind=kind, block=block, path=path, label=label, text=part)
            continue
        if part.plan:
            yield Piece(kind=kind, block=block, path=path, label=label, text=_plan_text(part, dialect))
        fork = Fork(next(blocks))
        for number, (own, inner) in enumerate(part.numbered(), start=1):
            flow = list(_flow_of_trace(inner, dialect, (fork.block, number, own), blocks))
            closing = Piece(kind="path", block=fork.block, path=number, label=own, text=dialect.path_tags(own)[1])
            fork.paths[number] = [*flow, closing]
        fork.summary = list(_flow_of_trace(part.summary, dialect, (fork.block, 0, 0), blocks))
        yield fork


def _plan_text(block: Block, dialect: Dialect) -> str:
    plan = dialect.plan
    outlines = "".join(f"{plan.item[0]}{outline}{plan.item[1]}" for outline in block.plan.outlines)
    return f"{plan.open}{block.plan.goal}{outlines}{plan.close}"


# ---- the steps ----


def _steps(
    flow: Flow, own: tuple[int, int], dialect: Dialect, isolated: bool, numbers: Iterator[int]
) -> Iterator[Step]:
    """The steps of a text; `own` is its block and path, `numbers` gives the numbers of its segments."""
    for node in flow:
        if isinstance(node, Piece):
            yield from _of_piece(node, dialect, next(numbers))
        else:
            yield from _of_fork(node, own, dialect, isolated, numbers)


def _of_piece(piece: Piece, dialect: Dialect, segment: int) -> Iterator[Step]:
    place = {"segment": segment, "block": piece.block, "path": piece.path, "label": piece.label}
    for token in scan(piece.text, dialect):
        for word in _WORD.findall(token.text) if token.kind == "text" else filter(None, [token.text]):
            yield [{"event": "token", **place, "text": word}]
    last = []
    if piece.finish_reason in TRUNCATIONS:
        last.append({"event": "cut", **place, "finish_reason": piece.finish_reason})
    if piece.right is not None and piece.path:
        last.append({"event": "grade", **place, "right": piece.right})
    if last:
        yield last


def _of_fork(
    fork: Fork, parent: tuple[int, int], dialect: Dialect, isolated: bool, numbers: Iterator[int]
) -> Iterator[Step]:
    def place(path: int, flow: Flow) -> dict[str, Any]:
        label = next((node.label for node in flow if isinstance(node, Piece)), 0)
        return {"segment": -1, "block": fork.block, "path": path, "label": label}

    paths = [_steps(flow, (fork.block, path), dialect, isolated, numbers) for path, flow in fork.paths.items()]
    yield [{"event": "fork", **place(path, flow), "parent": list(parent)} for path, flow in fork.paths.items()]
    if isolated:
        yield from ([*chain.from_iterable(step)] for step in zip_longest(*paths, fillvalue=()))
    else:
        yield from chain.from_iterable(paths)
    yield [{"event": "join", **place(0, fork.summary), "reread": fork.reread}]
    yield from _steps(fork.summary, (fork.block, 0), dialect, isolated, numbers)
