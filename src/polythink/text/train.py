"""Training on plain text: translation, summarisation, language modelling, in one process or several.

The loop of `train.sft` over pairs of texts: examples that depend on (seed, step) alone, a loss over all target tokens
of a step, the validation loss, and the weights of the last steps averaged.

Left out: data sets that do not fit in memory.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

from polythink.errors import UserError
from polythink.models.lm import writing_model
from polythink.problems.problem import ProblemSet
from polythink.run.folder import folder_lock
from polythink.run.jsonl import read_jsonl
from polythink.run.progress import Progress
from polythink.run.trackers import Trackers
from polythink.text.config import TextConfig
from polythink.text.data.pairs import Pair
from polythink.text.evaluate import encode_set, group_by_tokens, mean_loss, running_text
from polythink.text.model import Example, TextModel, make_batch, token_losses
from polythink.train import distributed
from polythink.train.checkpoint import resume, save_checkpoint
from polythink.train.cost import cost_of
from polythink.train.data import epoch_index
from polythink.train.dropout import seeded
from polythink.train.optimiser import autocast, learning_rate, make_optimiser, micro_batches, update
from polythink.train.precision import in_bfloat16
from polythink.train.sharding import divide, finish, whole_weights


def train_text(
    lm: TextModel, config: TextConfig, train: ProblemSet[Pair], valid: ProblemSet[Pair] | None, folder: Path, *,
    seed: int = 0,
) -> dict:  # fmt: skip
    """Train `lm` in place, or resume from the checkpoint in `folder`. Returns a summary for result.json.

    `seed` decides the order of the examples and dropout. Metrics of every step go to `folder`/metrics.jsonl.
    """
    with ExitStack() as stack:
        stack.enter_context(distributed.processes())
        forwards, checks, dropped = distributed.shared(lambda: read(lm, config, train, valid, seed))
        kept = kept_files(forwards, folder / "checkpoint")
        trained = replace(lm, model=divide(lm.model, in_bfloat16(config, lm.device))) if dist.is_initialized() else lm
        optimiser = make_optimiser(trained.model, config)
        distributed.entered_on_main(stack, lambda: folder_lock(folder / "checkpoint"))
        distributed.on_main(lambda: refuse_old(folder / "checkpoint"))
        done = resume(folder, trained.model, optimiser)
        trackers = distributed.entered_on_main(stack, lambda: Trackers(folder, config))
        metrics = distributed.entered_on_main(stack, lambda: trackers.metrics())
        bar = stack.enter_context(Progress(forwards.steps, distributed.shown("text"), done))
        for step in range(done, forwards.steps):
            started = time.perf_counter()
            trained.model.train()
            with seeded(seed, step, trained.device, distributed.rank()):
                loss, tokens = accumulate_gradient(trained, config, forwards, step)
            lr = learning_rate(config, step, forwards.steps)
            norm = update(trained.model, optimiser, lr, config.max_grad_norm)
            row = {"step": step + 1, "loss": loss, "tokens": tokens, "lr": lr, "grad_norm": norm}
            row["seconds"] = time.perf_counter() - started
            last = step + 1 == forwards.steps
            if checks and (last or (step + 1) % config.validate_every == 0):
                with autocast(config, trained.device):
                    row["valid_loss"] = mean_loss(trained, checks)
            distributed.on_main(lambda row=row: metrics.write(row))
            bar.advance(1, loss=loss, **cost_of(tokens, row["seconds"], trained.device))
            if step + 1 in kept:
                keep(trained.model, kept[step + 1])
            if last or (step + 1) % config.checkpoint_every == 0:
                distributed.on_main(lambda: metrics.sync())
                save_checkpoint(folder / "checkpoint", step + 1, trained.model, optimiser)
        finish(lm, trained)
        if kept:
            distributed.shared(lambda: load_average(lm.model, list(kept.values())))
        return distributed.on_main(lambda: summarise(read_jsonl(folder / "metrics.jsonl"), forwards, dropped))


def summarise(rows: Sequence[dict], forwards: Forwards, dropped: dict[str, int]) -> dict:
    """What result.json says: the last losses, and what all steps cost."""
    last = {name: rows[-1][name] for name in ("loss", "valid_loss") if name in rows[-1]}
    totals = {name: sum(row[name] for row in rows) for name in ("tokens", "seconds")}
    return {"steps": len(rows), **last, "examples": len(forwards.examples), "dropped": dropped, **totals}


def accumulate_gradient(lm: TextModel, config: TextConfig, forwards: Forwards, step: int) -> tuple[float, int]:
    """Add the gradient of a step's mean loss over target tokens; returns that loss, not smoothed, and their number.

    Each process runs its part of the step's forwards; how they are divided does not change the result.
    """
    parts = forwards.of_step(step)
    tokens = sum(len(forwards.examples[i].target) for part in parts for i in part)
    loss, world, smoothing = 0.0, distributed.world_size(), config.label_smoothing
    for part, counts in distributed.own_rounds(divided(parts, world)):
        batch = make_batch(lm, [forwards.examples[i] for i in part])
        labels = batch.pop("labels")
        with autocast(config, lm.device):
            logits = lm.model(**batch, use_cache=False).logits
        plain = token_losses(lm, logits, labels)
        smoothed = token_losses(lm, logits, labels, smoothing) if smoothing else plain
        (smoothed.sum() * counts / tokens * world).backward()  # gradients are averaged over processes, not summed
        loss += plain.sum().item() * counts / tokens
    return sum(distributed.gathered(lambda: loss)), tokens


# ---- what a step reads ----


def drop_long(examples: Sequence[Example], most: int) -> list[Example]:
    """The examples with at most `most` tokens per side; `UserError` if there are none."""
    kept = [example for example in examples if example.longest <= most]
    if not kept:
        raise UserError(f"none of the {len(examples)} pairs has at most {most} tokens per side; raise max_tokens")
    return kept


def read(
    lm: TextModel, config: TextConfig, train: ProblemSet[Pair], valid: ProblemSet[Pair] | None, seed: int
) -> tuple[Forwards, list[Example], dict[str, int]]:
    """What is trained on, what is measured during training, and how many pairs were dropped, by reason."""
    given, checks = encode_set(lm, train), encode_set(lm, valid) if valid else []
    if config.block:
        return Forwards(running_text(given, config.block), config, seed), running_text(checks, config.block), {}
    examples = drop_long(given, config.max_tokens)
    return Forwards(examples, config, seed), checks, {"too long": len(given) - len(examples)}


def divided(parts: Sequence[list[int]], processes: int) -> list[list[int]]:
    """The forwards of a step cut into as many as the processes can share out evenly, where they hold enough examples.

    Examples of one forward are of like length, and so are those of its pieces.
    """
    pieces = processes // math.gcd(len(parts), processes)
    return [part[i::pieces] for part in parts for i in range(min(pieces, len(part)))]


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


# ---- weights that are averaged ----


def averaged_steps(steps: int, count: int, every: int) -> list[int]:
    """The steps whose weights are averaged: the last step and those before it; none if the last would be all."""
    return sorted(range(steps, 0, -every)[:count]) if count > 1 else []


def kept_files(forwards: Forwards, folder: Path) -> dict[int, Path]:
    """The steps whose weights are averaged, and the file of each."""
    config = forwards.config
    steps = averaged_steps(forwards.steps, config.average, config.average_every or max(1, round(forwards.epoch)))
    return {step: folder / f"weights-{step}.pt" for step in steps}


def keep(model: torch.nn.Module, file: Path) -> None:
    """Write the weights of now. All processes take part, the first writes."""
    weights = whole_weights(model)

    def write() -> None:
        temporary = file.with_name(f".{file.name}.tmp")
        with writing_model(file.parent):
            torch.save(weights, temporary)
            temporary.replace(file)

    distributed.on_main(write)


def load_average(model: torch.nn.Module, files: Sequence[Path]) -> None:
    """Load the mean of the weights in these files."""
    mean: dict[str, torch.Tensor] = {}
    for file in files:
        weights = torch.load(file, map_location="cpu", weights_only=True)
        for name, value in weights.items():
            mean[name] = mean.get(name, 0) + value.double() / len(files)
    model.load_state_dict({name: value.to(weights[name].dtype) for name, value in mean.items()})


# ---- folders of earlier versions ----


def refuse_old(folder: Path) -> None:
    """`UserError` for a checkpoint that transformers' trainer wrote."""
    if old := next(folder.glob("checkpoint-*"), None):
        raise UserError(
            f"cannot go on from {old}: an older version of polythink wrote it; delete it to start the stage again, or "
            "finish the stage with that version"
        )
