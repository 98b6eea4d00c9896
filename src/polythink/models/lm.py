"""Language models with their tokenizer and dialect: made from scratch, taken from a hub folder, loaded and saved.

A saved folder is an ordinary transformers folder with one more file, `polythink.json`, that says in which dialect, mode
and prompt the model works, so that whoever loads it applies the right ones.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from pydantic import TypeAdapter
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from polythink.errors import UserError
from polythink.models.architectures import BackboneConfig
from polythink.models.tags import tag_ids
from polythink.models.thoughts import FILE as THOUGHTS_FILE
from polythink.models.thoughts import NAME as THOUGHTS
from polythink.models.thoughts import load_thoughts, save_thoughts, thoughts_of
from polythink.run.folder import os_errors, write_json, write_text
from polythink.trace.dialect import Dialect, get_dialect

SETTINGS_FILE = "polythink.json"


@dataclass(frozen=True)
class ModelSettings:
    """What `polythink.json` says: how the model was trained and is to be used."""

    dialect: str = "parallel_r1"
    mode: str = "structured"
    prompt: str = "{problem}"
    prompt_name: str = "none"
    prompt_hash: str = ""
    chat: bool = False  # the prompt is wrapped in the tokenizer's chat template
    decoding: dict[str, Any] = field(default_factory=dict)
    trained_paths: int = 0  # the most paths of a block in training; beyond it the engine scales attention (0: unknown)
    thoughts: int = 0  # path numbers with a thought embedding, which lie in a file of their own


@dataclass
class LanguageModel:
    """A causal language model, its tokenizer, and the dialect whose tags it writes."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    settings: ModelSettings

    def __post_init__(self) -> None:
        self.dialect: Dialect = get_dialect(self.settings.dialect)
        self.tag_ids: dict[str, int] = tag_ids(self.tokenizer, self.dialect)
        if self.tokenizer.eos_token_id is None:
            raise UserError("the tokenizer has no end token; set its eos_token before using it here")
        self.eos: int = self.tokenizer.eos_token_id
        self.pad: int = self.eos if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def context(self) -> int:
        """The longest sequence of positions the model was made for."""
        return int(getattr(self.model.config.get_text_config(), "max_position_embeddings", 1 << 30))

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, no special tokens added. Refuses text that a closed vocabulary cannot hold."""
        ids = self._encode(text)
        unknown = self.tokenizer.unk_token_id
        if unknown is not None and unknown in ids:
            words = [w for w in text.split() if unknown in self._encode(w)]
            raise UserError(
                f"the tokenizer's closed vocabulary has no token for {', '.join(map(repr, words[:3]))}; "
                "use a model with an open vocabulary (for a tiny one: model.tokenizer=bytes)"
            )
        return ids

    def _encode(self, text: str) -> list[int]:
        fast = getattr(self.tokenizer, "backend_tokenizer", None)  # a third of the cost, where there is one
        if fast is not None:
            return fast.encode(text, add_special_tokens=False).ids
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def encode_prompt(self, text: str) -> list[int]:
        """Token ids of a whole prompt, wrapped in the chat template where the settings say so."""
        if not self.settings.chat:
            return self.encode(text)
        if not self.tokenizer.chat_template:
            raise UserError("chat: true, but the tokenizer has no chat template; set chat: false")
        chat = [{"role": "user", "content": text}]
        return list(self.tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, tags included, end and padding tokens left out."""
        ids = [int(i) for i in ids if i not in (self.eos, self.pad)]
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def load(folder: str | Path, dtype: str | None = None) -> LanguageModel:
    """A model that `save` wrote, ready for use on the GPU where there is one."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(
            f"no model folder {str(folder)!r}; give a folder that a polythink run wrote, such as RUN/sft/model"
        )
    settings = read_settings(folder)  # first: they are small, and say whether the folder is one of ours
    if not settings.thoughts and (folder / THOUGHTS_FILE).is_file():
        raise UserError(
            f"{str(folder)!r} has {THOUGHTS_FILE}, but its {SETTINGS_FILE} does not say so; "
            "set its thoughts to the number of embeddings, or delete them"
        )
    lm = LanguageModel(*load_from_hub(str(folder), dtype), settings)
    if settings.thoughts:
        load_thoughts(lm.model, folder, settings.thoughts)
    return to_device(lm)


def read_settings(folder: str | Path) -> ModelSettings:
    """What the folder's `polythink.json` says."""
    path = Path(folder) / SETTINGS_FILE
    if not path.is_file():
        raise UserError(
            f"{str(folder)!r} has no {SETTINGS_FILE}, so its dialect, mode and prompt are unknown; "
            "name it under model.path in a recipe (with add_tags: true) to make it a polythink model"
        )
    try:
        settings = ModelSettings(**json.loads(path.read_text(encoding="utf-8")))
        return TypeAdapter(ModelSettings).validate_python(asdict(settings))  # a dataclass checks no types
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{str(path)!r} is damaged ({in_short(error)}); write it anew or save the model again"
        ) from error


