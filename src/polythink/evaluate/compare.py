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

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveInt

from polythink.engine.decoding import Decoding, Request
from polythink.engine.drawing import Grammar
from polythink.engine.sampling import stream_key
from polythink.evaluate.metrics import (
    Measure,
    best_of_n,
    expected_max,
    interval,
    less,
    maj_at_k,
    mean_over,
    measure,
    normalise,
    write_measures,
)
from polythink.evaluate.run import grade_rollouts, make_requests
from polythink.problems.answers import Grader, stated
from polythink.problems.countdown import is_marked_ok, path_answer
from polythink.problems.prompts import Prompt, get_prompt
from polythink.problems.record import Problem, ProblemSet
from polythink.run.config import Config
from polythink.run.errors import UserError
from polythink.run.folder import explained, write_json, write_jsonl
from polythink.trace.dialect import Dialect
from polythink.trace.rollout import Rollout

PATHS = (1, 2, 4, 8, 16)  # unless others are asked for


class CompareConfig(Config):
    """What is compared. Budgets and temperatures are those of the decoding."""

    sequential_prompt: str  # under which the model answers in one sequential response
    paths: tuple[PositiveInt, ...] = ()  # none given: `PATHS`, as far as the dialect has numbers
    samples: int = Field(4, ge=1)  # parallel responses to each problem, for each number of paths
    sequential_tokens: int | None = Field(None, ge=1)  # of one response; None: path, summary and main text together
    rows: int = Field(64, ge=1)  # responses that the engine draws at once


def compare(
    engine: Any,
    problem_set: ProblemSet,
    prompt: Prompt,
    decoding: Decoding,
    options: CompareConfig,
    seed: int,
    grader: Grader,
    out: Path,
    *,
    name: str = "",
    say: Callable[[str], None] = print,
) -> dict:
    """Draw and measure every arm, write the files above; returns what compare.json holds.

    Random streams go by (seed, problem, sample, segment): responses of different P share their first paths, where
    these have the same numbers, and arms differ by less than independent ones would.
    """
    numbers, notes = check(problem_set, decoding, options, engine.lm.dialect)
    alone = get_prompt(options.sequential_prompt)
    with explained(out):
        out.mkdir(parents=True, exist_ok=True)
    bench = Bench(engine, problem_set, grader, seed, out, f"-{name}" if name else "")
    started, arms = time.monotonic(), []
    notes = [*problem_set.notes, *notes, *_short_of_room(bench, prompt, decoding, numbers)]
    for paths in numbers:
        arms += _with_paths(bench, prompt, decoding, paths, options.samples, notes)
    parallel = {arm.paths: arm for arm in arms if arm.name == "parallel"}
    arms += _sequential(bench, alone, decoding, options, parallel)
    for note in notes:
        say(f"note on {problem_set.name}: {note}")
    found = _metrics(arms, parallel)
    write_measures(out / f"measures{bench.suffix}.jsonl", found)
    result = {
        "kind": "compare",
        "problems": problem_set.name,
        "n": len(problem_set),
        "samples": options.samples,
        "prompt": {"name": prompt.name, "hash": prompt.hash},
        "sequential_prompt": {"name": alone.name, "hash": alone.hash},
        "seed": seed,
        "decoding": decoding.model_dump(mode="json"),
        "sequential_tokens": sequential_budget(decoding, options),
        "paths": list(numbers),
        "notes": notes,
        "arms": [arm.row(parallel.get(arm.paths)) for arm in arms],
        "metrics": {metric: vars(interval(measure)) for metric, measure in found.items()},
        "seconds": round(time.monotonic() - started, 1),
    }
    write_json(out / f"compare{bench.suffix}.json", result)
    return result


def check(
    problem_set: ProblemSet, decoding: Decoding, options: CompareConfig, dialect: Dialect
) -> tuple[list[int], list[str]]:
    """The numbers of paths to draw and what is to be said of them; `UserError` before anything is drawn."""
    if not len(problem_set):
        raise UserError(f"the problem set {problem_set.name!r} is empty; give one with at least one problem")
    get_prompt(options.sequential_prompt)
    return numbers_of_paths(options.paths, decoding.mode, dialect)


