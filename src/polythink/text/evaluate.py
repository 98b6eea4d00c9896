"""Evaluation of text models: loss under teacher forcing, texts by beam search, and their scores with intervals.

Writes, under `out`, with the `name` of the set:

    samples-NAME.jsonl   one row per pair: source, reference, output (with an encoder), its loss and tokens, exact
    eval-NAME.json       what was evaluated and how, and each metric with its 95% interval over pairs

Language modelling by `block` measures running text: all texts one after another, cut into blocks of that many tokens.
"""

from __future__ import annotations

import time
import unicodedata
from array import array
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from polythink.evaluate.provenance import provenance_of
from polythink.evaluate.study import result_of
from polythink.problems.problem import ProblemSet
from polythink.run.folder import os_errors, write_json
from polythink.run.jsonl import write_jsonl
from polythink.run.progress import Progress
from polythink.text.config import TASKS, TextEvalOptions
from polythink.text.data.pairs import Pair
from polythink.text.model import Example, TextModel, forward_losses, make_batch
from polythink.text.scores import beyond_floats, score_rows
from polythink.train import distributed
from polythink.train.optimiser import micro_batches

# ---- token ids ----


def encode_set(lm: TextModel, texts: ProblemSet[Pair], max_source_tokens: int | None = None) -> list[Example]:
    """The pairs as token ids; a source of more than `max_source_tokens` is cut before its end token."""

    def source(text: str) -> array:
        ids = lm.encode(text) if lm.has_encoder else []
        cut = max_source_tokens is not None and len(ids) > max_source_tokens
        return array("i", [*ids[: max_source_tokens - 1], ids[-1]] if cut else ids)

    return [Example(source(pair.source), array("i", lm.encode(pair.target))) for pair in texts]


def running_text(examples: Sequence[Example], block: int) -> list[Example]:
    """All targets one after another, cut into blocks of `block` tokens; the last block holds the rest."""
    tokens = array("i", [token for example in examples for token in example.target])
    return [Example((), tokens[i : i + block]) for i in range(0, len(tokens), block)]


# ---- loss ----


@torch.no_grad()
def losses(lm: TextModel, examples: Sequence[Example], tokens: int = 4096) -> list[float]:
    """-log p of each target, summed over its tokens. `tokens` per forward changes speed, not results."""
    lm.model.eval()
    found = [0.0] * len(examples)
    for places in of_like_length(examples, tokens):
        sums = forward_losses(lm, [examples[i] for i in places]).double().sum(1).tolist()
        for i, value in zip(places, sums, strict=True):
            found[i] = value
    return found


@torch.no_grad()
def mean_loss(lm: TextModel, examples: Sequence[Example], tokens: int = 4096) -> float:
    """Nats per target token, over all targets. Several processes call it together, and share out the forwards."""
    lm.model.eval()
    total = 0.0
    for places, counts in distributed.own_rounds(of_like_length(examples, tokens)):
        total += forward_losses(lm, [examples[i] for i in places]).double().sum().item() * counts
    return sum(distributed.gathered(lambda: total)) / sum(len(e.target) for e in examples)


def of_like_length(examples: Sequence[Example], tokens: int) -> list[list[int]]:
    """All indices, longest examples first, in groups of at most `tokens` tokens."""
    order = sorted(range(len(examples)), key=lambda i: (-examples[i].longest, i))
    return group_by_tokens(order, examples, tokens)


def group_by_tokens(order: Sequence[int], examples: Sequence[Example], tokens: int) -> list[list[int]]:
    """The indices in this order, in groups whose longer side has at most `tokens` tokens, padding included.

    A longer example is a group of its own.
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
def generate(lm: TextModel, examples: Sequence[Example], options: TextEvalOptions, label: str = "") -> list[list[int]]:
    """The model's target for each source, as token ids without the end token."""
    lm.model.eval()
    found: list[list[int]] = [[] for _ in examples]
    end = lm.tokenizer.eos_token_id
    with Progress(len(examples), label) as bar:
        for places in micro_batches([example.longest for example in examples], options.max_num_seqs):
            inputs = make_batch(lm, [examples[i] for i in places])
            out = lm.model.generate(
                inputs["input_ids"], attention_mask=inputs["attention_mask"], do_sample=False, num_beams=options.beams,
                length_penalty=options.length_penalty, max_new_tokens=options.max_new_tokens,
                min_new_tokens=options.min_new_tokens or None,
                no_repeat_ngram_size=options.no_repeat_ngram_size or None,
            )  # fmt: skip
            for i, row in zip(places, out[:, 1:].tolist(), strict=True):
                found[i] = row[: row.index(end)] if end in row else row
            bar.advance(len(places))
    return found


# ---- evaluation ----


def evaluate_texts(
    lm: TextModel, texts: ProblemSet[Pair], task: str, options: TextEvalOptions, out: Path, name: str,
    log: Callable[[str], None] = print, about: Mapping[str, Any] | None = None,
) -> dict:  # fmt: skip
    """Measure the model on pairs and write the files above; returns the content of eval-NAME.json.

    `about` holds keys of `provenance` that only the caller knows.
    """
    for note in texts.notes:
        log(f"note on {texts.name}: {note}")
    started = time.perf_counter()
    with os_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    rows = measure(lm, texts, options)
    write_jsonl(out / f"samples-{name}.jsonl", rows)
    scores = score_rows(rows, TASKS[task], options.tokenize)
    metrics, notes = {metric: score.estimate() for metric, score in scores.items()}, list(texts.notes)
    if note := beyond_floats(metrics):
        log(f"note on {texts.name}: {note}")
        notes.append(note)
    result = result_of(
        "eval", problems=texts.name, n=len(rows), notes=notes, seconds=time.perf_counter() - started,
        decoding={key: getattr(options, key) for key in TextEvalOptions.model_fields}, metrics=metrics,
        provenance=provenance_of(lm.model, {"problems": texts.name, **(about or {})}),
    )  # fmt: skip
    write_json(out / f"eval-{name}.json", result)
    return result


def measure(lm: TextModel, texts: ProblemSet[Pair], options: TextEvalOptions) -> list[dict]:
    """One row per pair, or per block of running text, for samples.jsonl."""
    examples = encode_set(lm, texts, options.max_source_tokens)
    if lm.has_encoder:
        outputs = generate(lm, examples, options, texts.name)
        found = zip(texts, examples, losses(lm, examples), map(lm.decode, outputs), strict=True)
        return [
            {"source": pair.source, "reference": pair.target, "output": output,
             "exact": plain(output) == plain(pair.target), "nll": nll, "tokens": len(example.target)}
            for pair, example, nll, output in found
        ]  # fmt: skip
    words = sum(len(pair.target.split()) + 1 for pair in texts)  # the end of a text counts as a word
    share = words / sum(len(example.target) for example in examples)
    rows = running_text(examples, options.block) if options.block else examples
    return [
        {"reference": lm.decode(e.target), "nll": nll, "tokens": len(e.target), "words": share * len(e.target)}
        for e, nll in zip(rows, losses(lm, rows), strict=True)
    ]


def plain(text: str) -> str:
    """The text as tokenizers see it: composed characters (NFKC), single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).split())
