"""A dialect of one's own: the YAML file that declares it, and the same form as plain data, as a model folder keeps it.

    name: mine
    block:
      - tag: <Fork>
      - plan: [<Goal>, </Goal>]
        outline: [<Outline>, </Outline>]
      - paths: [<Path>, </Path>]
        counted: outlines
      - summary: [<Join>, </Join>]
      - tag: </Fork>

`KEYS` and `ELEMENTS` hold all keys; those left out have the defaults of `trace.elements` and `Dialect`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from polythink.errors import UserError, did_you_mean
from polythink.trace.elements import Element, PathTags, PlanTags, SummaryTags, Tag
from polythink.trace.production import Dialect

SUFFIXES = (".yaml", ".yml")
LARGEST = 100_000  # characters of a file
KINDS = {str: "a text", int: "a whole number", bool: "true or false", list: "a list"}
KEYS: dict[str, type] = {"name": str, "block": list, "nests": bool, "misplaced_tags": str, "source": str}
# the key that names an element, its class, and its other keys; a pair is a list of two tags
ELEMENTS: dict[str, tuple[Callable[..., Element], dict[str, Any]]] = {
    "tag": (Tag, {"by": str, "gap": str}),
    "plan": (PlanTags, {"outline": "pair", "gap": str}),
    "paths": (PathTags, {"least": int, "inventory": int, "counted": str, "heading": str, "gap": str}),
    "summary": (SummaryTags, {"answers": bool, "gap": str}),
}
FIELDS = {"outline": "item"}  # key -> field, where they differ


def is_file(name: str) -> bool:
    """Whether a dialect is named by a file, and not by the name of an entry."""
    return name.lower().endswith(SUFFIXES)


def read_dialect(path: str) -> Dialect:
    """The dialect that a YAML file declares. `UserError` for a file that cannot be read, or declares none."""
    try:
        stat = Path(path).stat()
    except OSError as error:
        raise UserError(f"no dialect file {path!r} ({error.strerror}); give a YAML file or the name of one") from error
    return _read(path, stat.st_mtime_ns, stat.st_size)


@lru_cache
def _read(path: str, changed: int, size: int) -> Dialect:
    """Cached; a change of the file shows in its arguments."""
    if size > LARGEST:
        raise UserError(f"the dialect file {path!r} has {size:,} bytes; a production is a list of a few tags")
    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(f"the dialect file {path!r} cannot be read: {said}") from error
    return from_plain(found, f"the dialect file {path!r}")


def from_plain(found: Any, where: str) -> Dialect:
    """The dialect that plain data declares; `where` says whose they are, for the messages of `UserError`."""
    _check(found, KEYS, where)
    for key in ("name", "block"):
        if key not in found:
            raise UserError(f"{where} has no {key!r}; a dialect has a name and a block, which is a list of elements")
    if not re.fullmatch(r"[A-Za-z][\w-]*", found["name"]):
        raise UserError(f"{where}: a name is letters, digits, _ and -, not {found['name']!r}")
    block = tuple(_element(each, f"{where}, element {n} of its block") for n, each in enumerate(found["block"], 1))
    return Dialect(**{**found, "block": block})


def _element(found: Any, where: str) -> Element:
    names = [key for key in ELEMENTS if isinstance(found, Mapping) and key in found]
    if len(names) != 1:
        raise UserError(f"{where}: an element has one of the keys {', '.join(ELEMENTS)}, and this one has "
                        f"{' and '.join(names) or 'none'}")  # fmt: skip
    name = names[0]
    make, keys = ELEMENTS[name]
    _check(found, {name: str if name == "tag" else "pair", **keys}, where)
    given = {FIELDS.get(key, key): tuple(x) if isinstance(x, list) else x for key, x in found.items() if key != name}
    return make(*([found[name]] if name == "tag" else found[name]), **given)


def _check(found: Any, keys: Mapping[str, Any], where: str) -> None:
    """`UserError` unless `found` is a mapping with some of these keys, and values of their types."""
    if not isinstance(found, Mapping):
        raise UserError(f"{where} is no mapping of {', '.join(keys)}")
    for key, value in found.items():
        if key not in keys:
            raise UserError(f"{where} has no key {key!r}{did_you_mean(str(key), keys)}")
        kind = keys[key]
        if kind == "pair":
            if not (isinstance(value, list | tuple) and [type(x) for x in value] == [str, str]):
                raise UserError(f"{where}: {key} is a list of an opening and a closing tag, not {value!r}")
        elif type(value) is not kind and not (kind is list and isinstance(value, tuple)):
            raise UserError(f"{where}: {key} is {KINDS[kind]}, not {value!r}")


def to_plain(dialect: Dialect) -> dict[str, Any]:
    """The form that `from_plain` reads, without what has its default."""
    plain = {key: getattr(dialect, key) for key in KEYS if key != "block"}
    defaults = {key: Dialect.__dataclass_fields__[key].default for key in plain}
    plain = {key: value for key, value in plain.items() if value != defaults[key]}
    return {**plain, "block": [_plain_element(element) for element in dialect.block]}


def _plain_element(element: Element) -> dict[str, Any]:
    name, keys = next((name, keys) for name, (make, keys) in ELEMENTS.items() if make is type(element))
    plain: dict[str, Any] = {name: element.text if isinstance(element, Tag) else [element.open, element.close]}
    for key in keys:
        field = FIELDS.get(key, key)
        if (value := getattr(element, field)) != type(element).__dataclass_fields__[field].default:
            plain[key] = list(value) if isinstance(value, tuple) else value
    return plain
