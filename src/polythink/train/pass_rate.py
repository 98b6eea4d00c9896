"""Problems that the model solves sometimes: measured before the first step, since the others teach nothing.

A group whose rollouts are all right or all wrong has no advantage. Dynamic sampling (`dynamic_sampling.py`) draws such
groups again in every step and throws them away; here each problem is asked a few times once, and those outside of a
range of pass rates are not asked again. The rates are those of the model that the stage begins with.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from polythink.errors import UserError
from polythink.problems.problem import Problem
from polythink.run.config import digest
from polythink.run.jsonl import JsonlWriter, read_jsonl
from polythink.run.progress import Progress
from polythink.train import distributed
from polythink.train.data import epoch_index
from polythink.train.pass_rate_key import PassRateConfig

log = logging.getLogger(__name__)
FILE = "pass_rates.jsonl"  # in the stage's folder: a row (`row_of`) of each problem that was measured


class Rate(NamedTuple):
    """How many of a problem's responses are right, and how many were graded in time."""

    right: int
    graded: int


Measure = Callable[[Sequence[Problem]], list[Rate]]


def sometimes_solved(
    problems: Sequence[Problem],
    config: PassRateConfig,
    measure: Measure,
    folder: Path,
    *,
    seed: int,
    at_once: int,
    trained: bool = False,
) -> list[Problem]:
    """The problems whose pass rate is in the range, in their order.

    `measure` gives the rates of some problems over `config.samples` responses to each; all processes call it together,
    for `at_once` problems at a time. What was measured is kept in `folder`: a stage that was stopped measures the rest.
    `UserError` where no problem is left, and where a model that is `trained` already would be measured.
    """
    count = len(problems) if config.problems is None else min(config.problems, len(problems))
    chosen = [problems[i] for i in sorted(epoch_index(len(problems), seed, n) for n in range(count))]
    ids, path = [digest(problem.identity)[:16] for problem in chosen], folder / FILE
    rates: dict[str, Rate] = distributed.on_main(lambda: known(path, config.samples))
    missing = [n for n in range(count) if ids[n] not in rates]
    if trained and missing:
        raise UserError(
            f"{path} lacks {len(missing)} of {count} problems, whose pass rates are those of the model that the stage "
            "began with; put the file back, or delete the checkpoint beside it to begin again"
        )
    with Progress(count, distributed.shown("pass rates"), count - len(missing)) as bar:
        for begin in range(0, len(missing), at_once):
            part = missing[begin : begin + at_once]
            found = dict(zip(part, measure([chosen[n] for n in part]), strict=True))
            rows = [row_of(chosen[n], ids[n], rate, config.samples) for n, rate in found.items()]
            distributed.on_main(lambda rows=rows: keep(path, rows))
            rates |= {ids[n]: rate for n, rate in found.items()}
            bar.advance(len(part))
    kept = distributed.on_main(lambda: in_range([rates[own] for own in ids], config, folder))
    return [chosen[n] for n in kept]


def in_range(rates: Sequence[Rate], config: PassRateConfig, folder: Path) -> list[int]:
    """The numbers of those in the range, which the log is told of. `UserError` where none is."""
    shares = {n: rate.right / rate.graded for n, rate in enumerate(rates) if rate.graded}
    kept = [n for n, share in shares.items() if config.at_least <= share <= config.at_most]
    lower = sum(share < config.at_least for share in shares.values())
    higher = sum(share > config.at_most for share in shares.values())
    late = sum(config.samples - rate.graded for rate in rates)
    what = (
        f"{len(kept)} of {len(rates)} problems have a pass rate from {config.at_least:g} to {config.at_most:g} over "
        f"{config.samples} samples; {lower} have a lower one, {higher} a higher one"
        + (f"; {late} responses were not graded in time and do not count" if late else "")
    )
    if not kept:
        raise UserError(
            f"{what}: none is left to train on; take a wider range or other problems, in another folder or after "
            f"deleting {folder}"
        )
    log.warning("%s", what)
    return kept


# ---- the file ----


def row_of(problem: Problem, id: str, rate: Rate, samples: int) -> dict:
    return {"problem": problem.key, **rate._asdict(), "samples": samples, "id": id}


def known(path: Path, samples: int) -> dict[str, Rate]:
    """What was measured before over as many samples, by the problem's id."""
    rows: Sequence[Mapping] = read_jsonl(path) if path.exists() else []
    return {row["id"]: Rate(row["right"], row["graded"]) for row in rows if row["samples"] == samples}


def keep(path: Path, rows: Sequence[dict]) -> None:
    with JsonlWriter(path) as file:
        for row in rows:
            file.write(row)
        file.sync()
