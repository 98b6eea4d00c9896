"""Budgets in words: the least that a block takes, and which budget truncated a response. Imports without torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from polythink.engine.params import SamplingParams
from polythink.engine.width import FIXED
from polythink.errors import UserError
from polythink.trace.production import Dialect, Tag
from polythink.trace.rollout import TRUNCATIONS, Rollout, Segment

CLOSE = 4  # tokens: gaps and headings are counted as one each


def trace_tokens(
    params: SamplingParams, dialect: Dialect, path: int, summary: int, main: int = 0, paths: int | None = None
) -> int:
    """Tokens of a trace with one block whose paths and summary have so many; every tag, gap and heading counts as one.

    `paths`: how many it has (None: the most that it may have). Where the join rereads, they count twice.
    """
    paths = params.most_paths(dialect) if paths is None else paths
    tags = sum(1 + bool(tag.gap) for tag in dialect.block if isinstance(tag, Tag))
    if dialect.plan:
        tags += 2 * (1 + bool(dialect.plan.gap)) + paths * (3 + bool(dialect.plan.gap)) * bool(dialect.plan.item[0])
    if dialect.summary:
        tags += 2 + bool(dialect.summary.gap) + bool(params.summary_prefix) + summary
    each = path + 2 + bool(dialect.paths.gap) + bool(dialect.paths.heading)
    return tags + paths * each * (2 if params.rules.rereads else 1) + main


def check_block_fits(params: SamplingParams, dialect: Dialect) -> None:
    """`UserError` where `max_trace_tokens`, which all paths share, cannot hold one block of one token per path."""
    if not params.rules.isolated or params.max_blocks == 0:
        return
    paths = 1 if dialect.declares_paths or params.width != FIXED else params.paths
    least = trace_tokens(params, dialect, 1, 1, paths=paths)
    if params.max_trace_tokens < least:
        again = f", which count twice in mode {params.mode} (the join reads them again)" * params.rules.rereads
        raise UserError(
            f"max_trace_tokens={params.max_trace_tokens} is shared by all paths{again}, and a block of {paths} paths "
            f"takes {least} tokens before any path says more than a word; {_would_do(params, dialect)}"
        )


def _would_do(params: SamplingParams, dialect: Dialect) -> str:
    paths = params.most_paths(dialect)
    most = trace_tokens(
        params, dialect, params.max_path_tokens, params.max_summary_tokens, 2 * min(params.max_main_tokens, 256)
    )
    again = ", the paths twice since the join reads them again" * params.rules.rereads
    fewer = "max_paths" if dialect.declares_paths or params.width != FIXED else "paths"
    return (
        f"{paths} paths of up to {params.max_path_tokens} tokens and a summary take up to {most}{again}: set "
        f"max_trace_tokens={most}" + f", or take fewer {fewer}" * (paths > 1)
    )


def what_truncated(
    rollouts: Sequence[Rollout], params: SamplingParams, dialect: Dialect, context: int | None
) -> str | None:
    """One sentence on the budgets that truncated responses, and the values that would do; None where none did.

    `context`: the number of positions that the model has; None where it is not known.
    """
    counts: Counter[str] = Counter()
    for rollout in rollouts:
        stops = [(segment.finish_reason, segment) for segment in rollout.segments]
        if stops and stops[-1][0] not in TRUNCATIONS:
            stops.append((rollout.stop, None))  # between a block's paths, where the text's own budget counts
        for reason, segment in stops:
            if reason == "length":
                counts[f"max_{segment.kind if segment else 'main'}_tokens"] += 1
            elif reason == "trace_length":
                by_context = context is not None and _by_context(rollout, segment, params, dialect, context)
                counts["context" if by_context else "max_trace_tokens"] += 1
            elif reason in ("max_blocks", "max_paths"):
                counts[reason] += 1
        counts["max_paths"] += sum(segment.bounded for segment in rollout.segments)
    counts += Counter()  # drops zeros
    if not counts:
        return None
    parts = []
    for name, number in counts.items():
        if name == "context":
            parts.append(f"{number} by the model's context of {context} positions")
            continue
        value = getattr(params, name)
        advice = f"{name}={2 * value or 1} allows more"
        if name == "max_trace_tokens":
            advice = _would_do(params, dialect) if params.rules.isolated else advice
        parts.append(f"{number} by {name}={value} ({advice})")
    return "truncated segments: " + ", ".join(parts)


def _by_context(
    rollout: Rollout, segment: Segment | None, params: SamplingParams, dialect: Dialect, context: int
) -> bool:
    """Were it the model's positions that ran out where `segment` stopped (None: after the last one), and not tokens?"""
    if segment is not None and segment.kind == "path" and params.rules.isolated:
        block = [s for s in rollout.segments if s.block == segment.block and s.kind == "path"]
        first = next(s for s in block if s.path == segment.path)
        own = [i for i, s in enumerate(rollout.segments) if s is first or s is segment]  # blocks lie between them
        tokens = sum(len(s.tokens) for s in rollout.segments[own[0] : own[-1] + 1] if s.kind != "copy")
        ahead = context - _first_position(rollout, block[0])
        return tokens >= _allowed(ahead, max(s.path for s in block), params, dialect) - CLOSE
    full = int(rollout.layout().position.max()) + 1 >= context - 2
    return full and rollout.tokens < params.max_trace_tokens - 2


def _allowed(ahead: int, paths: int, params: SamplingParams, dialect: Dialect) -> int:
    """About how many tokens each path may have, its tags among them, of so many positions: see `texts.share_of`."""
    joins = (*dialect.joining, *dialect.closing[: dialect.forced_closing])
    after = sum(1 + bool(tag.gap) for tag in joins)
    if dialect.summary:
        after += 2 + bool(dialect.summary.gap) + bool(params.summary_prefix)
    most = params.max_summary_tokens if dialect.summary else params.max_main_tokens

    def divided(room: int, parts: int) -> int:
        return (room - max(1, min(most, room // (parts + 1)))) // parts

    reach = divided(ahead - after - (paths - 1) * params.stride, 1)
    return min(reach, divided(ahead - after, paths)) if params.rules.rereads else reach


def _first_position(rollout: Rollout, segment: Segment) -> int:
    """The position of a segment's first token."""
    layout = rollout.layout()
    shown = [s for s in rollout.segments if s.tokens and s.kind != "copy"]
    number = next(i for i, s in enumerate(shown) if s is segment) + bool(rollout.prompt)
    piece = [i for i, kind in enumerate(layout.kinds) if kind != "copy"][number]
    return int(layout.position[layout.segment == piece][0])


def check_sampled(rollouts: Sequence[Rollout], params: SamplingParams, dialect: Dialect, context: int | None) -> None:
    """`UserError` where no response got further than its first token, or to a single path, for want of budget."""
    if rollouts and all(
        r.finish_reason == "trace_length" and sum(sum(s.sampled) for s in r.segments) <= 1 for r in rollouts
    ):
        raise UserError(f"nothing could be sampled; {what_truncated(rollouts, params, dialect, context)}")
