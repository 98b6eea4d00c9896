"""What a recipe says of how training forwards are computed: `attention`, `compile`, where activations
are held, and the shape of batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

from torch import nn

from polythink.models.batch import Batch, collate
from polythink.models.blocks import attending, reads_blocks
from polythink.models.compiled import compiling, is_compiled
from polythink.models.lm import LanguageModel
from polythink.trace.layout import Layout
from polythink.train.config import TrainingConfig
from polythink.train.flat import fits
from polythink.train.offload import offloading


@contextmanager
def kernels_of(config: TrainingConfig, model: nn.Module | None) -> Iterator[None]:
    """While this is entered, the model's forwards are computed as the recipe says; None: no model."""
    moved = offloading(model) if config.activation_offloading and model is not None else nullcontext()
    with attending(model, config.attention), compiling(model, config.compile), moved:
        yield


def batch_of(
    config: TrainingConfig, lm: LanguageModel, model: nn.Module, layouts: Sequence[Layout], contexts: bool = False
) -> Batch:
    """The batch as the model's forward takes it now, on the device.

    Compiled layers get packed rows of one length, since every other length would be one more compilation.
    """
    width = config.pack if config.pack and is_compiled(model) else 0
    numbered = contexts and fits(model)
    return collate(layouts, lm.pad, numbered, reads_blocks(model), width).to(lm.device)
