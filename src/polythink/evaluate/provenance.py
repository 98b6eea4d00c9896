"""Which model was measured: its path, a hash of its weights, its device and data type; and the rest of a provenance."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from polythink.run.folder import provenance

if TYPE_CHECKING:
    from torch import Tensor, nn

_known: WeakKeyDictionary[nn.Module, tuple[tuple, str]] = WeakKeyDictionary()


def provenance_of(model: nn.Module | None, about: Mapping[str, Any]) -> dict[str, Any]:
    """The provenance of a result of a transformers model; None: of a backend that has none in this process.

    `about` holds what only the caller knows (`run.folder.provenance`), and comes before what is found here.
    """
    found: dict[str, Any] = {}
    if model is not None:
        tensor = next(model.parameters())
        found = {
            "model": str(getattr(model, "name_or_path", "")) or None, "weights": weights_hash(model),
            "device": str(tensor.device), "dtype": str(tensor.dtype).removeprefix("torch."),
        }  # fmt: skip
    return provenance(**{**found, **about})


def weights_hash(model: nn.Module) -> str:
    """The first 16 digits of the SHA-256 of all weights: their names, types, shapes and bytes, in the order of names.

    Kept for the next call until a weight is changed or replaced.
    """
    tensors = sorted(model.state_dict(keep_vars=True).items())
    version = tuple((name, tensor.data_ptr(), _version(tensor)) for name, tensor in tensors)
    if _known.get(model, (None, ""))[0] != version:
        whole = hashlib.sha256()
        for name, tensor in tensors:
            whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            whole.update(_bytes(tensor))
        _known[model] = version, whole.hexdigest()[:16]
    return _known[model][1]


def _version(tensor: Tensor) -> int:
    """How often the tensor was changed in place; tensors made for inference alone cannot be."""
    return 0 if tensor.is_inference() else tensor._version


def _bytes(tensor: Tensor) -> memoryview:
    import torch

    return memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
