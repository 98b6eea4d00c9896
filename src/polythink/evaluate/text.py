"""Evaluation of text models: loss under teacher forcing, texts by beam search, and their scores with intervals.

Writes, under `out`, with the `name` of the set:

    samples-NAME.jsonl   a row a pair: source, reference, output (without an encoder none), its loss and tokens, exact
    eval-NAME.json       what was evaluated and how, and each metric with its 95% interval over pairs
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp
from pathlib import Path

import numpy as np
import torch
from pydantic import Field

from polythink.evaluate.metrics import DRAWS, Estimate
from polythink.models.text import Example, TextModel, make_batch, token_losses
from polythink.problems.pairs import Pair, TextSet
from polythink.run.config import Config
from polythink.run.folder import explained, write_json, write_jsonl
from polythink.run.progress import Progress


class BeamConfig(Config):
    """How texts are generated. The score of a finished text is sum(log p) / tokens^length_penalty, the end counted."""

    beams: int = Field(1, ge=1)  # 1: greedy
    length_penalty: float = 1.0
    max_new_tokens: int = Field(256, ge=1)
    batch: int = Field(64, ge=1)  # texts at once; speed, not results


# ---- loss ----


@torch.no_grad()
def losses(lm: TextModel, examples: Sequence[Example], batch: int = 128) -> list[float]:
    """-log p of each target, summed over its tokens."""
    lm.model.eval()
    found = [0.0] * len(examples)
    for places in in_batches([len(e.source) + len(e.target) for e in examples], batch):
        sums = token_losses(lm, make_batch(lm, [examples[i] for i in places]))[0].double().sum(1).tolist()
        for i, value in zip(places, sums, strict=True):
            found[i] = value
    return found


def mean_loss(lm: TextModel, examples: Sequence[Example]) -> float:
    """Nats a target token, over all targets."""
    return sum(losses(lm, examples)) / sum(len(e.target) for e in examples)


def in_batches(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Places in groups of at most `size`, neighbours in length together, longest first."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    return [order[i : i + size] for i in range(0, len(order), size)]


# ---- texts ----


@torch.no_grad()
def generate(lm: TextModel, examples: Sequence[Example], how: BeamConfig, label: str = "") -> list[list[int]]:
    """The target that the model gives to each source, as token ids without the end token."""
    lm.model.eval()
    found: list[list[int]] = [[] for _ in examples]
    with Progress(len(examples), label) as bar:
        for places in in_batches([len(e.source) for e in examples], how.batch):
            inputs = make_batch(lm, [examples[i] for i in places]).inputs
            out = lm.model.generate(
                inputs["input_ids"], attention_mask=inputs["attention_mask"], do_sample=False, num_beams=how.beams,
                length_penalty=how.length_penalty, max_new_tokens=how.max_new_tokens,
            )  # fmt: skip
            for i, row in zip(places, out[:, 1:].tolist(), strict=True):
                found[i] = until(row, lm.tokenizer.eos_token_id)
            bar.advance(len(places))
    return found


def until(ids: Sequence[int], end: int) -> list[int]:
    return list(ids[: ids.index(end)]) if end in ids else list(ids)


# ---- scores ----


def score_pairs(rows: Sequence[dict], wanted: Sequence[str], tokenize: str = "13a") -> dict[str, Score]:
    """The scores of rows of samples.jsonl, by name."""
    makers: dict[str, Callable[[], Score]] = {
        "exact": lambda: mean_of([row["exact"] for row in rows]),
        "bleu": lambda: bleu([row["output"] for row in rows], [row["reference"] for row in rows], tokenize),
        "loss": lambda: Score(_columns(rows, "nll", "tokens"), ratio),
        "perplexity": lambda: Score(_columns(rows, "nll", "tokens"), lambda sums: exp(ratio(sums))),
    }
    return {name: makers[name]() for name in wanted}


@dataclass(frozen=True)
class Score:
    """A score of a whole set: a function of the sums, over pairs, of some numbers that each pair has."""

    numbers_PK: np.ndarray
    of_sums: Callable[[np.ndarray], float]

    @property
    def value(self) -> float:
        return self.of_sums(self.numbers_PK.sum(0))

    def estimate(self, draws: int = DRAWS, seed: int = 0) -> Estimate:
        """The score with its 95% percentile bootstrap interval over pairs."""
        rng, pairs = np.random.default_rng(seed), len(self.numbers_PK)
        drawn = [self.of_sums(self.numbers_PK[rng.integers(0, pairs, pairs)].sum(0)) for _ in range(draws)]
        low, high = np.quantile(drawn, [0.025, 0.975])
        return Estimate(self.value, float(low), float(high))


def ratio(sums: np.ndarray) -> float:
    return float(sums[0] / sums[1])


def mean_of(values: Sequence[float]) -> Score:
    return Score(np.array([[value, 1.0] for value in values]), ratio)


def _columns(rows: Sequence[dict], *names: str) -> np.ndarray:
    return np.array([[row[name] for name in names] for row in rows], float)


def bleu(outputs: Sequence[str], references: Sequence[str], tokenize: str) -> Score:
    """Corpus BLEU as a share, by sacrebleu (Post 2018); `tokenize` as there. From n-gram counts, pair by pair."""
    from sacrebleu.metrics import BLEU

    metric = BLEU(tokenize=tokenize, effective_order=True)  # of one pair; the counts are the same
    found = [metric.sentence_score(o, [r]) for o, r in zip(outputs, references, strict=True)]
    numbers = np.array([[s.sys_len, s.ref_len, *s.counts, *s.totals] for s in found], float)

    def of_sums(sums: np.ndarray) -> float:
        whole = [int(x) for x in sums]
        result = BLEU.compute_bleu(
            correct=whole[2:6], total=whole[6:], sys_len=whole[0], ref_len=whole[1], smooth_method="exp"
        )
        return result.score / 100

    return Score(numbers, of_sums)


# ---- all of it ----

TASKS = {  # task -> its metrics, the first ones first
    "translation": ("exact", "bleu", "loss", "perplexity"),
    "language_modelling": ("loss", "perplexity"),
}


def evaluate_texts(
    lm: TextModel,
    texts: TextSet,
    examples: Sequence[Example],
    task: str,
    how: BeamConfig,
    out: Path,
    *,
    name: str,
    tokenize: str = "13a",
    say: Callable[[str], None] = print,
) -> dict:
    """Measure the model on pairs and write the files above; returns what eval-NAME.json holds."""
    for note in texts.notes:
        say(f"note on {texts.name}: {note}")
    started = time.perf_counter()
    with explained(out):
        out.mkdir(parents=True, exist_ok=True)
    nll = losses(lm, examples)
    drawing = time.perf_counter()
    drawn = generate(lm, examples, how, texts.name) if lm.has_encoder else [None] * len(examples)
    seconds = time.perf_counter() - drawing
    rows = [_row(lm, *row) for row in zip(texts, examples, nll, drawn, strict=True)]
    write_jsonl(out / f"samples-{name}.jsonl", rows)
    scores = score_pairs(rows, TASKS[task], tokenize)
    result = {
        "problems": texts.name,
        "n": len(rows),
        "decoding": {key: getattr(how, key) for key in BeamConfig.model_fields},
        "notes": list(texts.notes),
        "metrics": {metric: vars(score.estimate()) for metric, score in scores.items()},
        "tokens": sum(len(ids) + 1 for ids in drawn if ids is not None),
        "decoding_seconds": seconds,
        "seconds": time.perf_counter() - started,
    }
    write_json(out / f"eval-{name}.json", result)
    return result


def _row(lm: TextModel, pair: Pair, example: Example, nll: float, drawn: Sequence[int] | None) -> dict:
    row = {"source": pair.source, "reference": pair.target, "nll": nll, "tokens": len(example.target)}
    if drawn is None:
        return row
    output = lm.decode(drawn)
    return {**row, "output": output, "exact": output == lm.decode(example.target)}
