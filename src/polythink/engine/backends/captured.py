"""The backend of models outside the Llama family on CUDA: their own forward over pages, captured as it is.

The model's attention is the engine's (`attention.py`), which writes to pages and reads them; all else is the module's
own code. A graph holds what that code launched when it was captured, so the code must do the same each time: a model
that looks at the values of its tensors, as most mixtures of experts do, is refused here and runs on the flat backend.

Axis legend: N tokens, W wanted ones, G query heads, H key and value heads, D head size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules import module as hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Cache

from polythink.engine.backends import attention
from polythink.engine.backends.graphs import Graphs
from polythink.engine.backends.paged import PagedBackend, Shape
from polythink.engine.kv_cache import StepLayer
from polythink.engine.lean.family import Unfit
from polythink.engine.paged.cache import PagedCache
from polythink.models.forward import evaluating
from polythink.models.lm import LanguageModel
from polythink.models.thoughts import thoughts_of

KNOWN = ("torch.nn.modules.", "transformers.", "polythink.")  # whose modules compute the same in each call
WAITS = {  # operations whose result decides what is launched next
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten.equal.default,
    torch.ops.aten._unique.default,
    torch.ops.aten._unique2.default,
    torch.ops.aten.unique_dim.default,
    torch.ops.aten.unique_consecutive.default,
    torch.ops.aten.repeat_interleave.Tensor,
    torch.ops.aten.bincount.default,
}
INDEXING = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default}
COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
CHECKED = 4  # tokens of the forward that is looked at


class CapturedBackend(PagedBackend):
    """`Unfit` where the model's forward cannot be captured, or has attention of another kind than the engine's.

    Hooks are heeded, without graphs. `attention`: the kernel of the attention, by default Triton's on CUDA.
    """

    def __init__(
        self,
        lm: LanguageModel,
        graphs: Graphs | None = None,
        look_ahead: bool | None = None,
        attention: str | None = None,
    ) -> None:
        self.attention = attention
        super().__init__(lm, "captured", graphs, look_ahead)

    def _describe(self) -> None:
        model, thoughts = self.lm.model, thoughts_of(self.lm.model)
        if thoughts is not None and thoughts.table is not None:
            raise Unfit("thought embeddings")
        self.thoughts = None
        self.hooked = bool(hooks._global_forward_hooks or hooks._global_forward_pre_hooks)
        for module in model.modules():
            if not type(module).__module__.startswith(KNOWN) or "forward" in module.__dict__:
                raise Unfit(f"a {type(module).__name__}, which may compute something else in each call")
            if any(type(x) is not nn.Parameter for x in module._parameters.values() if x is not None):
                raise Unfit(f"parameters of {type(module).__name__} that are no plain ones")
            for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values()):
                self.hooked |= thoughts is None or getattr(hook, "__self__", None) is not thoughts
        if not hasattr(self, "shape"):
            self.shape = self._looked_at()

    def _looked_at(self) -> Shape:
        """Run a few tokens, watch what is launched, and note what the attention is given."""
        notes = Notes(self.config.num_hidden_layers)
        position = torch.arange(CHECKED, device=self.lm.device)
        try:
            # not in inference mode, in which `bool(tensor)` is no operation that can be watched
            with self.lock, torch.no_grad(), self._made_ready(), evaluating(self.lm.model):
                self._call(notes, position, position, position[:1])  # what is made once may be made here
                notes.clear()
                with Watch():
                    self._call(notes, position, position, position[:1])
        except (Unfit, torch.OutOfMemoryError):
            raise
        except (TypeError, ValueError, RuntimeError, AttributeError, LookupError, AssertionError) as error:
            raise Unfit((str(error) or type(error).__name__).splitlines()[0]) from error
        shape = notes.shape()
        if self.window is not None and set(shape.windows) == {None}:
            raise Unfit("attention with a sliding window that it is not told of")
        return shape

    def _state(self) -> tuple[Hashable, ...]:
        found: list[Hashable] = []
        for module in self.lm.model.modules():
            found.append(type(module))
            tensors = (*module._parameters.values(), *module._buffers.values())
            found += [None if x is None else x.data_ptr() for x in tensors]
        return tuple(found)

    def _made_ready(self) -> AbstractContextManager[None]:
        return self._with_attention()

    def _forward(self, tokens: torch.Tensor, label: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return self._call(Pages(self.cache), tokens, self.cache.now.position.long(), wanted)

    def _call(
        self, cache: Notes | Pages, tokens: torch.Tensor, position: torch.Tensor, wanted: torch.Tensor
    ) -> torch.Tensor:
        token = attention.READ.set(cache.read)
        try:
            return self._flat_call(cache, tokens, position, wanted)
        finally:
            attention.READ.reset(token)


class _Layer(StepLayer):
    def __init__(self, index: int, write: Callable[[int, torch.Tensor, torch.Tensor], None]) -> None:
        super().__init__()
        self.index, self.write, self.is_initialized = index, write, True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Pages are made by their cache."""

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        """Write (1, H, N, D) each; what the attention reads is known by the very tensor."""
        self.write(self.index, key_states, value_states)
        return key_states, value_states


