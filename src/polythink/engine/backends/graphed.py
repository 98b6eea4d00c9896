"""The backend of the Llama family on CUDA: see `PagedBackend`."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import fields

import torch

from polythink.engine.backends.graphs import Graphs
from polythink.engine.backends.paged import PagedBackend, Shape
from polythink.engine.lean.family import Family, describe
from polythink.engine.lean.forward import forward
from polythink.engine.lean.paged_ops import PagedOps, TritonOps
from polythink.models.lm import LanguageModel


class GraphedBackend(PagedBackend):
    """`Unfit` where the model is not a plain one of the Llama family.

    `ops`: the pieces of the forward, Triton kernels on CUDA, plain torch elsewhere.
    """

    family: Family

    def __init__(
        self,
        lm: LanguageModel,
        ops: type[PagedOps] | None = None,
        graphs: Graphs | None = None,
        look_ahead: bool | None = None,
    ) -> None:
        self.ops = ops or (TritonOps if lm.device.type == "cuda" else PagedOps)
        self.attention = self.ops.attention
        super().__init__(lm, "graphed", graphs, look_ahead)

    def _describe(self) -> None:
        self.family = family = describe(self.lm.model)
        windows = tuple(layer.window for layer in family.layers)
        self.shape = Shape(family.heads, family.kv_heads, family.head_dim, windows)
        self.thoughts = family.thoughts
        self.hooked = bool(family.head._forward_hooks or family.head._forward_pre_hooks)

    def _state(self) -> tuple[Hashable, ...]:
        return addresses(self.family)

    def _forward(self, tokens: torch.Tensor, label: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        table = None if self.thoughts is None else self.thoughts.table
        vectors = None if table is None else table[:, label]
        return forward(self.family, self.ops(self.family, self.cache, self.lm.model.dtype, vectors), tokens, wanted)


def addresses(family: Family) -> tuple[int, ...]:
    """Where all tensors of the model lie."""
    found: list[int] = []

    def visit(part: object) -> None:
        if isinstance(part, torch.Tensor):
            found.append(part.data_ptr())
        elif isinstance(part, torch.nn.Module):
            found.extend(tensor.data_ptr() for tensor in (*part.parameters(), *part.buffers()))
        elif isinstance(part, tuple):
            for inner in part:
                visit(inner)
        elif hasattr(part, "__dataclass_fields__"):
            for field in fields(part):
                visit(getattr(part, field.name))

    visit(family)
    return tuple(found)
