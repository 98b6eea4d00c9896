"""Parameters and multiply-accumulates by module: by formula, and counted on the real modules.

Multiply-accumulates are those of matrix products and convolutions in one pass over one sentence: S source and T target
tokens, all cells of the maps, no biases, no cache. What the papers' code prints is something else (`published_macs`).

Symbols: d model width, f feed-forward width, D head size, V vocabulary; M heads (EIT); G logit, E expanded heads, r
ratio (PartialFormer).
"""

from __future__ import annotations

import re
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedConfig, PreTrainedModel

from polythink.errors import UserError
from polythink.models.architectures.config import FrameConfig
from polythink.models.architectures.folding import folded_products, folding_pays, plain_products
from polythink.models.architectures.interaction import InteractionConfig
from polythink.models.architectures.partialformer import PartialFormerConfig


class Count(NamedTuple):
    """Parameters and multiply-accumulates."""

    parameters: int = 0
    macs: int = 0

    def plus(self, other: Count, times: int = 1) -> Count:
        return Count(self.parameters + times * other.parameters, self.macs + times * other.macs)


# module of the table -> the names of the modules that it sums up, in the frames here and in transformers' decoders
MODULES = {
    "word embeddings": r"(encoder\.|model\.)?embed_tokens",
    "encoder attention": r"encoder\.stack\.layers\.\d+\.self_attention",
    "encoder feed-forward": r"encoder\.stack\.layers\.\d+\.feed_forward",
    "encoder residual attention": r"encoder\.stack\.skip",
    "attention": r"(decoder\.layers\.\d+\.self_attention|model\.layers\.\d+\.self_attn)",
    "attention to the encoder": r"decoder\.layers\.\d+\.cross_attention",
    "feed-forward": r"(decoder\.layers\.\d+\.feed_forward|model\.layers\.\d+\.mlp)",
    "residual attention": r"decoder\.skip",
    "norms": r".*norm",
    "output layer": r"lm_head",
}


# ---- formulas ----


def linear(into: int, out: int, tokens: int, bias: bool = True) -> Count:
    return Count(into * out + bias * out, tokens * into * out)


def total(*counts: Count) -> Count:
    result = Count()
    for count in counts:
        result = result.plus(count)
    return result


def formula(config: PreTrainedConfig, tokens: int, source: int = 0) -> dict[str, Count]:
    """The modules that such a model has, T = `tokens`, S = `source`; `UserError` for an unknown architecture."""
    if isinstance(config, FrameConfig):
        counts = _frame(config, tokens, source)
    elif config.model_type == "qwen3":
        counts = _qwen3(config, tokens)
    else:
        raise UserError(f"no formula for {config.model_type}; there is one for qwen3 and the package's architectures")
    width, vocabulary = config.hidden_size, config.vocab_size
    counts["word embeddings"] = Count(vocabulary * width)
    counts["output layer"] = Count(0 if config.tie_word_embeddings else vocabulary * width, tokens * vocabulary * width)
    return {module: counts[module] for module in MODULES if counts.get(module, Count()) != Count()}


def _frame(config: FrameConfig, tokens: int, source: int) -> dict[str, Count]:
    d, layers, seq2seq = config.hidden_size, config.num_hidden_layers, config.is_encoder_decoder
    attention, residual = _attention_of(config)
    ffn = not isinstance(config, PartialFormerConfig)
    counts = {
        "attention": Count().plus(attention("target", tokens, tokens), layers),
        "feed-forward": Count().plus(feed_forward(config, tokens), ffn * layers),
        "residual attention": residual("target", tokens),
        "norms": Count(2 * d * (layers * (1 + seq2seq + ffn) + 1)),
    }
    if not seq2seq:
        return counts
    above = config.num_source_layers
    return counts | {
        "attention to the encoder": Count().plus(attention("cross", tokens, source), layers),
        "encoder attention": Count().plus(attention("source", source, source), above),
        "encoder feed-forward": Count().plus(feed_forward(config, source), ffn * above),
        "encoder residual attention": residual("source", source),
        "norms": counts["norms"].plus(Count(2 * d * (above * (1 + ffn) + 1))),
    }


