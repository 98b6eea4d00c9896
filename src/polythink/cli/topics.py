"""What `polythink explain` knows and docs/reference prints: keys, rewards, stages, metrics, dialects, data, prompts.

Nothing is described here that has its description beside its definition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from polythink.cli.config_keys import Section, sections

CONDITIONS_IN_WORDS = {
    "right": "The final answer is correct.",
    "wrong": "The final answer is not correct.",
    "answered": "An answer could be extracted from the response.",
    "unanswered": "No answer could be extracted from the response.",
    "parallel": "At least one block is opened, well formed or not.",
    "no_block": "No block is opened.",
    "well_formed": "The response is valid under the reward's rule.",
    "malformed": "The response is not valid under the reward's rule.",
    "one": "1 for every response: the weight alone.",
    "blocks": "Number of blocks opened.",
    "sqrt_blocks": "Square root of the number of blocks opened.",
    "tokens": "Length of the response in tokens, all paths counted.",
    "critical_path": "Number of sequential steps of the response.",
}


@dataclass(frozen=True)
class Topic:
    """One name and what there is to say about it. `facts` are lines below the sentence."""

    kind: str
    name: str
    text: str
    facts: tuple[str, ...] = ()


def recipe_sections() -> dict[str, list[Section]]:
    """The keys of recipes, recipes for plain text, and experiments."""
    from polythink.engine.params import SamplingParams
    from polythink.pipeline.experiment import Experiment
    from polythink.pipeline.recipe import Recipe
    from polythink.pipeline.text import TextRecipe

    return {
        "a recipe": sections(Recipe, {"decoding": SamplingParams}),
        "a recipe for plain text": sections(TextRecipe, {}),
        "an experiment": sections(Experiment, {}),
    }


def key_topics() -> list[Topic]:
    """One topic per key and section, `stages.NAME.lr`, with the section's title as its first fact."""
    found = [
        Topic(f"key of {file}", f"{section.place}.{key.name}".lstrip("."), key.text or "(no description)",
              (section.title, key.facts))
        for file, several in recipe_sections().items()
        for section in several
        for key in section.keys
    ]  # fmt: skip
    kinds = ", ".join(topic.name for topic in stage_topics())
    return [
        *found,
        Topic(
            "key of a recipe", "stages.NAME.kind", f"What the stage does: {kinds}.", ("stages.NAME", "text; required")
        ),
    ]


def stage_topics() -> list[Topic]:
    return [
        Topic("stage", section.kind, section.about, (f"keys: {', '.join(key.name for key in section.keys)}",))
        for found in recipe_sections().values()
        for section in found
        if section.kind and section.place.startswith("stages.NAME") and section.place.count(".") == 1
    ]


# ---- rewards ----


def reward_topics() -> list[Topic]:
    from polythink.rewards.combine import PRESETS, PUBLISHED

    own = [Topic("reward", name, _in_words(data)) for name, data in PRESETS.items()]
    return own + [Topic("reward", key, f"Published name of the reward {name}.") for key, name in PUBLISHED.items()]


def term_topics() -> list[Topic]:
    from polythink.rewards.terms import CONDITIONS, TERMS

    conditions = [Topic("reward condition", name, _said(name, f)) for name, f in CONDITIONS.items()]
    return conditions + [
        Topic("reward term", name, _said(name, f)) for name, f in TERMS.items() if name not in CONDITIONS
    ]


def _said(name: str, function: Callable) -> str:
    """The first paragraph of a function's docstring, or what stands above."""
    said = " ".join((getattr(function, "__doc__", None) or "").split("\n\n")[0].split())
    return CONDITIONS_IN_WORDS.get(name) or said


def _in_words(reward: Any) -> str:
    """A preset as a sentence: `1.2 where right, parallel, well_formed; else 1 where right, no_block; else -1`."""
    if isinstance(reward, str):
        return reward
    if phases := reward.get("cycle"):
        return "Over and over: " + ", then ".join(f"{p['steps']} steps of {_in_words(p['reward'])}" for p in phases)
    if phases := reward.get("switch"):
        *first, last = phases
        return ", then ".join([*(f"{p['steps']} steps of {_in_words(p['reward'])}" for p in first),
                               f"{_in_words(last['reward'])} for good"])  # fmt: skip
    cases = [f"{case['value']:g} where {', '.join(case['when'])}" for case in reward.get("cases", ())]
    said = "; else ".join([*cases, f"{reward.get('otherwise', 0):g}"])
    for term in reward.get("add", ()):
        decay = f", divided by e every {term['decay']:g} steps" if term.get("decay") else ""
        where = f" where {', '.join(term['when'])}" if term.get("when") else ""
        sign = "plus" if term["weight"] > 0 else "minus"
        said += f"; {sign} {abs(term['weight']):g} x {term.get('term', 'one')}{where}{decay}"
    return said


# ---- the rest ----


def metric_topics() -> list[Topic]:
    from polythink.evaluate.metrics import METRICS

    return [
        Topic("metric", key, info.meaning, (f"unit: {info.unit}",) if info.unit else ())
        for key, info in METRICS.items()
    ]


def dialect_topics() -> list[Topic]:
    from polythink.trace.dialect import DIALECTS, NUMBER

    def shape(d: Any) -> str:
        first, second = (f"{d.path_open}..{d.path_close}".replace(NUMBER, n) for n in "12")
        return f"{d.block_open}{first}{second}{d.block_close}{d.summary_open}..{d.summary_close}"

    return [
        Topic("dialect", name, shape(dialect), (
            f"at least {dialect.min_paths} path{'s' * (dialect.min_paths > 1)} per block",
            f"path numbers 1 to {dialect.inventory}; {name}:N for N of them" if dialect.inventory
            else "paths without numbers",
        ))
        for name, dialect in DIALECTS.items()
    ]  # fmt: skip


def data_topics() -> list[Topic]:
    from polythink.problems.sets import SOURCES

    return [Topic("problem set", name, s.about, (f"splits: {', '.join(s.splits)}",)) for name, s in SOURCES.items()]


def prompt_topics() -> list[Topic]:
    from polythink.problems.prompts import PROMPTS, get_prompt

    return [Topic("prompt", name, get_prompt(name).text) for name in PROMPTS]


def recipe_topics() -> list[Topic]:
    from polythink.cli.recipes import packaged

    kinds = {True: "experiment", False: "recipe"}
    return [Topic(kinds[about.experiment], name, about.sentence) for name, about in packaged().items()]


TOPICS: Mapping[str, Callable[[], list[Topic]]] = {
    "stages": stage_topics,
    "rewards": reward_topics,
    "reward terms and conditions": term_topics,
    "metrics": metric_topics,
    "dialects": dialect_topics,
    "problem sets": data_topics,
    "prompts": prompt_topics,
    "recipes": recipe_topics,
    "keys": key_topics,
}
