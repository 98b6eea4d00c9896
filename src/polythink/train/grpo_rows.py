"""A step's graded rollouts, and what a run writes of them: metrics and some samples each step, a summary at its end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import compress
from statistics import fmean

from polythink.evaluate.samples import sample_row
from polythink.models.lm import LanguageModel
from polythink.problems.answers import Grader
from polythink.problems.grade import Grade
from polythink.problems.problem import Problem
from polythink.run.jsonl import JsonlWriter
from polythink.trace.dialect import Dialect
from polythink.trace.rollout import STOPPED, Rollout
from polythink.trace.statistics import rollout_statistics
from polythink.train.config import GRPOConfig
from polythink.train.credit import Chain

# of a rollout: their means are logged
AMOUNTS = ("well_formed", "tokens", "sampled_tokens", "critical_path", "truncated", *STOPPED, "bounded", "empty_plans")


@dataclass(frozen=True)
class GradedBatch:
    """The rollouts of one step with their grades and rewards, group after group: P groups of G."""

    rollouts: list[Rollout]
    problems: list[Problem]  # of each rollout
    grades: list[Grade]
    terms: list[dict[str, float]]  # the parts of each reward, by name
    paths: list[dict[Chain, bool]] | None = None  # whether each path is right; None: paths have no credit of their own

    def __add__(self, other: GradedBatch) -> GradedBatch:
        both = ((getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return GradedBatch(*(None if own is None else own + more for own, more in both))

    @property
    def rewards(self) -> list[float]:
        """The reward of each rollout."""
        return [sum(parts.values()) for parts in self.terms]

    @property
    def graded(self) -> list[bool]:
        """Whether each rollout has a verdict; one whose grading ran out of time has none, right or wrong."""
        return [grade.decided for grade in self.grades]


def describe(batch: GradedBatch, dialect: Dialect) -> dict:
    """Means over the rollouts of a step (None of nothing), each term of the reward as reward/NAME among them.

    Reward and accuracy are over the rollouts that were graded in time; `timeouts` counts the others, which are not
    trained on. `unsampled` counts rollouts without a sampled token, which carry no loss. `entropy` is the mean
    surprisal of the sampled tokens in nats, an unbiased estimate.
    """
    found = [rollout_statistics(r, dialect) for r in batch.rollouts]
    first = [f["first_block"] for f in found if f["first_block"] is not None]
    surprisal = [
        -p for r in batch.rollouts for s in r.segments for p, own in zip(s.logprobs, s.sampled, strict=True) if own
    ]
    rewards, terms, grades = (list(compress(x, batch.graded)) for x in (batch.rewards, batch.terms, batch.grades))
    return {
        "reward": mean(rewards),
        **{f"reward/{name}": mean(parts[name] for parts in terms) for name in batch.terms[0]},
        "accuracy": mean(g.verdict == "right" for g in grades),
        "unparsed": fmean(g.verdict == "unparsed" for g in batch.grades),
        "timeouts": len(batch.grades) - len(grades),
        "unsampled": sum(not any(any(s.sampled) for s in r.segments) for r in batch.rollouts),
        "parallel_ratio": fmean(f["complete_blocks"] > 0 for f in found),
        **{name: fmean(f[name] for f in found) for name in AMOUNTS},
        "first_block": mean(first),
        **({} if batch.paths is None else {"path_right": mean(right for own in batch.paths for right in own.values())}),
        "entropy": mean(surprisal),
    }


def mean(values: Iterable[float]) -> float | None:
    """The mean; None of nothing."""
    values = list(values)
    return fmean(values) if values else None


def write(
    metrics: JsonlWriter, samples: JsonlWriter, row: dict, batch: GradedBatch, config: GRPOConfig, grader: Grader,
    lm: LanguageModel,
) -> None:  # fmt: skip
    """The rows of a step: its samples first, since trackers are given both with the metrics."""
    for sample_of_step in sample_rows(batch, config, grader, lm.dialect):
        samples.write({"step": row["step"], **sample_of_step})
    metrics.write(row)


def sample_rows(batch: GradedBatch, config: GRPOConfig, grader: Grader, dialect: Dialect) -> list[dict]:
    """Rows for samples.jsonl: the first rollout of the first groups."""
    chosen = range(0, len(batch.rollouts), config.group_size)[: config.log_samples]
    rewards = [reward if graded else None for reward, graded in zip(batch.rewards, batch.graded, strict=True)]
    return [
        {"reward": rewards[i]} | sample_row(batch.problems[i], batch.rollouts[i], batch.grades[i], grader, dialect)
        for i in chosen
    ]


def summarise(rows: Sequence[dict], config: GRPOConfig, skipped: int) -> dict:
    """What result.json says: the numbers of the last step, what all steps cost, and how many problems were left out.

    `logprob_gap_max` is the largest gap of any step, `mismatch_kl` the mean over the steps.
    """
    last = {name: rows[-1][name] for name in ("reward", "accuracy", "parallel_ratio", "logprob_gap")}
    gaps = [row["logprob_gap"] for row in rows if row["logprob_gap"] is not None]
    last["logprob_gap_max"] = max(gaps, default=None)
    last["mismatch_kl"] = mean(row["mismatch_kl"] for row in rows if row.get("mismatch_kl") is not None)
    tokens = (
        sum(row["tokens"] * row.get("gen_batches", 1) for row in rows) * config.prompts_per_step * config.group_size
    )
    seconds = sum(row["draw_seconds"] + row["train_seconds"] for row in rows)
    return {"steps": len(rows), **last, "tokens": round(tokens), "seconds": seconds, "skipped_prompts": skipped}
