"""A language model with its tokenizer, dialect and settings; `load` and `save`.

A saved folder is an ordinary transformers folder with one more file, `polythink.json`: the dialect, mode, prompt and
decoding parameters that the model was trained with.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from polythink.errors import UserError
from polythink.models import tags
from polythink.models.architectures.config import BackboneConfig
from polythink.models.codec import end_tokens
from polythink.models.settings import (
    SETTINGS_FILE,
    ModelSettings,
    PromptText,
    prompt_settings,
    with_dialect,
    write_settings,
)
from polythink.models.source import Source, quietly
from polythink.models.thoughts import MODULE_NAME, THOUGHTS_FILE, load_thoughts, save_thoughts, thoughts_of
from polythink.models.vocabulary import Vocabulary
from polythink.run.folder import os_errors, write_text
from polythink.trace.dialect import get_dialect
from polythink.trace.modes import get_mode

log = logging.getLogger(__name__)
DTYPES = ("float32", "bfloat16", "float16")
THINKING = "enable_thinking"  # the switch that chat templates with a thinking of their own have


@dataclass
class LanguageModel(Vocabulary):
    """A causal language model, its tokenizer, and the dialect whose tags it writes."""

    model: PreTrainedModel

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device


def load(
    path_or_hub_id: str | Path,
    *,
    dialect: str | None = None,
    mode: str | None = None,
    prompt: str | PromptText | None = None,
    chat: bool | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    device: str | None = None,
    dtype: str | None = None,
    add_tags: bool | None = None,
) -> LanguageModel:
    """A model in evaluation mode: from a folder that a run wrote, any other transformers folder, a hub id (owner/name),
    or a .gguf file (FILE.gguf, or owner/name:FILE.gguf of the hub), whose weights are de-quantised.

    dialect, mode, prompt, chat: these win over the model's `polythink.json`; without such a file they default to
    "parallel_r1", "structured", the bare problem, and chat where the tokenizer has a chat template. `prompt` is a text
    with one `{problem}` in it, or a named prompt (`problems.prompts.get_prompt`).
    chat_template_kwargs: what the chat template is told besides the messages, such as enable_thinking=False for Qwen3.
    device: "cpu", "cuda", "cuda:1" or "mps"; None: CUDA if there is a device, else the CPU.
    dtype: "float32", "bfloat16" or "float16"; None: as saved, float32 for a .gguf file.
    add_tags: tags that the tokenizer lacks get embedding rows of their own, untrained. False: a mode that forks refuses
    the model, one of flat text takes it as it is. None: they are added where the mode forks, or where some are there.

    `UserError` for a path, id, device or type that is not there, and for a damaged or unfit model.
    """
    path = str(path_or_hub_id)
    if dialect is not None and not Path(path).is_dir():  # a folder may hold a dialect of its own
        get_dialect(dialect)
    where = pick_device(device)
    if dtype is not None and dtype not in DTYPES:
        raise UserError(f"no dtype {dtype!r}; use one of {', '.join(DTYPES)}, or leave it out to take the saved one")
    changes = _changes(dialect, mode, prompt, chat, chat_template_kwargs)
    source = Source.of(path)
    settings, thoughts_file = source.settings(), source.side_file(THOUGHTS_FILE)
    foreign = settings is None
    _, rules = with_dialect(replace(settings or ModelSettings(), **changes))
    _check_thoughts(path, settings, thoughts_file)
    tokenizer, model = source.read(dtype)
    settings = replace(settings or ModelSettings(chat=bool(tokenizer.chat_template)), **changes)
    if 0 < settings.thoughts < rules.inventory:
        raise UserError(
            f"{path!r} has {settings.thoughts} thought embeddings, and the dialect {settings.dialect!r} numbers "
            f"{rules.inventory} paths; set dialect: {settings.dialect.partition(':')[0]}:{settings.thoughts}, or begin "
            "from a model that has none"
        )
    as_it_is = ""
    if add_tags is None:
        as_it_is = "; the mode sequential takes it as it is, without them" if foreign else ""
        add_tags = get_mode(settings.mode).isolated or len(tags.missing_tags(tokenizer, rules)) < len(rules.tags)
    if add_tags and (added := tags.add_tags(model, tokenizer, rules)):
        log.warning("%s: added the tags %s with untrained embeddings: train it%s", path, _few(added), as_it_is)
        settings = replace(settings, new_tags=(*settings.new_tags, *added))
    if foreign:
        _say_thinking(path, tokenizer, settings)
    lm = LanguageModel(model, tokenizer, settings)
    if settings.thoughts:
        load_thoughts(lm.model, source.side_file(SETTINGS_FILE).parent, settings.thoughts)
    return to_device(lm, where)


def _few(names: Sequence[str], most: int = 8) -> str:
    return " ".join(names) if len(names) <= most else f"{names[0]} {names[1]} .. {names[-1]} ({len(names)} of them)"


def _say_thinking(path: str, tokenizer: PreTrainedTokenizerBase, settings: ModelSettings) -> None:
    """Say so where a foreign model's chat template has a thinking of its own, of which nothing was said."""
    if settings.chat and THINKING in str(tokenizer.chat_template) and THINKING not in settings.chat_template_kwargs:
        log.warning(
            "%s: its chat template has a thinking of its own, which is left as the template has it; "
            "chat_template_kwargs %s=false (or true) decides", path, THINKING,
        )  # fmt: skip


