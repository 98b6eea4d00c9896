"""Models that read and write plain text: encoder-decoders for translation and summarisation, decoders for text alone.

A saved folder is an ordinary transformers folder: `AutoModelForSeq2SeqLM` or `AutoModelForCausalLM` and `AutoTokenizer`
load it after `import polythink.models.architectures`.

Axis legend: B rows, S source tokens, T target tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from polythink.errors import UserError
from polythink.models.architectures import ARCHITECTURES
from polythink.models.build import check_shape, with_options
from polythink.models.lm import model_card, pick_device, to_device, writing_model
from polythink.models.settings import in_short
from polythink.models.source import quietly
from polythink.run.folder import write_text
from polythink.text.config import TextModelConfig

_AUTO = {True: AutoModelForSeq2SeqLM, False: AutoModelForCausalLM}  # by whether there is an encoder
IGNORED = -100  # label of tokens that are not predicted


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
        """Token ids of a text, then the end token."""
        ids = self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        return [*ids, self.tokenizer.eos_token_id]

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def architecture_config(config: TextModelConfig, vocabulary: int, encoder: bool) -> PreTrainedConfig:
    """The transformers configuration, special tokens as in `text.tokenizers`; `UserError` for impossible shapes."""
    shape = config.model_dump(exclude={"architecture", "options"})
    special = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 3, "decoder_start_token_id": 3}
    shape |= {**special, "vocab_size": vocabulary, "is_encoder_decoder": encoder}
    made = with_options(ARCHITECTURES[config.architecture][0], shape, config.options)
    check_shape(made, _AUTO[encoder])
    return made


def create_text_model(
    config: TextModelConfig, tokenizer: PreTrainedTokenizerFast, encoder: bool, seed: int
) -> TextModel:
    """A randomly initialised model, the same for the same seed."""
    settings = architecture_config(config, len(tokenizer), encoder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _AUTO[encoder].from_config(settings)
    return to_device(TextModel(model, tokenizer), pick_device(None))


def load_text_model(folder: str | Path) -> TextModel:
    """A model that `save_text_model` wrote, on the GPU if there is one."""
    try:
        with quietly():
            model = _AUTO[AutoConfig.from_pretrained(folder).is_encoder_decoder].from_pretrained(folder)
            tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"cannot load a model from {str(folder)!r}: {in_short(error)}") from error
    return to_device(TextModel(model, tokenizer), pick_device(None))


def save_text_model(lm: TextModel, folder: str | Path) -> None:
    """Write model, tokenizer and a model card."""
    folder = Path(folder)
    with writing_model(folder):
        lm.model.save_pretrained(folder)
        lm.tokenizer.save_pretrained(folder)
    write_text(folder / "README.md", _card(lm))


def _card(lm: TextModel) -> str:
    kind, auto = ("encoder and decoder", _AUTO[True]) if lm.has_encoder else ("decoder only", _AUTO[False])
    about = {
        "architecture": f"{lm.model.config.model_type}, {kind}",
        "parameters": f"{lm.model.num_parameters():,}",
        "vocabulary": f"{len(lm.tokenizer):,} tokens",
    }
    text = f"""`{auto.__name__}.from_pretrained(FOLDER)` loads it after `import polythink.models.architectures`.
Every text, sources included, ends with the end token; the decoder starts from `<s>`."""
    return model_card("A model for plain text", about, text)


# ---- batches and their loss ----


class Example(NamedTuple):
    """One pair as token ids, both sides with their end token; without an encoder the source is empty."""

    source: Sequence[int]
    target: Sequence[int]

    @property
    def longest(self) -> int:
        """Tokens of the longer side."""
        return max(len(self.source), len(self.target))


def make_batch(lm: TextModel, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    """Model inputs and labels, padded on the right.

    With an encoder `labels` (B, T) are the targets. A decoder alone reads the start token and the targets, `input_ids`
    (B, 1 + T); as in transformers, its labels stand under the inputs, and the model shifts them itself.
    """
    config = lm.model.config
    labels = _padded([e.target for e in examples], IGNORED).to(lm.device)
    start = torch.full_like(labels[:, :1], config.bos_token_id)
    read = torch.cat([start, labels.clamp(min=config.pad_token_id)], dim=1)
    if not lm.has_encoder:
        return {"input_ids": read, "labels": torch.cat([torch.full_like(start, IGNORED), labels], dim=1)}
    source = _padded([e.source for e in examples], config.pad_token_id).to(lm.device)
    mask = source != config.pad_token_id
    return {"input_ids": source, "attention_mask": mask, "decoder_input_ids": read[:, :-1], "labels": labels}


def _padded(rows: Sequence[Sequence[int]], filler: int) -> torch.Tensor:
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=filler)


def token_losses(lm: TextModel, logits: torch.Tensor, labels: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
    """-log p of every target (B, T) in float32, 0 where padded; optionally with label smoothing.

    `logits` and `labels` are those of a batch of `make_batch`.
    """
    if not lm.has_encoder:  # position t predicts token t + 1
        logits, labels = logits[:, :-1], labels[:, 1:]
    losses = cross_entropy(
        logits.flatten(0, 1).float(), labels.flatten(), reduction="none", label_smoothing=smoothing,
        ignore_index=IGNORED,
    )  # fmt: skip
    return losses.view_as(labels)


def forward_losses(lm: TextModel, examples: Sequence[Example]) -> torch.Tensor:
    """`token_losses` of one forward over these examples, without smoothing."""
    batch = make_batch(lm, examples)
    labels = batch.pop("labels")
    return token_losses(lm, lm.model(**batch, use_cache=False).logits, labels)