def save(lm: LanguageModel, folder: str | Path, settings: ModelSettings | None = None) -> None:
    """Write model, tokenizer, settings and a card as one transformers folder; `polythink.json` comes last.

    Thought embeddings go to a file of their own, so that the weights are those of an ordinary model. `UserError` for a
    model with adapters (LoRA) in it, which would not load again.
    """
    if hasattr(lm.model, "get_base_model") or any(n.endswith("base_layer") for n, _ in lm.model.named_modules()):
        raise UserError(
            "a model with adapters in it is no transformers folder; merge_and_unload first (with the model that peft "
            "returned), and save what that gives"
        )
    thoughts = thoughts_of(lm.model)
    folder, settings = Path(folder), replace(settings or lm.settings, thoughts=thoughts.inventory if thoughts else 0)
    weights = {name: x for name, x in lm.model.state_dict().items() if not name.startswith(f"{THOUGHTS}.")}
    try:
        with quietly(), os_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lm.model.save_pretrained(folder, state_dict=weights)
            lm.tokenizer.save_pretrained(folder)
            if settings.thoughts:
                save_thoughts(thoughts, folder)
            else:
                (folder / THOUGHTS_FILE).unlink(missing_ok=True)
    except SafetensorError as error:  # what a full disk is there
        raise UserError(f"cannot write {folder}: {error}") from error
    write_text(folder / "README.md", _card(lm, settings))
    write_json(folder / SETTINGS_FILE, asdict(settings))


def with_settings(lm: LanguageModel, **changes: Any) -> LanguageModel:
    """The same weights and tokenizer under other settings."""
    return LanguageModel(lm.model, lm.tokenizer, replace(lm.settings, **changes))


@contextmanager
def quietly() -> Iterator[None]:
    """transformers draws bars for loading and saving, also where there is no terminal."""
    enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            transformers_logging.enable_progress_bar()


def load_from_hub(path: str, dtype: str | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    check_path(path)
    try:
        with quietly():
            tokenizer = AutoTokenizer.from_pretrained(path)
            # attention: SDPA where the model has it
            model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype or "auto")
    except (OSError, ValueError, SafetensorError, StrictDataclassError) as error:
        raise UserError(f"cannot load a model from {path!r}: {in_short(error)}") from error
    return model, tokenizer


def check_path(path: str) -> None:
    """`UserError` for what is neither a folder nor could be a name on the hub. The hub is not asked."""
    could_be_a_name = re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", path) and not Path(path).exists()
    if not (could_be_a_name or Path(path).is_dir()):
        raise UserError(f"no model folder {path!r}, and a name on the hub is of the form owner/name")


def in_short(error: Exception) -> str:
    return textwrap.shorten(str(error), 240, placeholder=" ..")


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Compute activations again in backward rather than keep them; weights and results stay the same."""
    current = getattr(model, "activation_checkpointing_enable", None)  # its name since transformers 5.23
    (current or model.gradient_checkpointing_enable)()


def to_device(lm: LanguageModel) -> LanguageModel:
    lm.model.eval()
    lm.model.to("cuda" if torch.cuda.is_available() else "cpu")
    return lm


def _card(lm: LanguageModel, settings: ModelSettings) -> str:
    parameters = sum(p.numel() for p in lm.model.parameters())
    ours = isinstance(lm.model.config, BackboneConfig)
    known = " after `import polythink.models.architectures`" if ours else ""
    thoughts = (
        f"\n| thought embeddings | for {settings.thoughts} path numbers, in `{THOUGHTS_FILE}` |"
        if settings.thoughts
        else ""
    )
    lost = ", and without its thought embeddings" if settings.thoughts else ""
    return f"""---
library_name: transformers
tags: [polythink, parallel-thinking]
---
# A model that thinks in parallel

| | |
| --- | --- |
| architecture | {lm.model.config.model_type}, {parameters:,} parameters |
| dialect | `{settings.dialect}`: {", ".join(f"`{tag}`" for tag in lm.dialect.tags)} |
| mode | `{settings.mode}` |
| prompt | `{settings.prompt_name}` (sha256 {settings.prompt_hash[:12] or "not recorded"}) |{thoughts}

`polythink generate FOLDER "PROBLEM"` draws from it, `polythink eval FOLDER --problems NAME` evaluates it. Plain
`transformers` loads it too{known}, but writes its paths one after another{lost}.
"""
