"""Re-prefill: the summary of drawn paths from their flat text, as a server without fork and join would write it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile

from polythink.engine.params import Request, SamplingParams
from polythink.engine.sampling import stream_key
from polythink.evaluate.samples import Paths, Samples, fork_end
from polythink.evaluate.study import Study
from polythink.problems.problem import Problem
from polythink.trace.rollout import Rollout


def reread(study: Study, drawn: Samples, params: SamplingParams) -> Samples | None:
    """The responses of `drawn` with another summary: prompt and paths as flat text, the summary's opening forced.

    The second call is sequential: positions continue, every token sees all before it, and no token belongs to a path.
    The summary and what follows share their budgets; a further block would be written sequentially. A response without
    a block is kept. Tokens and critical path are those of the parallel response with this summary in it: rereading
    costs seconds and forwarded tokens (the seconds contain the parallel summary's, the tokens do not). None where some
    text leaves no position of the context: parallel paths share positions, flat text does not.
    """
    join = summary_opening(drawn.rollouts)
    forked = [i for i, paths in enumerate(drawn.paths) if paths.block]
    prompts = [flat_prompt(drawn.rollouts[i], join) for i in forked]
    if any(len(prompt) >= study.backend.context for prompt in prompts):
        return None
    requests = [
        Request(prompt, drawn.rollouts[i].problem, drawn.rollouts[i].sample)
        for i, prompt in zip(forked, prompts, strict=True)
    ]
    changes = {
        "mode": "sequential",
        "temperature": params.temperature_of("summary"),
        "max_main_tokens": params.max_summary_tokens + params.max_main_tokens,
        "max_blocks": max(0, params.max_blocks - 1),
    }
    seed = stream_key(study.seed, "reread", 0, 0)  # the paths' own random numbers must not come again after them
    again = study.draw(requests, params.model_copy(update=changes), f"{params.paths} paths reread", seed)
    rows, by_key = list(drawn.rows), {problem.key: problem for problem in study.problems}
    for i, rollout in zip(forked, again.rollouts, strict=True):
        first = drawn.rollouts[i]
        rows[i] = _row(study, by_key[first.problem], rows[i], first, drawn.paths[i], join, rollout)
    # after its paths the parallel response forwarded every token but the last, which nothing follows
    unused = sum(drawn.rows[i]["tokens"] - drawn.paths[i].tokens - 1 for i in forked)
    seconds, forwarded = drawn.seconds + again.seconds, drawn.forwarded - unused + again.forwarded
    return replace(drawn, rows=rows, seconds=seconds, forwarded=forwarded)


def summary_opening(rollouts: Sequence[Rollout]) -> tuple[int, ...]:
    """The tokens that the runtime forces between the last path and the summary's own text; () without a summary.

    They are the same in every summary: the shortest forced run, since a summary without room consists of forced tags.
    """
    summaries = [s for rollout in rollouts for s in rollout.segments if s.kind == "summary"]
    forced = [len(list(takewhile(lambda sampled: not sampled, s.sampled))) for s in summaries]
    shortest = min(range(len(forced)), key=forced.__getitem__, default=None)
    return () if shortest is None else tuple(summaries[shortest].tokens[: forced[shortest]])


def flat_prompt(rollout: Rollout, join: Sequence[int]) -> tuple[int, ...]:
    """The prompt, the response up to its first block's last path, and what opens a summary, in text order."""
    head = (token for segment in rollout.segments[: fork_end(rollout)] for token in segment.tokens)
    return (*rollout.prompt, *head, *join)


def _row(
    study: Study, problem: Problem, row: dict, first: Rollout, paths: Paths, join: Sequence[int], second: Rollout
) -> dict:
    """The row of the parallel response with another summary."""
    backend, head = study.backend, first.segments[: fork_end(first)]
    opened, *rest = second.segments
    summary = backend.decode([*join, *opened.tokens]) + "".join(s.text for s in rest)
    closed = backend.dialect.summary.close in summary  # else the tag is added, as the runtime does at a join
    summary += "" if closed else backend.dialect.summary.close
    text = "".join(s.text for s in head) + summary
    grade = study.grader.grade(text, problem)
    shown = {"kind": "summary", "block": 0, "path": 0, "text": summary, "finish_reason": second.finish_reason,
             "right": None}  # fmt: skip
    added = len(join) + second.tokens + (not closed)
    kept = {key: row[key] for key in ("problem", "question", "answer", "sample", "blocks", "complete_blocks")}
    return {
        **kept, "text": text, "verdict": grade.verdict, "extracted": grade.extracted,
        "segments": [*row["segments"][: len(head)], shown],
        "tokens": paths.tokens + added, "critical_path": paths.critical_path + added,
        "truncated": sum(s.truncated for s in (Rollout("", 0, "", (), head), second)), "read_again": len(second.prompt),
    }  # fmt: skip
