"""Top-k and top-p: where the tokens of a distribution end that may be drawn.

Tokens are ordered by their logits, the largest first, ties by their place in the vocabulary. A branch may draw the
first `top_k` of them, and those before which less than `top_p` of the whole mass lies. All that is needed of that order
is the last token: any other is before it by its logit, or by its place where the logits are equal.

Axis legend: R branches, V vocabulary.
"""

from __future__ import annotations

import torch

FEW = 2048  # tokens: sorting all is faster than looking for those that need be


def within(x: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    """(R, V) bool: the tokens up to and with `last` (R,) in the order of the logits `x` (R, V)."""
    edge = x.gather(1, last[:, None])
    at = torch.arange(x.shape[1], device=x.device)
    return (x > edge) | ((x == edge) & (at <= last[:, None]))


def last_kept(x: torch.Tensor, weights: torch.Tensor, top_p: torch.Tensor, top_k: torch.Tensor) -> torch.Tensor:
    """(R,) int64: the last token of each branch that may be drawn.

    `x` (R, V) float32 logits, `weights` (R, V) float32 their probabilities times any number, `top_p` (R,) float64,
    1: no limit; `top_k` (R,) int64, 0: no limit. On a GPU the host reads nothing.
    """
    top_k = torch.where(top_k > 0, top_k, x.shape[1]).clamp(max=x.shape[1])
    search = by_bisection if x.is_cuda else by_sorting if x.shape[1] <= FEW else by_candidates
    return search(x, weights, top_p, top_k)


def by_sorting(x: torch.Tensor, weights: torch.Tensor, top_p: torch.Tensor, top_k: torch.Tensor) -> torch.Tensor:
    """The definition itself: everything is sorted."""
    order = x.sort(dim=-1, descending=True, stable=True).indices
    ordered = weights.double().gather(1, order)
    cumulative = ordered.cumsum(-1)
    room = torch.where(top_p < 1, top_p * cumulative[:, -1], torch.inf)
    kept = torch.minimum((cumulative - ordered < room[:, None]).sum(-1), top_k)
    return order.gather(1, (kept - 1).clamp(min=0)[:, None])[:, 0]  # none is kept of what is not finite


def by_candidates(x: torch.Tensor, weights: torch.Tensor, top_p: torch.Tensor, top_k: torch.Tensor) -> torch.Tensor:
    """Sort those that can be among the kept: with V tokens, those below (1 - top_p) / V hold less than 1 - top_p."""
    found, vocabulary = [], x.shape[1]
    for logits, own, p, k in zip(x, weights, top_p.tolist(), top_k.tolist(), strict=True):
        mass = own.sum(dtype=torch.float64).item()
        least = 0.999 * (1 - p) * mass / vocabulary  # a little less, because of rounding
        at = (logits >= logits.topk(k).values[-1] if k < vocabulary else own >= least).nonzero()[:, 0]
        order = logits[at].sort(descending=True, stable=True).indices
        ordered = own[at[order]].double()
        fit = int((ordered.cumsum(0) - ordered < p * mass).sum()) if p < 1 else k
        kept = min(fit, k, len(at))
        found.append(int(at[order[kept - 1]]) if kept else 0)  # none is kept of what is not finite
    return torch.tensor(found, device=x.device)


def by_bisection(x: torch.Tensor, weights: torch.Tensor, top_p: torch.Tensor, top_k: torch.Tensor) -> torch.Tensor:
    """Bisect on the logit: the smallest beyond which there is room for one more; then count its ties."""
    bits = (x + 0.0).view(torch.int32)  # -0.0 becomes 0.0
    rank = torch.where(bits >= 0, bits, bits ^ 0x7FFFFFFF)  # integers in the order of the numbers
    room = torch.where(top_p < 1, top_p * weights.double().sum(-1), torch.inf)
    low, high = (extreme.long() for extreme in (rank.amin(-1), rank.amax(-1)))
    for _ in range(32):
        middle = (low + high) >> 1
        before = rank > middle[:, None]
        mass, count = torch.where(before, weights, 0.0).sum(-1, dtype=torch.float64), before.sum(-1)
        fits = (mass < room) & (count < top_k)
        low, high = torch.where(fits, low, middle + 1), torch.where(fits, middle, high)
    before, tie = rank > high[:, None], rank == high[:, None]
    left = room - torch.where(before, weights, 0.0).sum(-1, dtype=torch.float64)
    each = torch.where(tie, weights, 0.0).amax(-1)
    ties = torch.minimum((left / each).ceil().clamp(1, x.shape[1]).long(), top_k - before.sum(-1))
    ties = torch.minimum(ties, tie.sum(-1))
    place = (tie.cumsum(-1) < ties[:, None]).sum(-1)  # of the last of them
    return place.clamp(max=x.shape[1] - 1)  # of what is not finite
