"""Rows of the tables of tokens that are trained while the tables stay: what is added to them, as hooks on the model.

So LoRA trains the tags that were added to a model. The embedding's outputs and the head's logits of these tokens get
what the changed rows would have given; a tied table has one change for both. It is zero at the start, and kept in
float32, as peft keeps its adapters. peft's own layers (`trainable_token_indices`) copy the whole table in each forward
and make a gradient of all of it in each backward pass: 0.7 GB each for 262,144 rows of 640. The files are peft's
(`train/adapters.py`).

Axis legend: B rows, T tokens, V vocabulary, E hidden size, N scored tokens, K rows that are trained.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

MODULE_NAME = "tag_rows"  # attribute of the model that holds the module


class TagRows(nn.Module):
    """What is added to the rows `ids` of the embedding's table, and of the head's weight where that is another one.

    The hooks are bound methods, so that a deep copy of the model uses its own rows.
    """

    def __init__(self, model: nn.Module, ids: Sequence[int]) -> None:
        super().__init__()
        table, weight = (layer.weight for layer in _layers(model))
        ids_K = torch.tensor(ids, device=table.device)
        place_V = torch.zeros(len(table), dtype=torch.long, device=table.device)
        place_V[ids_K] = torch.arange(1, len(ids) + 1, device=table.device)
        self.register_buffer("ids_K", ids_K, persistent=False)
        self.register_buffer("place_V", place_V, persistent=False)  # of a token: 1 + its place in `ids`; 0: not there
        self.enabled = True
        self.embedding = nn.Parameter(torch.zeros(len(ids), table.shape[1], device=table.device))
        self.head = (
            None if weight is table else nn.Parameter(self.embedding.detach().new_zeros(len(ids), weight.shape[1]))
        )

    def enable_adapters(self, enabled: bool) -> None:
        """Without them the model is what it was; as peft's layers have it."""
        self.enabled = enabled

    def of_head(self) -> nn.Parameter:
        """(K, E): what is added to the head's rows."""
        return self.embedding if self.head is None else self.head

    def logits(self, hidden: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
        """(N, K) float32: what is added to the logits of the rows, by a product of the type `kind`; hidden (N, E)."""
        with torch.autocast(hidden.device.type, enabled=False):
            return F.linear(hidden.to(kind), self.of_head().to(kind)).float()

    @torch.no_grad()
    def merge(self, model: nn.Module) -> None:
        """Add them to the tables of the model that holds them, and take them out of it."""
        for layer, changes in zip(_layers(model), (self.embedding, self.head), strict=True):
            if changes is not None:
                layer.weight[self.ids_K] = (layer.weight[self.ids_K] + changes).to(layer.weight.dtype)
        self.remove(model)

    def remove(self, model: nn.Module) -> None:
        """Take them and their hooks out of the model that holds them, which is then as it was before them."""
        for layer in _layers(model):
            for key, hook in list(layer._forward_hooks.items()):
                if getattr(hook, "__self__", None) is self:
                    del layer._forward_hooks[key]
        delattr(model, MODULE_NAME)

    def add_to_embedded(self, layer: nn.Module, args: tuple, out: torch.Tensor) -> torch.Tensor | None:
        """The hook on the embedding: out (B, T, E). Some families scale what they read from the table."""
        if not self.enabled:
            return None
        changes = F.embedding(self.place_V[args[0]], F.pad(self.embedding, (0, 0, 1, 0)))
        return out + (changes * getattr(layer, "embed_scale", 1.0)).to(out.dtype)

    def add_to_logits(self, layer: nn.Module, args: tuple, out: torch.Tensor) -> torch.Tensor | None:
        """The hook on the head: out (.., V), changed in place: a copy of all logits would double them."""
        if not self.enabled:
            return None
        changes = F.linear(args[0], self.of_head().to(args[0].dtype))
        return out.index_add_(-1, self.ids_K, changes.to(out.dtype))


def train_rows(model: nn.Module, ids: Sequence[int]) -> TagRows:
    """Hook a model so that these rows of its tables are trained; a model with none yet, whose tables stand alone."""
    rows = TagRows(model, ids)
    embedding, head = _layers(model)
    embedding.register_forward_hook(rows.add_to_embedded)
    head.register_forward_hook(rows.add_to_logits)
    setattr(model, MODULE_NAME, rows)
    return rows


def rows_of(model: nn.Module) -> TagRows | None:
    """The rows that are trained in a model, None where there are none."""
    return getattr(model, MODULE_NAME, None)


def rows_behind(hook: object) -> TagRows | None:
    """The rows whose hook this is, None for another hook."""
    owner = getattr(hook, "__self__", None)
    return owner if isinstance(owner, TagRows) else None


def _layers(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    return model.get_input_embeddings(), model.get_output_embeddings()