def _attention_of(config: FrameConfig):
    """Two functions: of (role, queries, keys) for a layer's attention, of (role, tokens) for a stack's extra keys."""
    if isinstance(config, PartialFormerConfig):
        return (lambda *where: partial_attention(config, *where)), (lambda *where: residual_attention(config, *where))
    if isinstance(config, InteractionConfig):
        return (lambda *where: interactive_attention(config, *where)), (lambda *where: Count())
    return (lambda role, *where: multi_head_attention(config, *where)), (lambda *where: Count())


def feed_forward(config: FrameConfig, tokens: int) -> Count:
    """2 d f + f + d parameters."""
    d, f = config.hidden_size, config.intermediate_size
    return total(linear(d, f, tokens), linear(f, d, tokens))


def multi_head_attention(config: FrameConfig, queries: int, keys: int) -> Count:
    """4 (d^2 + d) parameters; 2 T d^2 + 2 S d^2 + 2 T S d."""
    d = config.hidden_size
    return total(*(linear(d, d, n) for n in (queries, keys, keys, queries)), Count(0, 2 * queries * keys * d))


def interactive_attention(config: InteractionConfig, role: str, queries: int, keys: int) -> Count:
    """Multi-head attention with M d in place of d products a cell, and the convolutions.

    A pair of kernel k with C channels, from I maps a group: C I k + C and C O k + M parameters, O its channels a map.
    The first convolution is folded into the keys where that takes fewer products.
    """
    plain = multi_head_attention(config, queries, keys)
    if not config.interacts(role):
        return plain
    heads, cells, causal = config.num_attention_heads, queries * keys, role == "target"
    result = plain.plus(Count(0, cells * (heads - 1) * config.hidden_size))
    pairs = config.mixings()
    for index, (kernel, channels) in enumerate(pairs):
        grouped = index == 0 and len(pairs) > 1  # E-EIT has one pair, whose second half is not grouped
        into = channels * heads * kernel  # M maps reach a channel, in a group of M of the M*M or as all M
        out = channels * kernel * (1 if grouped else heads)
        result = result.plus(Count(into + channels + out + heads, cells * (into + out)))
    if folding_pays(config, queries, causal):
        saved = cells * plain_products(config) - folded_products(config, queries, keys, causal)
        result = result.plus(Count(0, -saved))
    return result


def partial_attention(config: PartialFormerConfig, role: str, queries: int, keys: int) -> Count:
    """d = model width, with `head_mlp`; without it E stands for G and there is no head MLP:

    2 (d G D + G D) + 2 (d E D + E D) + E D d + d + 2 r D^2 + (r + 1) D + G E + E + E^2 + E parameters.
    """
    d, size, heads, ratio = config.hidden_size, config.head_size, config.heads(role), config.ratio(role)
    groups = config.logit_heads if config.head_mlp else heads
    cells = queries * keys
    result = total(
        *(linear(d, groups * size, n) for n in (queries, keys)),
        *(linear(d, heads * size, n) for n in (keys, queries)),
        linear(heads * size, d, queries),
        Count(2 * ratio * size**2 + (ratio + 1) * size, 2 * queries * heads * ratio * size**2),
        Count(0, cells * (groups + heads) * size),
    )
    if config.head_mlp:
        return result.plus(total(linear(groups, heads, cells), linear(heads, heads, cells)))
    return result.plus(Count(0, cells * heads * size * config.has_skip(role)))  # Q_0 K_0 again in every layer


def residual_attention(config: PartialFormerConfig, role: str, tokens: int) -> Count:
    """2 (d E D + E D) + 2 d parameters with its norm; the product Q_0 K_0 once, if it is formed at all."""
    if not config.has_skip(role):
        return Count()
    wide = config.heads(role) * config.head_size
    result = total(*(linear(config.hidden_size, wide, tokens) for _ in range(2)), Count(2 * config.hidden_size))
    return result.plus(Count(0, tokens**2 * wide)) if config.head_mlp else result


