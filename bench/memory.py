"""The bytes that a forward keeps for its backward pass."""

from __future__ import annotations

from collections.abc import Callable

import torch


def kept_bytes(module: torch.nn.Module, forward: Callable[[], torch.Tensor]) -> int:
    """Bytes of the distinct tensors that autograd keeps while `forward` runs `module`, without its weights."""
    weights = {p.untyped_storage().data_ptr() for p in module.parameters()}
    found: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = forward()  # kept alive until all is counted, so that no address is reused
    total = sum(found.values())
    del out
    return total
