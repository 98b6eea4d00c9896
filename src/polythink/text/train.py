"""Training on plain text: translation, summarisation, language modelling. Teacher forcing, one loop.

Left out: sharding over processes, and pairs of texts that are too many for memory.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, model_validator

from polythink.errors import UserError
from polythink.run.jsonl import JsonlWriter, read_jsonl
from polythink.run.progress import Progress
from polythink.text.batches import ByCount, ByTokens, by_tokens, without_long
from polythink.text.data.pairs import TextSet
from polythink.text.evaluate import encode_set, mean_loss, running_text
from polythink.text.model import Example, TextModel, make_batch, token_losses
from polythink.train.checkpoint import average_weights, keep_weights, load_checkpoint, save_checkpoint, truncate_after
from polythink.train.config import OptimiserConfig
from polythink.train.optimiser import autocast, learning_rate, make_optimiser, update


class TextConfig(OptimiserConfig):
    """Training on pairs of texts, or for language modelling on their targets."""

    kind: Literal["text"]
    data: str  # name of a set, or files (see `problems/texts.py`)
    valid: str | None = None  # measured on the way,
    valid_limit: int | None = Field(None, ge=1)  # so many pairs of it
    steps: int | None = Field(None, ge=1)  # give steps or epochs
    epochs: float | None = Field(None, gt=0)
    batch: int | None = Field(None, ge=1)  # examples a step,
    micro_batch: int = Field(64, ge=1)  # so many of them in a forward, neighbours in length together; or
    batch_tokens: int | None = Field(None, ge=1)  # tokens of the longer side in a forward, padding included,
    accumulate: int = Field(1, ge=1)  # and so many forwards a step
    max_tokens: int = Field(256, ge=1)  # of a side; longer pairs are dropped and counted
    block: int | None = Field(None, ge=2)  # language modelling: read as running text, in blocks of so many tokens
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    validate_every: int = Field(100, ge=1)  # steps; the last one always
    average: int = Field(1, ge=1)  # the model is the mean of so many checkpoints, the last step's among them,
    average_every: int | None = Field(None, ge=1)  # which are so many steps apart; an epoch if left out
    seed: int | None = None

    @model_validator(mode="after")
    def _one_of_each(self) -> TextConfig:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("say either how many steps or how many epochs")
        if (self.batch is None) == (self.batch_tokens is None):
            raise ValueError("say either batch (examples) or batch_tokens")
        return self


def train_text(
    lm: TextModel, config: TextConfig, train: TextSet, valid: TextSet | None, seed: int, folder: Path
) -> dict:
    """Train `lm` in place, or go on from the checkpoint in `folder`. Returns a summary; metrics.jsonl has the steps.

    `seed` decides the order of the examples and dropout.
    """
    dropped: Counter[str] = Counter()
    batches = make_batches(encode_set(lm, train), config, seed, dropped)
    checks = encode_set(lm, valid) if valid else []
    checks = running_text(checks, config.block) if config.block else checks
    model, optimiser = lm.model, make_optimiser(lm.model, config)
    steps = config.steps or int(config.epochs * batches.an_epoch)
    if not steps:
        raise UserError(f"{config.epochs:g} epochs of {train.name} are less than one step")
    averaged = last_ones(steps, config.average, config.average_every or max(1, round(batches.an_epoch)))
    torch.manual_seed(seed)
    done = load_checkpoint(folder / "checkpoint", model, optimiser)
    truncate_after(folder / "metrics.jsonl", done)
    with JsonlWriter(folder / "metrics.jsonl") as metrics, Progress(steps, "text") as bar:
        bar.advance(done)
        for step in range(done, steps):
            started, last = time.perf_counter(), step + 1 == steps
            model.train()
            losses = accumulate_gradient(lm, config, batches.forwards(step))
            lr = learning_rate(config, step, steps)
            norm = update(model, optimiser, lr, config.max_grad_norm)
            row = {"step": step + 1, **losses, "lr": lr, "grad_norm": norm, "seconds": time.perf_counter() - started}
            if checks and ((step + 1) % config.validate_every == 0 or last):
                row["valid_loss"] = mean_loss(lm, checks)
            metrics.write(row)
            bar.advance(1, loss=row["loss"])
            if step + 1 in averaged:
                keep_weights(folder / "checkpoint", step + 1, model)
            if (step + 1) % config.checkpoint_every == 0 or last:
                save_checkpoint(folder / "checkpoint", step + 1, model, optimiser)
    if averaged:
        average_weights(folder / "checkpoint", averaged, model)
    model.eval()
    return summarise(read_jsonl(folder / "metrics.jsonl"), dropped, len(batches.examples))


def accumulate_gradient(lm: TextModel, config: TextConfig, forwards: Sequence[Sequence[Example]]) -> dict:
    """Add the gradient of the mean smoothed loss over all target tokens of a step.

    Returns the mean loss without smoothing, and the number of tokens.
    """
    batches = [make_batch(lm, examples) for examples in forwards]
    tokens = sum(batch.tokens for batch in batches)
    loss = 0.0
    for batch in batches:
        with autocast(config, lm.device):
            plain, smoothed = token_losses(lm, batch, config.label_smoothing)
        (smoothed.sum() / tokens).backward()
        loss += plain.sum().item() / tokens
    return {"loss": loss, "tokens": tokens}


def last_ones(steps: int, count: int, every: int) -> list[int]:
    """The steps whose checkpoints are averaged: the last one and those before it; none where one would be all."""
    return sorted(range(steps, 0, -every)[:count]) if count > 1 else []


def make_batches(examples: list[Example], config: TextConfig, seed: int, dropped: Counter) -> ByCount | ByTokens:
    if config.block:
        rows = running_text(examples, config.block)
    else:
        rows = without_long(examples, config.max_tokens, dropped)
    if config.batch is not None:
        return ByCount(rows, config.batch, config.micro_batch, seed)
    return by_tokens(rows, config.batch_tokens, config.accumulate, seed)


def summarise(rows: Sequence[dict], dropped: Counter, examples: int) -> dict:
    """What result.json says: the last step's losses, and what all steps cost."""
    last = {name: rows[-1][name] for name in ("loss", "valid_loss") if name in rows[-1]}
    totals = {name: sum(row[name] for row in rows) for name in ("tokens", "seconds")}
    return {"steps": len(rows), **last, "examples": examples, "dropped": dict(dropped), **totals}
