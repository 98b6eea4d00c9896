"""A .gguf file: what its header says, and what transformers' reader of such files leaves to be done.

The reader de-quantises the weights. Here it is kept from asking for the same things again and again, and the tokenizer
is given the rule by which the file says its text is split, where the reader does not know that rule.
"""

from __future__ import annotations

import json
import logging
import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, pre_tokenizers
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from polythink.errors import UserError
from polythink.models.settings import ModelSettings, parse_settings

log = logging.getLogger(__name__)

# formats of numbers by type of value, as `struct` writes them
NUMBERS = dict(zip((*range(8), 10, 11, 12), "BbHhIif?Qqd", strict=True))
STRING, ARRAY = 8, 9
SETTINGS_KEY = "polythink.settings"  # a model's polythink.json, in a file that this package wrote
TOKENIZER_KEY = "tokenizer.huggingface.json"  # its tokenizer.json
VERSIONS = (2, 3)
# names that llama.cpp gives to rules of splitting: every digit alone and then as GPT-2, and as GPT-2
DIGITS_ALONE = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")
AS_GPT2 = ("gpt-2", "gpt2", "mpt", "olmo", "jais", "trillion", "default", "")


def read_header(file: Path) -> dict[str, Any]:
    """The file's keys and values; of a list its length. `UserError` for what is no .gguf file, or not all of one."""
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _header(content)
    except (struct.error, ValueError) as error:  # an empty file cannot be mapped
        raise UserError(f"{str(file)!r} is no whole .gguf file ({error}); fetch it again") from error
    except OSError as error:
        raise UserError(f"cannot read {str(file)!r}: {error.strerror}") from error


def _header(content: mmap.mmap) -> dict[str, Any]:
    magic, version, _, count = struct.unpack_from("<4sIQQ", content)
    if magic != b"GGUF":
        raise ValueError("it does not begin with GGUF")
    if version not in VERSIONS:
        raise ValueError(f"its version is {version}, versions {' and '.join(map(str, VERSIONS))} are read here")
    found, at = {}, struct.calcsize("<4sIQQ")
    for _ in range(count):
        key, at = _string(content, at)
        (kind,) = struct.unpack_from("<I", content, at)
        found[key], at = _value(content, at + 4, kind)
    return found


def _string(content: mmap.mmap, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<Q", content, at)
    if at + 8 + length > len(content):
        raise ValueError("it ends in the middle of its header")
    return content[at + 8 : at + 8 + length].decode("utf-8", "replace"), at + 8 + length


def _value(content: mmap.mmap, at: int, kind: int) -> tuple[Any, int]:
    if kind == STRING:
        return _string(content, at)
    if kind == ARRAY:
        of, count = struct.unpack_from("<IQ", content, at)
        at += 12
        if of in NUMBERS:
            return count, at + count * struct.calcsize(f"<{NUMBERS[of]}")
        for _ in range(count):
            _, at = _value(content, at, of)
        return count, at
    if kind not in NUMBERS:
        raise ValueError(f"its header holds a value of the unknown type {kind}")
    (value,) = struct.unpack_from(f"<{NUMBERS[kind]}", content, at)
    return value, at + struct.calcsize(f"<{NUMBERS[kind]}")


def settings_in(file: Path) -> ModelSettings | None:
    """The model's settings where this package wrote the file, None elsewhere."""
    text = read_header(file).get(SETTINGS_KEY)
    return None if text is None else parse_settings(text, f"{SETTINGS_KEY} in {file}")


def own_tokenizer(header: dict[str, Any]) -> PreTrainedTokenizerFast | None:
    """The tokenizer that the file holds as a whole, None where it has llama.cpp's form alone."""
    if TOKENIZER_KEY not in header:
        return None
    backend = Tokenizer.from_str(header[TOKENIZER_KEY])
    names = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
    ids = {name: header.get(f"tokenizer.ggml.{key}_token_id") for key, name in names.items()}
    special = {name: backend.id_to_token(id) for name, id in ids.items() if id is not None}
    found = PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **special)
    found.chat_template = header.get("tokenizer.chat_template")
    return found


# ---- transformers' reader ----


@contextmanager
def read_once() -> Iterator[None]:
    """Read the header once, and make the table of names once.

    transformers asks `gguf` for the whole header (ten seconds where the vocabulary has 50,000 words) for the tokenizer,
    the configuration and the weights, and for the same table of names for each module of the model.
    """
    import gguf
    from transformers import modeling_gguf_pytorch_utils as reading
    from transformers.utils import logging as transformers_logging

    own = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    bar = getattr(reading, "tqdm", None)
    for name, function in own.items():
        setattr(gguf, name, lru_cache(function))
    reading.tqdm = transformers_logging.tqdm  # the bar that can be switched off
    try:
        yield
    finally:
        reading.tqdm = bar
        for name, function in own.items():
            setattr(gguf, name, function)


def not_quantised(model: PreTrainedModel | PreTrainedConfig) -> None:
    """Take off the note that the weights are quantised. They are not any more, and a saved folder must not say so."""
    config = getattr(model, "config", model)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    if config is not model:
        model.hf_quantizer, model.is_quantized, model.quantization_method = None, False, None


def split_as_said(tokenizer: PreTrainedTokenizerBase, header: dict[str, Any], path: str) -> None:
    """Let the tokenizer split text by the file's rule where transformers' reader took that of GPT-2 for want of it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if header.get("tokenizer.ggml.model") != "gpt2" or backend is None or backend.pre_tokenizer is None:
        return
    state, rule = json.loads(backend.pre_tokenizer.__getstate__()), header.get("tokenizer.ggml.pre", "")
    if state.get("type") != "ByteLevel" or rule in AS_GPT2:
        return
    if rule in DIGITS_ALONE:
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
        return
    log.warning(
        "%s: its text is to be split by the rule %r, which transformers' reader does not know and replaces by GPT-2's; "
        "some texts may be split otherwise than where the model was trained", path, rule,
    )  # fmt: skip
