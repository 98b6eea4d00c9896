"""Layouts as tensors for a `transformers` model: tokens, explicit positions and one dense bool mask.

This is the slow, reliable rendering: a mask (B, 1, T, T), True = may attend. Training uses it, and the engine is tested
against it.

Axis legend: B rows, T tokens of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch.nn import functional

from polythink.trace.layout import Layout

BLOCK = 128  # tokens: the sides of the blocks of flex attention


@dataclass(frozen=True)
class Batch:
    """Layouts padded on the right to one length. Padding attends only to itself, and no other token to it."""

    tokens: torch.Tensor  # (B, T) int64
    positions: torch.Tensor  # (B, T) int64
    mask: torch.Tensor | None  # (B, 1, T, T) bool, True = may attend; None: as `segment` and `sees` say
    previous: torch.Tensor  # (B, T) int64: index of the chain predecessor, -1 without one
    sampled: torch.Tensor  # (B, T) bool: drawn from the model
    response: torch.Tensor  # (B, T) bool: part of the response's text: not of the prompt, nor read again
    real: torch.Tensor  # (B, T) bool: not padding
    path_ids: torch.Tensor  # (B, T) int64: number of the token's path, 0 outside of paths
    query_scale: torch.Tensor  # (B, T) float32: factor on the attention scores of the token's query
    segment: torch.Tensor | None = None  # (B, T) int64: rows and columns of `sees`; where there is no mask
    sees: torch.Tensor | None = None  # (B, S, S) bool: which segments see which; where there is no mask
    contexts: torch.Tensor | None = None  # (B, T) int64: tokens of the same number have the same context; None: unknown

    def to(self, device: torch.device | str) -> Batch:
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return Batch(**{name: None if x is None else x.to(device) for name, x in found.items()})


_PADDING = {"previous": -1, "query_scale": 1, "contexts": -1}  # of all else 0


def to_multiple(batch: Batch, multiple: int) -> Batch:
    """The same rows with a mask, padded on the right to a multiple of that many tokens."""
    assert batch.mask is not None
    width = batch.tokens.shape[1]
    more = -width % multiple
    if not more:
        return batch
    rows = {f.name: getattr(batch, f.name) for f in fields(batch) if f.name not in ("mask", "sees")}
    found = {
        name: None if x is None else functional.pad(x, (0, more), value=_PADDING.get(name, 0))
        for name, x in rows.items()
    }
    alone = torch.arange(width, width + more, device=batch.tokens.device)
    mask = functional.pad(batch.mask, (0, more, 0, more))
    mask[:, :, alone, alone] = True
    return replace(batch, mask=mask, **found)


def collate(
    layouts: Sequence[Layout], pad_id: int = 0, contexts: bool = False, tables: bool = False, width: int = 0
) -> Batch:
    """The batch of these layouts, one per row of at least `width` tokens; with `contexts` those are numbered too.

    With `tables` it holds the tables of the mask in place of the mask (`blocks.py`), and rows are whole blocks long.
    """
    assert layouts, "a batch needs at least one layout"
    width = max(width, *(len(x) for x in layouts))
    shape = (len(layouts), -(-width // BLOCK) * BLOCK if tables else width)
    tokens, positions, previous = np.full(shape, pad_id), np.zeros(shape, np.int64), np.full(shape, -1)
    sampled, response, real = (np.zeros(shape, bool) for _ in range(3))
    path_ids, query_scale = np.zeros(shape, np.int64), np.ones(shape, np.float32)
    segment = np.full(shape, -1)  # of padding: the last of each table in `sees`, which sees nothing
    sees = np.zeros((len(layouts), *[1 + max(len(x.kinds) for x in layouts)] * 2), bool)
    for b, layout in enumerate(layouts):
        n = len(layout)
        tokens[b, :n], positions[b, :n], previous[b, :n] = layout.tokens, layout.position, layout.previous
        sampled[b, :n], real[b, :n] = layout.sampled, True
        response[b, :n] = response_of(layout)
        path_ids[b, :n] = np.array(layout.labels)[layout.segment]
        query_scale[b, :n] = np.array(layout.scales)[layout.segment]
        segment[b, :n], sees[b, : len(layout.kinds), : len(layout.kinds)] = layout.segment, layout.sees
    found = dict(
        tokens=tokens, positions=positions, mask=None if tables else masks(segment, sees)[:, None], previous=previous,
        sampled=sampled, response=response, real=real, path_ids=path_ids, query_scale=query_scale,
        segment=np.where(segment < 0, sees.shape[1] - 1, segment) if tables else None, sees=sees if tables else None,
        contexts=number_contexts(layouts, shape[1]) if contexts else None,
    )  # fmt: skip
    return Batch(**{name: None if x is None else torch.from_numpy(x) for name, x in found.items()})


def masks(segment: np.ndarray, sees: np.ndarray) -> np.ndarray:
    """(B, T, T) bool, as `Layout.may_attend` of each row, from segments (B, T) and tables (B, S, S).

    A token attends to itself always: padding, whose segment sees nothing, to nothing else.
    """
    row, width = np.arange(len(segment))[:, None, None], segment.shape[1]
    mask = sees[row, segment[:, :, None], segment[:, None, :]]
    mask &= np.tri(width, dtype=bool)
    mask |= np.eye(width, dtype=bool)
    return mask


def number_contexts(layouts: Sequence[Layout], width: int = 0) -> np.ndarray:
    """(B, T) int64: the same number for tokens that a model cannot tell apart; -1 for padding.

    Such tokens, and all that they may attend to, agree in text, positions, path numbers and scales: the prompts and the
    common beginnings of several traces, and of paths that start together.
    """
    numbers = np.full((len(layouts), max(width, *(len(x) for x in layouts))), -1)
    table: dict[tuple, int] = {}
    for row, layout in zip(numbers, layouts, strict=True):
        visible = (layout.sees @ np.bincount(layout.segment, minlength=len(layout.kinds))).tolist()
        lengths = np.bincount(layout.segment, minlength=len(layout.kinds)).tolist()
        end: dict[int, int] = {}  # segment -> number of its last token
        found, now, own, before = [], -1, None, None
        for token, position, segment in zip(
            layout.tokens.tolist(), layout.position.tolist(), layout.segment.tolist(), strict=True
        ):
            if segment != now:
                now, ends = segment, sorted(end[f] for f in layout.follows[segment])
                own = layout.labels[segment], layout.scales[segment]
                # what several ends have in common is read once: their number of tokens tells how much that is
                before = (*ends, visible[segment] - lengths[segment]) if len(ends) > 1 else ends[0] if ends else None
            before = end[now] = table.setdefault((token, position, own, before), len(table))
            found.append(before)
        row[: len(found)] = found
    return numbers


def response_of(layout: Layout) -> np.ndarray:
    """(T,) bool: the tokens of the response's text; those that a join reads again are not counted twice."""
    return np.array([kind not in ("prompt", "copy") for kind in layout.kinds])[layout.segment]


