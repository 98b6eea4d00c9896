"""Traces taken apart into plain causal rows, for models that read the tokens of a row in one order.

A model with recurrent, linear or convolutional layers does not heed a mask (`forward.heeds_masks`). Where every segment
of a layout follows at most one other, as in the modes `sequential` and `reread`, the context of each token is a plain
text: its chain of predecessors. So the row of each chain's last token holds what all tokens of the chain need. Tokens
before a fork are computed once for each chain that they are in, which costs time and changes no value.

Left out: starting the rows after a fork from the state at the fork, which needs kernels that give one.

Axis legend: B rows and T tokens of the batch, N tokens whose logits are asked for, R chains, L tokens of the longest.
"""

from __future__ import annotations

import inspect

import numpy as np
import torch

from polythink.errors import UserError
from polythink.models.batch import Batch
from polythink.models.forward import cannot_join, unwrapped
from polythink.models.head import Scoring, scored_in_place
from polythink.models.thoughts import forward_kwargs


def chain_logits(
    model, batch: Batch, rows: torch.Tensor, tokens: torch.Tensor, scoring: Scoring | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | torch.Tensor:
    """Logits (R, C, V) of one forward over plain rows, and where those after the N given tokens lie: (N,) and (N,).

    `rows` and `tokens` (N,) are indices into the batch. With a `scoring` whose logits would not fit its memory, the
    log-probabilities (N,) of its tokens instead. `UserError` for a batch in which a token has more context than its
    chain (a join that reads several paths), or positions that are not those of a plain text.
    """
    source, chain_of, depth = unfold(model, batch, rows.cpu().numpy(), tokens.cpu().numpy())
    index = torch.from_numpy(source).to(batch.tokens.device)  # (R, L) flat indices into the batch

    def along(values: torch.Tensor) -> torch.Tensor:
        return values.flatten()[index]

    columns, column_of = (torch.from_numpy(x).to(index.device) for x in np.unique(depth, return_inverse=True))
    at = torch.from_numpy(chain_of).to(index.device)
    keeps = "logits_to_keep" in inspect.signature(unwrapped(model).forward).parameters
    extras = {"logits_to_keep": columns} if keeps else {}
    extras |= forward_kwargs(model, along(batch.path_ids), along(batch.query_scale))
    if scoring is not None and scoring.in_pieces(model, len(index) * (len(columns) if keeps else index.shape[1])):
        with scored_in_place(model, scoring, at, column_of if keeps else columns[column_of]):
            return model(input_ids=along(batch.tokens), use_cache=False, **extras).logits
    logits = model(input_ids=along(batch.tokens), use_cache=False, **extras).logits
    if not keeps:
        logits = logits[:, columns]
    assert logits.shape[1] == len(columns), "the model ignores logits_to_keep"
    return logits, at, column_of


def unfold(model, batch: Batch, rows: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The chains that hold the N given tokens: their tokens (R, L) as flat indices into the batch, padded on the right
    with the last; and of each given token its chain (N,) and its place there (N,).

    Each token is looked up in one chain only, the first that holds it.
    """
    previous, real = batch.previous.cpu().numpy(), batch.real.cpu().numpy()
    width = previous.shape[1]
    depths, chains = np.zeros(previous.shape, np.int64), []
    home = np.full(previous.shape, -1)
    for b in np.unique(rows):
        own = previous[b, : real[b].sum()]
        depths[b, : len(own)], leaves, starts = _forest(own, tokens[rows == b])
        for leaf in leaves:
            chain = _chain(own, starts, leaf)
            new = chain[home[b, chain] < 0]
            home[b, new] = len(chains)
            chains.append(b * width + chain)
    _check(model, batch, depths, np.unique(rows))
    source = np.empty((len(chains), max(map(len, chains))), np.int64)
    for row, chain in zip(source, chains, strict=True):
        row[: len(chain)], row[len(chain) :] = chain, chain[-1]
    return source, home[rows, tokens], depths[rows, tokens]


def _forest(previous: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, list[int], np.ndarray]:
    """Of the tokens of one row: how many are before each in its chain; the wanted ones with no wanted one after them;
    and the first tokens of the runs in which each token follows the one before it."""
    n = len(previous)
    starts = np.flatnonzero(previous != np.arange(-1, n - 1))
    starts = starts if len(starts) and starts[0] == 0 else np.concatenate(([0], starts))
    ends = np.append(starts[1:], n)
    depth = np.arange(n)
    for start, end in zip(starts, ends, strict=True):
        before = previous[start]
        depth[start:end] = (depth[before] + 1 if before >= 0 else 0) + np.arange(end - start)
    needed, passed = np.zeros(n, bool), np.zeros(n, bool)  # passed: a chain that is needed goes on from here elsewhere
    needed[wanted] = True
    leaves = []
    for start, end in zip(starts[::-1], ends[::-1], strict=True):
        used = np.flatnonzero(needed[start:end] | passed[start:end])
        if not len(used):
            continue
        last = start + used[-1]
        if not passed[last]:
            leaves.append(int(last))
        if previous[start] >= 0:
            passed[previous[start]] = True
    return depth, leaves[::-1], starts


def _chain(previous: np.ndarray, starts: np.ndarray, leaf: int) -> np.ndarray:
    """The tokens of the chain that ends with `leaf`, in order."""
    parts = []
    while leaf >= 0:
        start = starts[np.searchsorted(starts, leaf, "right") - 1]
        parts.append(np.arange(start, leaf + 1))
        leaf = previous[start]
    return np.concatenate(parts[::-1])


def _check(model, batch: Batch, depths: np.ndarray, rows: np.ndarray) -> None:
    """`UserError` unless the context of each token is its chain, at the positions of a plain text."""
    chosen = torch.from_numpy(rows).to(batch.tokens.device)
    depth = torch.from_numpy(depths[rows]).to(chosen.device)
    real = batch.real[chosen]
    if batch.mask is not None and bool((batch.mask[chosen, 0].sum(-1) != depth + 1)[real].any()):
        raise UserError(cannot_join(model))
    if bool((batch.positions[chosen] != depth)[real].any()):
        raise UserError(
            f"{model.config.model_type} reads its tokens in one order, and a path that begins at a later position than "
            "the first one is not a plain text; set path_position_stride: 0"
        )
