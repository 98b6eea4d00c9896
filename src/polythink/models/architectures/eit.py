"""EIT, the Enhanced Interactive Transformer (arXiv 2212.10197): every query head meets every key head.

With M heads of size D:

    S[i*M + j] = Q_i K_j^T / sqrt(D)               all pairs of heads, query head major                   (M*M, T, S)
    S1 = conv_b(relu(conv_a(S)))   grouped by M    inner-subspace: M*M -> isi_channels -> M maps          (M, T, S)
    S2 = conv_d(relu(conv_c(S1)))  not grouped     cross-subspace: M -> csi_channels -> M maps            (M, T, S)
    out = concat_i(softmax(mask(S2_i)) V_i) W_o                                                           (T, d)

Kernels are (1, k): one query row, k neighbouring keys. A query row never sees another, so decoding needs ordinary keys
and values only, and long inputs are worked on in chunks of query rows. With k = 1 each cell (t, s) stands alone. With
k > 1 a cell reads its neighbours along the keys, so the cells that the mask forbids are set to 0 before every one of
the convolutions: then nothing leaks, and neither padding nor the cache changes a result. On parallel paths a key's
neighbours are those of its own path (`neighbours.py`).

Cost of a layer: M*M + isi_channels + csi_channels maps in place of M (chunked above `chunk_elements`), and no flash
attention. Where it takes fewer products, the first convolution is folded into the keys and the M*M maps are never
formed (`folding.py`).

The published code has k = 7 and 3 with 2*M*M and 8*M channels; the defaults here are the 1 x 1 kernels of the paper's
first version with 8*M and 4*M. Which attentions interact is configuration: the encoder's for certain.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from polythink.models.architectures.attention import mapped_attention, split, to_weights
from polythink.models.architectures.decoder_only import DecoderOnlyLM
from polythink.models.architectures.encoder_decoder import EncoderDecoderLM
from polythink.models.architectures.folding import folded, folding_pays, mixed_keys, with_band
from polythink.models.architectures.initial import drawn_by, keep_spread
from polythink.models.architectures.interaction import InteractionConfig
from polythink.models.architectures.neighbours import Neighbours, convolve
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

    def forward(self, maps: torch.Tensor, mask: torch.Tensor | None, around: torch.Tensor | None) -> torch.Tensor:
        """(B, maps, T, S) -> (B, M, T, S)."""
        return self.finish(self._convolve(self.expand, maps, mask, around), mask, around)

    def finish(self, hidden: torch.Tensor, mask: torch.Tensor | None, around: torch.Tensor | None) -> torch.Tensor:
        """The second half, of what the first convolution gave."""
        return self._convolve(self.reduce, hidden.relu(), mask, around)

    def _convolve(self, convolution, maps, mask, around) -> torch.Tensor:
        if mask is None or self.kernel == 1:
            return convolution(maps)
        allowed = maps.masked_fill(~mask, 0)
        return convolution(allowed) if around is None else convolve(convolution, allowed, around)


class InteractiveAttention(MultiHeadAttention):
    """Multi-head attention whose logits are made of all pairs of query and key heads."""

    def __init__(self, config: InteractionConfig, role: str, layer: int) -> None:
        super().__init__(config, role, layer)
        self.mixings = nn.ModuleList(self.make_mixings(config))
        self.maps = config.num_attention_heads**2 + 2 * sum(channels for _, channels in config.mixings())
        self.fold: bool | None = None  # None: where it pays

    def make_mixings(self, config: InteractionConfig) -> list[Mixing]:
        heads = config.num_attention_heads
        return [Mixing(config, 0, heads**2, heads, heads), Mixing(config, 1, heads, 1, 1)]

    def attend(self, x, keys, values, mask, *around, wanted) -> tuple[torch.Tensor, torch.Tensor | None]:
        query = split(self.q_proj(x), self.config.num_attention_heads) * self.config.head_size**-0.5
        mixed, own = self._fold(query, keys, mask, *around)
        weigh = partial(self._weigh, keys, mixed)
        out, weights = mapped_attention(self, weigh, self.maps, query, values, mask, own, *around, wanted=wanted)
        return self.o_proj(out.flatten(2)), weights

    def _fold(self, query, keys, mask, around=None) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Where the first convolution is folded into the keys: those, and (T, 1) the last key of every query.

        A wide kernel folds where all queries may attend the same keys, and where the mask is causal and nothing more.
        """
        first, queries = self.mixings[0], query.shape[2]
        fold = folding_pays(self.config, queries, self.is_causal) if self.fold is None else self.fold
        wide = first.kernel > 1
        if not fold or (wide and (around is not None or (mask is not None and mask.shape[-2] > 1))):
            return None, None
        if wide and mask is not None:
            keys = keys.masked_fill(~mask.transpose(-1, -2), 0)
        mixed, own = mixed_keys(keys, first.expand), None
        if wide and mask is None and self.is_causal and queries > 1:
            own = torch.arange(keys.shape[2] - queries, keys.shape[2], device=keys.device)[:, None]
            mixed = nn.functional.pad(mixed, (0, 0, first.kernel // 2, 0))  # room in which the band may begin
        return mixed, own

    def _weigh(self, keys, mixed, query, mask, own=None, around=None) -> torch.Tensor:
        """Weights (B, M, T, S) of scaled queries (B, M, T, D) and keys (B, M, S, D), with neighbours (B, W, T, S)."""
        first, *others = self.mixings
        if mixed is None:
            logits = first(all_pairs(query, keys), mask, around)
        else:
            maps = folded(query, mixed, first.expand)
            maps = maps if own is None else with_band(maps, query, keys, own, first.expand)
            logits = first.finish(maps, mask, around)
        for mixing in others:
            logits = mixing(logits, mask, around)
        return to_weights(self, logits, mask)


def all_pairs(query: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """(B, M, T, D), (B, M, S, D) -> (B, M*M, T, S), map i*M + j of query head i and key head j."""
    return (query[:, :, None] @ keys[:, None].transpose(-1, -2)).flatten(1, 2)


def interactive(attention: type[InteractiveAttention]):
    """The attention of a role and layer: interactive where configured, plain elsewhere."""

    def make(config: InteractionConfig, role: str, layer: int) -> MultiHeadAttention:
        return (attention if config.interacts(role) else MultiHeadAttention)(config, role, layer)

    return make


def neighbours(config: InteractionConfig, role: str) -> Neighbours | None:
    """What a decoder-only stack with kernels wider than one key computes once for all its layers."""
    return Neighbours(config.reach, config.num_hidden_layers) if config.reach else None


PARTS = Parts(attention=interactive(InteractiveAttention), skip=neighbours)


class EITForCausalLM(DecoderOnlyLM):
    config_class = EITConfig
    parts = PARTS


class EITForConditionalGeneration(EncoderDecoderLM):
    config_class = EITConfig
    parts = PARTS
