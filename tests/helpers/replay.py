"""A CUDA graph on a CPU: what a function does is written down once, with the very tensors, and done again at replay.

Like a graph it knows nothing of Python: sizes, numbers and addresses are those of the recording; only what the tensors
hold may differ. What it left behind in tensors of its own is spoilt before each replay.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes, _get_current_dispatch_mode
from torch.utils._pytree import tree_flatten


class RecordedGraph:
    """What `Graphs` takes as `capture`."""

    def __init__(self, function: Callable[[], torch.Tensor]) -> None:
        self.operations: list[tuple[Callable[[], Any], Any]] = []  # a call, and what it returned at first
        self.owned: dict[int, torch.Tensor] = {}
        self.before: list[tuple[torch.Tensor, torch.Tensor]] = []  # what was written to, and what it held
        with _Recorder(self):
            self.result = function()
        for tensor, held in reversed(self.before):  # capturing a CUDA graph runs nothing
            tensor.copy_(held)

    def note(self, call: Callable[[], Any], arguments: Any) -> Any:
        out = call()
        self.operations.append((call, out))
        known = {x.untyped_storage().data_ptr() for x in tree_flatten(arguments)[0] if isinstance(x, torch.Tensor)}
        for x in tree_flatten(out)[0]:
            if isinstance(x, torch.Tensor) and x.untyped_storage().data_ptr() not in known:
                self.owned[x.data_ptr()] = x
        return out

    def replay(self) -> None:
        for x in self.owned.values():
            x.fill_(float("nan") if x.is_floating_point() else 0)
        for call, first in self.operations:
            for old, new in zip(tree_flatten(first)[0], tree_flatten(call())[0], strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class _Recorder(TorchDispatchMode):
    def __init__(self, graph: RecordedGraph) -> None:
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        assert func not in FORBIDDEN, f"{func} waits for the device, which a graph cannot"
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.is_write:
                self.graph.before.append((value, value.clone()))
        return self.graph.note(lambda: func(*args, **kwargs), (args, kwargs))


FORBIDDEN = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten.equal.default,
}


def opaque(function: Callable) -> Callable:
    """The function as one operation, like a kernel: its inside may do on a CPU what no graph can."""

    def called(*args):
        mode = _get_current_dispatch_mode()
        if mode is None:
            return function(*args)
        with _disable_current_modes():
            return mode.graph.note(lambda: function(*args), args)

    return called
