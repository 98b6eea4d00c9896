"""What a recipe says of how training forwards are computed: `attention` and `compile`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from polythink.models.blocks import attending
from polythink.models.compiled import compiling
from polythink.train.config import TrainingConfig


@contextmanager
def kernels_of(config: TrainingConfig, model: nn.Module | None) -> Iterator[None]:
    """While this is entered, the model's forwards are computed as the recipe says; None: no model."""
    with attending(model, config.attention), compiling(model, config.compile):
        yield
