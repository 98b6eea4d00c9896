"""What a policy learns from rollouts with advantages: the updates of one step.

What was sampled is what is trained: the old log-probabilities are those that the engine recorded, the training forward
uses the segments' own temperatures, forced tokens carry no loss, and `logprob_gap` and `mismatch_kl` measure how far
apart sampling and training are. In the modes that are not exact (`trace.modes`) they are far apart, and say so.

Axis legend: P problems (groups), G samples of a group, B rows, T tokens of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import fmean

import numpy as np
import torch

from polythink.models.batch import pack, rows_within, unpacked
from polythink.models.lm import LanguageModel
from polythink.models.logprobs import token_logprobs
from polythink.trace.layout import Layout
from polythink.trace.rollout import Rollout
from polythink.train import distributed
from polythink.train.adapters import without_adapters
from polythink.train.config import PolicyConfig
from polythink.train.dropout import without_dropout
from polythink.train.flat import beginning, fits, read_once, training_logits
from polythink.train.importance import RATIOS, importance_weights, ratio_metrics
from polythink.train.kernels import batch_of, kernels_of, row_width
from polythink.train.loss import k3_divergence, objective_loss, sequence_weights
from polythink.train.optimiser import autocast, head_options, own_micro_batches, update
from polythink.train.sharding import free

MISMATCH = ("logprob_gap", "logprob_gap_mean", "mismatch_kl")  # how far apart sampling and training are


@dataclass(frozen=True)
class TrainItem:
    """A rollout ready for training. Arrays are (T,) float32 along its layout."""

    layout: Layout
    drawn: np.ndarray  # log-probabilities as the engine recorded them
    old: np.ndarray  # log-probabilities that the ratio refers to
    temperature: np.ndarray
    advantage: float
    weight: np.ndarray | None = None  # of each token's loss, for what the engine sampled otherwise; None: 1
    credit: np.ndarray | None = None  # advantage of each token, where it is not that of the whole rollout

    @property
    def tokens(self) -> int:
        """The number of its tokens that carry loss."""
        return int(self.layout.sampled.sum())

    def along(self) -> np.ndarray:
        """(T,) float32: the advantage of each token."""
        return np.full(len(self.layout), self.advantage, np.float32) if self.credit is None else self.credit


def to_items(
    rollouts: Sequence[Rollout],
    advantage_PG: torch.Tensor,
    mode: str | None,
    graded_PG: torch.Tensor | None = None,
    credit: Sequence[Sequence[float]] | None = None,
) -> list[list[TrainItem]]:
    """The rollouts as groups, in the layout of `mode` (None: the one in which their own mode trains them).

    `credit`: the advantage of each segment of each rollout, in place of the rollout's (`credit.py`). A rollout that
    `graded_PG` (P, G) bool marks False is left out, and so is all of a group with fewer than two others.
    """
    samples = advantage_PG.shape[1]
    own = credit or [None] * len(rollouts)
    given = zip(rollouts, advantage_PG.flatten().tolist(), own, strict=True)
    flat = [to_item(rollout, advantage, mode, segments) for rollout, advantage, segments in given]
    graded = [True] * len(flat) if graded_PG is None else graded_PG.flatten().tolist()
    spans = [range(begin, begin + samples) for begin in range(0, len(flat), samples)]
    groups = [[flat[i] for i in span if graded[i]] for span in spans]
    return [group if len(group) > 1 else [] for group in groups]


def to_item(rollout: Rollout, advantage: float, mode: str | None, credit: Sequence[float] | None = None) -> TrainItem:
    """One rollout with its advantage, or with one for each of its segments (`credit`), as arrays along its layout.

    The text is the same in every layout; copies of paths that a join reads again may be in the one and not in the
    other. They were not sampled: they carry no log-probability and no loss.
    """
    layout = rollout.layout(mode or rollout.rules.trained.name)
    drawn, temperature = np.zeros(len(layout), np.float32), np.ones(len(layout), np.float32)
    along = None if credit is None else np.full(len(layout), advantage, np.float32)
    text = np.flatnonzero(layout.shown)[len(rollout.prompt) :]
    begin = 0
    for number, segment in enumerate(rollout.segments):
        if segment.kind != "copy":
            span = text[begin : begin + len(segment.tokens)]
            drawn[span], temperature[span] = segment.logprobs, segment.temperature
            if along is not None:
                along[span] = credit[number]
            begin += len(segment.tokens)
    assert begin == len(text), "the layout and the segments hold the same text"
    return TrainItem(layout, drawn, drawn, temperature, advantage, credit=along)


def update_policy(
    lm: LanguageModel,
    config: PolicyConfig,
    groups: Sequence[list[TrainItem]],
    zero_spread_P: torch.Tensor,
    optimiser: torch.optim.Optimizer,
    lr: float,
    reference: torch.nn.Module | None,
) -> dict:
    """The updates of one step, one per mini-batch of whole groups, without dropout; returns their metrics.

    `loss` and `grad_norm` are means over the updates, `clip_fraction` and `kl` over tokens; `logprob_gap` is the
    largest |engine - masked forward| over the tokens of the first mini-batch, before it changes the model, and
    `mismatch_kl` the mean estimate of KL(engine || masked forward) over the same; the importance ratios are those of
    all tokens before the first update. Rollouts without a sampled token (the runtime may have replaced all of them)
    have nothing to learn from and are left out.
    """
    groups = [[s for s in group if s.tokens] for group in groups]
    zero_spread = zero_spread_P.tolist()
    kept = [g for g, zero in zip(groups, zero_spread, strict=True) if g and not (zero and config.drop_zero_spread)]
    parts = []
    kernels = kernels_of(config, lm.model), kernels_of(config, reference)
    with without_dropout(lm.model), kernels[0], kernels[1], read_once(lm.model):
        if not kept:  # nothing to learn from; the gap is measured all the same
            nothing = dict.fromkeys(("loss", "grad_norm", "clip_fraction", "kl"))
            ratios = dict.fromkeys(RATIOS if config.importance_sampling_mode else ())
            return {**nothing, **measure_gap(lm, config, next(filter(None, groups), [])), **ratios}
        if config.old_logprobs == "recomputed":
            kept = recompute_groups(lm, config, kept)
        kept, corrected = correct(kept, config)
        for mini_batch in divide(kept, config.mini_batches):
            part = accumulate_gradient(lm, config, [s for group in mini_batch for s in group], reference)
            parts.append({**part, "grad_norm": update(lm.model, optimiser, lr, config.max_grad_norm)})
    tokens = sum(part["tokens"] for part in parts)
    return {
        "loss": fmean(part["loss"] for part in parts),
        "grad_norm": fmean(part["grad_norm"] for part in parts),
        "clip_fraction": sum(part["clipped"] for part in parts) / tokens,
        "kl": sum(part["kl"] for part in parts) / tokens if reference is not None else None,
        "logprob_gap": parts[0]["gap_max"],
        "logprob_gap_mean": parts[0]["gap_sum"] / parts[0]["tokens"],
        "mismatch_kl": parts[0]["mismatch_kl"] / parts[0]["tokens"],
        **corrected,
    }


def accumulate_gradient(
    lm: LanguageModel, config: PolicyConfig, items: Sequence[TrainItem], reference: torch.nn.Module | None
) -> dict:
    """Add the gradient of the mini-batch's loss; returns sums over its sampled tokens, in all processes.

    Rollouts without a sampled token carry no loss: a micro-batch of them alone would have no gradient.
    """
    items = [s for s in items if s.tokens]
    weights = sequence_weights([s.tokens for s in items], config.loss_type, config.loss_length)
    sums = {"loss": 0.0, "tokens": 0, "clipped": 0, "kl": 0.0, "gap_sum": 0.0, "gap_max": 0.0, "mismatch_kl": 0.0}
    width = row_width(config, lm.model, [s.layout for s in items])
    for micro, rows, counts in own_rows(lm, config, items, together=True):
        own = [items[i] for i in micro]
        new, sampled = forward(lm.model, lm, config, own, rows, width)
        old, drawn = along(new, [s.old for s in own]), along(new, [s.drawn for s in own])
        advantage = along(new, [s.along() for s in own])
        weight = new.new_tensor([weights[i] for i in micro])[:, None]
        loss, clipped = objective_loss(config, new, old, advantage, sampled)
        if own[0].weight is not None:
            loss = loss * along(new, [s.weight for s in own])
        if reference is not None:
            with torch.no_grad(), without_adapters(reference, reference is lm.model):
                at_start, _ = forward(reference, lm, config, own, rows, width)
            divergence = k3_divergence(new, at_start)
            loss = loss + config.kl_coef * divergence
            sums["kl"] += divergence.detach()[sampled].sum().item() * counts
        micro_loss = (weight * loss)[sampled].sum() * counts
        (micro_loss * distributed.world_size()).backward()  # gradients are averaged over processes, not summed
        if not counts:
            continue
        gap = (new.detach() - drawn)[sampled].abs()
        mismatch = k3_divergence(*(x.detach()[sampled].cpu().double() for x in (drawn, new)))  # tiny in exact modes
        sums["loss"] += micro_loss.item()
        sums["tokens"] += int(sampled.sum())
        sums["clipped"] += int(clipped[sampled].sum())
        sums["gap_sum"] += gap.sum().item()
        sums["gap_max"] = max(sums["gap_max"], gap.max().item())
        sums["mismatch_kl"] += mismatch.sum().item()
    found = distributed.gathered(lambda: sums)
    return {name: (max if name == "gap_max" else sum)(own[name] for own in found) for name in sums}


def own_rows(
    lm: LanguageModel, config: PolicyConfig, items: Sequence[TrainItem], together: bool = False
) -> list[tuple[list[int], list[list[int]], bool]]:
    """The micro-batches of this process: indices into `items`, which of them share a row, and whether it counts.

    With `together` rollouts of one prompt stand side by side where a forward can make use of it.
    """
    lengths = [len(s.layout) for s in items]
    rows, beginnings = [[i] for i in range(len(items))], None
    if width := row_width(config, lm.model, [s.layout for s in items]):
        rows = rows_within(lengths, width)
    elif together and fits(lm.model):
        beginnings = [beginning(s.layout) for s in items]
    found = []
    widths = [sum(lengths[i] for i in row) for row in rows]
    for micro, counts in own_micro_batches(widths, config.micro_batch, beginnings):
        members = [i for row in micro for i in rows[row]]
        numbers = iter(range(len(members)))
        found.append((members, [[next(numbers) for _ in rows[row]] for row in micro], counts))
    return found


def forward(
    model: torch.nn.Module,
    lm: LanguageModel,
    config: PolicyConfig,
    items: Sequence[TrainItem],
    rows: Sequence[Sequence[int]] | None = None,
    width: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities (S, T) of the tokens at their sampling temperatures, and (S, T) bool: which were sampled.

    One row for each of the items, which stand in the `rows` (indices) of the forward; none: each in a row of its own.
    `width`: how long packed rows are (`batch_of`).
    """
    rows = rows or [[i] for i in range(len(items))]
    layouts = [pack([items[i].layout for i in row]) if len(row) > 1 else items[row[0]].layout for row in rows]
    batch = batch_of(lm, model, layouts, width, contexts=True)
    given = [np.concatenate([items[i].temperature for i in row]) for row in rows]
    temperature = along(batch.tokens, given, fill=1.0)
    with autocast(config, lm.device):
        logits_of, head = training_logits(model, batch), head_options(config, model)
        values = token_logprobs(model, batch, temperature, batch.sampled, logits_of, **head)
    lengths = [len(s.layout) for s in items]
    return unpacked(values, rows, lengths), unpacked(batch.sampled, rows, lengths)


