"""Settings of the text wing: tokenizer, model shape, training, evaluation. Imports without torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from polythink.errors import did_you_mean
from polythink.run.config import Config
from polythink.train.config import OptimiserConfig

TASKS = {  # task -> its metrics, the headline metrics first
    "translation": ("exact", "bleu", "loss", "perplexity"),
    "summarisation": ("rouge1", "rouge2", "rougeL", "loss", "perplexity"),
    "language_modelling": ("loss", "perplexity", "word_perplexity"),
}
ARCHITECTURES = ("vanilla", "eit", "e_eit", "partialformer")  # as registered in `models.architectures`


class TokenizerConfig(Config):
    """How text is tokenised. Source and target share one vocabulary."""

    kind: Literal["words", "bpe", "bytes"] = "words"
    """Closed vocabulary of words, SentencePiece BPE, or raw bytes."""
    size: int = Field(32_768, ge=8)
    """Vocabulary size, special tokens included; for words an upper bound, for bytes ignored."""
    sentences: int = Field(2_000_000, ge=1)
    """BPE is trained on at most this many sentences, chosen at random."""


class TextModelConfig(Config):
    """The shape of a randomly initialised model; the recipe's task says whether it has an encoder."""

    architecture: str = "vanilla"
    """vanilla, eit, e_eit or partialformer."""
    hidden_size: int = Field(512, ge=1)
    """Width of the embeddings and layers."""
    intermediate_size: int = Field(2048, ge=1)
    """Width inside the feed-forward layers; PartialFormer has none."""
    num_hidden_layers: int = Field(6, ge=1)
    """Layers of the decoder."""
    num_source_layers: int | None = Field(None, ge=1)
    """Layers of the encoder; as many as the decoder has if left out."""
    num_attention_heads: int = Field(8, ge=1)
    """Attention heads per layer."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout of embeddings and of each sublayer's output."""
    attention_dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout of attention weights."""
    activation_dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout inside the feed-forward layers."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further fields of the architecture's own configuration."""

    @field_validator("options", mode="before")
    @classmethod
    def _null_is_none(cls, options: Any) -> Any:
        return {} if options is None else options  # a recipe drops the options of the recipe that it extends

    @field_validator("architecture")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in ARCHITECTURES:
            raise ValueError(f"no architecture {name!r} for text{did_you_mean(name, ARCHITECTURES)}")
        return name


class TextConfig(OptimiserConfig):
    """Training on pairs of texts, or for language modelling on their targets."""

    steps: int | None = Field(None, ge=1)
    """Optimiser steps; give either steps or epochs."""
    epochs: float | None = Field(None, gt=0)
    """Passes over the data; give either steps or epochs."""
    batch: int | None = Field(None, ge=1)
    """Examples per step; give either batch or batch_tokens."""
    micro_batch: int = Field(64, ge=1)
    """With batch: at most this many examples per forward, sorted by length; changes memory, not results."""
    batch_tokens: int | None = Field(None, ge=1)
    """Tokens per forward on the longer side, padding included; give either batch or batch_tokens."""
    accumulate: int = Field(1, ge=1)
    """With batch_tokens: forwards per step."""
    max_tokens: int = Field(256, ge=1)
    """Pairs with a longer side are dropped and counted."""
    block: int | None = Field(None, ge=2)
    """Language modelling: train on running text, cut into blocks of this many tokens."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of the loss spread evenly over the vocabulary (Szegedy et al., arXiv 1512.00567)."""
    validate_every: int = Field(100, ge=1)
    """Steps between measurements of the validation loss; the last step is always measured."""
    average: int = Field(1, ge=1)
    """The final model is the mean of this many checkpoints, the last step's included."""
    average_every: int | None = Field(None, ge=1)
    """Steps between averaged checkpoints; one epoch if left out."""

    @model_validator(mode="after")
    def _one_of_each(self) -> TextConfig:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs")
        if (self.batch is None) == (self.batch_tokens is None):
            raise ValueError("give either batch (examples) or batch_tokens")
        return self

    @model_validator(mode="after")
    def _nothing_without_effect(self) -> TextConfig:
        """By values, not by what was written: the recipe in a run's folder holds every key."""
        if self.batch and self.accumulate > 1:
            raise ValueError(
                f"accumulate: {self.accumulate} counts forwards of batch_tokens, and batch: {self.batch} is all that a "
                f"step reads; set batch: {self.batch * self.accumulate} for larger steps, and leave accumulate out"
            )
        if self.batch_tokens and self._is_chosen("micro_batch"):
            raise ValueError(
                f"micro_batch: {self.micro_batch} divides a batch of examples, and batch_tokens: {self.batch_tokens} "
                "is the size of a forward; lower batch_tokens to save memory, and leave micro_batch out"
            )
        if self.block and self._is_chosen("max_tokens"):
            raise ValueError(
                f"max_tokens: {self.max_tokens} drops long pairs, and running text in blocks of {self.block} tokens "
                "(block) has none; leave max_tokens out"
            )
        if self.average_every and self.average == 1:
            raise ValueError(
                f"average_every: {self.average_every} spaces the checkpoints that are averaged, and average: 1 takes "
                "the last alone; set average to 2 or more, or leave average_every out (null)"
            )
        return self

    def _is_chosen(self, key: str) -> bool:
        return getattr(self, key) != type(self).model_fields[key].default


class TextEvalOptions(Config):
    """How a model is measured."""

    beams: int = Field(1, ge=1)
    """Beams of beam search; 1 is greedy."""
    length_penalty: float = 1.0
    """A finished text scores sum(log p) / tokens^length_penalty, its end token counted."""
    max_new_tokens: int = Field(256, ge=1)
    """Longest generated text."""
    min_new_tokens: int = Field(0, ge=0)
    """Shortest generated text, the end token not counted."""
    no_repeat_ngram_size: int = Field(0, ge=0)
    """No run of this many tokens occurs twice in a generated text; 0: runs may repeat."""
    max_source_tokens: int | None = Field(None, ge=2)
    """Read a longer source up to this many tokens, the end token among them; null: read it whole."""
    max_num_seqs: int = Field(64, ge=1)
    """Texts generated at once; changes speed, not results."""
    tokenize: Literal["13a", "none", "char", "intl", "zh"] = "13a"
    """How BLEU cuts words, as in sacreBLEU."""
    block: int | None = Field(None, ge=2)
    """Language modelling: measure running text, cut into blocks of this many tokens."""

    @model_validator(mode="after")
    def _room_for_the_shortest(self) -> TextEvalOptions:
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(
                f"min_new_tokens ({self.min_new_tokens}) is more than max_new_tokens ({self.max_new_tokens}); lower "
                "the first or raise the second"
            )
        return self
