"""The texts of a trace that is sampled with isolated paths, the blocks in them, and how much each may still hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

from polythink.engine.inputs import Branch, Room, tightest
from polythink.engine.params import SamplingParams
from polythink.engine.planning import Planning
from polythink.engine.tag_ids import TagIds
from polythink.trace.rollout import Segment


@dataclass(slots=True, eq=False)
class Text(Branch):
    """The outermost text, a path, or a summary, and its open end. After each block in it a new segment goes on.

    `written` counts all tokens in it, those of finished blocks too, up to `allowance`; `spent` those sampled by itself
    in earlier segments, which count towards `max_path_tokens` or `max_summary_tokens`.
    """

    place: tuple[str, int, int, int] = ("main", -1, 0, 0)  # kind, block, path, label of its segments
    depth: int = 0  # blocks around it
    block: Block | None = None  # the innermost of them
    base: int = 0  # what names the random streams of the segments in it
    streams: int = 0  # how many of them there are
    blocks: int = 0  # opened in it
    allowance: int = 0
    bound: str = "trace_length"  # the finish_reason where that runs out
    spent: int = 0
    plan: Planning | None = None  # of a block that has not forked yet
    parts: list[int | Block] = field(default_factory=list)  # segments and blocks, in text order


@dataclass(slots=True, eq=False)
class Block:
    """A block that stands in `text` and follows the segment `fork`. Blocks are numbered as they open in time."""

    text: Text
    number: int
    fork: int
    outlines: tuple[str, ...] = ()
    labels: tuple[int, ...] = ()
    prefixes: Sequence[Sequence[int]] = ()
    paths: list[Text] = field(default_factory=list)
    running: int = 0  # paths that have not ended
    bounded: bool = False  # more paths were asked for than are allowed
    copy: int | None = None  # the segment that the join reads instead of the paths
    summary: Text | None = None


def in_text_order(text: Text, records: Sequence[Segment], number: bool = False) -> list[Segment]:
    """The segments of a text and of all in it; with `number`, they are given the numbers of their blocks in it."""
    found: list[Segment] = []
    numbers = count()

    def walk(text: Text, own: int) -> None:
        for part in text.parts:
            if isinstance(part, int):
                take(part, own)
                continue
            inner = next(numbers)
            for path in part.paths:
                walk(path, inner)
            if part.copy is not None:
                take(part.copy, inner)
            if part.summary is not None:
                walk(part.summary, inner)

    def take(segment: int, block: int) -> None:
        found.append(records[segment])
        if number:
            records[segment].block = block

    walk(text, -1)
    return found


def blocks_in(text: Text) -> Iterator[Block]:
    """All blocks in a text, those in their paths and summaries too."""
    for block in [part for part in text.parts if isinstance(part, Block)]:
        yield block
        for inner in (*block.paths, *([] if block.summary is None else [block.summary])):
            yield from blocks_in(inner)


def share_of(
    params: SamplingParams, tags: TagIds, costs: Sequence[int], room: Room, ahead: int, drawn: int = 0, before: int = 0
) -> Room:
    """How many tokens each of some new paths may hold between its tags; below 1 where they do not fit.

    `costs`: what opens and closes each of them. `room` tokens may still be written, and the context has `ahead`
    positions after the fork. The block has `before` paths with `drawn` tokens already. The tags after the paths and the
    summary's own tokens (those of the text that goes on, in a dialect without) are set aside first: an equal share, but
    no more than they may have. What a join reads again counts twice, and lies flat after the fork.
    """
    rereads, paths, fixed = params.rules.rereads, len(costs), tags.after_paths
    times = 2 if rereads else 1
    most = params.max_summary_tokens if tags.summary else params.max_main_tokens
    left = room.tokens - times * (sum(costs) + drawn) - fixed
    tokens = (left - max(1, min(most, left // (times * paths + 1)))) // (times * paths)
    share = tightest(Room(tokens, room.reason), Room(reach_of(params, tags, costs, ahead, before), "context"))
    if rereads:
        flat = ahead - sum(costs) - drawn - fixed
        share = tightest(share, Room((flat - max(1, min(most, flat // (paths + 1)))) // paths, "context"))
    return share


def reach_of(params: SamplingParams, tags: TagIds, costs: Sequence[int], ahead: int, before: int = 0) -> int:
    """How many tokens the positions allow between the tags of each path: see `share_of`."""
    most = params.max_summary_tokens if tags.summary else params.max_main_tokens
    span = ahead - (before + len(costs) - 1) * params.stride - max(costs) - tags.after_paths
    return span - max(1, min(most, span // 2))


def most_tokens(params: SamplingParams, tags: TagIds) -> int | None:
    """A bound on the tokens of a response by its budgets other than that of the trace; None where there is none."""
    if tags.dialect.paths.heading or (tags.dialect.nests and params.max_depth > 1):
        return None
    paths = params.most_paths(tags.dialect) * (params.max_path_tokens + len(tags.path_gap) + 2)
    block = paths * (2 if params.rules.rereads else 1) + tags.after_paths + params.max_summary_tokens
    main = params.max_main_tokens + max(1, len(tags.begin))
    return params.max_blocks * block + (params.max_blocks + 1) * main
