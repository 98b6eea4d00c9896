"""LoRA (arXiv 2106.09685) through peft: adapters of the linear layers are trained, the model's own weights stay.

The adapters stand in the model itself, so that rollouts, training forwards and self-checks run through them as they
are: what is drawn is what is trained. New ones change nothing: their second factor is zero. Beside them the rows of
tags are trained that no training has touched (`models/tag_rows.py`). At the end the run's folder holds both in peft's
format (adapter/), without the tables that these are rows of, and, added to the weights, as an ordinary model (model/).
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from polythink.errors import UserError, install_extra
from polythink.models.lm import LanguageModel
from polythink.models.tag_rows import TagRows, rows_of, train_rows
from polythink.models.thoughts import thoughts_of
from polythink.train import distributed
from polythink.train.config import TrainingConfig
from polythink.train.dropout import seeded
from polythink.train.lora_keys import LoraKeys

log = logging.getLogger(__name__)


def add_adapters(lm: LanguageModel, config: TrainingConfig, seed: int) -> Any:
    """Put adapters into the model and freeze everything else; returns peft's model around it, None without `lora`.

    Their first factor is random and follows from `seed`. `UserError` where peft is missing or finds no such layers.
    """
    if config.lora is None:
        return None
    try:
        import peft
    except ImportError:
        raise UserError(
            "lora trains adapters through the package peft, which is not installed; "
            f"{install_extra('lora')} installs it"
        ) from None
    keys = config.lora.model_dump(mode="json", exclude={"train_tags"})
    with seeded(seed, 0, lm.device), warnings.catch_warnings(action="ignore", category=FutureWarning):
        try:  # peft asks transformers by names that it gives up: no news to a user
            wrapped = peft.get_peft_model(lm.model, peft.LoraConfig(task_type="CAUSAL_LM", **keys))
        except ValueError as error:
            raise UserError(f"lora.target_modules: {str(error).splitlines()[0]}") from None
    thoughts = thoughts_of(lm.model)
    if thoughts is not None and thoughts.table is not None and distributed.is_main():
        log.warning(
            "lora leaves the thought embeddings as they are; to train them, put a stage with trainable: thoughts (or "
            "one without lora) before this one"
        )
    if ids := trained_tags(lm, config.lora):
        if _adapted(lm.model):
            raise UserError(
                "lora.target_modules gives the embedding or the head an adapter, and rows of tags are to be trained in "
                "them too; leave these two out, or set lora.train_tags: false"
            )
        train_rows(lm.model, ids)
    return wrapped


def trained_tags(lm: LanguageModel, keys: LoraKeys) -> list[int]:
    """The ids of the tags whose rows are trained; `UserError` where the tokenizer lacks one that is to be."""
    if keys.train_tags:
        lm.require_tags()
    names = lm.dialect.tags if keys.train_tags else () if keys.train_tags is False else lm.settings.new_tags
    return sorted(lm.tag_ids[tag] for tag in names if tag in lm.tag_ids)


def save_adapters(lm: LanguageModel, config: TrainingConfig, wrapped: Any, folder: Path) -> None:
    """Write the adapters in peft's format, and add them to the weights of the model, which is an ordinary one again.

    Whatever was trained, the settings say afterwards whether rows of tags still wait for it.
    """
    trained = config.trainable == "all"
    if wrapped is not None:
        trained, place, whole = rows_of(lm.model) is not None, folder / "adapter", _adapted(lm.model)
        # rows that were added are in no other file, trained or not
        ids = [] if whole else trained_tags(lm, config.lora) or trained_tags(lm, LoraKeys())
        if ids:
            wrapped.peft_config["default"].trainable_token_indices = dict.fromkeys(_tables(lm.model), ids)
        save = {"save_embedding_layers": "auto" if whole else False}
        distributed.on_main(lambda: wrapped.save_pretrained(place, **save))
        _merge(wrapped)
        if ids:
            distributed.on_main(lambda: _add_rows(lm, ids, place))
    if trained:
        waiting = tuple(tag for tag in lm.settings.new_tags if tag not in lm.dialect.tags)  # another dialect's
        lm.settings = replace(lm.settings, new_tags=waiting)


def _add_rows(lm: LanguageModel, ids: list[int], folder: Path) -> None:
    """Add the rows of these tokens to a folder of adapters, as peft's own layers for them (`TrainableTokens`) do.

    With the tokenizer beside them peft's `AutoPeftModelForCausalLM` makes room for them in the base model.
    """
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    for name, table in _tables(lm.model).items():
        rows = table.weight.detach()[ids].cpu()
        tensors[f"base_model.model.{name}.token_adapter.trainable_tokens_delta"] = rows
    save_file(tensors, file, metadata={"format": "pt"})
    lm.tokenizer.save_pretrained(folder)


def _tables(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """The embedding, and the head where its weight is another one, by their names."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    own = [embedding] if head.weight is embedding.weight else [embedding, head]
    return {name: module for name, module in model.named_modules() if module in own}


def _adapted(model: torch.nn.Module) -> bool:
    """Whether the embedding or the head has an adapter."""
    return any(hasattr(x, "base_layer") for x in (model.get_input_embeddings(), model.get_output_embeddings()))


def _merge(wrapped: Any) -> torch.nn.Module:
    """The model with all that was trained beside its weights added to them."""
    model = wrapped.merge_and_unload()
    if (rows := rows_of(model)) is not None:
        rows.merge(model)
    return model


def drop_adapters(model: torch.nn.Module) -> None:
    """Take all that is trained beside the weights out of the model, without a trace of it in them."""
    if (rows := rows_of(model)) is not None:
        rows.remove(model)
    for name, module in list(model.named_modules()):
        if hasattr(module, "base_layer"):
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, module.base_layer)
    if hasattr(model, "peft_config"):  # by which peft knows a model that it has adapted
        del model.peft_config


def merged(lm: LanguageModel, wrapped: Any) -> LanguageModel:
    """A copy of the model with the adapters added to its weights; the model itself where it has none."""
    return lm if wrapped is None else replace(lm, model=_merge(copy.deepcopy(wrapped)))


@contextmanager
def without_adapters(model: torch.nn.Module, switched: bool) -> Iterator[None]:
    """The model as it was before the adapters, while this is entered; with `switched` False nothing changes."""
    if not switched:
        yield
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in model.modules() if isinstance(module, (BaseTunerLayer, TagRows))]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
