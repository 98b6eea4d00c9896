"""Layouts as tensors for a `transformers` model: tokens, explicit positions and one dense bool mask.

This is the slow, reliable rendering: a mask (B, 1, T, T), True = may attend. Training uses it, and the engine is tested
against it.

Axis legend: B rows, T tokens of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch

from polythink.trace.layout import Layout


@dataclass(frozen=True)
class Batch:
    """Layouts padded on the right to one length. Padding attends only to itself, and no other token to it."""

    tokens: torch.Tensor  # (B, T) int64
    positions: torch.Tensor  # (B, T) int64
    mask: torch.Tensor  # (B, 1, T, T) bool, True = may attend
    previous: torch.Tensor  # (B, T) int64: index of the chain predecessor, -1 without one
    sampled: torch.Tensor  # (B, T) bool: drawn from the model
    response: torch.Tensor  # (B, T) bool: part of the response's text: not of the prompt, nor read again
    real: torch.Tensor  # (B, T) bool: not padding
    path_ids: torch.Tensor  # (B, T) int64: number of the token's path, 0 outside of paths
    query_scale: torch.Tensor  # (B, T) float32: factor on the attention scores of the token's query

    def to(self, device: torch.device | str) -> Batch:
        return Batch(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def collate(layouts: Sequence[Layout], pad_id: int = 0) -> Batch:
    """The batch of these layouts, one per row."""
    assert layouts, "a batch needs at least one layout"
    shape = (len(layouts), max(len(x) for x in layouts))
    tokens, positions, previous = np.full(shape, pad_id), np.zeros(shape, np.int64), np.full(shape, -1)
    sampled, response, real = (np.zeros(shape, bool) for _ in range(3))
    path_ids, query_scale = np.zeros(shape, np.int64), np.ones(shape, np.float32)
    mask = np.repeat(np.eye(shape[1], dtype=bool)[None], shape[0], axis=0)
    for b, layout in enumerate(layouts):
        n = len(layout)
        tokens[b, :n], positions[b, :n], previous[b, :n] = layout.tokens, layout.position, layout.previous
        sampled[b, :n], real[b, :n] = layout.sampled, True
        response[b, :n] = response_of(layout)
        path_ids[b, :n] = np.array(layout.labels)[layout.segment]
        query_scale[b, :n] = np.array(layout.scales)[layout.segment]
        mask[b, :n, :n] = layout.may_attend()
    arrays = (tokens, positions, mask[:, None], previous, sampled, response, real, path_ids, query_scale)
    return Batch(*(torch.from_numpy(a) for a in arrays))


def response_of(layout: Layout) -> np.ndarray:
    """(T,) bool: the tokens of the response's text; those that a join reads again are not counted twice."""
    return np.array([kind not in ("prompt", "copy") for kind in layout.kinds])[layout.segment]


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
