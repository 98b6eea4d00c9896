"""Activations in the CPU's memory: what a forward keeps for its backward pass, moved there until it is needed.

With gradient checkpointing these are the inputs of layers alone. Copies go through pinned memory on the stream of the
computation: they take time (a byte goes out and comes back once), and are in order without waiting.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

SMALL = 1 << 20  # bytes: less is not worth a copy
CPU = torch.device("cpu")


def offloading(model: nn.Module) -> AbstractContextManager:
    """While this is entered, forwards keep their activations in the CPU's memory. A model on a CPU is left alone."""
    on_cpu = next(model.parameters()).device == CPU
    return nullcontext() if on_cpu else moving()


def moving(least: int = SMALL) -> saved_tensors_hooks:
    """Hooks that move tensors of at least `least` bytes, but not weights, which stay where they are anyway.

    Casts of weights that autocast makes are not known as such, and move.
    """

    def pack(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.device | None, torch.Size]:
        own = unexpanded(tensor)
        if own.nbytes < least or is_weight(tensor):
            return tensor, None, tensor.shape
        on_gpu = tensor.device.type == "cuda"
        held = torch.empty_like(own, device=CPU, pin_memory=on_gpu)
        return held.copy_(own, non_blocking=on_gpu), tensor.device, tensor.shape

    def unpack(packed: tuple[torch.Tensor, torch.device | None, torch.Size]) -> torch.Tensor:
        held, device, shape = packed
        return held if device is None else held.to(device, non_blocking=True).expand(shape)

    return saved_tensors_hooks(pack, unpack)


def unexpanded(tensor: torch.Tensor) -> torch.Tensor:
    """Without the repetitions of axes that were expanded: a mask of all heads is one, and takes the memory of one."""
    return tensor[tuple(slice(1) if stride == 0 else slice(None) for stride in tensor.stride())]


def is_weight(tensor: torch.Tensor) -> bool:
    """Whether it is a parameter, or a view of one."""
    own = tensor if tensor._base is None else tensor._base
    return isinstance(own, nn.Parameter)
