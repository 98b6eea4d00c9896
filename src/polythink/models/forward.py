"""What the package must know of a transformers model before it calls it: its modes, its cache, its positions."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.utils import ModelOutput

from polythink.errors import UserError
from polythink.trace.modes import get_mode

# Kinds of rotary scaling whose frequencies depend on the longest position of a whole forward.
LENGTH_DEPENDENT = ("dynamic", "longrope")

# What models call their cache, as an argument and in what they return.
CACHE_NAMES = ("cache", "past_key_values", "cache_params", "state")

# Root mean square difference allowed between two ways to compute the same logits, as a share of their standard
# deviation. On random tokens rounding is up to 0.06 in a real model of 30 layers (SmolLM2, bfloat16); there a position
# that is off by one makes 0.29, a sibling that is seen 0.25.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 2e-2}

_HEEDS: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


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


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside an adapter."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def cache_argument(model: nn.Module) -> str:
    """The name under which the model's forward takes and returns its cache.

    `cache` since transformers 5.24; models with nothing but a state have names of their own.
    """
    taken = inspect.signature(unwrapped(model).forward).parameters
    return next((name for name in CACHE_NAMES if name in taken), "past_key_values")


def returned_cache(out: ModelOutput) -> Any:
    """The cache that a forward has returned, None where there is none."""
    return next((out[name] for name in CACHE_NAMES if out.get(name) is not None), None)


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


# --- models that fold their tokens into a state


def heeds_masks(model: nn.Module) -> bool:
    """Does a row with an explicit mask and positions mean what they say to this model? Found out once, by trying.

    Where it does, a whole trace is one row. A recurrent, linear or convolutional layer reads all tokens of a row in
    their order, whatever the mask says: there a trace must be taken apart into plain rows (`unfold.py`), and several
    paths cannot be joined by reading the keys and values of all.
    """
    inner = unwrapped(model)
    if inner not in _HEEDS:
        _HEEDS[inner] = _heeds_masks(model)
    return _HEEDS[inner]


@torch.no_grad()
def _heeds_masks(model: nn.Module) -> bool:
    """A path after a prompt must be the same beside one sibling, beside another one, and alone."""
    first = next(model.parameters())
    ids = torch.randint(model.config.get_text_config().vocab_size, (8,), generator=torch.Generator().manual_seed(0))
    # short, so that a sliding window, which an explicit mask replaces, makes no difference
    prompt, path, sibling, other = ids.to(first.device).split([2, 2, 2, 2])
    rows = torch.stack([torch.cat([prompt, sibling, path]), torch.cat([prompt, other, path])])
    positions = torch.tensor([0, 1, 2, 3, 2, 3], device=first.device).expand(2, -1)
    mask = torch.ones(6, 6, dtype=torch.bool, device=first.device).tril()
    mask[4:, 2:4] = False
    mask = rendered(model, mask.expand(2, 1, -1, -1))
    try:
        with evaluating(model), torch.autocast(first.device.type, enabled=False):
            beside = model(input_ids=rows, attention_mask=mask, position_ids=positions, use_cache=False).logits[:, 4:]
            alone = model(input_ids=torch.cat([prompt, path])[None], use_cache=False).logits[0, 2:]
    except torch.OutOfMemoryError:
        raise
    except (TypeError, ValueError, RuntimeError, AttributeError, NotImplementedError, LookupError, AssertionError):
        return False  # the mask or the positions are not taken at all
    tolerance = TOLERANCE.get(first.dtype, 1e-3)
    # the two rows are computed alike, so nothing but rounding may tell them apart; written so that NaN is False
    return difference(beside[0], beside[1]) < tolerance / 10 and difference(beside[0], alone) < tolerance


def product_dtype(dtype: torch.dtype, device: str = "cpu") -> torch.dtype:
    """The type of products of tensors of that one on a kind of device: autocast's inside it."""
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else dtype


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Root mean square difference of two tensors of logits, as a share of the second's standard deviation."""
    return ((a.float() - b.float()).square().mean().sqrt() / b.float().std()).item()


def rendered(model: nn.Module, mask: torch.Tensor) -> torch.Tensor:
    """A bool mask (B, 1, Q, K) as the model's own attention takes it.

    Eager attention adds its mask, so it gets a float one: it would add a bool as 0 and 1, without an error.
    """
    if model.config._attn_implementation != "eager":
        return mask
    dtype = next(model.parameters()).dtype
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)


def check_joins(model: nn.Module, mode: str) -> None:
    """`UserError` where drawing or training in a mode joins paths in a way that this model cannot."""
    if get_mode(mode).joins_caches and not heeds_masks(model):
        raise UserError(cannot_join(model))


def cannot_join(model: nn.Module) -> str:
    """The sentence for a trace that this model cannot join."""
    return (
        f"{model.config.model_type} folds what it has read into a state, in one order (it has recurrent, linear or "
        "convolutional layers), and a join that reads the keys and values of several paths at once needs attention "
        "alone; use mode: reread (the paths at once, then their joined text read again) or mode: sequential"
    )
