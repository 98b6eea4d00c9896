"""One draw for each branch from its logits: two kernels, nothing read by the host, so that a CUDA graph can hold it.

The first kernel reads every logit once and leaves two numbers for each block of the vocabulary: its maximum and its sum
of exp(logit / temperature) below that maximum. The second chooses a block, then a token inside it: the inverse of the
cumulative distribution in vocabulary order. The torch twin is `polythink.engine.sampling.draw`.

Axis legend: W branches, V vocabulary, B blocks of it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 1024  # tokens: the sums of so many float32 numbers are exact to 1e-6


def sample(
    logits: torch.Tensor, temperature: torch.Tensor, key: torch.Tensor, count: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token (W,) int64, log-probability (W,) float32, and whether the logits were finite (W,) bool.

    `logits` (W, V) float of any kind, rows contiguous; `temperature` (W,) float32, 0: the first arg max; `key` and
    `count` (W,) int64: the bits of the 64-bit stream key, and how many numbers were taken from that stream. The
    log-probability is that of the full softmax at the branch's temperature (at 1 where it is 0). Where logits are not
    finite the token is 0 and the log-probability NaN. Rows are independent: padding may hold anything.
    """
    rows, vocabulary = logits.shape
    assert logits.stride(1) == 1, "the logits of a branch lie side by side"
    blocks = triton.cdiv(vocabulary, BLOCK)
    high, total = logits.new_empty((2, rows, blocks), dtype=torch.float32)
    token = torch.empty(rows, dtype=torch.int64, device=logits.device)
    logprob, finite = torch.empty_like(token, dtype=torch.float32), torch.empty_like(token, dtype=torch.bool)
    if rows:
        blocks_kernel[(rows, blocks)](logits, temperature, high, total, logits.stride(0), vocabulary, blocks, BLOCK)
        choose_kernel[(rows,)](
            logits, temperature, key, count, high, total, token, logprob, finite,
            logits.stride(0), vocabulary, blocks, BLOCK, triton.next_power_of_2(blocks),
        )  # fmt: skip
    return token, logprob, finite


@triton.jit
def blocks_kernel(logits, temperature, high, total, stride, vocabulary, blocks, BLOCK: tl.constexpr):
    """One block of one branch: its maximum, and its sum of weights below it. A sum of NaN: a logit is not finite."""
    row, block = tl.program_id(0), tl.program_id(1)
    heat = tl.load(temperature + row)
    heat = tl.where(heat == 0, 1.0, heat)
    at = block * BLOCK + tl.arange(0, BLOCK)
    inside = at < vocabulary
    x = tl.load(logits + row.to(tl.int64) * stride + at, mask=inside, other=-float("inf")).to(tl.float32)
    bad = tl.sum((inside & ~(tl.abs(x) < float("inf"))).to(tl.int32))
    top = tl.max(x)
    weights = tl.where(inside, tl.exp(tl.div_rn(x - top, tl.broadcast_to(heat, x.shape))), 0.0)
    tl.store(high + row * blocks + block, top)
    tl.store(total + row * blocks + block, tl.where(bad > 0, float("nan"), tl.sum(weights)))


@triton.jit
def choose_kernel(
    logits, temperature, key, count, high, total, token, logprob, finite,
    stride, vocabulary, blocks, BLOCK: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """One branch: its uniform number, the block and the token in it. Sums over blocks and in one are float64."""
    row = tl.program_id(0)
    heat = tl.load(temperature + row)
    greedy = heat == 0
    heat = tl.where(greedy, 1.0, heat)
    # number `count` of the stream: SplitMix64 in counter form (Steele et al. 2014)
    z = tl.load(key + row).to(tl.uint64) + (tl.load(count + row) + 1).to(tl.uint64) * 0x9E3779B97F4A7C15
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    z = z ^ (z >> 31)
    uniform = (z >> 11).to(tl.float64) * 1.1102230246251565e-16  # 2^-53

    block = tl.arange(0, BLOCKS)
    tops = tl.load(high + row * blocks + block, mask=block < blocks, other=-float("inf"))
    sums = tl.load(total + row * blocks + block, mask=block < blocks, other=0.0)
    whole = tl.sum((sums != sums).to(tl.int32)) == 0
    top = tl.max(tops)
    sums = (sums * tl.exp(tl.div_rn(tops - top, tl.broadcast_to(heat, tops.shape)))).to(tl.float64)
    cumulative = tl.cumsum(sums, 0)
    mass = tl.sum(sums)
    # the first with weight beyond the mark, or the last with weight, where rounding has put the mark past them all
    past = tl.min(tl.where((sums > 0) & (cumulative > uniform * mass), block, BLOCKS))
    last = tl.max(tl.where(sums > 0, block, 0))
    first = tl.min(tl.where(tops == top, block, BLOCKS))
    chosen = tl.where(greedy, first, tl.minimum(past, last))
    chosen = tl.where(whole, chosen, 0)
    rest = uniform * mass - tl.sum(tl.where(block < chosen, sums, 0.0))

    at = chosen * BLOCK + tl.arange(0, BLOCK)
    inside = at < vocabulary
    x = tl.load(logits + row.to(tl.int64) * stride + at, mask=inside, other=-float("inf")).to(tl.float32)
    weights = tl.where(inside, tl.exp(tl.div_rn(x - top, tl.broadcast_to(heat, x.shape))), 0.0)
    reached = tl.cumsum(weights.to(tl.float64), 0)
    END: tl.constexpr = 2147483647
    past = tl.min(tl.where((weights > 0) & (reached > rest), at, END))
    last = tl.max(tl.where(weights > 0, at, 0))
    first = tl.min(tl.where(x == top, at, END))
    found = tl.where(whole, tl.where(greedy, first, tl.minimum(past, last)), 0)
    below = tl.sum(tl.where(at == found, x - top, 0.0))
    tl.store(token + row, found.to(tl.int64))
    tl.store(logprob + row, tl.where(whole, tl.div_rn(below, heat) - tl.log(mass).to(tl.float32), float("nan")))
    tl.store(finite + row, whole)