def along(like: torch.Tensor, arrays: Sequence[np.ndarray], fill: float = 0.0) -> torch.Tensor:
    """Per-token arrays as one float32 tensor of the shape (B, T) and on the device of `like`."""
    padded = np.full(like.shape, fill, np.float32)
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
    return torch.from_numpy(padded).to(like.device)


def recompute_groups(
    lm: LanguageModel, config: PolicyConfig, groups: Sequence[list[TrainItem]]
) -> list[list[TrainItem]]:
    """`recompute` of each group; where rows are packed of all at once, so that rows and processes are full."""
    items = [item for group in groups for item in group]
    if not row_width(config, lm.model, [s.layout for s in items]):
        return [recompute(lm, config, group) for group in groups]
    found = iter(recompute(lm, config, items))
    return [[next(found) for _ in group] for group in groups]


@torch.no_grad()
def recompute(lm: LanguageModel, config: PolicyConfig, items: Sequence[TrainItem]) -> list[TrainItem]:
    """The items with old log-probabilities from a training forward instead of the engine."""
    result = list(items)
    found: dict[int, np.ndarray] = {}
    width = row_width(config, lm.model, [s.layout for s in items])
    for micro, rows, counts in own_rows(lm, config, items):
        values, _ = forward(lm.model, lm, config, [items[i] for i in micro], rows, width)
        if counts:
            found |= {i: row[: len(items[i].layout)] for i, row in zip(micro, values.cpu().numpy(), strict=True)}
    free(lm.model)
    for i, old in distributed.joined(lambda: list(found.items())):
        result[i] = replace(items[i], old=old)
    return result


