"""Values between processes: plain data as JSON, each type under its own name; and messages of such values over a pipe.

What arrives is built anew from the JSON, of exactly the types below. So whatever a program does to its own classes
(an `__eq__` that says yes to everything, a `list` of its own), the other side compares plain Python values.
"""

from __future__ import annotations

import builtins
import json
import os
import struct
from collections import deque
from collections.abc import Callable, Iterable
from decimal import Decimal
from fractions import Fraction
from typing import Any

LONGEST = 1 << 20  # bytes of one message, unless another bound is given
SMALL = 1 << 53  # integers below it are JSON numbers: Python refuses to read very long ones in decimal

Hold = Callable[[Any], int]  # keeps a value that is not plain and gives its number
Held = Callable[[int], Any]


class Closed(Exception):
    """The other side is gone."""


class TooLong(Exception):
    """A message that is longer than allowed."""


class Link:
    """Messages over a file descriptor: four bytes of length, then JSON."""

    def __init__(self, descriptor: int, longest: int = LONGEST) -> None:
        self.descriptor, self.longest = descriptor, longest

    def send(self, message: Any) -> None:
        """`TooLong`, and nothing is sent, for a message over `longest`."""
        data = json.dumps(message).encode()
        if len(data) > self.longest:
            raise TooLong(f"{len(data):,} bytes where {self.longest:,} are allowed")
        data = struct.pack("!I", len(data)) + data
        while data:
            data = data[os.write(self.descriptor, data) :]

    def receive(self) -> Any:
        """The next message. `Closed` if there is none, `TooLong` or `ValueError` for one that is no message."""
        (length,) = struct.unpack("!I", self._read(4))
        if length > self.longest:
            raise TooLong(f"a message of {length:,} bytes where {self.longest:,} are allowed")
        return json.loads(self._read(length))

    def _read(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            try:
                more = os.read(self.descriptor, length - len(data))
            except TimeoutError:  # of a signal handler: this side is at its limit, the other one is not gone
                raise
            except OSError:
                more = b""
            if not more:
                raise Closed
            data += more
        return bytes(data)


def encode(value: Any, hold: Hold) -> Any:
    """The value as JSON. Objects of subclasses become plain: a `Counter` a dict, a named tuple a tuple, an enum an int.

    What is not plain is given to `hold`, and only its number goes.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        number = int.__index__(value)
        return number if abs(number) < SMALL else {"int": hex(number)}
    if isinstance(value, float):
        return float.__pos__(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, list):
        return _pack(list.__iter__(value), hold)
    for name, (kind, parts, _) in _TAGGED.items():
        if isinstance(value, kind):
            return {name: _pack(parts(value), hold)}
    if isinstance(value, type) and value is getattr(builtins, value.__name__, None):
        return {"type": value.__name__}
    return {"held": hold(value)}


def decode(data: Any, held: Held) -> Any:
    """The value of such JSON. `ValueError`, `TypeError` or `KeyError` for JSON that `encode` does not write."""
    if isinstance(data, list):
        return [decode(item, held) for item in data]
    if not isinstance(data, dict):
        return data
    ((name, inside),) = data.items()
    if name == "held":
        return held(inside)
    if name == "int":
        return int(inside, 16)
    if name == "type":
        return _type(inside)
    return _TAGGED[name][2]([decode(item, held) for item in inside])


def _type(name: str) -> type:
    """The type of Python's own of that name."""
    found = getattr(builtins, name)
    if not isinstance(found, type):
        raise ValueError(f"{name} is no type")
    return found


def _pack(parts: Iterable[Any], hold: Hold) -> list[Any]:
    return [encode(part, hold) for part in parts]


# its name in JSON: the type, the list of its parts, the type made from such a list
_TAGGED: dict[str, tuple[type, Callable[[Any], Iterable[Any]], Callable[[list[Any]], Any]]] = {
    "tuple": (tuple, tuple.__iter__, tuple),
    "dict": (dict, lambda value: list(dict.items(value)), dict),
    "set": (set, set.__iter__, set),
    "frozenset": (frozenset, frozenset.__iter__, frozenset),
    "deque": (deque, deque.__iter__, deque),
    "bytes": (bytes, lambda value: [bytes.hex(value)], lambda parts: bytes.fromhex(*parts)),
    "bytearray": (bytearray, lambda value: [bytearray.hex(value)], lambda parts: bytearray.fromhex(*parts)),
    "complex": (complex, lambda value: [value.real, value.imag], lambda parts: complex(*parts)),
    "range": (range, lambda value: [value.start, value.stop, value.step], lambda parts: range(*parts)),
    "Decimal": (Decimal, lambda value: [Decimal.__str__(value)], lambda parts: Decimal(*parts)),
    "Fraction": (Fraction, lambda value: [value.numerator, value.denominator], lambda parts: Fraction(*parts)),
}
