"""What all stages of a recipe have in common, and what the ones that train have. The rest stands beside each loop."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from polythink.run.config import Config
from polythink.trace.layout import MODES


class StageConfig(Config):
    """What a stage may say differently from its recipe; left out, the recipe's own holds."""

    mode: Literal[MODES] | None = None
    prompt: str | None = None
    decoding: dict[str, Any] = Field(default_factory=dict)  # keys of `SamplingParams` that replace the recipe's
    seed: int | None = None


class OptimiserConfig(Config):
    """One optimiser step: AdamW."""

    lr: float = Field(1e-5, gt=0)  # the highest
    schedule: Literal["constant", "cosine", "linear", "inverse_sqrt"] = "constant"
    warmup: float = Field(0.0, ge=0)  # the rate rises from 0 over this share of all steps; from 1 on: so many steps
    final_lr: float = Field(0.0, ge=0, le=1)  # where cosine and linear end, as a share of `lr`
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(0.01, ge=0)
    max_grad_norm: float = Field(1.0, ge=0)  # bound on the norm of the whole gradient; 0: none
    autocast: bool = False  # forwards in bfloat16 over weights in float32; reinforcement learning draws so too
    checkpoint_every: int = Field(50, ge=1)  # steps; the last step is always kept


class TrainingConfig(StageConfig, OptimiserConfig):
    """Training on traces. `micro_batch` bounds memory and does not change the result, up to rounding."""

    trainable: Literal["all", "thoughts"] = "all"  # thoughts: the model's thought embeddings alone
    micro_batch: int = Field(32, ge=1)  # traces (of `sft` with `pack`: rows) in one forward and backward
