"""The first convolution of EIT and E-EIT folded into the keys, so that the M*M maps of all pairs are never formed.

Channel c of group i convolves Q_i K_j^T over the heads j and along the keys. Both act on the keys alone:

    conv(Q K^T)[c] = Q_i K~_c^T + b_c        K~_c[s] = sum_j sum_m w[c, j, m] K_j[s + m - k//2]

With k = 1 this is exact under any mask. With k > 1 it is exact where all queries may attend the same keys, those that
none may attend being zero. Under a causal mask, which zeroes other cells for every query, the last k//2 cells of a
query would read keys after it: they are made anew. Masks of parallel paths are left to the plain form.

Axis legend: B rows, M heads, C channels, T queries, S keys, D head size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from polythink.models.architectures.interaction import InteractionConfig


def folding_pays(config: InteractionConfig, queries: int, causal: bool) -> bool:
    """Whether it takes fewer products, with as many keys as `queries`."""
    return folded_products(config, queries, queries, causal) <= queries**2 * plain_products(config)


def plain_products(config: InteractionConfig) -> int:
    """Multiply-accumulates a cell of the pairs and the first convolution: M M D + C M k."""
    kernel, channels = config.mixings()[0]
    return config.num_attention_heads * (config.hidden_size + channels * kernel)


def folded_products(config: InteractionConfig, queries: int, keys: int, causal: bool) -> int:
    """Of the folded form: C M D k a key, C D a cell, and of a causal band (2 M M D + C M k + C D) h a query, h = k//2.

    A single query has no band.
    """
    kernel, channels = config.mixings()[0]
    mixing, cell = channels * config.num_attention_heads * kernel, channels * config.head_size
    band = kernel // 2 * (2 * config.num_attention_heads * config.hidden_size + mixing + cell)
    return keys * mixing * config.head_size + queries * (keys * cell + band * (causal and queries > 1))


def mixed_keys(keys: torch.Tensor, convolution: nn.Conv2d) -> torch.Tensor:
    """(B, M, S, D) -> (B, C, S, D): K~_c[s] = sum_j sum_m w[c, j, m] K_j[s + m - k//2], with zeros beyond the ends."""
    rows = keys.permute(0, 3, 1, 2).flatten(0, 1)  # (B D, M, S)
    mixed = nn.functional.conv1d(rows, convolution.weight[:, :, 0].to(keys.dtype), padding=convolution.padding[1])
    return mixed.unflatten(0, (len(keys), -1)).permute(0, 2, 3, 1)


def folded(query: torch.Tensor, mixed: torch.Tensor, convolution: nn.Conv2d) -> torch.Tensor:
    """convolution(all_pairs(query, keys)) without the pairs: (B, C, T, S), channel c of group i is Q_i K~_c^T + b_c."""
    grouped = mixed.unflatten(1, (query.shape[1], -1))  # (B, M, C/M, S, D)
    maps = query[:, :, None] @ grouped.transpose(-1, -2)
    return maps.flatten(1, 2) + convolution.bias.to(query.dtype)[:, None, None]


def with_band(
    maps: torch.Tensor, query: torch.Tensor, keys: torch.Tensor, own: torch.Tensor, convolution: nn.Conv2d
) -> torch.Tensor:
    """`folded` maps (B, C, T, h + S), h = k//2, with the last h cells before and at each query's own key (T, 1) made
    anew, since the folded kernel read keys after it there; the h cells in front are taken off: (B, C, T, S).

    Made anew and not corrected: a difference would leave a rounding error of the future.
    """
    half = convolution.kernel_size[1] // 2
    near = own + torch.arange(1 - 2 * half, 1, device=own.device)  # (T, 2h) all keys that those cells may read
    there = keys[:, :, near.clamp(min=0)].masked_fill((near < 0)[..., None], 0)  # (B, M, T, 2h, D)
    pairs = torch.einsum("bitd,bjtnd->bijtn", query, there).flatten(1, 2)
    band = nn.functional.conv2d(
        nn.functional.pad(pairs, (0, half)),
        convolution.weight.to(pairs.dtype), convolution.bias.to(pairs.dtype), groups=query.shape[1],
    )  # (B, C, T, h)  # fmt: skip
    cells = own + torch.arange(1, half + 1, device=own.device)
    return maps.scatter(-1, cells.expand(band.shape), band)[..., half:]
