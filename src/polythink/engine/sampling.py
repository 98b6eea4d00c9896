"""Sampling tokens: one random stream per branch, so that a branch does not depend on what else is in the batch.

A draw is the inverse of the cumulative distribution in vocabulary order, in two levels: sums over blocks of the
vocabulary choose a block, then its own tokens are searched. Weights are float32, sums over blocks and in one float64,
and the host reads nothing before the tokens. The Triton form of the same is `polythink.engine.kernels.sample`.

Axis legend: W branches, V vocabulary, K tokens of a block.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import repeat

import numpy as np
import torch

from polythink.engine.truncation import last_kept, within
from polythink.errors import UserError

BLOCK = 1024
AT_ONCE = 1 << 20  # numbers: on a CPU so many rows are worked on together that their weights stay in its cache
BELOW_ONE = 1 - 2.0**-53
_GOLDEN, _MIX, _MIX_AGAIN = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # SplitMix64

Drawn = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # tokens, log-probabilities, are the logits finite?


def stream_key(seed: int, problem: str, sample: int, segment: int) -> int:
    """The 64-bit name of a branch's random stream."""
    name = f"{seed}\x1f{problem}\x1f{sample}\x1f{segment}".encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")


def uniforms(keys: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """(W,) float64 in [0, 1): the `indices`-th number of each stream (SplitMix64, counter form; Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        z = keys.astype(np.uint64) + (indices.astype(np.uint64) + np.uint64(1)) * np.uint64(_GOLDEN)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(_MIX)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(_MIX_AGAIN)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53


def uniforms_on_device(key: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """`uniforms` of (W,) int64 tensors that hold the bits of the keys and counts: int64 products wrap as uint64 do."""

    def shifted(z: torch.Tensor, by: int) -> torch.Tensor:
        return (z >> by) & ((1 << (64 - by)) - 1)  # without the sign that >> draws in

    z = key + (count + 1) * (_GOLDEN - (1 << 64))
    z = (z ^ shifted(z, 30)) * (_MIX - (1 << 64))
    z = (z ^ shifted(z, 27)) * (_MIX_AGAIN - (1 << 64))
    z = z ^ shifted(z, 31)
    return shifted(z, 11).double() * 2.0**-53


def sample(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    key: torch.Tensor,
    count: torch.Tensor,
    top_p: float | np.ndarray = 1.0,
    top_k: int | np.ndarray = 0,
) -> Drawn:
    """`draw` with number `count` of the stream `key`, both (W,) int64 tensors that hold the bits of a uint64.

    On a GPU without top-p and top-k by two Triton kernels, where Triton is installed.
    """
    if logits.is_cuda and not _truncates(top_p, top_k).any() and find_spec("triton"):
        from polythink.engine.kernels import sample as kernel

        return kernel.sample(logits, temperature, key, count)
    if logits.is_cuda:
        uniform = uniforms_on_device(key, count)
    else:
        uniform = torch.from_numpy(uniforms(key.numpy(), count.numpy()))
    return draw(logits, temperature, uniform, top_p, top_k)


def draw(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    uniform: torch.Tensor,
    top_p: float | np.ndarray = 1.0,
    top_k: int | np.ndarray = 0,
) -> Drawn:
    """Tokens (W,) int64, their log-probabilities (W,) float32, and (W,) bool: the branch's logits are all finite.

    From `logits` (W, V) of any float kind, `temperature` (W,) float32 and `uniform` (W,) float64 in [0, 1).
    Temperature 0 takes the first arg max. `top_p` and `top_k` lie on the host: one number for all, or (W,). The
    log-probability is that of the full softmax at the branch's temperature (at 1 under greedy decoding), before top-k
    and top-p: it is what a trainer can recompute. It and the token mean nothing where the logits are not finite.
    """
    rows, vocabulary = logits.shape
    step = rows if logits.is_cuda else max(1, AT_ONCE // vocabulary)
    parts = [
        _draw(logits[i : i + step], temperature[i : i + step, None], uniform[i : i + step, None], cut)
        for i, cut in zip(range(0, rows, step), _cuts(top_p, top_k, rows, step), strict=False)
    ]
    return parts[0] if len(parts) == 1 else tuple(torch.cat(column) for column in zip(*parts, strict=True))


class Likeliest:
    """The `top` likeliest tokens of some branches, the likeliest first, and their natural log-probabilities.

    `top` (W,) on the host, 0: none. The log-probabilities are those that `draw` gives: of the full softmax at the
    branch's temperature (at 1 under greedy decoding), before top-k and top-p. On a GPU they are copied while the host
    goes on; `read` comes after the device has caught up.
    """

    def __init__(self, logits: torch.Tensor, temperature: torch.Tensor, top: np.ndarray) -> None:
        self._rows, self._top = np.flatnonzero(top), top
        rows = torch.from_numpy(self._rows).to(logits.device)
        x, heat = logits[rows].float(), temperature[rows, None]
        heat = torch.where(heat == 0, 1.0, heat)
        values, tokens = x.topk(min(int(top.max()), x.shape[1]), dim=-1)
        mass = ((x - values[:, :1]) / heat).exp_().sum(-1, keepdim=True, dtype=torch.float64)
        found = torch.stack((tokens.double(), (values - values[:, :1]).double() / heat - mass.log()))
        self._found = found.to("cpu", non_blocking=True)

    def read(self) -> dict[int, tuple[tuple[int, float], ...]]:
        """By branch: (token, log-probability) of each."""
        tokens, logprobs = self._found
        columns = zip(self._rows.tolist(), tokens.long().tolist(), logprobs.tolist(), strict=True)
        return {row: tuple(zip(ids, values, strict=True))[: self._top[row]] for row, ids, values in columns}


def check_finite(finite: bool | np.ndarray) -> None:
    """`UserError` unless all logits that were drawn from are finite."""
    if not np.all(finite):
        raise UserError(
            "the model returned logits that are not finite: its weights have diverged or its dtype overflows; "
            "go back to an earlier checkpoint and lower the learning rate, or load it as bfloat16 or float32"
        )


def _truncates(top_p: float | np.ndarray, top_k: int | np.ndarray) -> np.ndarray:
    return (np.asarray(top_p) < 1) | (np.asarray(top_k) > 0)


def _cuts(
    top_p: float | np.ndarray, top_k: int | np.ndarray, rows: int, step: int
) -> Iterator[tuple[np.ndarray, ...] | None]:
    """For each run of `step` rows those that truncate, with their top_p and top_k; None: none does."""
    truncates = _truncates(top_p, top_k)
    if not truncates.any():
        yield from repeat(None)
    columns = [np.broadcast_to(column, rows) for column in (truncates, top_p, top_k)]
    for i in range(0, rows, step):
        truncates, p, k = (column[i : i + step] for column in columns)
        own = np.flatnonzero(truncates)
        yield (own, p[own].astype(np.float64), k[own].astype(np.int64)) if len(own) else None


def _draw(logits: torch.Tensor, temperature: torch.Tensor, uniform: torch.Tensor, cut: tuple | None) -> Drawn:
    """`draw` for rows that are worked on at once. `cut`: those that truncate, their top_p and top_k."""
    x, vocabulary = logits.float(), logits.shape[1]
    greedy = temperature == 0
    some_greedy = x.is_cuda or bool(greedy.any())  # a GPU is not asked
    heat = torch.where(greedy, 1.0, temperature)
    top, low = x.amax(-1, keepdim=True), x.amin(-1)
    finite = low * 0 == top[:, 0] * 0  # neither is infinite or not a number
    weights = (x - top).div_(heat).exp_()
    sums = _per_block(weights, torch.sum)
    mass = sums.sum(-1, dtype=torch.float64)
    if cut is not None:
        rows, top_p, top_k = (torch.from_numpy(values).to(x.device) for values in cut)
        each = len(rows) == len(x)
        own, some = (x, weights) if each else (x[rows], weights[rows])
        some *= within(own, last_kept(own, some, top_p, top_k))
        if not each:
            weights[rows] = some
        sums = _per_block(weights, torch.sum)
    if vocabulary <= BLOCK:
        token = _choose(weights, uniform)[1]
        token = torch.where(greedy, x.argmax(-1, keepdim=True), token) if some_greedy else token
    else:
        block, share = _block(sums, uniform)
        if some_greedy:
            block = torch.where(greedy, _per_block(x, torch.amax).argmax(-1, keepdim=True), block)
        at = block * BLOCK + torch.arange(BLOCK, device=x.device)  # (W, K)
        inside, at = at < vocabulary, at.clamp_(max=vocabulary - 1)
        place = _choose(weights.gather(1, at) * inside, share)[1]
        if some_greedy:
            place = torch.where(greedy, x.gather(1, at).argmax(-1, keepdim=True), place)
        token = at.gather(1, place)
    logprob = (x.gather(1, token) - top) / heat - mass.log()[:, None]
    return token[:, 0], logprob[:, 0].float(), finite


def _per_block(x: torch.Tensor, reduce) -> torch.Tensor:
    """(W, V) to (W, blocks): the sums or maxima of the blocks of the vocabulary, the last of which may be shorter."""
    whole = x.shape[1] // BLOCK * BLOCK
    parts = [reduce(x[:, :whole].unflatten(1, (-1, BLOCK)), -1)] if whole else []
    parts += [reduce(x[:, whole:], -1, keepdim=True)] if whole < x.shape[1] else []
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


def _choose(weights: torch.Tensor, share: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sums up to each (W, K), the first index (W, 1) beyond a `share` (W, 1) of the last sum, that share of the sum."""
    cumulative = weights.cumsum(-1, dtype=torch.float64)
    mark = share * cumulative[:, -1:]  # less than the sum: a product with a number below 1 is rounded so too
    index = torch.searchsorted(cumulative, mark, right=True).clamp_(max=weights.shape[1] - 1)  # of what is not finite
    return cumulative, index, mark


def _block(sums: torch.Tensor, share: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The block (W, 1) in which a `share` (W, 1) of the sum of blocks lies, and what share of that block (W, 1)."""
    cumulative, block, mark = _choose(sums, share)
    return block, ((mark - cumulative.gather(1, block)) / sums.gather(1, block) + 1).clamp_(0, BELOW_ONE)
