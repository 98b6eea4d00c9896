"""The Triton kernels of `polythink.engine.kernels.attention`; import it only where they run."""

from __future__ import annotations

from math import e as EULER
from math import log2

import torch
import triton
import triton.language as tl

from polythink.engine.kernels.attention import Inputs
from polythink.engine.paged.work import Launch

FEW_PROGRAMS = 256  # two on each of 132 multiprocessors
MOST_PARTS = 32  # partial results of a token and head that are merged at once


@triton.jit
def listed_keys(entries, bits, number, offset, length):
    """Of keys at these offsets in the pages of these numbers of a list: slot, whether it is written, who sees it."""
    listed = number < length
    entry = tl.load(entries + number, mask=listed, other=0)
    word = tl.load(bits + number, mask=listed, other=0)
    return (entry >> 5) * 16 + offset, offset < (entry & 31), word


@triton.jit
def softmax_round(top, scores):
    """New maxima (rows,), weights of these scores (rows, keys) below them, and the factor on all earlier weights."""
    new = tl.maximum(top, tl.max(scores, 1))
    base = tl.where(new == float("-inf"), 0.0, new)  # nothing seen so far: no inf - inf
    return new, tl.exp2(scores - base[:, None]), tl.exp2(top - base)


@triton.jit(do_not_specialize=["first_item", "window"])
def split_kernel(
    query, keys, values, partial_out, partial_lse, items, queries, entries, bits, scale,
    key_stamps, query_stamps, key_positions, query_positions, factor, first_item, window,
    H: tl.constexpr, D: tl.constexpr, SHARE: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
    KEYS: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """Program (key head, item): BLOCK packed rows of queries read the item's pages, KEYS keys at a time.

    The heads of an item run side by side, since a token's keys of all heads lie side by side in memory.

    Writes the attention over these pages, (M, G, D) float32, and log2 of the sum of exponentials, (M, G).
    """
    head = tl.program_id(0)
    item = items + 5 * (first_item + tl.program_id(1))
    count = tl.load(item + 1)
    if count == 0:
        return
    first, begin, length, partial = tl.load(item), tl.load(item + 2), tl.load(item + 3), tl.load(item + 4)
    row = tl.arange(0, BLOCK)
    number = row // SHARE  # of the query in the tile
    real = number < count
    token = tl.load(queries + first + number, mask=real, other=0)
    d = tl.arange(0, WIDTH)
    heads = head * SHARE + row % SHARE
    at = (token * (H * SHARE) + heads).to(tl.int64)[:, None] * D + d[None, :]
    q = tl.load(query + at, mask=real[:, None] & (d < D)[None, :], other=0.0)  # (BLOCK, WIDTH)
    factors = tl.load(scale + token, mask=real, other=0.0) * factor
    if CAUSAL:
        stamp = tl.load(query_stamps + token, mask=real, other=0)
    if WINDOW:
        position = tl.load(query_positions + token, mask=real, other=0)
    bit = number & 31
    top = tl.full((BLOCK,), float("-inf"), tl.float32)
    total = tl.full((BLOCK,), 0.0, tl.float32)
    out = tl.full((BLOCK, WIDTH), 0.0, tl.float32)
    n = tl.arange(0, KEYS)
    for start in tl.range(0, length, KEYS // 16):
        slot, written, word = listed_keys(entries + begin, bits + begin, start + n // 16, n % 16, length)
        place = slot.to(tl.int64)[:, None] * (H * D) + head * D + d[None, :]
        inside = written[:, None] & (d < D)[None, :]
        k = tl.load(keys + place, mask=inside, other=0.0)  # (KEYS, WIDTH)
        v = tl.load(values + place, mask=inside, other=0.0)
        seen = (((word[None, :] >> bit[:, None]) & 1) != 0) & written[None, :]
        if CAUSAL:
            seen &= tl.load(key_stamps + slot, mask=written, other=0)[None, :] <= stamp[:, None]
        if WINDOW:
            seen &= position[:, None] - tl.load(key_positions + slot, mask=written, other=0)[None, :] < window
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * factors[:, None]  # (BLOCK, KEYS), in powers of 2
        scores = tl.where(seen, scores, float("-inf"))
        top, weights, decay = softmax_round(top, scores)
        total = total * decay + tl.sum(weights, 1)
        out = out * decay[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
    some = real & (total > 0)
    divisor = tl.where(total > 0, total, 1.0)
    out = out / divisor[:, None]
    lse = tl.where(total > 0, top + tl.log2(divisor), float("-inf"))
    to = (partial + number) * (H * SHARE) + heads
    tl.store(partial_lse + to, lse, mask=real)
    tl.store(partial_out + to.to(tl.int64)[:, None] * D + d[None, :], out, mask=some[:, None] & (d < D)[None, :])


@triton.jit
def merge_kernel(
    out, partial_out, partial_lse, merge_start, merge,
    G: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Program (token, query head): the token's partial results, weighted by their sums, PARTS at a time."""
    token, head = tl.program_id(0), tl.program_id(1)
    begin, end = tl.load(merge_start + token), tl.load(merge_start + token + 1)
    d = tl.arange(0, WIDTH)
    inside = d < D
    top = float("-inf")
    total = 0.0
    merged = tl.full((WIDTH,), 0.0, tl.float32)
    for start in tl.range(begin, end, PARTS):
        part = start + tl.arange(0, PARTS)
        place = tl.load(merge + part, mask=part < end, other=0) * G + head  # (PARTS,)
        lse = tl.load(partial_lse + place, mask=part < end, other=float("-inf"))
        new = tl.maximum(top, tl.max(lse, 0))
        base = tl.where(new == float("-inf"), 0.0, new)
        weights = tl.exp2(lse - base)
        decay = tl.exp2(top - base)
        wanted = (weights > 0)[:, None] & inside[None, :]  # a partial that saw nothing was not written
        parts = tl.load(partial_out + place.to(tl.int64)[:, None] * D + d[None, :], mask=wanted, other=0.0)
        merged = merged * decay + tl.sum(weights[:, None] * parts, 0)
        total = total * decay + tl.sum(weights, 0)
        top = new
    merged = merged / tl.where(total > 0, total, 1.0)
    tl.store(out + (token * G + head).to(tl.int64) * D + d, merged.to(out.dtype.element_ty), mask=inside)


def options(block: int, head_size: int, itemsize: int, programs: int) -> dict[str, int]:
    """Keys per round, warps and pipeline stages for a tile of that many packed rows, in a launch of that many programs.

    With 16 bits nothing spills on an H100. Of narrow tiles four blocks find room on a multiprocessor, so that all
    programs of a step run at once (`Tiling.programs`): 64 x 8 paths take 3.7 ms a step of 0.6B on an H200, and 4.0 with
    long rounds in more stages. Few programs have the multiprocessors to themselves and read further ahead: 8 paths on a
    prompt of 8,192 take 1.65 ms, with short rounds 1.78. Float32 is for exactness, not for speed.
    """
    wide = head_size > 128
    if itemsize > 2:
        return {"KEYS": 16 if wide else 32, "num_warps": 4 if wide else 8, "num_stages": 2}
    if block > 64:
        return {"KEYS": 64, "num_warps": 8, "num_stages": 5}
    if block > 32:
        return {"KEYS": 32, "num_warps": 8 if wide else 4, "num_stages": 5}
    if programs > FEW_PROGRAMS or wide:
        return {"KEYS": 32, "num_warps": 4, "num_stages": 3}
    return {"KEYS": 64, "num_warps": 4, "num_stages": 5}


def split_constants(block: int, heads: int, kv_heads: int, head_size: int) -> dict[str, int]:
    """What `split_kernel` is compiled for besides the masks."""
    width = max(16, triton.next_power_of_2(head_size))
    return {"H": kv_heads, "D": head_size, "SHARE": heads // kv_heads, "BLOCK": block, "WIDTH": width}


def merge_constants(heads: int, head_size: int, parts: int) -> dict[str, int]:
    """What `merge_kernel` is compiled for, and its warps: a token has up to `parts` partial results."""
    together = min(max(2, triton.next_power_of_2(parts)), MOST_PARTS)
    width = max(16, triton.next_power_of_2(head_size))
    return {"G": heads, "D": head_size, "WIDTH": width, "PARTS": together, "num_warps": max(1, together // 4)}


def launch_split(query: torch.Tensor, inputs: Inputs, scaling: float, launch: Launch) -> None:
    """Run one launch of items: their partial results go to the scratch of `inputs`."""
    heads, (_, kv_heads, head_size) = query.shape[1], inputs.keys.shape
    key_stamps, query_stamps = inputs.stamps or (inputs.items, inputs.items)  # not read
    key_positions, query_positions = inputs.positions or (inputs.items, inputs.items)
    split_kernel[(kv_heads, launch.items)](
        query, inputs.keys, inputs.values, inputs.partial_out, inputs.partial_lse, inputs.items, inputs.queries,
        inputs.entries, inputs.bits, inputs.scale, key_stamps, query_stamps, key_positions, query_positions,
        scaling * log2(EULER), launch.first, inputs.window or 0,
        **split_constants(launch.block, heads, kv_heads, head_size),
        CAUSAL=inputs.stamps is not None, WINDOW=inputs.window is not None,
        **options(launch.block, head_size, query.element_size(), kv_heads * launch.items),
    )  # fmt: skip


def launch_merge(inputs: Inputs, out: torch.Tensor) -> None:
    """Merge the partial results of every token into `out` (N, G, D)."""
    tokens, heads, head_size = out.shape
    constants = merge_constants(heads, head_size, inputs.parts)
    merge_kernel[(tokens, heads)](
        out, inputs.partial_out, inputs.partial_lse, inputs.merge_start, inputs.merge, **constants
    )
