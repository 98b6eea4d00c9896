"""Which keys are neighbours when the keys in memory are no single text: paths side by side, in any order.

    left(s)        the one key at the position before that of s that s itself may attend; none where there are several
    right(t, s)    the one key that query t may attend and whose left neighbour is s; none where there are several
    further ones   left of left, right of right

Seen from a path these are the neighbours in the path's own text, whatever stands beside it in memory: a path inside a
trace is the path alone. Behind a join, where several keys have equal positions, every key keeps the neighbours of its
own path; the token before the fork has none to the right, and the join's first token has the end of the longest path on
its left, or nothing where two are longest.

Cost: 2 T S indices for each key of reach, shared by all layers, and for every convolution as many gathers of its maps
as the kernel is wide. SamplingParams keeps two whole numbers a token, in cache slots of their own: position and left(s).
Plain text needs none of this: there, neighbours lie side by side.

Axis legend: B rows, C maps, T queries, S keys, W = 2 reach: the neighbours from the farthest on the left to the
farthest on the right, the key itself left out.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import Cache

from polythink.models.architectures.attention import explicit, own_cache

SLOTS = 2  # of the cache


class Neighbours(nn.Module):
    """Of a decoder's stack: `reach` keys to both sides. No weights; it writes cache slots from `slot` on."""

    def __init__(self, reach: int, slot: int) -> None:
        super().__init__()
        self.reach, self.slot = reach, slot

    def forward(
        self, x: torch.Tensor, past: Cache | None, positions: torch.Tensor, mask: torch.Tensor | None, paths: bool
    ) -> tuple[torch.Tensor, ...]:
        """(B, W, T, S) indices of keys, -1 for none, if the mask is one of `paths`; otherwise nothing is needed."""
        if past is None and not paths:
            return ()
        positions = positions.expand(len(x), -1)
        at = self._remember(positions, past, 0)
        mask = explicit(mask, True, x.shape[1], x.device)
        seen = at.new_ones(len(x), x.shape[1], at.shape[1], dtype=torch.bool)
        seen = seen if mask is None else seen & mask[:, 0]
        left = self._remember(left_of(positions, at, seen), past, 1)
        return (around(left, seen, self.reach),) if paths else ()

    def _remember(self, values: torch.Tensor, past: Cache | None, offset: int) -> torch.Tensor:
        """(B, T) of the tokens given -> (B, S) of all keys."""
        if past is None:
            return values
        as_keys = values[:, None, :, None]
        kept, _ = own_cache(past).update(as_keys, as_keys[..., :0], self.slot + offset)
        return kept[:, 0, :, 0]


def left_of(positions: torch.Tensor, at: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """(B, T) the key on the left of every token, -1 for none: positions (B, T), of keys `at` (B, S), seen (B, T, S)."""
    return only(seen & (at[:, None] == positions[..., None] - 1))


def only(found: torch.Tensor) -> torch.Tensor:
    """(.., S) bool -> (..): the index of the one that is true, -1 where it is not one."""
    return torch.where(found.sum(-1) == 1, found.long().argmax(-1), -1)


def around(left: torch.Tensor, seen: torch.Tensor, reach: int) -> torch.Tensor:
    """(B, W, T, S) from left (B, S) and seen (B, T, S)."""
    to_left = left[:, None].expand(seen.shape)
    to_left = torch.where(pick(seen, to_left, False), to_left, -1)
    to_right = right_of(left, seen)
    lefts, rights = [to_left], [to_right]
    for _ in range(reach - 1):
        lefts.append(pick(to_left, lefts[-1], -1))
        rights.append(pick(to_right, rights[-1], -1))
    return torch.stack([*reversed(lefts), *rights], 1)


def right_of(left: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """(B, T, S): the key on the right of every key as each query sees it, -1 for none."""
    places = left.clamp(0, seen.shape[-1] - 1)[:, None].expand(seen.shape)  # what is unseen may hold anything
    linked = (seen & (left >= 0)[:, None]).long()
    nothing = torch.zeros_like(linked)
    count = nothing.scatter_add(-1, places, linked)
    index = nothing.scatter_add(-1, places, linked * torch.arange(seen.shape[-1], device=seen.device))
    return torch.where(count == 1, index, -1)


def pick(values: torch.Tensor, index: torch.Tensor, nothing: float) -> torch.Tensor:
    """values (.., S) at index (.., S) of the last axis, `nothing` where the index is -1."""
    picked = values.gather(-1, index.clamp(0, values.shape[-1] - 1))
    return picked.masked_fill(index < 0, nothing)


def convolve(convolution: nn.Conv2d, maps: torch.Tensor, neighbours: torch.Tensor) -> torch.Tensor:
    """The convolution (1, k) of maps (B, C, T, S) over these neighbours (B, W, T, S) in place of those in memory."""
    half, reach = convolution.kernel_size[1] // 2, neighbours.shape[1] // 2

    def part(offset: int) -> torch.Tensor:
        shifted = maps
        if offset:
            index = neighbours[:, reach + offset - (offset > 0), None]
            shifted = pick(maps, index.expand(maps.shape), 0)
        weight = convolution.weight[..., half + offset, None]
        return nn.functional.conv2d(shifted, weight.to(maps.dtype), groups=convolution.groups)

    return sum(part(offset) for offset in range(-half, half + 1)) + convolution.bias.to(maps.dtype)[:, None, None]
