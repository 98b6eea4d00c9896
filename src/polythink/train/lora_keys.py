"""The keys of LoRA; what they do is in `adapters.py`. Imports without torch, as `config.py` does."""

from __future__ import annotations

from pydantic import Field

from polythink.run.config import Config


class LoraKeys(Config):
    """Adapters that are trained in place of the model's own weights (LoRA, through peft, under its names)."""

    r: int = Field(1, ge=1)
    """Rank of the adapters; the default is TRL's for RL."""
    lora_alpha: float = Field(32.0, gt=0)
    """Their scale times r; the default is TRL's for RL."""
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    """Share of an adapter's inputs that are dropped."""
    target_modules: str | tuple[str, ...] = "all-linear"
    """The layers that have one: names, or all linear layers but the head."""
    train_tags: bool | None = None
    """Train the rows of the dialect's tags in the embedding and the head too; none: of those never trained yet."""
