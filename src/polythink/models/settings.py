"""`polythink.json`, the file that makes a transformers folder a polythink model. Importable without torch."""

from __future__ import annotations

import hashlib
import json
import textwrap
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from pydantic import TypeAdapter

from polythink.errors import UserError
from polythink.run.folder import write_json
from polythink.trace.dialect import Dialect, get_dialect
from polythink.trace.dialect_file import from_plain, is_file, to_plain

SETTINGS_FILE = "polythink.json"
PLACEHOLDER = "{problem}"


@dataclass(frozen=True)
class ModelSettings:
    """How a model was trained and how it is used: the content of `polythink.json`."""

    dialect: str = "parallel_r1"
    mode: str = "structured"
    prompt: str = PLACEHOLDER
    prompt_name: str = "none"
    prompt_hash: str = ""
    chat: bool = False  # the prompt is wrapped in the tokenizer's chat template
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)  # what the template is told besides the messages
    bos: bool | None = None  # prompts begin as in the tokenizer's own call, so with its BOS; None: if it has one
    decoding: dict[str, Any] = field(default_factory=dict)
    trained_paths: int = 0  # most paths of a block in training; above it the engine scales attention (0: unknown)
    efforts: dict[str, int] = field(default_factory=dict)  # paths per block by `reasoning_effort`, where a server asks
    thoughts: int = 0  # number of path numbers with a thought embedding; the embeddings are in a file of their own
    new_tags: tuple[str, ...] = ()  # tags whose rows in the tables of tokens were added and never trained
    # the production of a dialect that a YAML file declared, as that file says it (`trace.dialect_file`); {}: published
    production: dict[str, Any] = field(default_factory=dict)


class PromptText(Protocol):
    """A named prompt, such as `problems.prompts.Prompt`."""

    @property
    def name(self) -> str: ...

    @property
    def text(self) -> str: ...


def prompt_settings(prompt: str | PromptText) -> dict[str, str]:
    """The three fields of `ModelSettings` that describe a prompt: a text with one `{problem}`, or a named one."""
    name, text = ("custom", prompt) if isinstance(prompt, str) else (prompt.name, prompt.text)
    if text.count(PLACEHOLDER) != 1:
        raise UserError(
            f"prompt {textwrap.shorten(text, 60)!r} holds {PLACEHOLDER} {text.count(PLACEHOLDER)} times; give a text "
            "that holds it once, or a packaged prompt by polythink.problems.prompts.get_prompt(NAME)"
        )
    return {"prompt": text, "prompt_name": name, "prompt_hash": hashlib.sha256(text.encode()).hexdigest()}


def with_dialect(settings: ModelSettings) -> tuple[ModelSettings, Dialect]:
    """The settings, with the production where a file declares the dialect, and the dialect itself.

    `UserError` for a dialect that is not there, and for a file that declares another one by the name of that in the
    settings.
    """
    stored = from_plain(settings.production, f"the production in {SETTINGS_FILE}") if settings.production else None
    if stored and settings.dialect == stored.name:
        return settings, stored
    dialect = get_dialect(settings.dialect)
    if not is_file(settings.dialect):
        return replace(settings, production={}), dialect
    if stored and stored.name == dialect.name and stored != dialect:
        raise UserError(
            f"the dialect file {settings.dialect!r} differs from the dialect {dialect.name!r} with which the model was "
            "saved; give it another name, or leave it out"
        )
    return replace(settings, dialect=dialect.name, production=to_plain(dialect)), dialect


def write_settings(path: Path, settings: ModelSettings) -> None:
    """Write the settings to this file, what few models have only where there is some."""
    rare = ("production", "efforts", "chat_template_kwargs", "new_tags")
    write_json(path, {name: x for name, x in asdict(settings).items() if name not in rare or x})


def read_settings(path: Path) -> ModelSettings:
    """The settings in this file; `UserError` where it is damaged."""
    return parse_settings(path.read_bytes(), str(path))


def parse_settings(text: str | bytes, where: str) -> ModelSettings:
    """The settings that this text of a `polythink.json` holds; `UserError` where it is damaged."""
    try:
        found = json.loads(text)
        settings = ModelSettings(**{"bos": False, **found})  # a file without the key is of a model trained without BOS
        return TypeAdapter(ModelSettings).validate_python(asdict(settings))  # a dataclass checks no types
    except (ValueError, TypeError) as error:
        raise UserError(f"{where!r} is damaged ({in_short(error)}); correct it or save the model again") from error


def in_short(error: Exception) -> str:
    """The error's message as one line of at most 240 characters."""
    return textwrap.shorten(str(error), 240, placeholder=" ..")
