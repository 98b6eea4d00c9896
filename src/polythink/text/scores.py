"""Scores of generated texts and of losses, each with its interval by bootstrap over pairs.

A row is one of samples.jsonl: reference, output, exact (bool), nll (summed over its target tokens), tokens, and in
language modelling words. Shares (BLEU and ROUGE too) lie between 0 and 1.

ROUGE (Lin 2004) is F1 over lower-case letters and digits, on the text as one sentence. Left out: stemming, and
ROUGE-Lsum, which published tables on CNN/DailyMail report as ROUGE-L: values here are a little lower.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import exp, inf, isfinite, log

import numpy as np

from polythink.errors import UserError, install_extra
from polythink.evaluate.metrics import DRAWS, Estimate, Metric

LARGEST_LOSS = log(sys.float_info.max)  # about 709.78 nats


def score_rows(rows: Sequence[dict], wanted: Sequence[str], tokenize: str = "13a") -> dict[str, Score]:
    """The scores of rows of samples.jsonl, by name."""

    def rouge(score: Callable[[list[str], list[str]], float]) -> Score:
        return mean_of([score(words(row["output"]), words(row["reference"])) for row in rows])

    makers: dict[str, Callable[[], Score]] = {
        "exact": lambda: mean_of([row["exact"] for row in rows]),
        "bleu": lambda: bleu([row["output"] for row in rows], [row["reference"] for row in rows], tokenize),
        "rouge1": lambda: rouge(partial(rouge_n, n=1)),
        "rouge2": lambda: rouge(partial(rouge_n, n=2)),
        "rougeL": lambda: rouge(rouge_l),
        "loss": lambda: Score(_columns(rows, "nll", "tokens"), ratio),
        "perplexity": lambda: Score(_columns(rows, "nll", "tokens"), perplexity),
        "word_perplexity": lambda: Score(_columns(rows, "nll", "words"), perplexity),
    }
    return {name: makers[name]() for name in wanted}


@dataclass(frozen=True)
class Score:
    """A score of a whole set: a function of sums over pairs. `numbers_PK` holds K numbers for each of P pairs."""

    numbers_PK: np.ndarray
    of_sums: Callable[[np.ndarray], float]

    @property
    def value(self) -> float:
        return self.of_sums(self.numbers_PK.sum(0))

    def estimate(self, draws: int = DRAWS, seed: int = 0) -> Estimate:
        """The score with its 95% percentile bootstrap interval over pairs."""
        rng, pairs = np.random.default_rng(seed), len(self.numbers_PK)
        drawn = [self.of_sums(self.numbers_PK[rng.integers(0, pairs, pairs)].sum(0)) for _ in range(draws)]
        # an end that lies between two draws cannot be found where they are infinite; there it is one of the draws
        method = "linear" if np.isfinite(drawn).all() else "nearest"
        low, high = np.quantile(drawn, [0.025, 0.975], method=method)
        return Estimate(self.value, float(low), float(high))


def ratio(sums: np.ndarray) -> float:
    return float(sums[0] / sums[1])


def perplexity(sums: np.ndarray) -> float:
    """The exponential of a mean loss; infinity where that is more than a float holds, as of a model that diverged."""
    loss = ratio(sums)
    return exp(loss) if not loss > LARGEST_LOSS else inf


def beyond_floats(scores: Mapping[str, Estimate]) -> str | None:
    """What is said of scores that are no finite number; None if all are."""
    found = [name for name, score in scores.items() if not all(map(isfinite, vars(score).values()))]
    if not found:
        return None
    loss = f" (the loss is {scores['loss'].value:.6g} nats)" if "loss" in scores else ""
    return f"not a finite number, and null in the results: {', '.join(found)}{loss}; the model has diverged"


def mean_of(values: Sequence[float]) -> Score:
    return Score(np.array([[value, 1.0] for value in values]), ratio)


def _columns(rows: Sequence[dict], *names: str) -> np.ndarray:
    return np.array([[row[name] for name in names] for row in rows], float)


def bleu(outputs: Sequence[str], references: Sequence[str], tokenize: str) -> Score:
    """Corpus BLEU as a share, by sacreBLEU (Post 2018), from the n-gram counts of each pair."""
    try:
        from sacrebleu.metrics import BLEU
    except ImportError:
        raise UserError(f"BLEU needs {install_extra('translation')}") from None

    metric = BLEU(tokenize=tokenize, effective_order=True)  # for one pair; its counts are those of corpus BLEU
    found = [metric.sentence_score(o, [r]) for o, r in zip(outputs, references, strict=True)]
    numbers = np.array([[s.sys_len, s.ref_len, *s.counts, *s.totals] for s in found], float)

    def of_sums(sums: np.ndarray) -> float:
        whole = [int(x) for x in sums]
        result = BLEU.compute_bleu(
            correct=whole[2:6], total=whole[6:], sys_len=whole[0], ref_len=whole[1], smooth_method="exp"
        )
        return result.score / 100

    return Score(numbers, of_sums)


def words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def rouge_n(output: Sequence[str], reference: Sequence[str], n: int) -> float:
    """F1 of the n-grams in common, each counted as often as in the text where it is rarer."""
    ours, theirs = (Counter(zip(*(text[i:] for i in range(n)), strict=False)) for text in (output, reference))
    return f1((ours & theirs).total(), ours.total(), theirs.total())


def rouge_l(output: Sequence[str], reference: Sequence[str]) -> float:
    """F1 of the longest common subsequence of words."""
    return f1(longest_common(output, reference), len(output), len(reference))


def f1(common: int, ours: int, theirs: int) -> float:
    return 2 * common / (ours + theirs) if common else 0.0


def longest_common(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for x in a:
        diagonal = 0
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], diagonal + 1 if x == y else max(row[j], row[j - 1])
    return row[-1]


def text_measures(rows: Sequence[dict]) -> dict[str, Metric]:
    """The scores that are ratios of sums, pair by pair, for paired differences."""
    keys = tuple(str(i) for i in range(len(rows)))
    found = {"loss": Metric(keys, *_columns(rows, "nll", "tokens").T)}
    if "exact" in rows[0]:
        found["exact"] = Metric(keys, np.array([row["exact"] for row in rows], float), np.ones(len(rows)))
    return found