def _changes(
    dialect: str | None,
    mode: str | None,
    prompt: str | PromptText | None,
    chat: bool | None,
    told: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The settings that are given; `UserError` for a mode that is not there."""
    changes: dict[str, Any] = {"dialect": dialect, "mode": mode, "chat": chat}
    changes["chat_template_kwargs"] = None if told is None else dict(told)
    changes = {name: value for name, value in changes.items() if value is not None}
    if prompt is not None:
        changes |= prompt_settings(prompt)
    get_mode(changes.get("mode", "structured"))
    return changes


def load_vocabulary(
    path_or_hub_id: str | Path,
    *,
    dialect: str | None = None,
    mode: str | None = None,
    prompt: str | PromptText | None = None,
    chat: bool | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> Vocabulary:
    """What `load` knows of a model but its weights, which a server has. The same arguments, the same settings.

    `UserError` where a mode forks and a tag is no token of its own: such a model cannot be given one here.
    """
    changes = _changes(dialect, mode, prompt, chat, chat_template_kwargs)
    source = Source.of(str(path_or_hub_id))
    tokenizer, config, generation = source.described()
    settings = source.settings() or ModelSettings(chat=bool(tokenizer.chat_template))
    settings, rules = with_dialect(replace(settings, **changes))
    if get_mode(settings.mode).isolated and (missing := tags.missing_tags(tokenizer, rules)):
        remedy = (
            f"and a file in llama.cpp cannot be given them: `polythink export {path_or_hub_id} FILE.gguf` writes one "
            "with them, untrained"
            if source.place.file
            else "and a server's model cannot be given them: train it with model.add_tags: true, and serve the result"
        )
        raise UserError(
            f"the tokenizer of {str(path_or_hub_id)!r} does not hold {_few(missing)} as single tokens "
            f"(dialect {rules.name!r}), {remedy}; or add --mode sequential, which needs none"
        )
    described = SimpleNamespace(config=config, generation_config=generation, gguf_file=source.gguf_file)
    return Vocabulary(described, tokenizer, settings)


def _check_thoughts(path: str, settings: ModelSettings | None, thoughts_file: Path | None) -> None:
    """`UserError` for thought embeddings without the number that says how to use them."""
    if thoughts_file is not None and not (settings and settings.thoughts):
        lack = f"its {SETTINGS_FILE} does not say so" if settings else f"no {SETTINGS_FILE} that says how to use it"
        raise UserError(
            f"{path!r} has {THOUGHTS_FILE}, but {lack}; restore that file (with `thoughts`, the number of embeddings), "
            "or delete the thought embeddings to use the model without them"
        )


def save(lm: LanguageModel, folder: str | Path, settings: ModelSettings | None = None) -> None:
    """Write model, tokenizer, settings and a card as one transformers folder; `polythink.json` comes last.

    Thought embeddings go to a file of their own, so that the weights are those of an ordinary model. `UserError` for a
    model with adapters (LoRA) in it, which would not load again.
    """
    if hasattr(lm.model, "get_base_model") or any(n.endswith("base_layer") for n, _ in lm.model.named_modules()):
        raise UserError(
            "a model with adapters in it is no transformers folder; merge_and_unload first (on the model that peft "
            "returned), and save the result"
        )
    thoughts = thoughts_of(lm.model)
    folder, (settings, _) = Path(folder), with_dialect(settings or lm.settings)
    settings = replace(settings, thoughts=thoughts.inventory if thoughts else 0)
    known = end_tokens(lm.model, lm.tokenizer, chat=False)
    if not set(lm.ends) <= set(known):  # transformers is to stop there too
        lm.model.generation_config.eos_token_id = list(dict.fromkeys((*lm.ends, *known)))
    weights = {name: x for name, x in lm.model.state_dict().items() if not name.startswith(f"{MODULE_NAME}.")}
    with writing_model(folder):
        lm.model.save_pretrained(folder, state_dict=weights)
        lm.tokenizer.save_pretrained(folder)
        if settings.thoughts:
            save_thoughts(thoughts, folder)
        else:
            (folder / THOUGHTS_FILE).unlink(missing_ok=True)
    write_text(folder / "README.md", _card(lm, settings))
    write_settings(folder / SETTINGS_FILE, settings)


@contextmanager
def writing_model(folder: Path) -> Iterator[None]:
    """Makes the folder, and gives weights the permissions of its other files, which safetensors does not.

    A full disk, for which torch and safetensors raise errors of their own, is a `UserError`.
    """
    try:
        with quietly(), os_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            yield
            for file in folder.glob("*.safetensors"):  # written for our own user alone, whatever the umask says
                file.chmod((folder / "config.json").stat().st_mode & 0o777)
    except SafetensorError as error:
        raise UserError(f"cannot write {folder}: {error}") from error
    except RuntimeError as error:
        if not isinstance(error.__context__, OSError):
            raise
        raise UserError(f"cannot write {folder}: {error.__context__.strerror}") from error


def with_settings(lm: LanguageModel, **changes: Any) -> LanguageModel:
    """The same weights and tokenizer under other settings."""
    return LanguageModel(lm.model, lm.tokenizer, replace(lm.settings, **changes))


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Compute activations again in backward rather than keep them; weights and results stay the same."""
    current = getattr(model, "activation_checkpointing_enable", None)  # its name since transformers 5.23
    (current or model.gradient_checkpointing_enable)()


def pick_device(device: str | None) -> torch.device:
    """The device of that name; None: CUDA if there is a device, else the CPU. `UserError` for one that is not there."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        found = torch.device("meta")
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    there = {"cpu": True, "cuda": (found.index or 0) < gpus, "mps": torch.backends.mps.is_available()}
    if not there.get(found.type, False):
        have = ["cpu", *(f"cuda:{i}" for i in range(gpus)), *(["mps"] if there["mps"] else [])]
        raise UserError(f"no device {device!r} on this machine; use one of {', '.join(have)}, or leave it out")
    return found


def to_device(lm: LanguageModel, device: torch.device) -> LanguageModel:
    """The model on that device, in evaluation mode."""
    lm.model.eval()
    lm.model.to(device)
    return lm


def _card(lm: LanguageModel, settings: ModelSettings) -> str:
    about = {
        "architecture": f"{lm.model.config.model_type}, {lm.model.num_parameters():,} parameters",
        "dialect": f"`{settings.dialect}`: {', '.join(f'`{tag}`' for tag in lm.dialect.tags)}",
        "mode": f"`{settings.mode}`",
        "prompt": f"`{settings.prompt_name}` (sha256 {settings.prompt_hash[:12] or 'not recorded'})",
    }
    lost = ""
    if settings.thoughts:
        about["thought embeddings"] = f"for {settings.thoughts} path numbers, in `{THOUGHTS_FILE}`"
        lost = ", and without its thought embeddings"
    ours = isinstance(lm.model.config, BackboneConfig)
    registered = " after `import polythink.models.architectures`" if ours else ""
    text = f"""`polythink generate FOLDER "PROBLEM"` samples from it, `polythink eval FOLDER --problems NAME`
evaluates it. Plain `transformers` loads it too{registered}, but writes its paths one after another{lost}."""
    return model_card("A model that thinks in parallel", about, text, "parallel-thinking")


def model_card(title: str, about: Mapping[str, str], text: str, *tags: str) -> str:
    """README.md of a model's folder: a table of what the model is, and how to use it."""
    rows = "\n".join(f"| {name} | {value} |" for name, value in about.items())
    head = f"---\nlibrary_name: transformers\ntags: [{', '.join(('polythink', *tags))}]\n---\n# {title}"
    return f"{head}\n\n| | |\n| --- | --- |\n{rows}\n\n{text}\n"
