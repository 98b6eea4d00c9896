"""Packaged recipes with seeded mutations: every outcome is a recipe that can be stored, or one sentence."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from helpers.sweep import sweep
from polythink.errors import UserError
from polythink.pipeline.arms import Experiment, load_experiment
from polythink.pipeline.experiment import resolve
from polythink.pipeline.recipe import load_recipe
from polythink.run.config import RECIPES, dump_yaml, find_recipe, load_yaml

ROUNDS = pytest.mark.parametrize("rounds", sweep([60, 600], [60]))
NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml"))
ARMS = {name for name in NAMES if "arms" in load_yaml(find_recipe(name))}
VALUES = [
    "0", "1", "-1", "0.5", "1.5", "1e-4", "1e400", ".nan", ".inf", "true", "null", "x", "''", "'0'", "[]", "{}", "[x]",
    "[0.9]", "[1.5,2]", "[[1]]", "{a: 1}", "{{problem}}", "{[a]: 1}", "[null]", "{null: 1}", "{1: 2}", "9" * 20,
    "-" + "9" * 20, "9" * 5000, "0x" + "f" * 5000, "[" * 600, '"\\0"', '"\\ud83d"', "!!binary aGk=", "!!set {a}",
    "!!timestamp x", "!!bool x", "!!int x", "!!float x", "!!python/object:os.system x", "&a [*a]", "*a", "a/b", "..",
    "a: b: c", "- x", "|", "%", "@", "`", "\t", "{a: 1, a: 2}", "{<<: 1}", "[true]", "~/x", "x" * 300, "os:getcwd",
    "countdown-easy:nosuch", "gsm8k", "none.jsonl", "structured", "accuracy",
]  # fmt: skip
PIECES = [
    "{", "}", "[", "]", ":", "- ", "\n", "  ", "'", '"', "&a ", "*a", "!!int ", "!", "#", "|", "<<: ", "? ", "\t", "\0",
    "\ud83d", "\x85", "\u2028", "0", "9" * 30, "null", "true", "e5",
]  # fmt: skip


def keys(data: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield (*above, str(key))
        yield from keys(value, (*above, str(key)))


def check(load, *given: Any) -> str:
    """Load and store; what became of it."""
    try:
        for recipe in load(*given):
            dump_yaml(recipe.model_dump(mode="json"))
    except UserError as error:
        return "several lines" if "\n" in str(error) else "refused"
    return "loaded"


@pytest.mark.slow
@ROUNDS
def test_overrides_of_any_kind(rounds) -> None:
    rng, outcomes = random.Random(0), set()
    recipes = [name for name in NAMES if name not in ARMS]
    known = {name: [*keys(load_yaml(find_recipe(name))), ("seed",), ("model", "options")] for name in recipes}
    for _ in range(rounds):
        name = rng.choice(recipes)
        overrides = []
        for _ in range(rng.choice((1, 1, 2))):
            key = rng.choice(known[name])
            key = (*key, rng.choice(("a", "0", "x", "²", "-1"))) if rng.random() < 0.15 else key
            overrides.append(f"{'.'.join(key)}={rng.choice(VALUES)}")
        outcomes.add(check(lambda *how: [load_recipe(*how)], name, overrides))
    assert outcomes == {"loaded", "refused"}


def few_arms(path) -> Experiment:
    """An experiment with its first arms: a family has dozens, read from the same files."""
    found = load_experiment(path)
    return found.model_copy(update={"arms": dict(list(found.arms.items())[:3])})


@pytest.mark.slow
@ROUNDS
def test_files_with_broken_places(tmp_path, rounds) -> None:
    rng, outcomes, file = random.Random(1), set(), tmp_path / "broken.yaml"
    for _ in range(rounds):
        name = rng.choice(NAMES)
        text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
        for _ in range(rng.choice((1, 1, 2))):
            place = rng.randrange(len(text))
            if rng.random() < 0.7:
                text = text[:place] + rng.choice(PIECES) + text[place:]
            else:
                text = text[:place] + text[place + rng.randint(1, 6) :]
        file.write_bytes(text.encode("utf-8", "surrogatepass"))
        arms = name in ARMS
        load = (lambda path: [run.recipe for run in resolve(few_arms(path), load_recipe)]) if arms else None
        outcomes.add(check(load or (lambda path: [load_recipe(path)]), file))
    assert outcomes == {"loaded", "refused"}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("prompt={{problem}}", "a mapping cannot be a key; put text that has braces or brackets in quotes"),
        ("prompt={[a, b]: 1}", "a list cannot be a key"),
        ("base.betas=[0.9]", "stages.base.betas must have at least 2 items, got [0.9]"),
        ("base.betas=[]", "stages.base.betas must have at least 2 items, got []"),
        ("base.betas=[x]", 'stages.base.betas.0 must be a number, got "x"'),
        ("base.betas=[0.1, 0.2, 0.3]", "stages.base.betas must have at most 2 items"),
        ("base.betas=[0.9, 1]", "stages.base.betas.1 must be less than 1, got 1"),
        ("base.betas=[true, 0]", "stages.base.betas.0 must be a number, got true"),
        ("seed=9223372036854775808", "whole number 9223372036854775808 is too large"),
        ("base.seed=-7", "stages.base.seed must be greater than or equal to 0, got -7"),
        ("seed=" + "7" * 5000, "a number too long to read"),
        ("seed=0x" + "7" * 5000, "the whole number huge is too large"),
        ("base.steps=" + "[" * 600, "too deep to read; at most 60 levels"),
        ("prompt=&a [*a]", "too deep or too many"),
        ('prompt="\\ud83d"', "a character that no file can hold"),
        ('name="a\\0"', "a character that no file can hold"),
        ("prompt=!!binary aGk=", "a value of the kind bytes"),
        ("seed=!!int x", "a value that is not of the kind its tag says"),
        ("base.data.².weight=1", "must be a number from 0 to 1"),
        (".".join("a" * 99) + "=1", "must look like key=value"),
        ("model.options={x: 1}", "stages.base: model.options: qwen3 has no 'x'"),
        ("model.options.attention_dropout=[]", "cannot make a 'qwen3' of that shape"),
        ("model.options.vocab_size=3", "vocab_size follows from the tokenizer"),
        ("model.architecture=qwen33", "did you mean 'qwen3'?"),
        ("model.architecture=2026-01-01", " more"),
    ],
)
def test_a_mistake_is_one_sentence(override: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        load_recipe("countdown-smoke", [override])
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1500


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("csi_channels=x", "model.options.csi_channels of eit is 'x', not int | null"),
        ("csi_kernel=1.5", "model.options.csi_kernel of eit is 1.5, not int"),
        ("csi_kernel=2", "a kernel of 2 keys has no middle"),
        ("csi_channels=-4", "cannot make a 'eit' of that shape"),
        ("interaction_in=[3]", "model.options.interaction_in of eit is [3]"),
        ("dropout=[]", "model.options.dropout of eit is [], not float"),
        ("kernel=1", "model.options: eit has no 'kernel'"),
    ],
)
@pytest.mark.parametrize("recipe", ["countdown-smoke-eit", "translation-iwslt14-deen-eit"])
def test_options_of_an_architecture_are_checked_with_the_recipe(recipe: str, option: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        load_recipe(recipe, [f"model.options.{option}"])
    assert said in str(error.value)


def test_a_key_given_twice_is_no_silent_choice() -> None:
    with pytest.raises(UserError, match=r"base\.steps is given twice, before as"):
        load_recipe("countdown-smoke", ["stages.base.steps=3", "base.steps=4"])
    assert load_recipe("countdown-smoke", ["base.steps=4", "base.steps=4"]).stages["base"].steps == 4
