"""`torch.compile` of what a training forward spends its time in: the layers, and the pieces of the loss (`head.py`).

Layers are compiled one by one and not as a model: they have the same code, so all of them are one compilation, and what
hooks, FSDP and activation checkpointing do stays outside. The parameters are inputs. The slow twin is the model as
it is: results agree up to rounding.

The first batch of a run takes some tens of seconds, and so does one of another number of rows or of another length:
from then on lengths are a variable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import nn

from polythink.errors import UserError
from polythink.models.forward import unwrapped

BACKEND = "inductor"  # of torch.compile


@cache
def _compiled(function: Callable, backend: str) -> Callable:
    return torch.compile(function, backend=backend)


def compiled(function: Callable) -> Callable:
    """The function, compiled once for the whole process."""
    return _compiled(function, BACKEND)


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The modules that transformers keeps together, as a rule the decoder's layers."""
    names = set(getattr(unwrapped(model), "_no_split_modules", None) or ())
    return [module for module in model.modules() if type(module).__name__ in names]


@contextmanager
def compiling(model: nn.Module | None, wanted: bool) -> Iterator[None]:
    """While this is entered, the layers' forwards are compiled ones, if that is `wanted`; None: no model.

    `UserError` where the model does not say which its layers are.
    """
    layers = layers_of(model) if wanted and model is not None else []
    if wanted and model is not None and not layers:
        raise UserError(
            f"compile: true compiles a model's layers, and {model.config.model_type} does not say which these are "
            "(_no_split_modules); set compile: false"
        )
    before = {layer: vars(layer).get("forward") for layer in layers}
    for layer in layers:
        layer.forward = torch.compile(layer.forward, backend=BACKEND)
    try:
        yield
    finally:
        for layer, forward in before.items():
            del layer.forward
            if forward is not None:
                layer.forward = forward