def rows_within(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Which traces share a row of at most `width` tokens: longest first, each in the first row that has room.

    One that is longer than the width has a row of its own.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        place = next((row for row, left in enumerate(room) if left >= lengths[i]), None)
        if place is None:
            rows.append([i])
            room.append(width - lengths[i])
        else:
            rows[place].append(i)
            room[place] -= lengths[i]
    return rows


def unpacked(values: torch.Tensor, rows: Sequence[Sequence[int]], lengths: Sequence[int]) -> torch.Tensor:
    """(S, T): what packed rows hold of each trace, (R, W) -> one row a trace, 0 after its end; differentiable.

    `rows` says which traces stand in each row, in their order, and `lengths` (S,) how long they are.
    """
    place = np.full((len(lengths), max(lengths)), values.numel())  # after the end: the 0 that is appended
    for number, row in enumerate(rows):
        begin = number * values.shape[1]
        for i in row:
            place[i, : lengths[i]] = np.arange(begin, begin + lengths[i])
            begin += lengths[i]
    flat = torch.cat([values.flatten(), values.new_zeros(1)])
    return flat[torch.from_numpy(place).to(values.device)]


def pack(layouts: Sequence[Layout]) -> Layout:
    """Several traces as one layout, one after another, none seeing the others. Saves padding and changes no value."""
    tokens_before = np.cumsum([0, *(len(x) for x in layouts)])
    segments_before = np.cumsum([0, *(len(x.kinds) for x in layouts)])
    sees = np.zeros((segments_before[-1],) * 2, bool)
    segment, previous, follows = [], [], []
    for layout, t, s in zip(layouts, tokens_before[:-1], segments_before[:-1], strict=True):
        own = slice(s, s + len(layout.kinds))
        sees[own, own] = layout.sees
        segment.append(layout.segment + s)
        previous.append(np.where(layout.previous < 0, -1, layout.previous + t))
        follows += [tuple(int(f + s) for f in before) for before in layout.follows]
    return Layout(
        segment=np.concatenate(segment),
        previous=np.concatenate(previous),
        follows=tuple(follows),
        sees=sees,
        **{name: np.concatenate([getattr(x, name) for x in layouts]) for name in ("tokens", "position", "sampled")},
        **{name: sum((getattr(x, name) for x in layouts), ()) for name in ("kinds", "paths", "labels", "scales")},
    )
