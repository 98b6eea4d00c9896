"""Supervised fine-tuning: the mean cross-entropy of a batch's tokens, each given its predecessor in its chain.

Left out: evaluation during training (an `eval` stage does that), and losses other than cross-entropy.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from polythink.errors import UserError
from polythink.models.batch import collate, response_of
from polythink.models.lm import LanguageModel
from polythink.models.logprobs import token_logprobs
from polythink.run.jsonl import JsonlWriter, read_jsonl
from polythink.run.progress import Progress
from polythink.trace.layout import Layout
from polythink.train import distributed
from polythink.train.checkpoint import load_checkpoint, save_checkpoint, truncate_after
from polythink.train.config import TrainingConfig
from polythink.train.data import DataConfig, Mixture, pack_rows
from polythink.train.optimiser import autocast, learning_rate, make_optimiser, micro_batches, update


class SFTConfig(TrainingConfig):
    """Fine-tuning on finished traces, laid out in the stage's mode."""

    kind: Literal["sft"]
    data: tuple[DataConfig, ...] = Field(min_length=1)
    steps: int | None = Field(None, ge=1)  # give steps or epochs
    epochs: float | None = Field(None, gt=0)
    batch: int = Field(128, ge=1)  # traces a step
    loss_on: Literal["sampled", "response"] = "sampled"  # what the model itself will write, or every token of it
    max_tokens: int = Field(4096, ge=2)  # longer traces are dropped and counted
    pack: int | None = Field(None, ge=2)  # put several traces in one row of at most this many tokens

    @model_validator(mode="after")
    def _steps_or_epochs(self) -> SFTConfig:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("say either how many steps or how many epochs")
        return self


def train_sft(lm: LanguageModel, config: SFTConfig, data: Mixture, folder: Path) -> dict:
    """Train `lm` in place, or go on from the checkpoint in `folder`. Returns a summary; metrics.jsonl has the steps."""
    model, optimiser = lm.model, make_optimiser(lm.model, config, config.trainable)
    steps = config.steps or data.steps(config.epochs)
    if not steps:
        raise UserError(f"{config.epochs:g} epochs of the data are less than one batch of {config.batch}")
    done = load_checkpoint(folder / "checkpoint", model, optimiser)
    truncate_after(folder / "metrics.jsonl", done)
    model.train()
    with JsonlWriter(folder / "metrics.jsonl") as metrics, Progress(steps, "sft") as bar:
        bar.advance(done)
        for step in range(done, steps):
            started = time.perf_counter()
            layouts = distributed.shard(data.batch(step))
            loss, tokens = accumulate_gradient(lm, config, layouts)
            lr = learning_rate(config, step, steps)
            norm = update(model, optimiser, lr, config.max_grad_norm)
            row = {"step": step + 1, "loss": loss, "lr": lr, "grad_norm": norm, "tokens": tokens}
            metrics.write(row | {"seconds": time.perf_counter() - started})
            bar.advance(1, loss=loss)
            if (step + 1) % config.checkpoint_every == 0 or step + 1 == steps:
                save_checkpoint(folder / "checkpoint", step + 1, model, optimiser)
    model.eval()
    rows = read_jsonl(folder / "metrics.jsonl")
    totals = {name: sum(row[name] for row in rows) for name in ("tokens", "seconds")}
    return {"steps": steps, "loss": rows[-1]["loss"], "dropped": dict(data.dropped), **totals}


def accumulate_gradient(lm: LanguageModel, config: SFTConfig, layouts: Sequence[Layout]) -> tuple[float, int]:
    """Add the gradient of the batch's mean loss over tokens; returns that loss and the number of tokens in it.

    The mean is over the whole batch: how it is divided into micro-batches does not matter.
    """
    rows = pack_rows(layouts, config.pack) if config.pack else layouts
    tokens = int(distributed.all_reduce_sum(sum(count_scored(row, config.loss_on) for row in rows), lm.device))
    loss = 0.0
    for micro in micro_batches([len(row) for row in rows], config.micro_batch):
        batch = collate([rows[i] for i in micro], lm.pad).to(lm.device)
        with autocast(config, lm.device):
            logprobs = token_logprobs(lm.model, batch, wanted=getattr(batch, config.loss_on))
        micro_loss = -logprobs.sum() / tokens
        (micro_loss * distributed.world_size()).backward()  # gradients are averaged over processes, not summed
        loss += micro_loss.item()
    return distributed.all_reduce_sum(loss, lm.device), tokens


def count_scored(layout: Layout, loss_on: str) -> int:
    """How many tokens of a layout the loss is on."""
    wanted = layout.sampled if loss_on == "sampled" else response_of(layout)
    return int((wanted & (layout.previous >= 0)).sum())
