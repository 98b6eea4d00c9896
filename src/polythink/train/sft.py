"""Supervised fine-tuning: the mean cross-entropy of a batch's tokens, each given its predecessor in its chain.

Left out: evaluation during training (an `eval` stage does that), and losses other than cross-entropy.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from polythink.engine.params import SamplingParams
from polythink.errors import UserError
from polythink.evaluate.study import Problems, params_of, problem_set_of, prompt_of
from polythink.models.batch import response_of
from polythink.models.lm import LanguageModel, save
from polythink.models.logprobs import token_logprobs
from polythink.problems.prompts import Prompt
from polythink.run.folder import folder_lock
from polythink.run.jsonl import read_jsonl
from polythink.run.progress import Progress
from polythink.run.trackers import Trackers
from polythink.trace.layout import Layout
from polythink.train import distributed
from polythink.train.adapters import add_adapters, save_adapters
from polythink.train.begun import Training, begun
from polythink.train.checkpoint import resume, save_checkpoint
from polythink.train.config import SFTConfig
from polythink.train.cost import cost_of
from polythink.train.data import TraceEncoder
from polythink.train.dropout import seeded
from polythink.train.flat import LONGEST, read_once, training_logits
from polythink.train.kept_settings import keep_settings
from polythink.train.kernels import batch_of, kernels_of, row_width
from polythink.train.mixture import Mixture, mixture_of_rows, pack_rows
from polythink.train.optimiser import (
    autocast,
    head_options,
    learning_rate,
    make_optimiser,
    own_micro_batches,
    update,
)
from polythink.train.precision import warn_of_rounding
from polythink.train.sft_samples import Samples
from polythink.train.sharding import finish, to_train
from polythink.train.side_by_side import add_gradients, side_by_side
from polythink.train.undo import left_usable


def train_sft(
    lm: LanguageModel,
    config: SFTConfig,
    data: Mixture | str | Path | Iterable[Mapping[str, Any]],
    folder: str | Path,
    *,
    prompt: Prompt | str | None = None,
    params: SamplingParams | None = None,
    problems: Problems = (),
    seed: int = 0,
) -> dict:
    """Fine-tune `lm` in place, resuming from the checkpoint in `folder` if there is one; returns a summary.

    `data` is a JSONL or Parquet file with rows {question, trace}, such rows, or a `Mixture`. Rows are laid out in the
    mode of `params` under `prompt` (left out: those of the model's settings) and shuffled by `seed`; a mixture is laid
    out already. `folder` receives metrics.jsonl (one row per step), checkpoint/ and model/, which `load` reads; with
    `problems` (as `train_grpo` takes them) also samples.jsonl: a response to each of them at every checkpoint.
    The model's settings say afterwards how it was trained: `prompt` and `params` are kept with it.
    Raises `UserError` for data that cannot be trained on, and for a folder that holds another training.
    """
    folder, params, prompt = Path(folder), params or params_of(lm.settings), prompt_of(lm.settings, prompt)
    problems = problems if isinstance(problems, str | Path) else tuple(problems)

    def opened() -> tuple[Mixture, int]:
        mixture = data
        if not isinstance(data, Mixture):
            encode = TraceEncoder(lm, params, prompt)
            mixture = mixture_of_rows(data, encode, config, seed)
        return mixture, steps_of(mixture, config)

    with ExitStack() as stack:
        stack.enter_context(distributed.processes())
        mixture, steps = distributed.shared(opened)
        training = begun(lambda: Training.of(lm, config, mixture.identity, prompt, params, seed, steps))
        stack.enter_context(left_usable(lm))
        adapters = add_adapters(lm, config, seed)
        if distributed.is_main():
            warn_of_rounding(lm.model, config.lr, config.trainable)
        trained = stack.enter_context(to_train(lm, config, draws=problems != ()))
        drawn = problems != () and distributed.shared(
            lambda: Samples.of(stack, lm, config, problem_set_of(problems).problems, prompt, params, seed)
        )
        optimiser = make_optimiser(trained.model, config, config.trainable)
        trained.model.train()
        distributed.entered_on_main(stack, lambda: folder_lock(folder / "checkpoint"))
        done = resume(folder, trained.model, optimiser, ("samples.jsonl",), training)
        trackers = distributed.entered_on_main(stack, lambda: Trackers(folder, config))
        metrics = distributed.entered_on_main(stack, lambda: trackers.metrics())
        samples = distributed.entered_on_main(stack, lambda: trackers.samples()) if drawn else None
        bar = stack.enter_context(Progress(steps, distributed.shown("sft"), done))
        pool = stack.enter_context(side_by_side(trained.model, config))
        for step in range(done, steps):
            started = time.perf_counter()
            layouts = distributed.shared(lambda step=step: mixture.batch(step))
            kernels = kernels_of(config, trained.model)
            with seeded(seed, step, trained.device, distributed.rank()), kernels, read_once(trained.model):
                loss, tokens = accumulate_gradient(trained, config, layouts, bar, pool)
            lr = learning_rate(config, step, steps)
            norm = update(trained.model, optimiser, lr, config.max_grad_norm)
            row = {"step": step + 1, "loss": loss, "lr": lr, "grad_norm": norm, "tokens": tokens}
            row["seconds"] = time.perf_counter() - started
            due = (step + 1) % config.checkpoint_every == 0 or step + 1 == steps
            if drawn and due:  # before the row of the step: trackers are given both together
                drawn.write(step + 1, trained, samples)
            distributed.on_main(lambda row=row: metrics.write(row))
            bar.advance(1, loss=loss, **cost_of(tokens, row["seconds"], trained.device))
            if due:
                distributed.on_main(lambda: metrics.sync())
                save_checkpoint(folder / "checkpoint", step + 1, trained.model, optimiser)
        finish(lm, trained)
        save_adapters(lm, config, adapters, folder)
        keep_settings(lm, prompt, params)
        if lm.dialect.inventory:  # with more paths than this the engine scales attention
            trained_paths = max(mixture.most_paths, lm.settings.trained_paths)
            lm.settings = replace(lm.settings, trained_paths=trained_paths)
        distributed.on_main(lambda: save(lm, folder / "model"))
        return distributed.on_main(lambda: summarise(read_jsonl(folder / "metrics.jsonl"), mixture))


def steps_of(data: Mixture, config: SFTConfig) -> int:
    """The number of steps; `UserError` for none."""
    steps = config.steps or data.steps(config.epochs)
    if not steps:
        raise UserError(f"{config.epochs:g} epochs of the data are less than one batch of {config.batch} traces")
    return steps


def summarise(rows: Sequence[dict], data: Mixture) -> dict:
    """What result.json says: the last loss, and what all steps cost."""
    totals = {name: sum(row[name] for row in rows) for name in ("tokens", "seconds")}
    return {"steps": len(rows), "loss": rows[-1]["loss"], "dropped": dict(data.dropped), **totals}


def accumulate_gradient(
    lm: LanguageModel,
    config: SFTConfig,
    layouts: Sequence[Layout],
    bar: Progress | None = None,
    pool: Executor | None = None,
) -> tuple[float, int]:
    """Add the gradient of the batch's mean loss over tokens; returns that loss and the number of tokens.

    `layouts` are those of all processes. The mean is over the whole batch, so its division into micro-batches and over
    processes does not change the result, nor do the threads of a `pool` (`side_by_side.py`), which take what goes
    through the flat forward.
    """
    width = row_width(config, lm.model, layouts)
    rows = pack_rows(layouts, width) if width else layouts
    scored = [count_scored(row, config.loss_on) for row in rows]
    rows, tokens = [row for row, own in zip(rows, scored, strict=True) if own], sum(scored)
    loss = 0.0
    parts = own_micro_batches([len(row) for row in rows], config.micro_batch)

    def loss_of(micro: Sequence[int], counts: bool) -> torch.Tensor:
        batch = batch_of(lm, lm.model, [rows[i] for i in micro], width)
        with autocast(config, lm.device):
            wanted, logits_of = getattr(batch, config.loss_on), training_logits(lm.model, batch)
            head = head_options(config, lm.model)
            logprobs = token_logprobs(lm.model, batch, wanted=wanted, logits_of=logits_of, **head)
        return -logprobs.sum() * counts / tokens

    if pool is not None and max(map(len, rows), default=0) <= LONGEST:
        return sum(add_gradients(pool, lm.model, [partial(loss_of, *part) for part in parts])), tokens
    for number, (micro, counts) in enumerate(parts, 1):
        micro_loss = loss_of(micro, counts)
        (micro_loss * distributed.world_size()).backward()  # gradients are averaged over processes, not summed
        loss += micro_loss.item()
        if bar and number < len(parts):
            bar.part(number / len(parts))
    return sum(distributed.gathered(lambda: loss)), tokens


def count_scored(layout: Layout, loss_on: str) -> int:
    """The number of tokens of a layout that the loss is on."""
    wanted = layout.sampled if loss_on == "sampled" else response_of(layout)
    return int((wanted & (layout.previous >= 0)).sum())
