"""Dropout: drawn from a stream of its own in every step, and off where what is drawn must be what is trained."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from transformers.modeling_layers import GradientCheckpointingLayer


@contextmanager
def seeded(seed: int, step: int, device: torch.device, rank: int = 0) -> Iterator[None]:
    """Let torch's random numbers depend on (seed, step, rank) alone; afterwards its streams go on as before.

    So a resumed run has the dropout of an uninterrupted one, and so has any other process with this seed.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        name = hashlib.blake2b((f"{seed}/{step}" + (f"/{rank}" if rank else "")).encode(), digest_size=8).digest()
        torch.manual_seed(int.from_bytes(name, "little"))
        yield


@contextmanager
def without_dropout(model: torch.nn.Module) -> Iterator[None]:
    """Forwards and backwards as the engine runs the model: in evaluation mode, in which nothing is dropped.

    transformers checkpoints the activations of a layer only while that layer is in training mode. Such a layer stays in
    it, and leaves it whenever its own forward runs: in the backward pass too, and without gradients, for which
    some versions of transformers checkpoint nothing.
    """
    modes = [(module, module.training) for module in model.modules()]
    functions, hooks = {}, []
    model.eval()
    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer) and layer.gradient_checkpointing:
            functions[layer] = layer._gradient_checkpointing_func
            layer._gradient_checkpointing_func = _in_evaluation(layer, functions[layer])
            layer.training = True
            hooks.append(layer.register_forward_pre_hook(_evaluated_without_gradients))
            hooks.append(layer.register_forward_hook(_in_training, always_call=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for layer, function in functions.items():
            layer._gradient_checkpointing_func = function
        for module, training in modes:
            module.training = training


def _evaluated_without_gradients(layer: torch.nn.Module, *_) -> None:
    if not torch.is_grad_enabled():
        layer.training = False


def _in_training(layer: torch.nn.Module, *_) -> None:
    layer.training = True


def _in_evaluation(layer: torch.nn.Module, checkpoint: Callable) -> Callable:
    def checkpointed(forward: Callable, *args, **kwargs):
        def evaluated(*args, **kwargs):
            layer.training = False
            try:
                return forward(*args, **kwargs)
            finally:
                layer.training = True

        return checkpoint(evaluated, *args, **kwargs)

    return checkpointed
