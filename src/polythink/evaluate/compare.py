"""Paths drawn at once against everything else that the same model could do with the same tokens.

For each number of paths P, on the same problems (an arm a line; `charts.ARMS` has their headings):

    parallel             P paths, and a summary that reads their own keys and values
    reread               re-prefill: the texts of the same paths as flat context, read again, and a summary behind them
    majority_paths       the majority of the same paths' own answers
    marked_path          one of the same paths that says of itself that it worked, where the task has such marks
    oracle               a right one is among the same paths
    sequential           one sequential response, as long as a response of one path may be
    sequential_longer    one with P times the path budget, where responses of the former were cut
    sequential_tokens    as many as the parallel response's tokens pay for, one chosen by its mark or by majority
    majority_sequential  the majority of P sequential responses

Ties count their expected share. Sequential responses come from one pool a problem, and what k of them come to is the
exact expectation over draws without replacement. What the paths of a response come to is that of its first block; a
response without a block is its own only path. Seconds are of one pass, arm after arm: they are no benchmark.

Writes, under `out`: compare.json, measures.jsonl (every metric problem by problem), samples-ARM-P.jsonl; with a `name`
compare-NAME.json and so on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveInt

from polythink.engine.params import Request, SamplingParams
from polythink.engine.sampling import stream_key
from polythink.engine.tag_ids import TagIds
from polythink.errors import UserError
from polythink.evaluate.methods import Arm, chosen, from_paths, summarised
from polythink.evaluate.metrics import Metric, by_problem, paired_difference
from polythink.evaluate.run import make_requests
from polythink.evaluate.study import (
    Bench,
    Drawn,
    in_sequence,
    numbers_of_paths,
    with_fixed_path_temperature,
    with_paths,
)
from polythink.evaluate.votes import Paths, fork_end
from polythink.problems.answers import Grader
from polythink.problems.problem import ProblemSet
from polythink.problems.prompts import Prompt, get_prompt
from polythink.run.config import Config
from polythink.trace.dialect import Dialect
from polythink.trace.rollout import Rollout


class CompareConfig(Config):
    """What is compared. Budgets and temperatures are those of the decoding."""

    sequential_prompt: str  # under which the model answers in one sequential response
    paths: tuple[PositiveInt, ...] = ()  # none given: `PATHS`, as far as the dialect has numbers
    samples: int = Field(4, ge=1)  # parallel responses to each problem, for each number of paths
    sequential_tokens: int | None = Field(None, ge=1)  # of one response; None: path, summary and main text together
    max_num_seqs: int = Field(64, ge=1)  # responses that the engine draws at once


def compare(
    engine: Any,
    problem_set: ProblemSet,
    prompt: Prompt,
    decoding: SamplingParams,
    options: CompareConfig,
    seed: int,
    grader: Grader,
    out: Path,
    *,
    name: str = "",
    log: Callable[[str], None] = print,
) -> dict:
    """Draw and measure every arm, write the files above; returns what compare.json holds.

    Random streams go by (seed, problem, sample, segment): responses of different P share their first paths, where
    these have the same numbers, and arms differ by less than independent ones would.
    """
    numbers, notes = check(problem_set, decoding, options, engine.lm.dialect)
    alone = get_prompt(options.sequential_prompt)
    decoding = with_fixed_path_temperature(decoding)
    engine.trained_paths(with_paths(decoding, max(numbers)))  # refused before fewer paths are drawn
    bench = Bench(engine, problem_set, grader, seed, out, name)
    notes = [*problem_set.notes, *notes, *_short_of_room(bench, prompt, decoding, numbers)]
    arms: list[Arm] = []
    for paths in numbers:
        arms += _with_paths(bench, prompt, decoding, paths, options.samples, notes)
    parallel = {arm.paths: arm for arm in arms if arm.name == "parallel"}
    arms += _sequential(bench, alone, decoding, options, parallel, notes)
    facts = {
        "samples": options.samples,
        "sequential_prompt": {"name": alone.name, "hash": alone.hash},
        "sequential_tokens": sequential_budget(decoding, options),
        "paths": numbers,
        "arms": [arm.row(parallel.get(arm.paths)) for arm in arms],
    }
    return bench.conclude("compare", prompt, decoding, facts, notes, _metrics(arms, parallel), log)


def check(
    problem_set: ProblemSet, decoding: SamplingParams, options: CompareConfig, dialect: Dialect
) -> tuple[list[int], list[str]]:
    """The numbers of paths to draw and what is to be said of them; `UserError` before anything is drawn."""
    if not len(problem_set):
        raise UserError(f"the problem set {problem_set.name!r} is empty; give one with at least one problem")
    get_prompt(options.sequential_prompt)
    return numbers_of_paths(options.paths, decoding.mode, dialect)


def sequential_budget(decoding: SamplingParams, options: CompareConfig, paths: int = 1) -> int:
    """Tokens of a sequential response that may be as long as `paths` paths, a summary and main text."""
    once = decoding.max_path_tokens + decoding.max_summary_tokens + decoding.max_main_tokens
    return (options.sequential_tokens or once) + (paths - 1) * decoding.max_path_tokens


def _short_of_room(bench: Bench, prompt: Prompt, decoding: SamplingParams, numbers: Sequence[int]) -> list[str]:
    """A sentence where the context has too few positions for paths and a summary with their whole budgets."""
    once = _longest_prompt(bench, prompt) + decoding.max_path_tokens + 2 + decoding.max_summary_tokens
    short = [str(paths) for paths in numbers if once + (paths - 1) * decoding.stride > bench.engine.lm.context]
    if not short:
        return []
    return [f"the context of {bench.engine.lm.context} positions cuts the budgets of {', '.join(short)} paths"]


def _longest_prompt(bench: Bench, prompt: Prompt) -> int:
    return max(len(bench.engine.lm.encode_prompt(prompt.fill(p.question))) for p in bench.problem_set)


# ---- arms ----


def _with_paths(
    bench: Bench, prompt: Prompt, decoding: SamplingParams, paths: int, samples: int, notes: list[str]
) -> list[Arm]:
    """The arms that use the same drawn paths."""
    requests = make_requests(bench.engine, bench.problem_set, prompt, samples)
    drawn = bench.draw(requests, with_paths(decoding, paths), f"{paths} paths")
    bench.write(drawn.rows, f"parallel-{paths}")
    found = bench.paths_of(drawn)
    arms = [summarised("parallel", paths, drawn, found), *from_paths(paths, drawn.rows, found)]
    again = reread(bench, drawn, found, with_paths(decoding, paths))
    if again is None:
        notes.append(f"the texts of {paths} paths are longer than the context: they were not read again")
        return arms
    bench.write(again.rows, f"reread-{paths}")
    if tags := sum(rollout.finish_reason == "max_blocks" for rollout in again.rollouts):
        notes.append(f"{tags} of {len(again.rollouts)} summaries of {paths} paths read again ended with a stray tag")
    return [*arms, summarised("reread", paths, again, found)]


def reread(bench: Bench, drawn: Drawn, found: Sequence[Paths], decoding: SamplingParams) -> Drawn | None:
    """The drawn paths as flat text behind the prompt, the summary's opening forced, and what the model writes then.

    The second call is sequential: positions go on, everything sees everything before it, no token belongs to a path.
    Summary and what follows share their budgets; a further block would be written sequentially. A response without a
    block is kept as it was. Tokens and critical path are those of the parallel response with this summary in it: what
    is read again costs seconds and forwarded tokens (the seconds contain the parallel summary's, the tokens do not).
    None where some text leaves the context no position: parallel paths share positions, flat text does not.
    """
    lm = bench.engine.lm
    join = TagIds.of(lm.dialect, lm.tag_ids, lm.eos, lm.encode, decoding.summary_prefix).join
    forked = [i for i, paths in enumerate(found) if paths.block]
    prompts = [flat_prompt(drawn.rollouts[i], join) for i in forked]
    if any(len(prompt) >= lm.context for prompt in prompts):
        return None
    requests = [
        Request(prompt, drawn.rollouts[i].problem, drawn.rollouts[i].sample)
        for i, prompt in zip(forked, prompts, strict=True)
    ]
    changes = {
        "mode": "sequential",
        "temperature": decoding.temperature_of("summary"),
        "max_main_tokens": decoding.max_summary_tokens + decoding.max_main_tokens,
        "max_blocks": max(0, decoding.max_blocks - 1),
    }
    seed = stream_key(bench.seed, "reread", 0, 0)  # the paths' own random numbers must not come again behind them
    again = bench.generate(requests, decoding.model_copy(update=changes), seed, f"{decoding.paths} paths reread")
    rows = list(drawn.rows)
    for i, rollout in zip(forked, again.rollouts, strict=True):
        rows[i] = _reread_row(bench, drawn.rows[i], drawn.rollouts[i], found[i], join, rollout)
    # behind its paths the parallel response forwarded all tokens but the last, which nothing follows
    unused = sum(drawn.rows[i]["tokens"] - found[i].tokens - 1 for i in forked)
    return Drawn(rows, again.rollouts, drawn.seconds + again.seconds, drawn.forwarded - unused + again.forwarded)


def flat_prompt(rollout: Rollout, join: Sequence[int]) -> tuple[int, ...]:
    """The prompt, the response up to its first block's last path, and what opens a summary, in text order."""
    head = (token for segment in rollout.segments[: fork_end(rollout)] for token in segment.tokens)
    return (*rollout.prompt, *head, *join)


def _reread_row(bench: Bench, row: dict, first: Rollout, paths: Paths, join: Sequence[int], second: Rollout) -> dict:
    """The row of the parallel response with another summary."""
    lm, head = bench.engine.lm, first.segments[: fork_end(first)]
    problem = next(p for p in bench.problem_set if p.key == row["problem"])
    opened, *rest = second.segments
    summary = lm.decode([*join, *opened.tokens]) + "".join(s.text for s in rest)
    closed = lm.dialect.summary_close in summary  # else it is closed for it, as a summary at a join is
    summary += "" if closed else lm.dialect.summary_close
    text = "".join(s.text for s in head) + summary
    grade = bench.grader.grade(text, problem)
    shown = [*row["segments"][: len(head)], {"kind": "summary", "block": 0, "path": 0, "text": summary,
                                             "finish_reason": second.finish_reason, "right": None}]  # fmt: skip
    behind = len(join) + second.tokens + (not closed)
    kept = {key: row[key] for key in ("problem", "question", "answer", "sample", "blocks", "complete_blocks")}
    return {
        **kept, "text": text, "verdict": grade.verdict, "extracted": grade.extracted, "segments": shown,
        "tokens": paths.tokens + behind, "critical_path": paths.critical_path + behind,
        "truncated": sum(s.truncated for s in (Rollout("", 0, "", (), head), second)), "read_again": len(second.prompt),
    }  # fmt: skip


def _sequential(
    bench: Bench, prompt: Prompt, decoding: SamplingParams, options: CompareConfig, parallel: Mapping[int, Arm],
    notes: list[str],
) -> list[Arm]:  # fmt: skip
    """The arms of sequential responses, from one pool a problem that is as large as the largest of them needs."""
    single = in_sequence(decoding, sequential_budget(decoding, options))

    def more(start: int, end: int) -> Drawn:
        wanted = [r for r in make_requests(bench.engine, bench.problem_set, prompt, end) if r.sample >= start]
        return bench.draw(wanted, single, "sequential")

    first = more(0, max(options.samples, *parallel))
    each = sum(row["tokens"] for row in first.rows) / len(first.rows)
    paid = {paths: max(1, int(arm.tokens.value / each)) for paths, arm in parallel.items()}
    size = len(first.rows) // len(bench.problem_set)
    pools = [first] + ([more(size, max(paid.values()))] if max(paid.values()) > size else [])
    rows = [row for pool in pools for row in pool.rows]
    bench.write(rows, "sequential")
    cost = [sum(getattr(pool, key) for pool in pools) / len(rows) for key in ("seconds", "forwarded")]
    groups = by_problem(rows)
    arms = [chosen("sequential", 1, 1, groups, cost)]
    arms += [chosen("sequential_tokens", paths, k, groups, cost) for paths, k in paid.items()]
    arms += [chosen("majority_sequential", paths, paths, groups, cost) for paths in parallel]
    if any(row["truncated"] for row in rows):
        arms += [_longer(bench, prompt, decoding, options, paths) for paths in parallel if paths > 1]
    longest = sequential_budget(decoding, options, max(parallel) if any(row["truncated"] for row in rows) else 1)
    if _longest_prompt(bench, prompt) + longest > bench.engine.lm.context:
        notes.append(f"the context of {bench.engine.lm.context} positions cuts sequential budgets of {longest} tokens")
    return arms


def _longer(bench: Bench, prompt: Prompt, decoding: SamplingParams, options: CompareConfig, paths: int) -> Arm:
    """One sequential response with the path budget of all `paths`."""
    requests = make_requests(bench.engine, bench.problem_set, prompt, options.samples)
    tokens = sequential_budget(decoding, options, paths)
    drawn = bench.draw(requests, in_sequence(decoding, tokens), f"sequential, {tokens} tokens")
    bench.write(drawn.rows, f"sequential_longer-{paths}")
    groups = by_problem(drawn.rows)
    cost = [value / len(drawn.rows) for value in (drawn.seconds, drawn.forwarded)]
    return chosen("sequential_longer", paths, 1, groups, cost)


def _metrics(arms: Sequence[Arm], parallel: Mapping[int, Arm]) -> dict[str, Metric]:
    """ARM@P is an accuracy, ARM.tokens@P and so on the rest, gain_ARM@P what P paths have over that arm, paired;
    gain_fewer@P what they have over the next smaller number of paths."""
    found: dict[str, Metric] = {}
    for arm in arms:
        for key, value in arm.measures.items():
            found[f"{arm.name}{'' if key == 'accuracy' else '.' + key}@{arm.paths}"] = value
    for arm in arms:
        rivals = parallel if arm.name == "sequential" else {arm.paths: parallel[arm.paths]}
        for paths, rival in rivals.items():
            if arm is not rival:
                found[f"gain_{arm.name}@{paths}"] = paired_difference(rival.accuracy, arm.accuracy)
    for fewer, more in pairwise(sorted(parallel)):
        found[f"gain_fewer@{more}"] = paired_difference(parallel[more].accuracy, parallel[fewer].accuracy)
    return found