def _qwen3(config: PreTrainedConfig, tokens: int) -> dict[str, Count]:
    d, f, size, layers = config.hidden_size, config.intermediate_size, config.head_dim, config.num_hidden_layers
    query, key = config.num_attention_heads * size, config.num_key_value_heads * size
    shapes = ((d, query), (d, key), (d, key), (query, d))
    attention = total(*(linear(*shape, tokens, bias=False) for shape in shapes), Count(0, 2 * tokens**2 * query))
    gated = total(*(linear(*shape, tokens, bias=False) for shape in ((d, f), (d, f), (f, d))))
    return {
        "attention": Count().plus(attention.plus(Count(2 * size)), layers),  # with the norms of queries and keys
        "feed-forward": Count().plus(gated, layers),
        "norms": Count(layers * 2 * d + d),
    }


def published_macs(config: FrameConfig, tokens: int = 20, source: int = 20) -> tuple[int, int]:
    """(encoder, decoder) multiply-accumulates by the rule of the papers' code, for comparison with printed figures.

    The parameters of a layer, biases included, once a token; attention T S d + T S E D; no head MLP; no cache: the
    decoder runs anew over 1, 2, .. T tokens, the output layer V d each.
    """

    def attention(role: str, t: int, s: int) -> int:
        d, size = config.hidden_size, config.head_size
        if not isinstance(config, PartialFormerConfig):
            return 2 * t * s * d + (2 * t + 2 * s) * (d * d + d)
        narrow, wide = config.logit_heads * size, config.heads(role) * size
        per_query = d * narrow + narrow + d * wide + wide + wide * d + d
        small = 2 * config.ratio(role) * size**2 + (config.ratio(role) + 1) * size
        per_key = d * narrow + narrow + d * wide + wide
        return t * s * (d + wide) + t * (per_query + config.heads(role) * small) + s * per_key

    def stack(role: str, t: int) -> int:
        layer = attention(role, t, t)
        layer += attention("cross", t, source) if role == "target" else 0
        extra = 0
        if isinstance(config, PartialFormerConfig):
            wide = config.heads(role) * config.head_size
            extra = config.has_skip(role) * (2 * t * (config.hidden_size * wide + wide) + t * t * wide)
        else:
            layer += t * feed_forward(config, 1).parameters
        return config.layers_of(role) * layer + extra

    steps = range(1, tokens + 1)
    decoder = sum(stack("target", t) + t * config.vocab_size * config.hidden_size for t in steps)
    return stack("source", source), decoder


# ---- counted ----


def counted(config: PreTrainedConfig, tokens: int, source: int = 0) -> dict[str, Count]:
    """The same table from a real model, built and run without memory."""
    with torch.device("meta"):
        auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        model = auto.from_config(config, attn_implementation="sdpa").eval()
        model.tie_weights()
        counts = _parameters(model)
        for name, macs in _macs(model, tokens, source).items():
            if module := _module_of(name):
                counts[module] = counts.get(module, Count()).plus(Count(0, macs))
    return {module: counts[module] for module in MODULES if counts.get(module, Count()) != Count()}


def _parameters(model: PreTrainedModel) -> dict[str, Count]:
    counts: dict[str, Count] = {}
    for name, parameter in model.named_parameters():
        module = _module_of(name.rpartition(".")[0], inside=True)
        assert module is not None, name
        counts[module] = counts.get(module, Count()).plus(Count(parameter.numel()))
    return counts


def _macs(model: PreTrainedModel, tokens: int, source: int) -> dict[str, int]:
    """Multiply-accumulates of every submodule by its name, of all inside it together."""
    ids = torch.zeros(1, tokens, dtype=torch.long)
    inputs = {"input_ids": ids, "attention_mask": torch.ones(1, 1, tokens, tokens, dtype=torch.bool)}
    inputs["position_ids"] = ids
    if isinstance(model.config, FrameConfig):
        inputs = {"input_ids": ids}
    if model.config.is_encoder_decoder:
        inputs = {"input_ids": torch.zeros(1, source, dtype=torch.long), "decoder_input_ids": ids}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**inputs, use_cache=False)
    found = {name.partition(".")[2]: sum(ops.values()) // 2 for name, ops in counter.get_flop_counts().items()}
    return {name: macs for name, macs in found.items() if name}


def _module_of(name: str, inside: bool = False) -> str | None:
    """The table's module that this is, or with `inside` that it is part of."""
    for module, pattern in MODULES.items():
        if re.fullmatch(pattern + (r"(\..*)?" if inside else ""), name):
            return module
    return None
