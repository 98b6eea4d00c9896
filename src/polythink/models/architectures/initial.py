"""Initialisation. Like those of transformers, these functions leave weights loaded from a file unchanged.

transformers initialises leaf modules one by one. A layer with a non-default initialiser carries it as `module.draw`,
set by `drawn_by`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import nn
from transformers import initialization as init

PUBLISHED_GAIN = 1 / math.sqrt(2)  # of the projections to queries, keys and values


def drawn_by(draw: Callable[[nn.Module], None], module: nn.Module) -> nn.Module:
    """Set `draw` as the initialiser of `module` and return the module."""
    module.draw = draw
    return module


def initialise(module: nn.Module) -> None:
    """Initialise the weights of one leaf module."""
    if hasattr(module, "draw"):
        module.draw(module)
    elif isinstance(module, nn.Linear | nn.Conv2d):
        pytorch_default(module)
    elif isinstance(module, nn.Embedding):
        embedding(module)
    elif isinstance(module, nn.LayerNorm):
        init.ones_(module.weight)
        init.zeros_(module.bias)


def pytorch_default(module: nn.Linear | nn.Conv2d) -> None:
    """The default of torch's constructors: U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for weight and bias."""
    bound = 1 / math.sqrt(module.weight[0].numel())
    init.uniform_(module.weight, -bound, bound)
    if module.bias is not None:
        init.uniform_(module.bias, -bound, bound)


def projection(module: nn.Linear) -> None:
    """Xavier-uniform weights of gain 1/sqrt(2); the default bias of torch."""
    pytorch_default(module)
    init.xavier_uniform_(module.weight, gain=PUBLISHED_GAIN)


def output(module: nn.Linear) -> None:
    """Xavier-uniform weights, zero bias."""
    init.xavier_uniform_(module.weight)
    init.zeros_(module.bias)


def keep_spread(module: nn.Conv2d, gain: float = 1.0) -> None:
    """Normal weights of standard deviation gain / sqrt(fan_in), zero bias: the output has the spread of the input.

    After a relu the gain is sqrt(2), since half of the input is zero.
    """
    init.normal_(module.weight, std=gain / math.sqrt(module.weight[0].numel()))
    init.zeros_(module.bias)


def orthogonal(module: nn.Conv2d, gain: float = 1.0) -> None:
    """Orthogonal weights, zero bias."""
    init.orthogonal_(module.weight, gain=gain)
    init.zeros_(module.bias)


def embedding(module: nn.Embedding | nn.Linear) -> None:
    """N(0, 1/d) rows of width d, as for embeddings that are multiplied by sqrt(d); the padding row is zero."""
    init.normal_(module.weight, std=module.weight.shape[1] ** -0.5)
    padding = getattr(module, "padding_idx", None)
    if padding is not None and not getattr(module.weight, "_is_hf_initialized", False):
        init.zeros_(module.weight[padding])
