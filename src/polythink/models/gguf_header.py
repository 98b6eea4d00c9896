"""The header of a .gguf file: its keys and values. Importable without torch and transformers."""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from polythink.errors import UserError
from polythink.models.settings import ModelSettings, parse_settings

# formats of numbers by type of value, as `struct` writes them
NUMBERS = dict(zip((*range(8), 10, 11, 12), "BbHhIif?Qqd", strict=True))
STRING, ARRAY = 8, 9
VERSIONS = (2, 3)
ROTARY = ("rope_freqs.", "rope_factors_")  # tensors by which rotary frequencies are divided
FLOAT32 = 0  # the type of a tensor
Found = TypeVar("Found")
SETTINGS_KEY = "polythink.settings"  # a model's polythink.json, in a file that this package wrote
ENDS_KEY = "polythink.ends"  # the ids of all tokens that end a response, there too: llama.cpp's form has room for one


def read_header(file: Path) -> dict[str, Any]:
    """The file's keys and values; of a list its length. `UserError` for what is no .gguf file, or not all of one."""
    return _read(file, lambda content: _header(content)[0])


def read_rotary(file: Path) -> dict[str, tuple[float, ...]]:
    """The file's tensors that scale rotary frequencies, by name."""
    return _read(file, _rotary)


def _read(file: Path, what: Callable[[mmap.mmap], Found]) -> Found:
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return what(content)
    except (struct.error, ValueError) as error:  # an empty file cannot be mapped
        raise UserError(f"{str(file)!r} is no whole .gguf file ({error}); fetch it again") from error
    except OSError as error:
        raise UserError(f"cannot read {str(file)!r}: {error.strerror}") from error


def _header(content: mmap.mmap) -> tuple[dict[str, Any], int]:
    """Keys and values, and where they end."""
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
    return found, at


def _rotary(content: mmap.mmap) -> dict[str, tuple[float, ...]]:
    header, at = _header(content)
    places = {}
    for _ in range(struct.unpack_from("<Q", content, 8)[0]):
        name, at = _string(content, at)
        (dimensions,) = struct.unpack_from("<I", content, at)
        *shape, kind, place = struct.unpack_from(f"<{dimensions}QIQ", content, at + 4)
        at += 16 + 8 * dimensions
        if name.startswith(ROTARY):
            places[name] = (math.prod(shape), kind, place)
    start = at + -at % header.get("general.alignment", 32)
    if any(kind != FLOAT32 for _, kind, _ in places.values()):
        raise ValueError("its rotary factors are not float32")
    return {name: struct.unpack_from(f"<{size}f", content, start + place) for name, (size, _, place) in places.items()}


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
