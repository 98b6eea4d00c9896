"""Training on plain text with transformers' `Seq2SeqTrainer`: translation, summarisation, language modelling.

The trainer runs forwards, backwards, clipping, optimiser and checkpoints. Ours are the order of the examples (one pass
of the trainer is the whole training, all epochs of it), the loss over all target tokens of a step, and metrics.jsonl.

Left out: sharding over processes, and data sets that do not fit in memory.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from shutil import rmtree
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Seq2SeqTrainer, Seq2SeqTrainingArguments, TrainerCallback
from transformers.modeling_outputs import ModelOutput

from polythink.errors import UserError
from polythink.models.lm import writing_model
from polythink.problems.problem import ProblemSet
from polythink.run.folder import read_json
from polythink.run.jsonl import JsonlWriter, read_jsonl
from polythink.run.progress import Progress
from polythink.run.trackers import Trackers
from polythink.text.config import TextConfig
from polythink.text.data.pairs import Pair
from polythink.text.evaluate import encode_set, group_by_tokens, mean_loss, running_text
from polythink.text.model import Example, TextModel, make_batch, token_losses
from polythink.train.checkpoint import check_rows, truncate_after
from polythink.train.data import epoch_index
from polythink.train.optimiser import learning_rate, make_optimiser, micro_batches


def train_text(
    lm: TextModel, config: TextConfig, train: ProblemSet[Pair], valid: ProblemSet[Pair] | None, folder: Path, *,
    seed: int = 0,
) -> dict:  # fmt: skip
    """Train `lm` in place, or resume from the newest checkpoint in `folder`. Returns a summary for result.json.

    `seed` decides the order of the examples and dropout. Metrics of every step go to `folder`/metrics.jsonl.
    """
    given, checks = encode_set(lm, train), encode_set(lm, valid) if valid else []
    if config.block:
        examples, checks, dropped = running_text(given, config.block), running_text(checks, config.block), {}
    else:
        examples = drop_long(given, config.max_tokens)
        dropped = {"too long": len(given) - len(examples)}
    forwards = Forwards(examples, config, seed)
    averaged = averaged_steps(forwards.steps, config.average, config.average_every or max(1, round(forwards.epoch)))
    kept = {step: folder / "checkpoint" / f"weights-{step}.pt" for step in averaged}
    done, checkpoint = newest_checkpoint(folder / "checkpoint")
    truncate_after(folder / "metrics.jsonl", done)
    check_rows(folder / "metrics.jsonl", done, folder / "checkpoint")
    with (
        Trackers(folder, config) as trackers, trackers.metrics() as rows, Progress(forwards.steps, "text") as bar
    ):  # fmt: skip
        bar.advance(done)
        trainer = make_trainer(lm, forwards, Metrics(lm, config, checks, rows, bar, kept), folder / "checkpoint")
        with writing_model(folder / "checkpoint"):
            trainer.train(resume_from_checkpoint=checkpoint)
    trainer.accelerator.unwrap_model(lm.model, keep_fp32_wrapper=False)  # autocast ends with the training
    if kept:
        load_average(lm.model, list(kept.values()))
    lm.model.eval()
    found = read_jsonl(folder / "metrics.jsonl")
    last = {name: found[-1][name] for name in ("loss", "valid_loss") if name in found[-1]}
    totals = {name: sum(row[name] for row in found) for name in ("tokens", "seconds")}
    return {"steps": len(found), **last, "examples": len(examples), "dropped": dropped, **totals}


def make_trainer(lm: TextModel, forwards: Forwards, metrics: Metrics, folder: Path) -> Seq2SeqTrainer:
    """transformers' trainer with our order of examples, loss, optimiser and schedule."""
    config = forwards.config
    arguments = Seq2SeqTrainingArguments(
        output_dir=str(folder), seed=forwards.seed, max_steps=forwards.steps, max_grad_norm=config.max_grad_norm,
        gradient_accumulation_steps=forwards.per_step, bf16=config.autocast, use_cpu=lm.model.device.type == "cpu",
        logging_steps=1, logging_nan_inf_filter=False, save_strategy="steps", save_steps=config.checkpoint_every,
        save_total_limit=1, report_to="none", disable_tqdm=True, remove_unused_columns=False,
    )  # fmt: skip
    arguments._n_gpu = min(arguments.n_gpu, 1)  # one process, one device: no DataParallel over all that are visible
    optimiser = make_optimiser(lm.model, config)
    schedule = LambdaLR(optimiser, lambda step: learning_rate(config, step, forwards.steps) / config.lr)
    trainer = _Trainer(
        lm.model, arguments, train_dataset=forwards.examples, data_collator=lambda batch: make_batch(lm, batch),
        compute_loss_func=metrics.loss, callbacks=[metrics], optimizers=(optimiser, schedule),
    )  # fmt: skip
    trainer.forwards = forwards
    trainer.remove_callback(PrinterCallback)
    return trainer


class _Trainer(Seq2SeqTrainer):
    forwards: Forwards

    def get_train_dataloader(self) -> DataLoader:
        own = torch.Generator()  # the loader draws a number when it starts: not from the stream that dropout uses
        return DataLoader(self.train_dataset, batch_sampler=self.forwards, collate_fn=self.data_collator, generator=own)


# ---- what a step reads ----


def drop_long(examples: Sequence[Example], most: int) -> list[Example]:
    """The examples with at most `most` tokens per side; `UserError` if there are none."""
    kept = [example for example in examples if example.longest <= most]
    if not kept:
        raise UserError(f"none of the {len(examples)} pairs has at most {most} tokens per side; raise max_tokens")
    return kept


