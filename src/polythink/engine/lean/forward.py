"""The flat forward of the Llama family: N tokens of any traces in one list, without padding.

What differs between devices is behind `Ops`: the plain torch pieces are in `torch_ops.py`. Everything else that is
computed is on this page.

Axis legend: N tokens, W wanted tokens, E hidden size, G query heads, H key and value heads, D head size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import nn

from polythink.engine.lean.family import Family, Layer, Linear


class Ops(Protocol):
    """The pieces of one step. An object of one step: it knows the tokens' positions, slots and what they may read."""

    def add_norm(
        self, x: torch.Tensor, delta: torch.Tensor | None, weight: nn.Parameter, eps: float, offset: float
    ) -> torch.Tensor:
        """(N, E): x += delta in place (None: nothing is added), then x / rms(x) * (offset + weight), in float32."""

    def linear(self, x: torch.Tensor, weight: nn.Parameter, bias: nn.Parameter | None) -> torch.Tensor:
        """(N, out) from x (N, in), any strides."""

    def linears(self, x: torch.Tensor, linears: Sequence[Linear]) -> Sequence[torch.Tensor]:
        """Several products of the same x, which a device may compute as one."""

    def rotate_and_write(self, layer: Layer, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """(N, G, D): normalise the heads of q (N, G, D) and k (N, H, D) where the layer does, rotate both, write k and
        v (N, H, D) to the step's slots. May overwrite its arguments."""

    def attend(self, layer: Layer, q: torch.Tensor) -> torch.Tensor:
        """(N, G, D): what the tokens read in this layer."""

    def gate(self, gate: torch.Tensor, up: torch.Tensor, activation: str) -> torch.Tensor:
        """activation(gate) * up. May overwrite its arguments."""


def forward(family: Family, ops: Ops, tokens: torch.Tensor, wanted: torch.Tensor | None) -> torch.Tensor:
    """Logits (W, V) after the wanted of the tokens (N,); `wanted`: (W,) numbers of tokens, None: all of them.

    For inference mode: the stream is written in place.
    """
    x = family.embedding(tokens)
    delta = None
    for layer in family.layers:
        delta = _attention(family, ops, layer, ops.add_norm(x, delta, *layer.before_attention))
        if wanted is not None and layer is family.layers[-1]:  # nothing later reads the other tokens
            x, delta = x[wanted], delta[wanted]
        (delta,) = ops.linears(delta, (layer.out,))
        if layer.after_attention is not None:
            delta = ops.add_norm(delta, None, *layer.after_attention)
        h = ops.add_norm(x, delta, *layer.before_mlp)
        h = ops.gate(*ops.linears(h, (layer.gate, layer.up)), family.activation)
        (delta,) = ops.linears(h, (layer.down,))
        if layer.after_mlp is not None:
            delta = ops.add_norm(delta, None, *layer.after_mlp)
    return head(family, ops, ops.add_norm(x, delta, *family.norm))


def _attention(family: Family, ops: Ops, layer: Layer, h: torch.Tensor) -> torch.Tensor:
    """(N, G * D): what the heads have read, from the normed stream (N, E)."""
    q, k, v = (x.view(len(h), -1, family.head_dim) for x in ops.linears(h, (layer.query, layer.key, layer.value)))
    q = ops.rotate_and_write(layer, q, k, v)
    return ops.attend(layer, q).flatten(1)


def head(family: Family, ops: Ops, h: torch.Tensor) -> torch.Tensor:
    """Logits (W, V) from the last normed stream (W, E), through the hooks that the head carries."""
    module = family.head
    if module._forward_pre_hooks or module._forward_hooks_with_kwargs:
        logits = module(h)
    else:
        (logits,) = ops.linears(h, (Linear(module.weight, module.bias),))
        for hook in module._forward_hooks.values():  # as the module itself would call them
            changed = hook(module, (h,), logits)
            logits = logits if changed is None else changed
    return logits if family.cap is None else family.cap * torch.tanh(logits / family.cap)
