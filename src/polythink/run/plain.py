"""Plain data (mappings, lists, text, numbers, true, false, null): from and to YAML, what differs, in short."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, ClassVar

import yaml

from polythink.errors import UserError

DEEPEST, MOST = 60, 200_000  # levels and values of one text; recipes have below 10 and below 1,000
LARGEST = 2**63 - 1  # what a whole number of 64 bits can be
_RESOLVERS = {  # YAML 1.2: 1e-4 is a number; yes, no, on, off, 1:30 and 2026-01-01 are text
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F]+)", "-+0123456789"),
    "float": (
        r"[-+]?(?:(?:0|[1-9][0-9_]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan",
        "-+.0123456789",
    ),
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "merge": (r"<<", "<"),
}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: ClassVar[dict] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                kind = "a mapping" if isinstance(key, yaml.MappingNode) else "a list"
                problem = f"{kind} cannot be a key; put text that has braces or brackets in quotes"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            if key.value in seen:
                problem = f"key {key.value[:60]!r} is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers: ClassVar[dict] = {}

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_list(self, data: Iterable) -> yaml.Node:
        data = list(data)
        flow = not any(isinstance(item, list | tuple | dict) for item in data)
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flow)


for _tag, (_pattern, _first) in _RESOLVERS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))
_Dumper.add_representer(list, _Dumper.represent_list)
_Dumper.add_representer(tuple, _Dumper.represent_list)


def dump_yaml(data: Any) -> str:
    """Plain data as YAML that `parse_yaml` reads back unchanged: keys in order, lists of scalars on one line."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=120)


def parse_yaml(text: str, where: str) -> Any:
    """YAML text as plain data; `UserError` for a syntax error, with line and column, and for what is not plain."""
    return copy.deepcopy(_parsed(text, where))


@lru_cache(maxsize=64)  # an experiment reads its recipes, and what they extend, once for each arm and seed
def _parsed(text: str, where: str) -> Any:
    try:
        data = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise UserError(f"{where}: not valid YAML{place}: {problem}") from None
    except RecursionError:
        raise UserError(f"{where}: brackets within brackets, too deep to read; at most {DEEPEST} levels") from None
    except (ValueError, KeyError, AttributeError) as error:  # what the loader lets through: a tag its value denies
        what = "a number too long to read" if "digits" in str(error) else "a value that is not of the kind its tag says"
        raise UserError(f"{where}: not valid YAML: {what}") from None
    if problem := _not_plain(data):
        raise UserError(f"{where}: {problem}")
    return data


def _not_plain(data: Any) -> str | None:
    """What is wrong with the first value that JSON, a file name or a number of 64 bits could not hold."""
    waiting: list[tuple[Any, int]] = [(data, 0)]
    count = 0
    while waiting:
        value, depth = waiting.pop()
        count += 1
        if depth > DEEPEST or count > MOST:
            return f"lists and mappings too deep or too many; at most {DEEPEST} levels and {MOST:,} values"
        if isinstance(value, dict | list):
            inside = [*value, *value.values()] if isinstance(value, dict) else value
            waiting.extend((item, depth + 1) for item in reversed(inside))
        elif isinstance(value, str):
            if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
                return f"the text {short(value)} holds a character that no file can hold (NUL or half of a pair)"
        elif isinstance(value, int) and abs(value) > LARGEST:
            text = str(value) if abs(value) < 10**40 else f"{abs(value):.1e}" if abs(value) < 10**300 else "huge"
            return f"the whole number {text} is too large; they go up to {LARGEST}"
        elif not isinstance(value, bool | int | float | None):
            return f"a value of the kind {type(value).__name__}; values are text, numbers, true, false, null"
    return None


class _NotSet:
    def __repr__(self) -> str:
        return "not set"


NOT_SET = _NotSet()


def changes(before: Any, now: Any, key: str = "") -> dict[str, tuple[Any, Any]]:
    """What differs between two pieces of plain data: dotted key -> (before, now), `NOT_SET` where a side lacks it."""
    if isinstance(before, dict) and isinstance(now, dict):
        found: dict[str, tuple[Any, Any]] = {}
        for name in dict.fromkeys((*now, *before)):
            found |= changes(before.get(name, NOT_SET), now.get(name, NOT_SET), f"{key}.{name}".lstrip("."))
        return found
    return {} if before == now else {key: (before, now)}


def short(value: Any, width: int = 60) -> str:
    """A value as JSON, shortened to `width` characters, for a message."""
    text = str(value) if value is NOT_SET else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= width else text[: width - 3] + "..."
