"""Budgets in words: the least that a block takes, and which budget truncated a response. Imports without torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from polythink.engine.params import SamplingParams
from polythink.engine.width import FIXED
from polythink.errors import UserError
from polythink.trace.production import Dialect, Tag
from polythink.trace.rollout import OUT_OF_ROOM, STOPPED, TRUNCATIONS, Rollout


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


def what_truncated(rollouts: Sequence[Rollout], params: SamplingParams, dialect: Dialect, context: int) -> str | None:
    """One sentence on the budgets that truncated responses, and the values that would do; None where none did.

    `context`: how many positions the model has.
    """
    counts: Counter[str] = Counter()
    for rollout in rollouts:
        stops = [(segment.kind, segment.finish_reason) for segment in rollout.segments]
        if stops and stops[-1][1] not in TRUNCATIONS:
            stops.append(("main", rollout.stop))  # between a block's paths, where the text's own budget counts
        for kind, reason in stops:
            budget = {"length": f"max_{kind}_tokens", "trace_length": "max_trace_tokens"}.get(reason, reason)
            counts[budget] += reason in TRUNCATIONS and reason not in STOPPED
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


def check_sampled(rollouts: Sequence[Rollout], params: SamplingParams, dialect: Dialect, context: int) -> None:
    """`UserError` where no response got further than its first token, or to a single path, for want of budget."""
    if rollouts and all(
        r.finish_reason in OUT_OF_ROOM and sum(sum(s.sampled) for s in r.segments) <= 1 for r in rollouts
    ):
        raise UserError(f"nothing could be sampled; {what_truncated(rollouts, params, dialect, context)}")
