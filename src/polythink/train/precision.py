"""In which type training computes, and whether weights can hold the updates of a learning rate."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import cache

import torch

from polythink.engine.lean.cpu_ops import multiplies_bfloat16
from polythink.models.thoughts import thoughts_of
from polythink.train.config import OptimiserConfig

log = logging.getLogger(__name__)
MUCH = 0.5  # share of the weights that stand still, from which on it is said


def in_bfloat16(config: OptimiserConfig, device: torch.device) -> bool:
    """Does training on the device run forwards in bfloat16? With `autocast: auto` where that has such products."""
    return _multiplies(device.type) if config.autocast == "auto" else config.autocast


@cache
def _multiplies(kind: str) -> bool:
    if kind == "cuda":
        found = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        found = kind == "cpu" and multiplies_bfloat16(torch.bfloat16)
    if not found:
        log.warning("autocast auto: this %s does not multiply bfloat16, so training computes in float32", kind)
    return found


@torch.no_grad()
def share_that_stands_still(parameters: Iterable[torch.nn.Parameter], lr: float) -> float:
    """The share of the trained weights that an update of `lr`, about the largest of an AdamW step, does not change."""
    still = total = 0
    for p in parameters:
        if p.requires_grad:
            still += int(((p + lr == p) & (p - lr == p)).sum())
            total += p.numel()
    return still / max(1, total)


def warn_of_rounding(model: torch.nn.Module, lr: float, trainable: str = "all") -> None:
    """Say before the first step that most of what is trained would not be.

    For the model with its adapters, if it has any; with `trainable` "thoughts" the table of these is all that counts.
    """
    thoughts = thoughts_of(model) if trainable == "thoughts" else None
    parameters = list(model.parameters()) if thoughts is None else [p for p in [thoughts.table] if p is not None]
    share = share_that_stands_still(parameters, lr)
    if share < MUCH:
        return
    dtypes = {p.dtype for p in parameters if p.requires_grad}
    names = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
    wider = dtypes != {torch.float32}
    remedy = "set model.dtype: float32 (with autocast: true the arithmetic stays bfloat16), or raise lr"
    log.warning(
        "at lr %.3g an update rounds to nothing for %.0f%% of the weights, which are %s: most of the model will not be "
        "trained; %s", lr, 100 * share, names, remedy if wider else "raise lr",
    )  # fmt: skip
