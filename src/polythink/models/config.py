"""Where a recipe's first model comes from; importable without torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from polythink.errors import UserError
from polythink.run.config import Config


class ModelConfig(Config):
    """Where a recipe's first model comes from: a folder or hub name (`path`), or a random one of the given shape."""

    path: str | None = None
    add_tags: bool = False  # give the dialect's tags rows of their own where the tokenizer lacks them
    architecture: str = "qwen3"  # a name of transformers, or eit, e_eit, partialformer, vanilla
    tokenizer: Literal["countdown", "attribution", "bytes"] = "countdown"
    hidden_size: int = Field(96, ge=1)
    num_hidden_layers: int = Field(3, ge=1)
    num_attention_heads: int = Field(3, ge=1)
    num_key_value_heads: int = Field(1, ge=1)  # of transformers' rotary decoders, as are head_dim and rope_theta:
    head_dim: int = Field(32, ge=2, multiple_of=2)  # the package's own have heads of hidden_size / num_attention_heads
    intermediate_size: int = Field(256, ge=1)
    max_position_embeddings: int = Field(4096, ge=1)
    tie_word_embeddings: bool = True
    rope_theta: float = Field(10_000.0, gt=0)
    dtype: Literal["float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False
    # a learned vector for each of the dialect's path numbers, zero at the start; None: as `path` has it, else none
    thought_embeddings: bool | None = None
    options: dict[str, Any] = Field(default_factory=dict)  # further fields of the architecture's own configuration

    @model_validator(mode="after")
    def _heads_share_evenly(self) -> ModelConfig:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads ({self.num_attention_heads}) must be a multiple of num_key_value_heads "
                f"({self.num_key_value_heads})"
            )
        return self


def check_path(path: str) -> None:
    """`UserError` for what is neither a folder nor could be a name on the hub. The hub is not asked."""
    could_be_a_name = re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", path) and not Path(path).exists()
    if not (could_be_a_name or Path(path).is_dir()):
        raise UserError(f"no model folder {path!r}, and a name on the hub is of the form owner/name")
