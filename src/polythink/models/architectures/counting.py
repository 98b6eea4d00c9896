"""Parameters and multiply-accumulates by module, counted on the real model, which is built and run without memory.

Multiply-accumulates are those of matrix products and convolutions in one pass over one sentence: S source and T target
tokens, all cells of the maps, no biases, no cache.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedConfig, PreTrainedModel

from polythink.errors import UserError
from polythink.models.architectures.config import BackboneConfig
from polythink.models.settings import in_short


class Count(NamedTuple):
    """Parameters and multiply-accumulates."""

    parameters: int = 0
    macs: int = 0

    def plus(self, other: Count, times: int = 1) -> Count:
        return Count(self.parameters + times * other.parameters, self.macs + times * other.macs)


OTHER = "other"
# row of the table -> the names of the modules that it sums up, in the backbones here and in transformers' decoders
MODULES = {
    "word embeddings": r"(encoder\.|model\.)?embed_tokens",
    "encoder attention": r"encoder\.stack\.layers\.\d+\.self_attention",
    "encoder feed-forward": r"encoder\.stack\.layers\.\d+\.feed_forward",
    "encoder residual attention": r"encoder\.stack\.shared",
    "attention": r"(decoder\.layers\.\d+\.self_attention|model\.layers\.\d+\.self_attn)",
    "attention to the encoder": r"decoder\.layers\.\d+\.cross_attention",
    "feed-forward": r"(decoder\.layers\.\d+\.feed_forward|model\.layers\.\d+\.mlp)",
    "residual attention": r"decoder\.shared",
    "norms": r".*norm",
    "output layer": r"lm_head",
    OTHER: r"(?!)",  # matches nothing: what the rows above do not name
}


def total(*counts: Count) -> Count:
    result = Count()
    for count in counts:
        result = result.plus(count)
    return result


def counted(config: PreTrainedConfig, tokens: int, source: int = 0) -> dict[str, Count]:
    """Row of `MODULES` -> its count, for T = `tokens` and, with an encoder, S = `source`. Empty rows are left out.

    `UserError` for models of transformers that do not run on the meta device.
    """
    try:
        with torch.device("meta"):
            auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
            model = auto.from_config(config).eval()
            model.tie_weights()
            macs = _macs(model, tokens, source)
    except (RuntimeError, ValueError, TypeError, AttributeError, ImportError) as error:
        raise UserError(f"cannot count the parts of {config.model_type}: {in_short(error)}") from error
    counts = dict.fromkeys(MODULES, Count())
    for name, parameter in model.named_parameters():
        row = _row_of(name.rpartition(".")[0], inside=True)
        counts[row] = counts[row].plus(Count(parameter.numel()))
    everything = macs.pop("")
    for name, n in macs.items():
        if (row := _row_of(name)) != OTHER:
            counts[row] = counts[row].plus(Count(0, n))
    counts[OTHER] = counts[OTHER].plus(Count(0, everything - total(*counts.values()).macs))
    return {row: count for row, count in counts.items() if count != Count()}


def _macs(model: PreTrainedModel, tokens: int, source: int) -> dict[str, int]:
    """Multiply-accumulates of every module by name, its submodules included; "" is the whole model."""
    ids = torch.zeros(1, tokens, dtype=torch.long)
    if model.config.is_encoder_decoder:
        inputs = {"input_ids": torch.zeros(1, source, dtype=torch.long), "decoder_input_ids": ids}
    elif isinstance(model.config, BackboneConfig):
        inputs = {"input_ids": ids}
    else:  # with a mask of their own, models of transformers count all cells of the maps
        inputs = {"input_ids": ids, "position_ids": ids}
        inputs["attention_mask"] = torch.ones(1, 1, tokens, tokens, dtype=torch.bool)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**inputs, use_cache=False)
    return {name.partition(".")[2]: sum(ops.values()) // 2 for name, ops in counter.get_flop_counts().items()}


def _row_of(name: str, inside: bool = False) -> str:
    """The row of the table that counts this module, or with `inside` one of its parents."""
    for row, pattern in MODULES.items():
        if re.fullmatch(pattern + (r"(\..*)?" if inside else ""), name):
            return row
    return OTHER
