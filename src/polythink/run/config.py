"""Typed configuration: YAML files that extend one another, dotted overrides, digests; one sentence per mistake.

The models are defined beside the loops that they configure; this file reads and checks them.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ClassVar, TypeVar, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from polythink.errors import UserError, did_you_mean
from polythink.run.other_names import key_hint
from polythink.run.plain import DEEPEST, LARGEST, parse_yaml, short
from polythink.run.plain import dump_yaml as dump_yaml

RECIPES = Path(__file__).parents[1] / "recipes"
Model = TypeVar("Model", bound=BaseModel)
Seed = Annotated[int, Field(ge=0, le=LARGEST)]
Place = Annotated[str, AfterValidator(os.path.expanduser)]  # a name, or a path in which ~ is the home folder


class Config(BaseModel):
    """Base of every recipe model: frozen, unknown keys refused with the nearest name, `true` is not the number 1.

    Numbers must be finite, since recipes are stored and compared as JSON. A key is described by the string directly
    below it (an attribute docstring), which the command line and the reference print. `sections` gives the models of
    mappings whose keys users look for here: plain ones, checked later, or of the recipe around it. For hints alone.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)
    sections: ClassVar[Mapping[str, type[BaseModel]]] = {}

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, data: Any) -> Any:
        """Mistakes that pydantic allows or reports poorly. (A validator on all fields would break tagged unions.)

        A strict model takes `true` for no number by itself.
        """
        for key, value in data.items() if isinstance(data, dict) else ():
            if key not in cls.model_fields:
                hint = cls.hint(str(key))
                raise PydanticCustomError("unknown_key", "unknown key {key}{hint}", {"key": str(key), "hint": hint})
            if cls.model_config.get("strict") or not _is_number(cls.model_fields[key].annotation):
                continue
            items = enumerate(value) if isinstance(value, list | tuple) else [("", value)]
            if wrong := next(((i, item) for i, item in items if isinstance(item, bool)), None):
                where = {"key": f"{key}.{wrong[0]}".rstrip("."), "given": wrong[1]}
                raise PydanticCustomError("number_type", "{key} must be a number", where)
        return data

    @classmethod
    def hint(cls, key: str, also: Iterable[str] = ()) -> str:
        """What to say of a key that is none of these, nor of the names that may `also` stand here."""
        sections = {name: model.model_fields for name, model in cls.sections.items()}
        return key_hint(key, [*also, *cls.model_fields], sections)


def _is_number(annotation: Any) -> bool:
    kinds = set(_kinds(annotation))
    return bool not in kinds and not {int, float}.isdisjoint(kinds)


def _kinds(annotation: Any) -> Iterator[Any]:
    """The plain types in an annotation: in its unions, tuples and lists, and below `Annotated`."""
    if get_origin(annotation) is Annotated:
        yield from _kinds(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType, tuple, list):
        for inner in get_args(annotation):
            yield from _kinds(inner)
    else:
        yield annotation


# ---- checking ----


def parse_config(cls: type[Model], data: Any, where: str) -> Model:
    """Validate `data` as a `cls`. The first mistake becomes a `UserError` of one sentence that starts with `where`."""
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        raise UserError(f"{where}: {_sentence(_meant(error, data), data)}") from None


def first_mistake(error: ValidationError, data: Any) -> tuple[str, str]:
    """The dotted key of the first mistake in `data` ("" for the whole), and the mistake in one sentence."""
    errors = _meant(error, data)
    return _dotted(errors[0], data), _sentence(errors, data)


QUOTE = "'"
_ALLOWED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "number_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}
_OF_KIND = {*_ALLOWED, "literal_error"} - {"number_type"}  # of a value as a whole; `number_type` is of a key in it


def _sentence(errors: list[ErrorDetails], data: Any) -> str:
    """The first mistake in words, and the number of others. The errors of a union's members count as one mistake."""
    by_key: dict[str, list[ErrorDetails]] = {}
    for error in errors:
        by_key.setdefault(_dotted(error, data), []).append(error)
    key, first = next(iter(by_key.items()))
    more = len(by_key) - 1
    return _mistake(key, first) + (f" (and {more} more mistake{'s' * (more > 1)})" if more else "")


