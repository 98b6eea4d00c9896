"""The header of a .gguf file: its keys and values. Importable without torch and transformers."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any

from polythink.errors import UserError
from polythink.models.settings import ModelSettings, parse_settings

# formats of numbers by type of value, as `struct` writes them
NUMBERS = dict(zip((*range(8), 10, 11, 12), "BbHhIif?Qqd", strict=True))
STRING, ARRAY = 8, 9
VERSIONS = (2, 3)
SETTINGS_KEY = "polythink.settings"  # a model's polythink.json, in a file that this package wrote
ENDS_KEY = "polythink.ends"  # the ids of all tokens that end a response, there too: llama.cpp's form has room for one


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
