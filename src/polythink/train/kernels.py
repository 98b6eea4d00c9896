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
from polythink.train.rows import row_tokens


@contextmanager
def kernels_of(config: TrainingConfig, model: nn.Module | None) -> Iterator[None]:
    """While this is entered, the model's forwards are computed as the recipe says; None: no model."""
    moved = offloading(model) if config.activation_offloading and model is not None else nullcontext()
    with attending(model, config.attention), compiling(model, config.compile), moved:
        yield


def row_width(config: TrainingConfig, model: nn.Module, layouts: Sequence[Layout]) -> int:
    """Tokens of the rows that these traces, those of all processes, share in forwards of the model; 0: one trace each.

    To be asked while `kernels_of` is entered, which says what attention there is.
    """
    return row_tokens(config.pack, max(map(len, layouts)), reads_blocks(model))


def batch_of(
    lm: LanguageModel, model: nn.Module, layouts: Sequence[Layout], width: int = 0, contexts: bool = False
) -> Batch:
    """The batch as the model's forward takes it now, on the device.

    Where something is compiled, layers or flex attention alone, packed rows are padded to `width`: every other length
    would be one more compilation.
    """
    blocks, numbered = reads_blocks(model), contexts and fits(model)
    return collate(layouts, lm.pad, numbered, blocks, width if blocks or is_compiled(model) else 0).to(lm.device)