def numbers_of_paths(given: Sequence[int], mode: str, dialect: Dialect) -> tuple[list[int], list[str]]:
    """The numbers asked for, or `PATHS` as far as the dialect has numbers, and a sentence on what was left out."""
    if mode != "structured":
        raise UserError(f"paths are compared in the mode structured, where they are drawn at once; this one is {mode}")
    most = dialect.inventory or max(*PATHS, *given)
    if given and max(given) > most:
        raise UserError(
            f"{max(given)} paths are more than the {most} numbers of the dialect {dialect.name}; take fewer, or train "
            f"with a larger inventory"
        )
    kept = sorted(set(given)) or [paths for paths in PATHS if paths <= most]
    left = [] if given else [paths for paths in PATHS if paths > most]
    said = f"{', '.join(map(str, left))} paths were left out: the dialect {dialect.name} has {most} numbers"
    return kept, [said] if left else []


# ---- drawing ----


@dataclass(frozen=True)
class Bench:
    """Where arms are drawn: the engine, the problems, and where samples are written."""

    engine: Any  # has `.lm`, `.generate(requests, decoding, seed, label=)` and `.forwarded`
    problem_set: ProblemSet
    grader: Grader
    seed: int
    out: Path
    suffix: str

    def generate(self, requests: Sequence[Request], decoding: Decoding, seed: int, label: str) -> Drawn:
        """Draw, and take the time of that alone; nothing is graded yet."""
        before, started = self.engine.forwarded, time.perf_counter()
        rollouts = self.engine.generate(requests, decoding, seed, label=f"{self.problem_set.name}, {label}")
        return Drawn([], rollouts, time.perf_counter() - started, self.engine.forwarded - before)

    def draw(self, requests: Sequence[Request], decoding: Decoding, label: str, seed: int | None = None) -> Drawn:
        """Draw and grade, under the bench's own seed unless another is given."""
        drawn = self.generate(requests, decoding, self.seed if seed is None else seed, label)
        rows = grade_rollouts(drawn.rollouts, self.problem_set, self.grader, self.engine.lm.dialect)
        return replace(drawn, rows=rows)

    def write(self, rows: Sequence[dict], arm: str) -> None:
        write_jsonl(self.out / f"samples{self.suffix}-{arm}.jsonl", rows)

    def paths_of(self, drawn: Drawn) -> list[Paths]:
        problems = {problem.key: problem for problem in self.problem_set}
        return [
            paths_of(row, rollout, problems[rollout.problem], self.engine.lm.dialect)
            for row, rollout in zip(drawn.rows, drawn.rollouts, strict=True)
        ]


@dataclass(frozen=True)
class Drawn:
    """What one call of the engine gave: rollouts and graded rows, seconds, tokens run through the model."""

    rows: list[dict]
    rollouts: list[Rollout]
    seconds: float
    forwarded: int


def with_paths(decoding: Decoding, paths: int, path_tokens: int | None = None) -> Decoding:
    """The same decoding with so many paths, of so many tokens each: what they need more is added to the trace's."""
    path_tokens = path_tokens or decoding.max_path_tokens
    more = paths * (path_tokens + 2) - decoding.paths * (decoding.max_path_tokens + 2)
    trace = decoding.max_trace_tokens + max(0, more) * max(1, decoding.max_blocks)
    return decoding.model_copy(update={"paths": paths, "max_path_tokens": path_tokens, "max_trace_tokens": trace})


def in_sequence(decoding: Decoding, tokens: int) -> Decoding:
    """One ordinary response of at most so many tokens, drawn as warmly as paths are."""
    warmth = decoding.temperature_of("path")
    changes = {"mode": "sequential", "temperature": warmth, "max_main_tokens": tokens, "max_trace_tokens": tokens}
    return decoding.model_copy(update=changes)


def sequential_budget(decoding: Decoding, options: CompareConfig, paths: int = 1) -> int:
    """Tokens of a sequential response that may be as long as `paths` paths, a summary and main text."""
    once = decoding.max_path_tokens + decoding.max_summary_tokens + decoding.max_main_tokens
    return (options.sequential_tokens or once) + (paths - 1) * decoding.max_path_tokens


