"""Where a recipe's first model comes from. Importable without torch and transformers."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from polythink.run.config import Config, Place


class ModelConfig(Config):
    """A recipe's first model: taken from a folder or the hub (`path`), or random with the given shape."""

    path: Place | None = None
    """Folder or hub id of the model to start from; null: a random model of the shape below."""
    add_tags: bool = False
    """Add the dialect's tags that the tokenizer lacks, with an embedding row each; mode sequential needs none."""
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """What the chat template of `path` is told besides the messages, such as {enable_thinking: false} for Qwen3."""
    architecture: str = "qwen3"
    """Architecture of a random model: a model type of transformers, or eit, e_eit, partialformer, vanilla."""
    tokenizer: str = "countdown"
    """Tokenizer of a random model: a task's name, for the closed vocabulary of its words, or bytes."""
    hidden_size: int = Field(96, ge=1)
    """Model width d of a random model."""
    num_hidden_layers: int = Field(3, ge=1)
    """Number of layers of a random model."""
    num_attention_heads: int = Field(3, ge=1)
    """Number of query heads of a random model."""
    num_key_value_heads: int = Field(1, ge=1)
    """Number of key and value heads; for transformers' rotary decoders, not for the package's own architectures."""
    head_dim: int = Field(32, ge=2, multiple_of=2)
    """Head size of transformers' rotary decoders; the package's own have hidden_size / num_attention_heads."""
    intermediate_size: int = Field(256, ge=1)
    """Width of the feed-forward layers of a random model."""
    max_position_embeddings: int = Field(4096, ge=1)
    """Longest sequence of positions of a random model."""
    tie_word_embeddings: bool = True
    """Whether the output layer of a random model shares the weights of the word embeddings."""
    rope_theta: float = Field(10_000.0, gt=0)
    """Base of the rotary frequencies; for transformers' rotary decoders."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the weights."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass rather than keep them: less memory, the same results."""
    thought_embeddings: bool | None = None
    """Learned vector per path number in every layer (ParaThinker); null: those of `path`, if it has any."""
    thought_init: float = Field(0.0, ge=0)
    """Standard deviation of new thought embeddings; 0: zeros, so that the model begins unchanged."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further fields of the architecture's own configuration."""

    @model_validator(mode="after")
    def _some_thoughts_to_draw(self) -> ModelConfig:
        if self.thought_init and not self.thought_embeddings:
            raise ValueError(
                f"thought_init ({self.thought_init:g}) is for new thought embeddings, and none are asked for; set "
                "thought_embeddings: true, or leave thought_init out"
            )
        return self

    @model_validator(mode="after")
    def _heads_share_evenly(self) -> ModelConfig:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads ({self.num_attention_heads}) must be a multiple of num_key_value_heads "
                f"({self.num_key_value_heads})"
            )
        return self
