"""`torch.compile` of what a training forward spends its time in: the layers, and the pieces of the loss (`head.py`).

Layers are compiled one by one and not as a model: they have the same code, so all of them are one compilation, and what
hooks, FSDP and activation checkpointing do stays outside. The parameters are inputs. The slow twin is the model as
it is: results agree up to rounding.

The first batch of a run takes some tens of seconds, and so does the first of another number of rows or of another
length: from then on these are variables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from types import FunctionType
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch._functorch import config as functorch_config

from polythink.errors import UserError
from polythink.models.forward import heeds_masks, unwrapped
from polythink.models.thoughts import thoughts_of

BACKEND = "inductor"  # of torch.compile
VERSIONS = 64  # of one function: kinds of layers, with and without gradients, one row and several, lengths
# Of the bytes that a layer keeps for its backward pass by torch's own choice. Below 1 what is cheap is computed again:
# of a Qwen3 layer the norms, the turned keys and the gate's product, which leaves 0.77.
KEPT = 0.9
CHECKPOINTED = "forward_with_checkpointing"  # since transformers 5.23 a layer's forward is wrapped in this

_FORWARDS: WeakKeyDictionary[nn.Module, dict[Callable, Callable]] = WeakKeyDictionary()


@cache
def _compiled(function: Callable, backend: str) -> Callable:
    torch._dynamo.config.recompile_limit = max(VERSIONS, torch._dynamo.config.recompile_limit)
    return torch.compile(function, backend=backend)


def compiled(function: Callable) -> Callable:
    """The function, compiled once for the whole process."""
    return _compiled(function, BACKEND)


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The modules that transformers keeps together, as a rule the decoder's layers."""
    names = set(getattr(unwrapped(model), "_no_split_modules", None) or ())
    return [module for module in model.modules() if type(module).__name__.removeprefix("FSDP") in names]


def is_compiled(model: nn.Module) -> bool:
    """Whether the layers' forwards are compiled ones now."""
    return any(getattr(vars(layer).get("forward"), "func", None) is _forward for layer in layers_of(model)[:1])


@contextmanager
def compiling(model: nn.Module | None, wanted: bool | str) -> Iterator[None]:
    """While this is entered, the layers' forwards are compiled ones, if that is `wanted`; None: no model.

    A model whose layers are compiled already stays as it is: with adapters the policy is its own reference. `wanted`
    "auto": on CUDA, of models that can be. `UserError` where one is to be that cannot: it does not say which
    its layers are, or has thought embeddings.
    """
    if model is None or not wanted or is_compiled(model):
        yield
        return
    why_not = _why_not(model)
    if wanted == "auto" and (why_not or next(model.parameters()).device.type != "cuda"):
        yield
        return
    if why_not:
        raise UserError(f"compile: true {why_not}; set compile: false")
    heeds_masks(model)  # found out by a forward, which is not worth compiling
    layers, functions = layers_of(model), _FORWARDS.setdefault(model, {})
    for layer in layers:
        layer.forward = partial(_forward, layer, _own(functions, _plain_forward(layer)))
    try:
        with functorch_config.patch(activation_memory_budget=KEPT):
            yield
    finally:
        for layer in layers:
            del layer.forward


def _why_not(model: nn.Module) -> str:
    """Why the layers of a model are not compiled, the part of a sentence; "" where they can be."""
    if not layers_of(model):
        kind = model.config.model_type
        return f"compiles a model's layers, and {kind} does not say which these are (_no_split_modules)"
    thoughts = thoughts_of(model)
    if thoughts is not None and thoughts.table is not None:
        return "makes one function of all layers, and thought embeddings make every layer another"
    return ""


def _plain_forward(layer: nn.Module) -> Callable:
    """The forward of the layer's class, without what checkpoints its activations."""
    function = type(layer).forward
    while function.__code__.co_name == CHECKPOINTED:
        function = function.__wrapped__
    return function


def _own(functions: dict[Callable, Callable], function: Callable) -> Callable:
    """The compiled function of one model: of a copy, since versions are counted for all users of a function's code."""
    if function not in functions:
        f = function
        copy = FunctionType(f.__code__.replace(), f.__globals__, f.__name__, f.__defaults__, f.__closure__)
        copy.__kwdefaults__ = f.__kwdefaults__
        functions[function] = compiled(copy)
    return functions[function]


def _forward(layer: nn.Module, function: Callable, *args, **kwargs):
    """What the layer's own forward does, with the compiled function in place of the plain one."""
    wrapped = type(layer).forward.__code__.co_name == CHECKPOINTED
    if wrapped and layer.gradient_checkpointing and layer.training:
        return layer._gradient_checkpointing_func(partial(function, layer, **kwargs), *args)
    return function(layer, *args, **kwargs)