class _OneAfterAnother(Cache):
    """A cache whose layers are written to in turn, each right before it is read."""

    def __init__(self, layers: int) -> None:
        super().__init__(layers=[_Layer(i, self._wrote) for i in range(layers)])
        self._last: tuple[int, torch.Tensor | None] = -1, None

    def _wrote(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        self._last = layer, key
        self.write(layer, key, value)

    def read(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None, window: int | None
    ) -> torch.Tensor:
        """(N, G, D): see `attention.Read`."""
        layer, written = self._last
        if key is not written:
            raise Unfit("attention that reads other keys than those of its layer")
        return self.attend(layer, query, scaling, window)


class Pages(_OneAfterAnother):
    """What the model takes for its cache, in the step that `cache` has planned."""

    def __init__(self, cache: PagedCache) -> None:
        super().__init__(cache.layers)
        self.cache = cache

    def write(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        self.cache.write(layer, *(x[0].transpose(0, 1).to(self.cache.dtype) for x in (key, value)))

    def attend(self, layer: int, query: torch.Tensor, scaling: float | None, window: int | None) -> torch.Tensor:
        assert window == self.cache.windows[layer], "the window of a layer has changed"
        return self.cache.attend(layer, query.to(self.cache.dtype).contiguous(), scaling)


@dataclass(frozen=True)
class _Seen:
    """What one layer's attention was given."""

    heads: int
    kv_heads: int
    head_dim: int
    window: int | None


class Notes(_OneAfterAnother):
    """Notes what each layer's attention is given, which reads nothing."""

    def __init__(self, layers: int) -> None:
        super().__init__(layers)
        self.clear()

    def clear(self) -> None:
        self.seen: list[_Seen] = []

    def write(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        if key.shape != value.shape or len(key) != 1:
            raise Unfit("keys and values of different sizes")
        self.kv_heads = key.shape[1]

    def attend(self, layer: int, query: torch.Tensor, scaling: float | None, window: int | None) -> torch.Tensor:
        if layer != len(self.seen):
            raise Unfit("layers that run in another order than that of their keys")
        self.seen.append(_Seen(query.shape[1], self.kv_heads, query.shape[2], window))
        return query

    def shape(self) -> Shape:
        if len(self.seen) != len(self.layers):
            raise Unfit(f"{len(self.layers)} layers, of which {len(self.seen)} have the engine's attention")
        kinds = {(seen.heads, seen.kv_heads, seen.head_dim) for seen in self.seen}
        if len(kinds) > 1:
            raise Unfit("layers that differ in their heads")
        return Shape(*kinds.pop(), tuple(seen.window for seen in self.seen))


class Watch(TorchDispatchMode):
    """`Unfit` at the first operation that a graph cannot hold."""

    def __torch_dispatch__(self, function, types, args: Sequence = (), kwargs: dict | None = None):
        out = function(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, torch.Tensor)]
        if function in WAITS or (
            function in INDEXING and any(getattr(x, "dtype", None) == torch.bool for x in args[1])
        ):
            raise Unfit(f"an operation ({function}) whose result decides what comes next")
        if function in COPIES and len({x.device for x in tensors}) > 1:
            raise Unfit("a copy between devices in its forward")
        return out
