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
    """Hooks that move tensors of at least `least` bytes, but not weights, which stay where they are anyway."""

    def pack(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.device | None]:
        if tensor.nbytes < least or is_weight(tensor):
            return tensor, None
        on_gpu = tensor.device.type == "cuda"
        held = torch.empty_like(tensor, device=CPU, pin_memory=on_gpu)
        return held.copy_(tensor, non_blocking=on_gpu), tensor.device

    def unpack(packed: tuple[torch.Tensor, torch.device | None]) -> torch.Tensor:
        held, device = packed
        return held if device is None else held.to(device, non_blocking=True)

    return saved_tensors_hooks(pack, unpack)


def is_weight(tensor: torch.Tensor) -> bool:
    """Whether it is a parameter, or a view of one."""
    own = tensor if tensor._base is None else tensor._base
    return isinstance(own, nn.Parameter)
