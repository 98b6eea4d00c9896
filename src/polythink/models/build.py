"""A recipe's first model: a random one of a given shape, or one from a folder or the hub."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from pydantic import TypeAdapter, ValidationError
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from polythink.errors import UserError, did_you_mean
from polythink.models.architectures.config import BackboneConfig
from polythink.models.config import ModelConfig
from polythink.models.lm import LanguageModel, load, pick_device, to_device, with_settings
from polythink.models.settings import ModelSettings, in_short
from polythink.models.thoughts import attach
from polythink.models.tokenizers import byte_tokenizer, word_tokenizer
from polythink.trace.dialect import get_dialect

# what transformers and torch raise for shapes that are not possible
NOT_POSSIBLE = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError, StrictDataclassError)
FROM_TOKENIZER = ("vocab_size", "eos_token_id", "pad_token_id", "bos_token_id", "decoder_start_token_id",
                  "is_encoder_decoder")  # fmt: skip


def from_config(config: ModelConfig, dialect: str, words: Sequence[str] = (), seed: int = 0) -> LanguageModel:
    """A randomly initialised model of the configured shape. `words` is the vocabulary of a closed tokenizer."""
    tokenizer = new_tokenizer(config, dialect, words)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            # made in its type, as `load` makes it: cast afterwards, rotary frequencies would lose their float32
            dtype = getattr(torch, config.dtype)
            model = AutoModelForCausalLM.from_config(architecture_config(config, tokenizer), dtype=dtype)
        except NOT_POSSIBLE as error:
            raise UserError(f"cannot make a {config.architecture!r} of that shape: {in_short(error)}") from error
    lm = LanguageModel(model, tokenizer, ModelSettings(dialect=dialect))
    return to_device(_with_thoughts(lm, config, seed), pick_device(None))


def new_tokenizer(config: ModelConfig, dialect: str, words: Sequence[str] = ()) -> PreTrainedTokenizerBase:
    """The configured small tokenizer; `words` is the vocabulary of a closed one."""
    rules = get_dialect(dialect)
    return byte_tokenizer(rules) if config.tokenizer == "bytes" else word_tokenizer(words, rules)


def architecture_config(config: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> PreTrainedConfig:
    """The transformers configuration of a random model; `UserError` for names and shapes that are not possible."""
    if config.architecture not in CONFIG_MAPPING:
        raise UserError(
            f"no architecture {config.architecture!r} in transformers"
            f"{did_you_mean(config.architecture, CONFIG_MAPPING)}"
        )
    config_class = CONFIG_MAPPING[config.architecture]
    shared = {"hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings"}
    shape = config.model_dump(include=shared | {"tie_word_embeddings"})
    shape |= {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    shape |= {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    if issubclass(config_class, BackboneConfig):
        shape["dropout"] = 0.0  # by default: log-probabilities in training must be those of decoding
    else:
        shape |= config.model_dump(include={"num_key_value_heads", "head_dim"})
        shape |= {"rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta}}
        shape |= {"attention_dropout": 0.0, "use_sliding_window": False}
    return with_options(config_class, shape, config.options)


def with_options(
    config_class: type[PreTrainedConfig], shape: Mapping[str, Any], options: Mapping[str, Any]
) -> PreTrainedConfig:
    """A configuration of this shape; `options` win. `UserError` for an option that its class does not take as given."""
    known = {f.name for f in fields(config_class)} - set(FROM_TOKENIZER)
    kinds = _kinds(config_class)
    for name, value in options.items():
        if name in FROM_TOKENIZER:
            raise UserError(f"model.options: {name} follows from the tokenizer and the task; leave it out")
        if name not in known:
            raise UserError(f"model.options: {config_class.model_type} has no {name!r}{did_you_mean(name, known)}")
        try:
            TypeAdapter(kinds.get(name, Any)).validate_python(value, strict=True)
        except ValidationError:
            wanted = getattr(kinds[name], "__name__", None) or str(kinds[name]).replace("None", "null")
            raise UserError(f"model.options.{name} of {config_class.model_type} is {value!r}, not {wanted}") from None
    try:
        return config_class(**{**shape, **options})
    except NOT_POSSIBLE as error:
        raise UserError(f"cannot make a {config_class.model_type!r} of that shape: {in_short(error)}") from error


def _kinds(config_class: type[PreTrainedConfig]) -> dict[str, Any]:
    """The types of the fields that our own classes add; transformers' classes check some of theirs themselves."""
    own = [parent for parent in reversed(config_class.__mro__) if parent.__module__.startswith("polythink.")]
    return {name: kind for parent in own for name, kind in inspect.get_annotations(parent, eval_str=True).items()}


_MADE: set[tuple[str, str, str]] = set()  # the arms of an experiment often have one shape


def check_shape(config: PreTrainedConfig, auto: type = AutoModelForCausalLM) -> None:
    """`UserError` for a configuration of which no model can be made. Allocates no weights; tries each shape once."""
    try:
        shape = (auto.__name__, type(config).__name__, config.to_json_string(use_diff=False))
        if shape in _MADE:
            return
        with torch.device("meta"):
            auto.from_config(config)
        _MADE.add(shape)
    except NOT_POSSIBLE as error:
        raise UserError(f"cannot make a {config.model_type!r} of that shape: {in_short(error)}") from error


def from_pretrained(config: ModelConfig, dialect: str, seed: int = 0, mode: str | None = None) -> LanguageModel:
    """The model at `config.path` (see `load`) in this dialect, with thought embeddings if the configuration wants them.

    `seed` draws new thought embeddings. Tags are added on request only; a `mode` of flat text needs none. `UserError`
    for thought embeddings that the configuration would drop.
    """
    assert config.path is not None
    told = config.chat_template_kwargs or None  # None: what the folder's polythink.json says
    lm = load(
        config.path, dialect=dialect, mode=mode, dtype=config.dtype, add_tags=config.add_tags,
        chat_template_kwargs=told,
    )  # fmt: skip
    if config.thought_embeddings is False and lm.settings.thoughts:
        raise UserError(
            f"model.thought_embeddings: false, but {config.path!r} has {lm.settings.thoughts} of them and was trained "
            "with them; leave the key out, or begin from a model that has none"
        )
    return _with_thoughts(lm, config, seed)


def _with_thoughts(lm: LanguageModel, config: ModelConfig, seed: int) -> LanguageModel:
    return add_thoughts(lm, config.thought_init, seed) if config.thought_embeddings else lm


def add_thoughts(lm: LanguageModel, spread: float = 0.0, seed: int = 0) -> LanguageModel:
    """The model with thought embeddings for all path numbers of its dialect.

    New ones are normal with standard deviation `spread`: 0 as the package has them, 0.02 as ParaThinker's training.
    """
    inventory = lm.dialect.inventory
    if not inventory:
        raise UserError(
            f"thought embeddings mark numbered paths, and the dialect {lm.dialect.name!r} numbers none; "
            "leave out model.thought_embeddings, or choose another dialect"
        )
    if lm.settings.thoughts:
        return lm
    attach(lm.model, inventory).draw(spread, seed)
    return with_settings(lm, thoughts=inventory)
