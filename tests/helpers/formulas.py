"""Parameter and multiply-accumulate counts by formula: what the counts of the real modules are held against.

Symbols: d model width, f feed-forward width, D head size, V vocabulary; M heads (EIT); G logit, E expanded heads, r
ratio (PartialFormer); T target, S source tokens.
"""

from __future__ import annotations

from transformers import PreTrainedConfig

from polythink.models.architectures.config import BackboneConfig
from polythink.models.architectures.counting import MODULES, Count, total
from polythink.models.architectures.interaction import InteractionConfig
from polythink.models.architectures.partialformer import PartialFormerConfig


def linear(into: int, out: int, tokens: int, bias: bool = True) -> Count:
    return Count(into * out + bias * out, tokens * into * out)


def formula(config: PreTrainedConfig, tokens: int, source: int = 0) -> dict[str, Count]:
    """The table of `counted` for qwen3 and the package's architectures, T = `tokens`, S = `source`."""
    ours = isinstance(config, BackboneConfig)
    counts = _backbone(config, tokens, source) if ours else _qwen3(config, tokens)
    width, vocabulary = config.hidden_size, config.vocab_size
    counts["word embeddings"] = Count(vocabulary * width)
    counts["output layer"] = Count(0 if config.tie_word_embeddings else vocabulary * width, tokens * vocabulary * width)
    return {module: counts[module] for module in MODULES if counts.get(module, Count()) != Count()}


def _backbone(config: BackboneConfig, tokens: int, source: int) -> dict[str, Count]:
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


def _attention_of(config: BackboneConfig):
    """Two functions: of (role, queries, keys) for a layer's attention, of (role, tokens) for a stack's extra keys."""
    if isinstance(config, PartialFormerConfig):
        return (lambda *where: partial_attention(config, *where)), (lambda *where: residual_attention(config, *where))
    if isinstance(config, InteractionConfig):
        return (lambda *where: interactive_attention(config, *where)), (lambda *where: Count())
    return (lambda role, *where: multi_head_attention(config, *where)), (lambda *where: Count())


def feed_forward(config: BackboneConfig, tokens: int) -> Count:
    """2 d f + f + d parameters."""
    d, f = config.hidden_size, config.intermediate_size
    return total(linear(d, f, tokens), linear(f, d, tokens))


def multi_head_attention(config: BackboneConfig, queries: int, keys: int) -> Count:
    """4 (d^2 + d) parameters; 2 T d^2 + 2 S d^2 + 2 T S d."""
    d = config.hidden_size
    return total(*(linear(d, d, n) for n in (queries, keys, keys, queries)), Count(0, 2 * queries * keys * d))


def interactive_attention(config: InteractionConfig, role: str, queries: int, keys: int) -> Count:
    """Multi-head attention with M d in place of d products a cell, and the convolutions.

    A pair of kernel k with C channels, from I maps a group: C I k + C and C O k + M parameters, O its channels a map.
    The first convolution, of M M D + C M products a cell, is folded into the keys where C M D a key and C D a cell
    are fewer.
    """
    usual = multi_head_attention(config, queries, keys)
    if not config.interacts(role):
        return usual
    heads, cells = config.num_attention_heads, queries * keys
    result = usual.plus(Count(0, cells * (heads - 1) * config.hidden_size))
    pairs = config.mixings()
    for index, (kernel, channels) in enumerate(pairs):
        grouped = index == 0 and len(pairs) > 1  # E-EIT has one pair, whose second half is not grouped
        into = channels * heads * kernel  # M maps reach a channel, in a group of M of the M*M or as all M
        out = channels * kernel * (1 if grouped else heads)
        result = result.plus(Count(into + channels + out + heads, cells * (into + out)))
    if config.folds(queries):
        channels = pairs[0][1]
        plain = cells * heads * (config.hidden_size + channels)
        folded = channels * (keys * config.hidden_size + cells * config.head_size)
        return result.plus(Count(0, folded - plain))
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
    return result.plus(Count(0, cells * heads * size * config.has_residual(role)))  # Q_0 K_0 again in every layer


def residual_attention(config: PartialFormerConfig, role: str, tokens: int) -> Count:
    """2 (d E D + E D) + 2 d parameters with its norm; the product Q_0 K_0 once, if it is formed at all."""
    if not config.has_residual(role):
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


def published_macs(config: BackboneConfig, tokens: int = 20, source: int = 20) -> tuple[int, int]:
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
            extra = config.has_residual(role) * (2 * t * (config.hidden_size * wide + wide) + t * t * wide)
        else:
            layer += t * feed_forward(config, 1).parameters
        return config.layers_of(role) * layer + extra

    steps = range(1, tokens + 1)
    decoder = sum(stack("target", t) + t * config.vocab_size * config.hidden_size for t in steps)
    return stack("source", source), decoder
