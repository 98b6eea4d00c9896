"""What `polythink explain` knows and docs/reference prints: keys, rewards, stages, metrics, dialects, data, prompts.

Nothing is described here: every sentence stands beside the definition of what it is about.
"""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from polythink.cli.recipes import packaged
from polythink.engine.params import SamplingParams
from polythink.evaluate.metrics import METRICS
from polythink.pipeline.arms import Experiment
from polythink.pipeline.recipe import Recipe
from polythink.pipeline.text import TextRecipe
from polythink.problems.prompts import PROMPTS, get_prompt
from polythink.problems.sets import sources
from polythink.rewards.combine import PRESETS, PUBLISHED
from polythink.rewards.terms import CONDITIONS, TERMS
from polythink.trace.dialect import DIALECTS
from polythink.trace.modes import MODES
from polythink.train.objectives import OBJECTIVES


class Topic(NamedTuple):
    """One name and what there is to say about it. `facts` are lines below the sentence."""

    kind: str
    name: str
    text: str
    facts: tuple[str, ...] = ()


class Section(NamedTuple):
    """A mapping of a recipe: `place` is where it stands (`stages.NAME`, `model`), `kind` tells stages apart.

    The facts of its keys are type and default: YAML, or "" for a key that must be given.
    """

    place: str
    kind: str
    about: str
    keys: tuple[Topic, ...]

    @property
    def title(self) -> str:
        return f"{self.place or 'top level'}{f' (kind: {self.kind})' if self.kind else ''}"


# ---- keys: read from the pydantic models ----


def recipe_sections() -> dict[str, list[Section]]:
    """The keys of recipes, recipes for plain text, and experiments."""
    return {
        "a recipe": _sections(Recipe, {"decoding": SamplingParams}),
        "a recipe for plain text": _sections(TextRecipe, {}),
        "an experiment": _sections(Experiment, {}),
    }


def _sections(root: type[BaseModel], also: Mapping[str, type[BaseModel]]) -> list[Section]:
    """The mappings of a configuration, outermost first, each class once.

    `also` gives the class of keys that are plain mappings in their model, by name: `decoding` is a `SamplingParams`.
    """
    found: dict[type[BaseModel], Section] = {}
    waiting = [("", root)]
    while waiting:
        place, cls = waiting.pop(0)
        if cls in found:
            continue
        fields = dict(cls.model_fields)
        kind = fields.pop("kind").annotation if "kind" in fields else None
        keys = tuple(_key(name, field) for name, field in fields.items())
        found[cls] = Section(place, get_args(kind)[0] if kind else "", _first_paragraph(cls), keys)
        for name, field in fields.items():
            opened = list(_inside(field.annotation))
            listed = any(each in (tuple, list) for each in opened)
            many = ".NAME" if get_origin(field.annotation) is dict else ".N" if listed else ""
            inner = [("", also[name])] if name in also else [(many, each) for each in opened if _is_model(each)]
            waiting += [(f"{place}.{name}{suffix}".lstrip("."), model) for suffix, model in inner]
    return list(found.values())


def _inside(annotation: Any) -> Iterator[Any]:
    """An annotation's class, its origin, and all that is inside it."""
    yield get_origin(annotation) or annotation
    for member in get_args(annotation):
        yield from _inside(member)


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _first_paragraph(described: Any) -> str:
    return " ".join((described.__doc__ or "").split("\n\n")[0].split())


def _key(name: str, field: FieldInfo) -> Topic:
    default = "" if field.is_required() else field.get_default(call_default_factory=True)
    if isinstance(default, BaseModel):
        default = "as below"
    elif not isinstance(default, str):
        default = json.dumps(to_jsonable_python(default))
    elif not (default or field.is_required()):
        default = '""'
    text = " ".join((field.description or "").split())
    return Topic("key", name, text, (_type(field.annotation, _limits(field.metadata)), default))


_WORDS = {int: "whole number", float: "number", str: "text", bool: "true or false", Any: "anything"}
_BOUNDS = {"ge": "from {}", "gt": "above {}", "le": "up to {}", "lt": "below {}", "multiple_of": "a multiple of {}"}


def _limits(metadata: Any) -> str:
    """The bounds of a number, as `from 0 up to 1`."""
    given = [(words, getattr(item, name, None)) for item in metadata for name, words in _BOUNDS.items()]
    return " ".join(words.format(f"{value:g}") for words, value in given if value is not None)


def _type(annotation: Any, limits: str = "") -> str:
    """A type in words: `whole number from 1 or null`."""
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
        return "list of " + _type(members[0]).replace("mapping", "mappings")
    if origin is dict:
        inner = _type(members[1])
        return "mapping" if inner in ("anything", "mapping") else f"mapping to {inner}"
    if _is_model(annotation):
        return "mapping"
    if origin is not None:  # of collections.abc: a Python function
        return "function"
    return f"{_WORDS.get(annotation, getattr(annotation, '__name__', str(annotation)))} {limits}".strip()


