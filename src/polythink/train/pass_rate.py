"""Problems that the model solves sometimes: measured before the first step, since the others teach nothing.

A group whose rollouts are all right or all wrong has no advantage. Dynamic sampling (`dynamic_sampling.py`) draws such
groups again in every step and throws them away; here each problem is asked a few times once, and those outside of a
range of pass rates are not asked again. The rates are those of the model that the stage begins with.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from polythink.errors import UserError
from polythink.problems.problem import Problem
from polythink.run.jsonl import JsonlWriter, read_jsonl
from polythink.run.progress import Progress
from polythink.train import distributed
from polythink.train.data import epoch_index
from polythink.train.pass_rate_key import PassRateConfig

log = logging.getLogger(__name__)
FILE = "pass_rates.jsonl"  # in the stage's folder: a row {problem, right, samples} of each problem that was measured


def sometimes_solved(
    problems: Sequence[Problem],
    config: PassRateConfig,
    measure: Callable[[Sequence[Problem]], list[int]],
    folder: Path,
    seed: int,
    at_once: int,
) -> list[Problem]:
    """The problems whose pass rate is in the range, in their order.

    `measure` gives for each of some problems how many of `config.samples` responses are right; all processes call it
    together, for `at_once` problems at a time. What was measured is kept in `folder`: a stage that was stopped measures
    the rest. `UserError` where no problem is left.
    """
    count = len(problems) if config.problems is None else min(config.problems, len(problems))
    chosen = [problems[i] for i in sorted(epoch_index(len(problems), seed, n) for n in range(count))]
    path = folder / FILE
    right: dict[str, int] = distributed.on_main(lambda: dict(known(path)))
    missing = [problem for problem in chosen if problem.key not in right]
    with Progress(count, distributed.shown("pass rates"), count - len(missing)) as bar:
        for begin in range(0, len(missing), at_once):
            part = missing[begin : begin + at_once]
            found = dict(zip((problem.key for problem in part), measure(part), strict=True))
            distributed.on_main(lambda found=found: keep(path, found, config.samples))
            right |= found
            bar.advance(len(part))
    kept = [p for p in chosen if config.at_least <= right[p.key] / config.samples <= config.at_most]
    easier = sum(right[p.key] > config.at_most * config.samples for p in chosen)
    what = (
        f"{len(kept)} of {count} problems have a pass rate from {config.at_least:g} to {config.at_most:g} over "
        f"{config.samples} samples; {count - len(kept) - easier} have a lower one, {easier} a higher one"
    )
    if not kept:
        raise UserError(f"{what}: none is left to train on; widen the range, or take other problems")
    if distributed.is_main():
        log.warning("%s", what)
    return kept


def known(path: Path) -> Iterable[tuple[str, int]]:
    """Of each problem that was measured before: its key, and how many responses were right."""
    return [(row["problem"], row["right"]) for row in read_jsonl(path)] if path.exists() else []


def keep(path: Path, right: dict[str, int], samples: int) -> None:
    with JsonlWriter(path) as rows:
        for key, count in right.items():
            rows.write({"problem": key, "right": count, "samples": samples})
        rows.sync()