def _meant(error: ValidationError, data: Any) -> list[ErrorDetails]:
    """The errors, of a union that was given a list or mapping those of the members that take one, if there are any:
    they say what is wrong in it, where the others say that it is none of theirs."""
    errors = error.errors(include_url=False)
    taken = {union for each in errors for union, of_kind in _unions(each, data) if not of_kind}
    return [each for each in errors if not any(of_kind and u in taken for u, of_kind in _unions(each, data))]


def _unions(error: ErrorDetails, data: Any) -> Iterator[tuple[tuple[int | str, ...], bool]]:
    """The unions in the error's location that were given a list or mapping; of each, is its kind the mistake?"""
    loc = error["loc"]
    for i, (here, known) in enumerate(_steps(error, data)):
        if not known and isinstance(here, list | tuple | dict):
            yield loc[:i], i == len(loc) - 1 and error["type"] in _OF_KIND


def _steps(error: ErrorDetails, data: Any) -> Iterator[tuple[Any, bool]]:
    """For each part of the error's location the value that it stands at, and whether it is a key or index of that: what
    is none is the member of a union, which pydantic adds."""
    here = data
    for part in error["loc"]:
        is_item = isinstance(here, list | tuple) and isinstance(part, int) and part < len(here)
        known = is_item or (isinstance(here, dict) and part in here)
        yield here, known
        here = here[part] if known else here


def _dotted(error: ErrorDetails, data: Any) -> str:
    """The key as the user writes it: without the member of a union."""
    steps = list(_steps(error, data))
    parts = [str(part) for part, (_, known) in zip(error["loc"], steps, strict=True) if known]
    absent = error["type"] == "missing" and not steps[-1][1]  # one that was given as null is there
    if absent and isinstance(error["loc"][-1], str):  # an item of a list has a number: `_mistake`
        parts.append(error["loc"][-1])
    if error["type"] in ("unknown_key", "number_type", "refused"):  # raised for the mapping that holds the key
        parts.append(error["ctx"]["key"])
    return ".".join(parts)


def _mistake(key: str, errors: list[ErrorDetails]) -> str:
    """One mistake in words; several errors come from the members of one union."""
    kind, context = errors[0]["type"], errors[0].get("ctx", {})
    shown = key or "the whole"
    if kind == "missing" and isinstance(errors[-1]["loc"][-1], int):
        number = errors[-1]["loc"][-1] + 1
        return f"{shown} must have at least {number} item{'s' * (number != 1)}, got {short(errors[-1]['input'])}"
    if kind == "missing":
        return f"{shown} is missing"
    if kind in ("too_long", "too_short"):
        number = context["max_length"] if kind == "too_long" else context["min_length"]
        bound = f"at {'most' if kind == 'too_long' else 'least'} {number} item{'s' * (number != 1)}"
        return f"{shown} must have {bound}, got {short(errors[0]['input'])}"
    if kind == "unknown_key":
        return f"unknown key {shown}{context['hint']}"
    if kind == "refused":
        return f"{shown} is not supported: {context['why']}"
    if kind.startswith("union_tag"):  # the key that says which member of a union is meant
        tag = f"{shown}.{context['discriminator'].strip(QUOTE)}"
        if kind == "union_tag_not_found":
            return f"{tag} is missing"
        known = context["expected_tags"].replace(QUOTE, "").split(", ")
        return f"{tag} is {context['tag']!r}{did_you_mean(context['tag'], known)}"
    if kind in ("value_error", "assertion_error"):  # a validator's own sentence
        return f"{key}: {context['error']}" if key else str(context["error"])
    allowed = dict.fromkeys(_ALLOWED.get(e["type"]) or e["msg"].removeprefix("Input should be ") for e in errors)
    return f"{shown} must be {' or '.join(allowed)}, got {short(context.get('given', errors[0]['input']))}"


# ---- recipes ----


def find_recipe(name_or_path: str | Path, beside: Path = Path()) -> Path:
    """The file of a packaged recipe, by name (with or without .yaml), or of a path relative to `beside`.

    With a suffix or a folder in the name, files come first: an edited copy of a packaged recipe wins over the original.
    """
    name = str(name_or_path)
    is_name = Path(name).name == name
    local = beside / Path(name).expanduser()
    packaged = RECIPES / f"{name.removesuffix('.yaml')}.yaml"
    if not is_name:
        candidates = [local]
    else:
        candidates = [local, packaged] if Path(name).suffix else [packaged, local]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    known = [path.stem for path in RECIPES.glob("*.yaml")]
    packages = f" and no packaged recipe of that name{did_you_mean(packaged.stem, known)}" if is_name and known else ""
    raise UserError(f"no file {local}{packages}")


