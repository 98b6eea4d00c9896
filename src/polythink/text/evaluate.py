"""Evaluation of text models: loss under teacher forcing, texts by beam search, and their scores with intervals.

Writes, under `out`, with the `name` of the set:

    samples-NAME.jsonl   a row a pair: source, reference, output (without an encoder none), its loss and tokens, exact
    eval-NAME.json       what was evaluated and how, and each metric with its 95% interval over pairs

Language modelling by `block` measures running text: all texts one after another, cut into blocks of so many tokens.
"""

from __future__ import annotations

import time
import unicodedata
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field

from polythink.run.config import Config
from polythink.run.folder import os_errors, write_json
from polythink.run.jsonl import write_jsonl
from polythink.run.progress import Progress
from polythink.text.data.pairs import TextSet
from polythink.text.model import Example, TextModel, make_batch, token_losses
from polythink.text.scores import TASKS, score_rows


class TextEvalOptions(Config):
    """How a model is measured. The score of a finished text is sum(log p) / tokens^length_penalty, the end counted."""

    beams: int = Field(1, ge=1)  # 1: greedy
    length_penalty: float = 1.0
    max_new_tokens: int = Field(256, ge=1)
    max_num_seqs: int = Field(64, ge=1)  # texts at once; speed, not results
    tokenize: Literal["13a", "none", "char", "intl", "zh"] = "13a"  # how BLEU cuts words, as in sacrebleu
    block: int | None = Field(None, ge=2)  # language modelling: tokens


# ---- token ids ----


def encode_set(lm: TextModel, texts: TextSet) -> list[Example]:
    """The pairs as token ids."""
    return [
        Example(array("i", lm.encode(pair.source) if lm.has_encoder else ()), array("i", lm.encode(pair.target)))
        for pair in texts
    ]


def running_text(examples: Sequence[Example], block: int) -> list[Example]:
    """All targets one after another, cut into blocks of so many tokens; the last one has what is left."""
    tokens = array("i", [token for example in examples for token in example.target])
    return [Example((), tokens[i : i + block]) for i in range(0, len(tokens), block)]


# ---- loss ----


@torch.no_grad()
def losses(lm: TextModel, examples: Sequence[Example], tokens: int = 4096) -> list[float]:
    """-log p of each target, summed over its tokens. At most `tokens` are in a forward: speed, not results."""
    lm.model.eval()
    found = [0.0] * len(examples)
    for places in groups(longest_first(examples), examples, tokens):
        sums = token_losses(lm, make_batch(lm, [examples[i] for i in places]))[0].double().sum(1).tolist()
        for i, value in zip(places, sums, strict=True):
            found[i] = value
    return found


def mean_loss(lm: TextModel, examples: Sequence[Example]) -> float:
    """Nats a target token, over all targets."""
    return sum(losses(lm, examples)) / sum(len(e.target) for e in examples)


def longest_first(examples: Sequence[Example]) -> list[int]:
    """The places of the examples, neighbours in length together."""
    return sorted(range(len(examples)), key=lambda i: (-examples[i].longest, i))


def groups(order: Sequence[int], examples: Sequence[Example], tokens: int) -> list[list[int]]:
    """The places in this order, in groups whose longer side, padded, has at most so many tokens in all.

    An example that is longer is a group of its own.
    """
    found: list[list[int]] = []
    width = 0
    for i in order:
        width = max(width, examples[i].longest)
        if not found or width * (len(found[-1]) + 1) > tokens:
            found.append([])
            width = examples[i].longest
        found[-1].append(i)
    return found


# ---- texts ----


@torch.no_grad()
def generate(lm: TextModel, examples: Sequence[Example], how: TextEvalOptions, label: str = "") -> list[list[int]]:
    """The target that the model gives to each source, as token ids without the end token."""
    lm.model.eval()
    found: list[list[int]] = [[] for _ in examples]
    with Progress(len(examples), label) as bar:
        order = longest_first(examples)
        for places in (order[i : i + how.max_num_seqs] for i in range(0, len(order), how.max_num_seqs)):
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


# ---- all of it ----


def evaluate_texts(
    lm: TextModel,
    texts: TextSet,
    task: str,
    how: TextEvalOptions,
    out: Path,
    name: str,
    log: Callable[[str], None] = print,
) -> dict:
    """Metric the model on pairs and write the files above; returns what eval-NAME.json holds."""
    for note in texts.notes:
        log(f"note on {texts.name}: {note}")
    started = time.perf_counter()
    with os_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    rows = measure(lm, texts, how)
    write_jsonl(out / f"samples-{name}.jsonl", rows)
    scores = score_rows(rows, TASKS[task], how.tokenize)
    result = {
        "problems": texts.name,
        "n": len(rows),
        "decoding": {key: getattr(how, key) for key in TextEvalOptions.model_fields},
        "notes": list(texts.notes),
        "metrics": {metric: vars(score.estimate()) for metric, score in scores.items()},
        "seconds": time.perf_counter() - started,
    }
    write_json(out / f"eval-{name}.json", result)
    return result


def measure(lm: TextModel, texts: TextSet, how: TextEvalOptions) -> list[dict]:
    """One row a pair, or a block of running text, for samples.jsonl."""
    examples = encode_set(lm, texts)
    if lm.has_encoder:
        drawn = generate(lm, examples, how, texts.name)
        found = zip(texts, examples, losses(lm, examples), map(lm.decode, drawn), strict=True)
        return [
            {"source": pair.source, "reference": pair.target, "output": output,
             "exact": plain(output) == plain(pair.target), "nll": nll, "tokens": len(example.target)}
            for pair, example, nll, output in found
        ]  # fmt: skip
    words = sum(len(pair.target.split()) + 1 for pair in texts)  # the end of a text counts as a word
    share = words / sum(len(example.target) for example in examples)
    rows = running_text(examples, how.block) if how.block else examples
    return [
        {"reference": lm.decode(e.target), "nll": nll, "tokens": len(e.target), "words": share * len(e.target)}
        for e, nll in zip(rows, losses(lm, rows), strict=True)
    ]


def plain(text: str) -> str:
    """The text as tokenizers see it: composed characters, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).split())
