"""Every key of every configuration, with type, default, range and description: read from the pydantic models."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined


@dataclass(frozen=True)
class Section:
    """A mapping of a recipe: `place` is where it stands (`stages.NAME`, `model`), `kind` tells stages apart."""

    place: str
    kind: str
    about: str
    keys: tuple[Key, ...]

    @property
    def title(self) -> str:
        return f"{self.place or 'top level'}{f' (kind: {self.kind})' if self.kind else ''}"


@dataclass(frozen=True)
class Key:
    """One key. `default` is YAML; "" for a key that must be given."""

    name: str
    type: str
    default: str
    text: str

    @property
    def facts(self) -> str:
        return f"{self.type}; {f'default {self.default}' if self.default else 'required'}"


def sections(root: type[BaseModel], also: Mapping[str, type[BaseModel]]) -> list[Section]:
    """The mappings of a configuration, outermost first, each class once.

    `also` gives the class of keys that are plain mappings in their model, by name: `decoding` is a `SamplingParams`.
    """
    found: dict[type[BaseModel], Section] = {}
    waiting = [("", root)]
    while waiting:
        place, cls = waiting.pop(0)
        if cls in found:
            continue
        fields = {name: field for name, field in cls.model_fields.items() if name != "kind"}
        found[cls] = Section(place, _kind(cls), _first_line(cls), tuple(_key(n, f) for n, f in fields.items()))
        for name, field in fields.items():
            inside = [also[name]] if name in also else list(_models(field.annotation))
            named = get_origin(field.annotation) is dict and name not in also
            many = ".NAME" if named else ".N" if _is_list(field.annotation) else ""
            waiting += [(f"{place}.{name}{many}".lstrip("."), inner) for inner in inside]
    return list(found.values())


def _kind(cls: type[BaseModel]) -> str:
    field = cls.model_fields.get("kind")
    return str(get_args(field.annotation)[0]) if field and get_origin(field.annotation) is Literal else ""


def _first_line(cls: type[BaseModel]) -> str:
    return " ".join((cls.__doc__ or "").split("\n\n")[0].split())


def _key(name: str, field: FieldInfo) -> Key:
    limits = _limits(field.metadata)
    return Key(name, _type(field.annotation, limits), _default(field), " ".join((field.description or "").split()))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return ""
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return ""
    return _plain(value)


def _plain(value: Any) -> str:
    """A default as one would write it in YAML."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, BaseModel):
        return "as below"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_plain(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_plain, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else f'"{value}"' if value == "" else str(value)


# ---- types in words ----

_WORDS = {int: "whole number", float: "number", str: "text", bool: "true or false", Any: "anything"}
_BOUNDS = {"ge": "from {}", "gt": "above {}", "le": "up to {}", "lt": "below {}", "multiple_of": "a multiple of {}"}


def _limits(metadata: Any) -> str:
    """The bounds of a number, as `from 0 up to 1`."""
    given = [(name, getattr(item, name, None)) for item in metadata for name in _BOUNDS]
    return " ".join(_BOUNDS[name].format(f"{value:g}") for name, value in given if value is not None)


def _type(annotation: Any, limits: str = "") -> str:
    origin, members = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(members[0], _limits(members[1:]) or limits)
    if origin in (Union, types.UnionType):
        shown = [_type(member, limits) for member in members if member is not type(None)]
        if all("mapping" in each for each in shown):
            shown = ["mapping"]
        return " or ".join(dict.fromkeys([*shown, *(["null"] if type(None) in members else [])]))
    if origin is Literal:
        return " | ".join(map(str, members))
    if origin in (tuple, list):
        inner = [member for member in members if member is not Ellipsis]
        return "list of " + ("mappings" if _type(inner[0]) == "mapping" else _type(inner[0]))
    if origin is dict:
        inner = _type(members[1])
        return "mapping" if inner in ("anything", "mapping") else f"mapping to {inner}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping"
    if origin is not None:  # of collections.abc: a Python function
        return "function"
    return f"{_WORDS.get(annotation, getattr(annotation, '__name__', str(annotation)))}{f' {limits}' if limits else ''}"


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The configuration classes in an annotation, unions and containers opened."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for member in get_args(annotation):
        yield from _models(member)


def _is_list(annotation: Any) -> bool:
    return any(get_origin(each) in (tuple, list) for each in (annotation, *get_args(annotation)))