def _short_of_room(bench: Bench, prompt: Prompt, decoding: Decoding, numbers: Sequence[int]) -> list[str]:
    """A sentence where the context has too few positions for paths and a summary with their whole budgets."""
    longest = max(len(bench.engine.lm.encode_prompt(prompt.fill(p.question))) for p in bench.problem_set)
    once = longest + decoding.max_path_tokens + 2 + decoding.max_summary_tokens
    short = [str(paths) for paths in numbers if once + (paths - 1) * decoding.stride > bench.engine.lm.context]
    if not short:
        return []
    return [f"the context of {bench.engine.lm.context} positions cuts the budgets of {', '.join(short)} paths"]


# ---- what the paths of one response came to ----


@dataclass(frozen=True)
class Paths:
    """The paths of a response's first block: their answers, and the response's cost up to the end of the last path."""

    votes: tuple[str | None, ...]  # normalised answers, None where a path states none
    right: tuple[bool, ...]
    marked: tuple[bool, ...] | None  # what they say of themselves, None where the task has no marks
    tokens: int
    critical_path: int
    block: bool = True  # False: there is no block, and the response counts as its only path

    @property
    def majority(self) -> float:
        """Probability that the majority is right, a tie broken at random."""
        return maj_at_k(self.votes, self.right, len(self.votes))

    @property
    def by_mark(self) -> float:
        """Probability that one of those marked is right, one of all where none is marked."""
        return best_of_n(self.marked, self.right, len(self.right))


def paths_of(row: dict, rollout: Rollout, problem: Problem, dialect: Dialect) -> Paths:
    """The paths of a graded response."""
    marks = problem.checker == "countdown"
    paths = [segment for segment in row["segments"] if segment["kind"] == "path" and segment["block"] == 0]
    if not paths:
        return Paths(
            votes=(normalise(row["extracted"]),),
            right=(row["verdict"] == "right",),
            marked=(row["marked"],) if marks else None,
            tokens=row["tokens"],
            critical_path=row["critical_path"],
            block=False,
        )
    head = Rollout(
        rollout.problem, rollout.sample, rollout.mode, rollout.prompt, rollout.segments[: _fork_end(rollout)],
        rollout.stride,
    )  # fmt: skip
    return Paths(
        votes=tuple(normalise(own_answer(path["text"], problem, dialect)) for path in paths),
        right=tuple(path["right"] is True for path in paths),
        marked=tuple(is_marked_ok(path["text"]) for path in paths) if marks else None,
        tokens=head.tokens,
        critical_path=head.layout().critical_path - len(head.prompt),
    )


def own_answer(text: str, problem: Problem, dialect: Dialect) -> str | None:
    """The answer that a path states by itself; None where it states none."""
    if problem.checker == "countdown":
        return path_answer(text)
    for tag in dialect.tags:
        text = text.replace(tag, " ")
    return stated(text)


def _fork_end(rollout: Rollout) -> int:
    """How many segments there are up to the last path of the first block; 0 without a block."""
    return max((i for i, s in enumerate(rollout.segments, 1) if s.kind == "path" and s.block == 0), default=0)


# ---- arms ----


@dataclass(frozen=True)
class Arm:
    """One way to answer, and what an answer costs. No seconds and forwarded tokens where it was not drawn apart."""

    name: str
    paths: int  # P
    accuracy: Measure
    tokens: Measure
    critical_path: Measure
    seconds: float | None = None  # an answer
    forwarded: float | None = None  # tokens run through the model for an answer, the prompt's included
    responses: int = 1  # drawn for one answer
    right_path: Measure | None = None  # of answers with a block, those with a right path in it
    summary_right: Measure | None = None  # of answers with a block and a right path in it, those that are right

    @property
    def measures(self) -> dict[str, Measure]:
        known = {
            key: getattr(self, key) for key in ("accuracy", "tokens", "critical_path", "right_path", "summary_right")
        }
        return {key: value for key, value in known.items() if value is not None}

    def row(self, parallel: Arm | None) -> dict:
        """A row of compare.json; `difference` is that of the parallel arm, with as many paths, less this one."""
        facts = {key: getattr(self, key) for key in ("paths", "responses", "seconds", "forwarded")}
        gap = {} if parallel in (None, self) else {"difference": vars(interval(less(parallel.accuracy, self.accuracy)))}
        return {"arm": self.name, **facts, **{k: vars(interval(m)) for k, m in self.measures.items()}, **gap}