def load_yaml(path: str | Path) -> dict:
    """The mapping in a YAML file; `extends: OTHER` (see `find_recipe`) gives OTHER with this file merged over it."""
    return _load(Path(path), ())


def _load(path: Path, chain: tuple[Path, ...]) -> dict:
    resolved = path.resolve()
    if resolved in chain:
        circle = " -> ".join(str(p.name) for p in (*chain[chain.index(resolved) :], resolved))
        raise UserError(f"{path}: extends itself: {circle}; break the circle")
    data = parse_yaml(read_text(path), str(path))
    if not isinstance(data, dict):
        raise UserError(f"{path}: must hold a mapping (key: value), got {short(data)}")
    base = data.pop("extends", None)
    if base is None:
        return data
    if not isinstance(base, str):
        raise UserError(f"{path}: extends must be the name or path of one recipe, got {short(base)}")
    return merge(_load(find_recipe(base, path.parent), (*chain, resolved)), data)


def read_text(path: Path) -> str:
    """The text of a file; `UserError` where it cannot be read or is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"cannot read {path}: it is not UTF-8 text") from None


def merge(base: Any, over: Any) -> Any:
    """`base` updated with `over`: mappings merge key by key at every depth, everything else is replaced."""
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    return base | {key: merge(base.get(key), value) for key, value in over.items()}


# ---- overrides ----


def apply_overrides(data: dict, overrides: Iterable[str], shorthand: str | None = None) -> dict:
    """A copy of `data` with each `dotted.key=value` set; values are YAML, list items have numbers (`terms.0.weight=2`).

    `shorthand="stages"`: `rl_hard.steps=50` means `stages.rl_hard.steps=50` if `rl_hard` is a key of `data["stages"]`
    and not of `data`. Names are checked later, when the result is validated.
    """
    data = copy.deepcopy(data)
    given: dict[tuple[str, ...], str] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        shown = repr(override) if len(override) <= 100 else repr(override[:97] + "...")
        parts = key.strip().split(".")
        if not equals or not all(parts) or len(parts) > DEEPEST or not key.isprintable():
            raise UserError(f"override {shown} must look like key=value or stage.key=value")
        under = data.get(shorthand) if shorthand else None
        if parts[0] not in data and isinstance(under, dict) and parts[0] in under:
            parts.insert(0, shorthand)
        if given.setdefault(tuple(parts), text) != text:
            raise UserError(f"override {shown}: {key.strip()} is given twice, before as {short(given[tuple(parts)])}")
        _set(data, parts, parse_yaml(text, f"override {shown}"), shown)
    return data


def _set(here: Any, parts: list[str], value: Any, override: str) -> None:
    for depth, part in enumerate(parts):
        if isinstance(here, list):
            if not re.fullmatch(r"[0-9]{1,9}", part) or int(part) >= len(here):
                raise UserError(
                    f"override {override}: {'.'.join(parts[:depth])} is a list of {len(here)}; "
                    f"{part!r} must be a number from 0 to {len(here) - 1}"
                )
            part = int(part)
        elif not isinstance(here, dict):
            raise UserError(f"override {override}: {'.'.join(parts[:depth])} is {short(here)} and has no keys")
        if depth == len(parts) - 1:
            here[part] = value
        elif isinstance(here, dict) and here.get(part) is None:
            here[part] = {}
        here = here[part]


# ---- identity ----


def digest(obj: Any) -> str:
    """SHA-256 (hex) of canonical JSON: equal for equal content, in any order of keys and any process."""
    text = json.dumps(obj, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False, default=_jsonable)
    return hashlib.sha256(text.encode()).hexdigest()


def _jsonable(obj: Any) -> Any:
    if isinstance(obj, BaseModel):
        return obj.model_dump(mode="json")
    if isinstance(obj, Path):
        return str(obj)
    raise TypeError(f"a digest takes plain data, not {type(obj).__name__}")
