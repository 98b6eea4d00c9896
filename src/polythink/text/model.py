"""Models that read and write plain text: encoder-decoders for translation and summarisation, decoders for text alone.

A saved folder is an ordinary transformers folder: `AutoModelForSeq2SeqLM` or `AutoModelForCausalLM` and `AutoTokenizer`
load it after `import polythink.models.architectures`.

Axis legend: B rows, S source tokens, T target tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import Field, field_validator
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from polythink.errors import UserError, did_you_mean
from polythink.models.architectures import ARCHITECTURES, BackboneConfig
from polythink.models.lm import quietly
from polythink.run.config import Config
from polythink.run.folder import os_errors, write_text

IGNORED = -100  # label of what is not predicted


class TextModelConfig(Config):
    """The shape of a random model on one of the package's frames; the task says which frame."""

    architecture: str = "vanilla"
    hidden_size: int = Field(512, ge=1)
    intermediate_size: int = Field(2048, ge=1)  # of the feed-forward layers; PartialFormer has none
    num_hidden_layers: int = Field(6, ge=1)  # of the decoder
    num_source_layers: int | None = Field(None, ge=1)  # of the encoder; as many as the decoder has if left out
    num_attention_heads: int = Field(8, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)
    attention_dropout: float = Field(0.0, ge=0, lt=1)
    activation_dropout: float = Field(0.0, ge=0, lt=1)
    options: dict[str, Any] = Field(default_factory=dict)  # further fields of the architecture's configuration

    @field_validator("options", mode="before")
    @classmethod
    def _null_is_none(cls, options: Any) -> Any:
        return {} if options is None else options  # a recipe lets go of those of the one it extends

    @field_validator("architecture")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in ARCHITECTURES:
            raise ValueError(f"no architecture {name!r} for text{did_you_mean(name, ARCHITECTURES)}")
        return name

    def frame(self, vocabulary: int, encoder: bool) -> BackboneConfig:
        """The transformers configuration, special tokens as in `text_tokenizers`; `UserError` for what cannot be."""
        config_class = ARCHITECTURES[self.architecture][0]
        known = {f.name for f in fields(config_class)}
        for name in self.options:
            if name not in known:
                raise UserError(f"model.options: {self.architecture} has no {name!r}{did_you_mean(name, known)}")
        shape = self.model_dump(exclude={"architecture", "options"})
        special = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 3, "decoder_start_token_id": 3}
        return config_class(
            **{**shape, **special, "vocab_size": vocabulary, "is_encoder_decoder": encoder, **self.options}
        )


@dataclass
class TextModel:
    """A model and its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def has_encoder(self) -> bool:
        return self.model.config.is_encoder_decoder

    def encode(self, text: str) -> list[int]:
        """Token ids of a text and the end token."""
        ids = self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        return [*ids, self.tokenizer.eos_token_id]

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def create_text_model(
    config: TextModelConfig, tokenizer: PreTrainedTokenizerFast, encoder: bool, seed: int
) -> TextModel:
    """A randomly initialised model; the same for the same seed."""
    frame = config.frame(len(tokenizer), encoder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = (AutoModelForSeq2SeqLM if encoder else AutoModelForCausalLM).from_config(frame)
    return _to_device(TextModel(model, tokenizer))


def load_text_model(folder: str | Path) -> TextModel:
    """A model that `save_text_model` wrote, on the GPU where there is one."""
    try:
        with quietly():
            encoder = AutoConfig.from_pretrained(folder).is_encoder_decoder
            model = (AutoModelForSeq2SeqLM if encoder else AutoModelForCausalLM).from_pretrained(folder)
            tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"cannot load a model from {str(folder)!r}: {str(error).splitlines()[0]}") from error
    return _to_device(TextModel(model, tokenizer))


def save_text_model(lm: TextModel, folder: str | Path) -> None:
    try:
        with quietly(), os_errors(folder):
            Path(folder).mkdir(parents=True, exist_ok=True)
            lm.model.save_pretrained(folder)
            lm.tokenizer.save_pretrained(folder)
    except SafetensorError as error:  # what a full disk is there
        raise UserError(f"cannot write {folder}: {error}") from error
    write_text(Path(folder) / "README.md", _card(lm))


def _to_device(lm: TextModel) -> TextModel:
    lm.model.eval()
    lm.model.to("cuda" if torch.cuda.is_available() else "cpu")
    return lm


def _card(lm: TextModel) -> str:
    parameters = sum(p.numel() for p in lm.model.parameters())
    auto = "AutoModelForSeq2SeqLM" if lm.has_encoder else "AutoModelForCausalLM"
    return f"""---
library_name: transformers
tags: [polythink]
---
# A model of text

| | |
| --- | --- |
| architecture | {lm.model.config.model_type}, {"encoder and decoder" if lm.has_encoder else "decoder only"} |
| parameters | {parameters:,} |
| vocabulary | {len(lm.tokenizer):,} tokens |

`{auto}.from_pretrained(FOLDER)` loads it after `import polythink.models.architectures`. Texts end with the end token,
sources too; the generating stack starts from `<s>`.
"""


# ---- batches ----


class Example(NamedTuple):
    """One pair as token ids, both with their end token; the source is empty where there is no encoder."""

    source: Sequence[int]
    target: Sequence[int]

    @property
    def longest(self) -> int:
        """Tokens of the longer side."""
        return max(len(self.source), len(self.target))


@dataclass(frozen=True)
class TextBatch:
    """What the model reads, and what it is to log: labels (B, T), `IGNORED` where padded."""

    inputs: dict[str, torch.Tensor]
    labels: torch.Tensor

    @property
    def tokens(self) -> int:
        """Target tokens, padding left out."""
        return int((self.labels != IGNORED).sum())


def make_batch(lm: TextModel, examples: Sequence[Example]) -> TextBatch:
    """Examples as tensors, padded on the right. The generating stack reads the start token, then all labels but one."""
    config = lm.model.config
    labels = _padded([e.target for e in examples], IGNORED).to(lm.device)
    start = torch.full_like(labels[:, :1], config.bos_token_id)
    read = torch.cat([start, labels[:, :-1].clamp(min=config.pad_token_id)], dim=1)
    if not lm.has_encoder:
        return TextBatch({"input_ids": read}, labels)
    source = _padded([e.source for e in examples], config.pad_token_id).to(lm.device)
    mask = source != config.pad_token_id
    return TextBatch({"input_ids": source, "attention_mask": mask, "decoder_input_ids": read}, labels)


def _padded(rows: Sequence[Sequence[int]], filler: int) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[filler] * (width - len(row))] for row in rows])


def token_losses(lm: TextModel, batch: TextBatch, smoothing: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, T) float32 each, 0 where padded: -log p of every label, and that loss with label smoothing.

    (1 - e) * -log p(label) - e/V * sum_v log p(v), as in Szegedy et al. (arXiv 1512.00567).
    """
    logits = lm.model(**batch.inputs, use_cache=False).logits
    logprobs = logits.float().log_softmax(-1)
    padded = batch.labels == IGNORED
    nll = -logprobs.gather(-1, batch.labels.clamp(min=0)[..., None])[..., 0].masked_fill(padded, 0)
    if not smoothing:
        return nll, nll
    uniform = -logprobs.mean(-1).masked_fill(padded, 0)
    return nll, (1 - smoothing) * nll + smoothing * uniform
