"""EIT, the Enhanced Interactive Transformer (arXiv 2212.10197): every query head meets every key head.

With M heads of size D:

    S[i*M + j] = Q_i K_j^T / sqrt(D)               all pairs of heads, query head major                   (M*M, T, S)
    S1 = conv_b(relu(conv_a(S)))   grouped by M    inner-subspace: M*M -> isi_channels -> M maps          (M, T, S)
    S2 = conv_d(relu(conv_c(S1)))  not grouped     cross-subspace: M -> csi_channels -> M maps            (M, T, S)
    out = concat_i(softmax(mask(S2_i)) V_i) W_o                                                           (T, d)

Kernels are (1, k): one query row, k neighbouring keys. A query row never sees another, so decoding needs ordinary keys
and values only, and long inputs are computed in chunks of query rows. With k = 1 each cell (t, s) stands alone. With
k > 1 a cell reads its neighbours along the keys, so the cells that the mask forbids are set to 0 before every
convolution: nothing leaks, and neither padding nor the cache changes a result. In a parallel trace the neighbours in
memory are not those in the text, so k > 1 is refused there (`InteractionConfig.check_trace_mask`).

Cost of a layer: M*M + isi_channels + csi_channels maps instead of M (chunked above `chunk_elements`), and no flash
attention. With k = 1 the first convolution acts on the keys alone, conv(Q K^T)[c] = Q_i (sum_j w[c, j] K_j)^T + b_c for
channel c of group i: where that takes fewer products (`InteractionConfig.folds`), the M*M maps are never formed.

The published code has k = 7 and 3 with 2*M*M and 8*M channels; the defaults here are the 1 x 1 kernels of the paper's
first version with 8*M and 4*M. The configuration says which attentions interact; by default the encoder's.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from polythink.models.architectures.attention import mapped_attention, split, to_weights
from polythink.models.architectures.decoder_only import DecoderOnlyLM
from polythink.models.architectures.encoder_decoder import EncoderDecoderLM
from polythink.models.architectures.initial import drawn_by, keep_spread
from polythink.models.architectures.interaction import InteractionConfig
from polythink.models.architectures.stack import Parts
from polythink.models.architectures.vanilla import MultiHeadAttention


class EITConfig(InteractionConfig):
    model_type = "eit"

    isi_kernel: int = 1
    isi_channels: int | None = None  # None: 8 M
    csi_kernel: int = 1
    csi_channels: int | None = None  # None: 4 M

    def mixings(self) -> list[tuple[int, int]]:
        heads = self.num_attention_heads
        return [(self.isi_kernel, self.isi_channels or 8 * heads), (self.csi_kernel, self.csi_channels or 4 * heads)]


class Mixing(nn.Module):
    """conv_out(relu(conv_in(maps))), kernels (1, k) along the keys, forbidden cells zeroed before each where k > 1."""

    def __init__(self, config: InteractionConfig, index: int, maps: int, groups_in: int, groups_out: int) -> None:
        super().__init__()
        self.kernel, channels = config.mixings()[index]
        size, padding = (1, self.kernel), (0, self.kernel // 2)
        self.expand = nn.Conv2d(maps, channels, size, padding=padding, groups=groups_in)
        self.reduce = nn.Conv2d(channels, config.num_attention_heads, size, padding=padding, groups=groups_out)
        if config.initialisation == "alive":
            drawn_by(keep_spread, self.expand)
            drawn_by(partial(keep_spread, gain=2**0.5), self.reduce)

    def forward(self, maps: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """(B, maps, T, S) -> (B, M, T, S)."""
        return self.finish(self._convolve(self.expand, maps, mask), mask)

    def finish(self, hidden: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """The second half: (B, channels, T, S), the first convolution's output, -> (B, M, T, S)."""
        return self._convolve(self.reduce, hidden.relu(), mask)

    def _convolve(self, convolution: nn.Conv2d, maps: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        return convolution(maps if mask is None or self.kernel == 1 else maps.masked_fill(~mask, 0))


class InteractiveAttention(MultiHeadAttention):
    """Multi-head attention whose logits are made of all pairs of query and key heads."""

    def __init__(self, config: InteractionConfig, role: str, layer: int) -> None:
        super().__init__(config, role, layer)
        self.mixings = nn.ModuleList(self.make_mixings(config))
        self.maps = config.num_attention_heads**2 + 2 * sum(channels for _, channels in config.mixings())
        self.fold: bool | None = None  # None: where it takes fewer products; tests and benchmarks set it

    def make_mixings(self, config: InteractionConfig) -> list[Mixing]:
        heads = config.num_attention_heads
        return [Mixing(config, 0, heads**2, heads, heads), Mixing(config, 1, heads, 1, 1)]

    def attend(self, x, keys, values, mask, *, wanted) -> tuple[torch.Tensor, torch.Tensor | None]:
        query = split(self.q_proj(x), self.config.num_attention_heads) * self.config.head_size**-0.5
        fold = self.config.folds(query.shape[2]) if self.fold is None else self.fold
        # mixed outside of `weigh`, which runs once per chunk of query rows
        mixed = mixed_keys(keys, self.mixings[0].expand) if fold else None
        weigh = partial(self._weigh, keys, mixed)
        out, weights = mapped_attention(self, weigh, self.maps, query, values, mask, wanted=wanted)
        return self.o_proj(out.flatten(2)), weights

    def _weigh(self, keys, mixed, query, mask) -> torch.Tensor:
        """Weights (B, M, T, S) of scaled queries (B, M, T, D) and keys (B, M, S, D) or mixed keys (B, C, S, D)."""
        first, *others = self.mixings
        if mixed is None:
            logits = first(all_pairs(query, keys), mask)
        else:
            logits = first.finish(folded(query, mixed, first.expand), mask)
        for mixing in others:
            logits = mixing(logits, mask)
        return to_weights(self, logits, mask)


def all_pairs(query: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """(B, M, T, D), (B, M, S, D) -> (B, M*M, T, S), map i*M + j of query head i and key head j."""
    return (query[:, :, None] @ keys[:, None].transpose(-1, -2)).flatten(1, 2)


def mixed_keys(keys: torch.Tensor, convolution: nn.Conv2d) -> torch.Tensor:
    """(B, M, S, D) -> (B, C, S, D): channel c's keys, sum_j w[c, j] K_j, for a kernel of one key."""
    rows = keys.permute(0, 3, 1, 2).flatten(0, 1)  # (B D, M, S)
    mixed = nn.functional.conv1d(rows, convolution.weight[:, :, 0].to(keys.dtype))
    return mixed.unflatten(0, (len(keys), -1)).permute(0, 2, 3, 1)


def folded(query: torch.Tensor, mixed: torch.Tensor, convolution: nn.Conv2d) -> torch.Tensor:
    """convolution(all_pairs(query, keys)) without the pairs: (B, M, T, D), (B, C, S, D) -> (B, C, T, S)."""
    grouped = mixed.unflatten(1, (query.shape[1], -1))  # (B, M, C/M, S, D)
    maps = query[:, :, None] @ grouped.transpose(-1, -2)
    return maps.flatten(1, 2) + convolution.bias.to(query.dtype)[:, None, None]


def interactive(attention: type[InteractiveAttention]):
    """A maker of attentions by role and layer: interactive where the configuration says so, plain elsewhere."""

    def make(config: InteractionConfig, role: str, layer: int) -> MultiHeadAttention:
        return (attention if config.interacts(role) else MultiHeadAttention)(config, role, layer)

    return make


PARTS = Parts(attention=interactive(InteractiveAttention))


class EITForCausalLM(DecoderOnlyLM):
    config_class = EITConfig
    parts = PARTS


class EITForConditionalGeneration(EncoderDecoderLM):
    config_class = EITConfig
    parts = PARTS