def correct(groups: Sequence[list[TrainItem]], config: PolicyConfig) -> tuple[list[list[TrainItem]], dict]:
    """The items with the importance weights of `old` against `drawn`, and metrics of the ratios; neither without."""
    if config.importance_sampling_mode is None:
        return list(groups), {}
    ratios = []

    def corrected(item: TrainItem) -> TrainItem:
        own, weight = item.layout.sampled, np.ones(len(item.layout), np.float32)
        mode, clip_max = config.importance_sampling_mode, config.importance_sampling_clip_max
        weight[own], ratio = importance_weights(item.old[own], item.drawn[own], mode, clip_max)
        ratios.append(ratio)
        return replace(item, weight=weight)

    groups = [[corrected(item) for item in group] for group in groups]
    return groups, ratio_metrics(ratios, config.importance_sampling_clip_max)


def measure_gap(lm: LanguageModel, config: PolicyConfig, items: Sequence[TrainItem]) -> dict:
    """The gap and `mismatch_kl` over the sampled tokens of these rollouts, without training on them; None without."""
    if not any(s.tokens for s in items):
        return dict.fromkeys(MISMATCH)
    found = recompute(lm, config, items)
    trained, drawn = (np.concatenate([getattr(s, name)[s.layout.sampled] for s in found]) for name in ("old", "drawn"))
    gap = np.abs(trained - drawn)
    mismatch = k3_divergence(*(torch.from_numpy(x).double() for x in (drawn, trained)))
    return dict(zip(MISMATCH, (float(gap.max()), float(gap.mean()), float(mismatch.mean())), strict=True))


def divide(groups: Sequence[list[TrainItem]], parts: int) -> list[Sequence[list[TrainItem]]]:
    """The groups in `parts` runs of nearly equal size; fewer runs where there are fewer groups."""
    parts = min(parts, len(groups))
    bounds = [len(groups) * i // parts for i in range(parts + 1)]
    return [groups[a:b] for a, b in pairwise(bounds)]