class Forwards:
    """The examples of every forward, as indices, `per_step` forwards per step, over all steps of the training.

    They depend on (seed, step) alone, so a resumed run reads what an uninterrupted one would have read. With `batch`
    every step draws its examples, and sorts them by length into forwards of `micro_batch`; with `batch_tokens` the
    forwards are fixed groups of similar length, in another order each epoch.
    """

    def __init__(self, examples: Sequence[Example], config: TextConfig, seed: int) -> None:
        self.examples, self.config, self.seed = examples, config, seed
        self.groups: list[list[int]] = []
        if config.batch is not None:
            self.per_step, self.epoch = math.ceil(config.batch / config.micro_batch), len(examples) / config.batch
        else:
            order = list(range(len(examples)))
            random.Random(seed).shuffle(order)
            order.sort(key=lambda i: (len(examples[i].source), len(examples[i].target)))
            self.groups = group_by_tokens(order, examples, config.batch_tokens)
            self.per_step, self.epoch = config.accumulate, len(self.groups) / config.accumulate
        self.steps: int = config.steps or int(config.epochs * self.epoch)
        if not self.steps:
            raise UserError(f"{config.epochs:g} epochs of {len(examples)} examples are less than one step")

    def of_step(self, step: int) -> list[list[int]]:
        """The forwards of a step, counted from 0."""
        size = self.config.batch or self.per_step
        count = len(self.groups or self.examples)
        drawn = [epoch_index(count, self.seed, place) for place in range(step * size, (step + 1) * size)]
        if self.groups:
            return [self.groups[i] for i in drawn]
        lengths = [self.examples[i].longest for i in drawn]
        return [[drawn[i] for i in micro] for micro in micro_batches(lengths, self.config.micro_batch)]

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.steps):
            yield from self.of_step(step)

    def __len__(self) -> int:
        return self.steps * self.per_step


# ---- metrics, validation ----


class Metrics(TrainerCallback):
    """The loss of a step and its row of metrics.jsonl; at the steps of `keep` also its weights, to be averaged."""

    def __init__(
        self, lm: TextModel, config: TextConfig, checks: Sequence[Example], rows: JsonlWriter, bar: Progress,
        keep: Mapping[int, Path],
    ) -> None:  # fmt: skip
        self.lm, self.config, self.checks, self.rows, self.bar, self.keep = lm, config, checks, rows, bar, keep
        self.plain, self.tokens, self.started = 0.0, 0, 0.0

    def loss(self, output: ModelOutput, labels: torch.Tensor, num_items_in_batch: torch.Tensor) -> torch.Tensor:
        """Smoothed loss of a forward, divided by the target tokens of the whole step; the plain loss is added up."""
        self.tokens = int(num_items_in_batch)
        plain, smoothing = token_losses(self.lm, output.logits, labels), self.config.label_smoothing
        self.plain += plain.sum().item() / self.tokens
        smoothed = token_losses(self.lm, output.logits, labels, smoothing) if smoothing else plain
        return smoothed.sum() / self.tokens

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.plain, self.started = 0.0, time.perf_counter()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        """After the update, before the checkpoint. `UserError` for a gradient that is not finite."""
        if "grad_norm" not in logs:  # the trainer's own summary at the end
            return
        lr, norm = logs["learning_rate"], float(logs["grad_norm"])
        if not math.isfinite(norm):
            raise UserError(f"the gradient is not finite at lr {lr:.3g}; lower lr or max_grad_norm, and start again")
        row = {"step": state.global_step, "loss": self.plain, "tokens": self.tokens, "lr": lr, "grad_norm": norm}
        row["seconds"] = time.perf_counter() - self.started
        if self.checks and (row["step"] % self.config.validate_every == 0 or row["step"] == state.max_steps):
            row["valid_loss"] = mean_loss(self.lm, self.checks)
        self.rows.write(row)
        if row["step"] % self.config.checkpoint_every == 0 or row["step"] == state.max_steps:
            self.rows.sync()
        if row["step"] in self.keep:
            torch.save(self.lm.model.state_dict(), self.keep[row["step"]])
        self.bar.advance(1, loss=row["loss"])


# ---- checkpoints ----


def newest_checkpoint(folder: Path) -> tuple[int, str | None]:
    """Steps done and the trainer's newest whole checkpoint; a torn one, left by a kill, is deleted."""
    found = {int(path.name.rpartition("-")[2]): path for path in folder.glob("checkpoint-*")}
    for step in sorted(found, reverse=True):
        try:
            read_json(found[step] / "trainer_state.json")  # the trainer writes it last
            return step, str(found[step])
        except UserError:
            rmtree(found[step])
    return 0, None


def averaged_steps(steps: int, count: int, every: int) -> list[int]:
    """The steps whose weights are averaged: the last step and those before it; none if the last would be all."""
    return sorted(range(steps, 0, -every)[:count]) if count > 1 else []


def load_average(model: torch.nn.Module, files: Sequence[Path]) -> None:
    """Load the mean of the weights in these files."""
    mean: dict[str, torch.Tensor] = {}
    for file in files:
        weights = torch.load(file, map_location="cpu", weights_only=True)
        for name, value in weights.items():
            mean[name] = mean.get(name, 0) + value.double() / len(files)
    model.load_state_dict({name: value.to(weights[name].dtype) for name, value in mean.items()})