def key_topics() -> Iterator[Topic]:
    """One topic per key and section, `stages.NAME.lr`, with the section's title as its first fact."""
    for file, several in recipe_sections().items():
        for section in several:
            for _, name, text, (type_, default) in section.keys:
                facts = (section.title, f"{type_}; {f'default {default}' if default else 'required'}")
                yield Topic(f"key of {file}", f"{section.place}.{name}".lstrip("."), text or "(no description)", facts)
    kinds = ", ".join(topic.name for topic in stage_topics())
    about = f"What the stage does: {kinds}."
    yield Topic("key of a recipe", "stages.NAME.kind", about, ("stages.NAME", "text; required"))


def stage_topics() -> Iterator[Topic]:
    for found in recipe_sections().values():
        for section in found:
            if section.kind and section.place == "stages.NAME":
                keys = ", ".join(key.name for key in section.keys)
                yield Topic("stage", section.kind, section.about, (f"keys: {keys}",))


# ---- rewards ----


def reward_topics() -> Iterator[Topic]:
    for name, data in PRESETS.items():
        yield Topic("reward", name, _in_words(data))
    for key, name in PUBLISHED.items():
        yield Topic("reward", key, f"Published name of the reward {name}.")


def term_topics() -> Iterator[Topic]:
    for name, function in {**CONDITIONS, **TERMS, **CONDITIONS}.items():
        yield Topic(f"reward {'condition' if name in CONDITIONS else 'term'}", name, _first_paragraph(function))


def _in_words(reward: Any) -> str:
    """A preset as a sentence: `1.2 where right, parallel, well_formed; else 1 where right, no_block; else -1`."""
    if isinstance(reward, str):
        return reward
    phases = [(phase.get("steps"), _in_words(phase["reward"])) for key in ("cycle", "switch")
              for phase in reward.get(key, ())]  # fmt: skip
    if phases:
        said = ", then ".join(f"{steps} steps of {inner}" if steps else f"{inner} for good" for steps, inner in phases)
        order = ", each step at a random place of its turn" if reward.get("shuffle") is not None else ""
        return f"Over and over{order}: {said}" if "cycle" in reward else said
    cases = [f"{case['value']:g} where {', '.join(case['when'])}" for case in reward.get("cases", ())]
    said = "; else ".join([*cases, f"{reward.get('otherwise', 0):g}"])
    for term in reward.get("add", ()):
        decay = f", divided by e every {term['decay']:g} steps" if term.get("decay") else ""
        where = f" where {', '.join(term['when'])}" if term.get("when") else ""
        sign = "plus" if term["weight"] > 0 else "minus"
        bound = f" (at most {term['most']:g})" if "most" in term else ""
        said += f"; {sign} {abs(term['weight']):g} x {term.get('term', 'one')}{bound}{where}{decay}"
    return said


def dialect_topics() -> Iterator[Topic]:
    for name, d in DIALECTS.items():
        numbers = f"path numbers 1 to {d.inventory}; {name}:N for N of them" if d.inventory else "paths without numbers"
        nests = "paths and summaries may hold blocks" if d.nests else "blocks do not nest"
        where = f"in or after {d.summary.open}.." if d.answers_in_summary else "after the last block"
        yield Topic("dialect", name, d.shape, (d.counting, numbers, nests, f"the answer stands {where}", d.source))


def mode_topics() -> Iterator[Topic]:
    for name, mode in MODES.items():
        drawn = "at once, none sees another" if mode.isolated else "one after another, in one flat text"
        join = "their flat text, read again" if mode.rereads else "their own keys and values"
        trained = "as drawn" if mode.exact else f"in the layout of {mode.trained.name}: not exact, see logprob_gap"
        facts = (f"paths are drawn: {drawn}", f"the join reads: {join if mode.isolated else 'that text'}")
        yield Topic("mode", name, mode.about, (*facts, f"trained: {trained}"))


def objective_topics() -> Iterator[Topic]:
    for name, objective in OBJECTIVES.items():
        keys = ", ".join(f"{key}: {json.dumps(value)}" for key, value in objective.defaults.items())
        yield Topic("objective", name, objective.text, (objective.source, f"its defaults: {keys.replace(chr(34), '')}"))


def metric_topics() -> Iterator[Topic]:
    for key, info in METRICS.items():
        yield Topic("metric", key, info.meaning, (f"unit: {info.unit}",) if info.unit else ())


def data_topics() -> Iterator[Topic]:
    for name, source in sources().items():
        facts = (f"splits: {', '.join(source.splits)}", *([source.elsewhere] if source.elsewhere else []))
        yield Topic("problem set", name, source.about, facts)


def prompt_topics() -> Iterator[Topic]:
    return (Topic("prompt", name, get_prompt(name).text) for name in PROMPTS)


def recipe_topics() -> Iterator[Topic]:
    for name, about in packaged().items():
        yield Topic("experiment" if about.experiment else "recipe", name, about.sentence)


TOPICS: Mapping[str, Callable[[], Iterator[Topic]]] = {
    "stages": stage_topics,
    "rewards": reward_topics,
    "reward terms and conditions": term_topics,
    "objectives": objective_topics,
    "metrics": metric_topics,
    "dialects": dialect_topics,
    "modes": mode_topics,
    "problem sets": data_topics,
    "prompts": prompt_topics,
    "recipes": recipe_topics,
    "keys": key_topics,
}


def every_topic() -> list[Topic]:
    return [topic for make in TOPICS.values() for topic in make()]
