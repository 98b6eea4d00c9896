"""Language models to begin with: a random one of a given shape, or one from a folder or the hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from pydantic import Field, model_validator
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from polythink.errors import UserError, did_you_mean
from polythink.models.architectures import BackboneConfig
from polythink.models.lm import (
    SETTINGS_FILE,
    LanguageModel,
    ModelSettings,
    in_short,
    load,
    load_from_hub,
    to_device,
    with_settings,
)
from polythink.models.tags import add_tags
from polythink.models.thoughts import FILE as THOUGHTS_FILE
from polythink.models.thoughts import attach
from polythink.models.tokenizers import byte_tokenizer, word_tokenizer
from polythink.run.config import Config
from polythink.trace.dialect import get_dialect


class ModelConfig(Config):
    """Where a recipe's first model comes from: a folder or hub name (`path`), or a random one of the given shape."""

    path: str | None = None
    add_tags: bool = False  # give the dialect's tags rows of their own where the tokenizer lacks them
    architecture: str = "qwen3"  # a name of transformers, or eit, e_eit, partialformer, vanilla
    tokenizer: Literal["countdown", "attribution", "bytes"] = "countdown"
    hidden_size: int = Field(96, ge=1)
    num_hidden_layers: int = Field(3, ge=1)
    num_attention_heads: int = Field(3, ge=1)
    num_key_value_heads: int = Field(1, ge=1)  # of transformers' rotary decoders, as are head_dim and rope_theta:
    head_dim: int = Field(32, ge=2, multiple_of=2)  # the package's own have heads of hidden_size / num_attention_heads
    intermediate_size: int = Field(256, ge=1)
    max_position_embeddings: int = Field(4096, ge=1)
    tie_word_embeddings: bool = True
    rope_theta: float = Field(10_000.0, gt=0)
    dtype: Literal["float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False
    # a learned vector for each of the dialect's path numbers, zero at the start; None: as `path` has it, else none
    thought_embeddings: bool | None = None
    options: dict[str, Any] = Field(default_factory=dict)  # further fields of the architecture's own configuration

    @model_validator(mode="after")
    def _heads_share_evenly(self) -> ModelConfig:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads ({self.num_attention_heads}) must be a multiple of num_key_value_heads "
                f"({self.num_key_value_heads})"
            )
        return self


def from_config(config: ModelConfig, dialect: str, words: Sequence[str] = (), seed: int = 0) -> LanguageModel:
    """A randomly initialised model of the configured shape. `words` is the vocabulary of a closed tokenizer."""
    tokenizer = new_tokenizer(config, dialect, words)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = AutoModelForCausalLM.from_config(architecture_config(config, tokenizer))
        except (ValueError, TypeError, AttributeError, RuntimeError, StrictDataclassError) as error:
            raise UserError(f"cannot make a {config.architecture!r} of that shape: {in_short(error)}") from error
    lm = LanguageModel(model.to(getattr(torch, config.dtype)), tokenizer, ModelSettings(dialect=dialect))
    return to_device(add_thoughts(lm) if config.thought_embeddings else lm)


def new_tokenizer(config: ModelConfig, dialect: str, words: Sequence[str] = ()) -> PreTrainedTokenizerBase:
    """The configured small tokenizer; `words` is the vocabulary of a closed one."""
    rules = get_dialect(dialect)
    return byte_tokenizer(rules) if config.tokenizer == "bytes" else word_tokenizer(words, rules)


def architecture_config(config: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> PreTrainedConfig:
    """The transformers configuration of a random model; `UserError` for names and shapes that cannot be."""
    if config.architecture not in CONFIG_MAPPING:
        raise UserError(
            f"no architecture {config.architecture!r} in transformers"
            f"{did_you_mean(config.architecture, CONFIG_MAPPING)}"
        )
    config_class = CONFIG_MAPPING[config.architecture]
    known = {f.name for f in fields(config_class)}
    for name in config.options:
        if name not in known:
            raise UserError(f"model.options: {config.architecture} has no {name!r}{did_you_mean(name, known)}")
    shape = config.model_dump(
        include={
            "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings",
            "tie_word_embeddings",
        }
    )  # fmt: skip
    shape |= {
        "vocab_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
    }
    if issubclass(config_class, BackboneConfig):
        # what is drawn is what is trained: no dropout unless it is asked for
        return config_class(**{**shape, "dropout": 0.0, **config.options})
    shape |= {
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "attention_dropout": 0.0,
        "use_sliding_window": False,
    }
    return config_class(**{**shape, **config.options})


def from_pretrained(config: ModelConfig, dialect: str) -> LanguageModel:
    """The model at `config.path`, a folder or a name on the hub, in this dialect; tags are added on request.

    It may be one of polythink's own, of whatever dialect. `UserError` where its thought embeddings do not fit.
    """
    assert config.path is not None
    folder, rules = Path(config.path), get_dialect(dialect)
    if (folder / SETTINGS_FILE).is_file():
        own = load(folder, config.dtype)
        model, tokenizer, settings = own.model, own.tokenizer, own.settings
    elif (folder / THOUGHTS_FILE).is_file():
        raise UserError(
            f"{config.path!r} has {THOUGHTS_FILE} but no {SETTINGS_FILE} that says how to use it; put that file back, "
            "or delete the thought embeddings to begin without them"
        )
    else:
        (model, tokenizer), settings = load_from_hub(config.path, config.dtype), ModelSettings()
    if config.thought_embeddings is False and settings.thoughts:
        raise UserError(
            f"model.thought_embeddings: false, but {config.path!r} has {settings.thoughts} of them and was trained with"
            " them; leave the key out, or begin from a model that has none"
        )
    if 0 < settings.thoughts < rules.inventory:
        raise UserError(
            f"{config.path!r} has {settings.thoughts} thought embeddings, and the dialect {dialect!r} numbers "
            f"{rules.inventory} paths; set dialect: {dialect.partition(':')[0]}:{settings.thoughts}, or begin from a "
            "model that has none"
        )
    if config.add_tags:
        add_tags(model, tokenizer, rules)
    lm = LanguageModel(model, tokenizer, replace(settings, dialect=dialect))
    return to_device(add_thoughts(lm) if config.thought_embeddings else lm)


def add_thoughts(lm: LanguageModel) -> LanguageModel:
    """The same model with thought embeddings of zeros for all path numbers of its dialect, where it has none yet."""
    inventory = lm.dialect.inventory
    if not inventory:
        raise UserError(
            f"thought embeddings mark numbered paths, and the dialect {lm.dialect.name!r} numbers none; "
            "leave out model.thought_embeddings, or choose another dialect"
        )
    if lm.settings.thoughts:
        return lm
    attach(lm.model, inventory)
    return with_settings(lm, thoughts=inventory)