def _with_paths(
    bench: Bench, prompt: Prompt, decoding: Decoding, paths: int, samples: int, notes: list[str]
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
    return [*arms, summarised("reread", paths, again, found)]


def summarised(name: str, paths: int, drawn: Drawn, found: Sequence[Paths]) -> Arm:
    """An arm whose responses read their paths and answer."""
    groups = _together(drawn.rows, zip(drawn.rows, found, strict=True))

    def right(pair: tuple[dict, Paths]) -> bool:
        return pair[0]["verdict"] == "right"

    def held(pair: tuple[dict, Paths]) -> bool:
        return pair[1].block and any(pair[1].right)

    return Arm(
        name,
        paths,
        accuracy=mean_over(groups, right),
        tokens=mean_over(groups, lambda pair: pair[0]["tokens"]),
        critical_path=mean_over(groups, lambda pair: pair[0]["critical_path"]),
        seconds=drawn.seconds / len(drawn.rows),
        forwarded=drawn.forwarded / len(drawn.rows),
        right_path=measure(groups, lambda g: sum(map(held, g)), lambda g: sum(pair[1].block for pair in g)),
        summary_right=measure(groups, lambda g: sum(held(p) and right(p) for p in g), lambda g: sum(map(held, g))),
    )


def from_paths(paths: int, rows: Sequence[dict], found: Sequence[Paths]) -> list[Arm]:
    """The arms that choose among the paths without a summary."""
    groups = _together(rows, found)
    ways = {"majority_paths": lambda p: p.majority, "oracle": lambda p: float(any(p.right))}
    if all(p.marked is not None for p in found):
        ways["marked_path"] = lambda p: p.by_mark
    tokens = mean_over(groups, lambda p: p.tokens)
    critical_path = mean_over(groups, lambda p: p.critical_path)
    return [Arm(name, paths, mean_over(groups, way), tokens, critical_path) for name, way in ways.items()]


def reread(bench: Bench, drawn: Drawn, found: Sequence[Paths], decoding: Decoding) -> Drawn | None:
    """The drawn paths as flat text behind the prompt, the summary's opening forced, and what the model writes then.

    The second call is sequential: positions go on, everything sees everything before it, no token belongs to a path.
    Summary and what follows share their budgets; a further block would be written sequentially. A response without a
    block is kept as it was. Tokens and critical path are those of the parallel response with this summary in it: what
    is read again costs seconds and forwarded tokens. None where some text leaves the context no position: parallel
    paths share positions, flat text does not.
    """
    lm = bench.engine.lm
    join = Grammar.of(lm.dialect, lm.tag_ids, lm.eos, lm.encode, decoding.summary_opening).join
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
    return Drawn(rows, again.rollouts, drawn.seconds + again.seconds, drawn.forwarded + again.forwarded)


def flat_prompt(rollout: Rollout, join: Sequence[int]) -> tuple[int, ...]:
    """The prompt, the response up to its first block's last path, and what opens a summary, in text order."""
    head = (token for segment in rollout.segments[: _fork_end(rollout)] for token in segment.tokens)
    return (*rollout.prompt, *head, *join)


def _reread_row(bench: Bench, row: dict, first: Rollout, paths: Paths, join: Sequence[int], second: Rollout) -> dict:
    """The row of the parallel response with another summary."""
    lm, head = bench.engine.lm, first.segments[: _fork_end(first)]
    problem = next(p for p in bench.problem_set if p.key == row["problem"])
    opened, *rest = second.segments
    summary = lm.decode([*join, *opened.tokens]) + "".join(s.text for s in rest)
    closed = lm.dialect.summary_close in summary  # else it is closed for it, as a summary at a join is
    summary += "" if closed else lm.dialect.summary_close
    text = "".join(s.text for s in head) + summary
    grade = bench.grader.grade(text, problem)
    shown = [*row["segments"][: len(head)], {"kind": "summary", "block": 0, "path": 0, "text": summary,
                                             "stop": second.stop, "right": None}]  # fmt: skip
    behind = len(join) + second.tokens + (not closed)
    kept = {key: row[key] for key in ("problem", "question", "answer", "sample", "blocks", "complete_blocks")}
    return {
        **kept, "text": text, "verdict": grade.verdict, "extracted": grade.extracted, "segments": shown,
        "tokens": paths.tokens + behind, "critical_path": paths.critical_path + behind,
        "cuts": sum(s.cuts for s in (Rollout("", 0, "", (), head), second)), "read_again": len(second.prompt),
    }  # fmt: skip


def _sequential(
    bench: Bench, prompt: Prompt, decoding: Decoding, options: CompareConfig, parallel: Mapping[int, Arm]
) -> list[Arm]:
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
    groups = _together(rows, rows)
    arms = [chosen("sequential", 1, 1, groups, cost)]
    arms += [chosen("sequential_tokens", paths, k, groups, cost) for paths, k in paid.items()]
    arms += [chosen("majority_sequential", paths, paths, groups, cost) for paths in parallel]
    if any(row["cuts"] for row in rows):
        arms += [_longer(bench, prompt, decoding, options, paths) for paths in parallel if paths > 1]
    return arms


def chosen(name: str, paths: int, k: int, groups: Mapping[str, Sequence[dict]], cost: Sequence[float]) -> Arm:
    """k of a problem's responses as one answer: `sequential_tokens` goes by marks where there are any, else by vote."""
    by_mark = name == "sequential_tokens" and all(row.get("marked") is not None for g in groups.values() for row in g)

    def accuracy(group: Sequence[dict]) -> float:
        right = [row["verdict"] == "right" for row in group]
        if by_mark:
            return best_of_n([row["marked"] for row in group], right, k)
        return maj_at_k([normalise(row["extracted"]) for row in group], right, k)

    return Arm(
        name,
        paths,
        accuracy=measure(groups, accuracy),
        tokens=measure(groups, lambda g: k * sum(row["tokens"] for row in g) / len(g)),
        critical_path=measure(groups, lambda g: expected_max([row["critical_path"] for row in g], k)),
        seconds=k * cost[0],
        forwarded=k * cost[1],
        responses=k,
    )


def _longer(bench: Bench, prompt: Prompt, decoding: Decoding, options: CompareConfig, paths: int) -> Arm:
    """One sequential response with the path budget of all `paths`."""
    requests = make_requests(bench.engine, bench.problem_set, prompt, options.samples)
    tokens = sequential_budget(decoding, options, paths)
    drawn = bench.draw(requests, in_sequence(decoding, tokens), f"sequential, {tokens} tokens")
    bench.write(drawn.rows, f"sequential_longer-{paths}")
    groups = _together(drawn.rows, drawn.rows)
    cost = [value / len(drawn.rows) for value in (drawn.seconds, drawn.forwarded)]
    return chosen("sequential_longer", paths, 1, groups, cost)


def _together(rows: Sequence[dict], items: Any) -> dict[str, list]:
    """`items`, one a row, by problem in order of appearance."""
    groups: dict[str, list] = {}
    for row, item in zip(rows, items, strict=True):
        groups.setdefault(row["problem"], []).append(item)
    return groups


def _metrics(arms: Sequence[Arm], parallel: Mapping[int, Arm]) -> dict[str, Measure]:
    """ARM@P is an accuracy, ARM.tokens@P and so on the rest, gain_ARM@P what P paths have over that arm, paired."""
    found: dict[str, Measure] = {}
    for arm in arms:
        for key, value in arm.measures.items():
            found[f"{arm.name}{'' if key == 'accuracy' else '.' + key}@{arm.paths}"] = value
    for arm in arms:
        rivals = parallel if arm.name == "sequential" else {arm.paths: parallel[arm.paths]}
        for paths, rival in rivals.items():
            if arm is not rival:
                found[f"gain_{arm.name}@{paths}"] = less(rival.accuracy, arm.accuracy)
    return found
