"""What the package must know of a transformers model before it calls it: its modes, its cache, its positions."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from transformers import PreTrainedConfig

# Kinds of rotary scaling whose frequencies depend on the longest position of a whole forward.
LENGTH_DEPENDENT = ("dynamic", "longrope")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, so without dropout; afterwards every module is as it was.

    Module by module, since a trainer may hold some of them in evaluation mode while the model trains.
    """
    training = [module for module in model.modules() if module.training]
    try:
        model.eval()
        yield
    finally:
        for module in training:
            module.training = True


def cache_argument(model: nn.Module) -> str:
    """The name under which the model's forward takes its cache: `cache` since transformers 5.24."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model  # unwrap an adapter
    return "cache" if "cache" in inspect.signature(inner.forward).parameters else "past_key_values"


def context_of(config: PreTrainedConfig) -> int:
    """The longest sequence of positions the model was made for."""
    return int(getattr(config.get_text_config(), "max_position_embeddings", None) or 1 << 30)


def rotary_switch(config: PreTrainedConfig) -> tuple[str, int] | None:
    """The kind of a rotary scaling that depends on the longest position of a forward, and the length where it changes.

    None where there is none, or where it changes nothing within the model's context.
    """
    config = config.get_text_config()
    given = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    context = getattr(config, "max_position_embeddings", None)
    for parameters in [given, *given.values()]:  # one for all layers, or one for each kind of layer
        kind = parameters.get("rope_type", parameters.get("type")) if isinstance(parameters, dict) else None
        if kind not in LENGTH_DEPENDENT:
            continue
        original = parameters.get("original_max_position_embeddings") or getattr(
            config, "original_max_position_embeddings", None
        )
        if kind == "dynamic":
            return kind, int(context or original or 0)
        if original and (context is None or original < context):
            return kind, int(original)
    return None
