"""A trace in numbers: its blocks and paths, where the first block starts, the length of its longest chain."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from math import nan

from polythink.trace.blocks import complete_among
from polythink.trace.dialect import PARALLEL_R1, Dialect
from polythink.trace.parse import first_block, parse
from polythink.trace.render import render
from polythink.trace.rollout import Rollout
from polythink.trace.scan import Token, scan
from polythink.trace.tree import Trace
from polythink.trace.validity import check


@dataclass(frozen=True)
class TraceStatistics:
    """Numbers of one well-formed trace, over blocks at every depth."""

    blocks: int
    paths_per_block: tuple[int, ...]  # in the order of `Trace.walk`
    first_block: float  # share of the canonical text's characters before the first block; nan without one
    depth: int  # 0 without a block, 1 with plain blocks, 2 with a block in a path or summary, ...
    words: int  # words of text, tags not counted
    critical_words: int  # words on the longest chain: of each block its plan, its longest path and its summary


def statistics(trace: str | Trace, dialect: Dialect = PARALLEL_R1) -> TraceStatistics:
    """The statistics of a trace, or of a text that `parse` accepts (`TraceError` otherwise)."""
    trace = parse(trace, dialect) if isinstance(trace, str) else trace
    blocks = tuple(trace.walk())
    text = render(trace, dialect)
    opening = first_block(text, dialect)
    return TraceStatistics(
        blocks=len(blocks),
        paths_per_block=tuple(len(b.paths) for b in blocks),
        first_block=opening.start / len(text) if opening else nan,
        depth=depth(trace),
        words=_words(trace, sum),
        critical_words=_words(trace, max),
    )


def depth(trace: Trace) -> int:
    """0 without a block, 1 with plain blocks, 2 with a block in a path or summary, ..."""
    blocks = trace.blocks
    return 1 + max(depth(t) for block in blocks for t in (*block.paths, block.summary)) if blocks else 0


def _words(trace: Trace, together: Callable[[list[int]], int]) -> int:
    """Words of a trace; `together` combines those of a block's paths: `sum`, or `max` for the longest path."""
    count = 0
    for part in trace.parts:
        if isinstance(part, str):
            count += len(part.split())
            continue
        if part.plan:
            count += sum(len(text.split()) for text in (part.plan.goal, *part.plan.outlines))
        count += together([_words(path, together) for path in part.paths]) + _words(part.summary, together)
    return count


def rollout_statistics(rollout: Rollout, dialect: Dialect = PARALLEL_R1) -> dict:
    """Numbers of one rollout, one row of a metrics file.

    `blocks` and `paths` count opening tags in the text (the N of the published rewards), `complete_blocks` the
    well-formed outermost blocks (the parallel ratio is the share of rollouts with at least one). `well_formed` and
    `reason` are the verdict of the strict rule. `joined`, `agreed` and `pruned` count the paths that were stopped while
    their block ran, which are among the `truncated` segments.
    """
    text = rollout.text
    verdict, tokens = check(text, "strict", dialect), tuple(scan(text, dialect))
    return {
        "blocks": blocks_among(tokens, dialect),
        "complete_blocks": complete_among(tokens, dialect),
        "paths": sum(token.kind == "path_open" for token in tokens),
        "first_block": _first_block(rollout, dialect),
        "tokens": rollout.tokens,
        "read_again": sum(len(s.tokens) for s in rollout.segments if s.kind == "copy"),
        "sampled_tokens": sum(sum(s.sampled) for s in rollout.segments),
        "critical_path": rollout.critical_path,
        "truncated": rollout.truncated,
        **rollout.stopped,
        "misplaced_tags": rollout.misplaced_tags,
        "bounded": sum(segment.bounded for segment in rollout.segments),
        "empty_plans": sum(segment.empty_plans for segment in rollout.segments),
        "finish_reason": rollout.finish_reason,
        "well_formed": verdict.valid,
        "reason": verdict.reason,
    }


def count_blocks(text: str, dialect: Dialect = PARALLEL_R1) -> int:
    """Number of blocks that a text opens; where blocks begin with a path, the number of runs of adjacent paths."""
    return blocks_among(scan(text, dialect), dialect)


def blocks_among(tokens: Iterable[Token], dialect: Dialect) -> int:
    """`count_blocks` of a text that has been scanned."""
    kinds = [token.kind for token in tokens if not token.text.isspace()]
    if dialect.opens_block != "path_open":
        return kinds.count(dialect.opens_block)
    return sum(kind == "path_open" and before != "path_close" for before, kind in pairwise(["", *kinds]))


def _first_block(rollout: Rollout, dialect: Dialect) -> float | None:
    """Share of the text's tokens, in text order, before the first block's opening tag; None without one.

    Where that tag ends a segment (which forks there), or begins a path, the count is exact. Where a segment holds the
    tag in mid-text (before a plan, or in a sequential rollout that was not split), its tokens are assumed to be equally
    long.
    """
    before, text = 0, [segment for segment in rollout.segments if segment.kind != "copy"]
    total = sum(len(segment.tokens) for segment in text)
    for segment in text:
        tag = first_block(segment.text, dialect)
        if tag is None:
            before += len(segment.tokens)
            continue
        if segment.kind == "path" and dialect.opens_block == "path_open":
            return before / total
        if tag.start + len(tag.text) == len(segment.text):
            return (before + len(segment.tokens) - 1) / total
        share = tag.start / len(segment.text)
        return (before + share * len(segment.tokens)) / total
    return None
