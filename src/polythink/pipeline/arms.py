"""The file of an experiment: arms, each a recipe with overrides. `NAME:ARM` is one of them as a recipe of its own.

name: parallel-r1-tiny
recipe: parallel-r1-seen-tiny                                        # of the arms that name none
arms:
  unseen-s1: {overrides: [mode=structured, rl_easy=null]}
  unseen-s2: {extends: unseen-s1, overrides: [rl_hard.reward=alternating]}

polythink train parallel-r1-tiny:unseen-s2
"""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import Field, field_validator

from polythink.errors import UserError, did_you_mean
from polythink.run.config import Config, Seed, find_recipe, load_yaml, parse_config


class Arm(Config):
    """A recipe with overrides."""

    recipe: str | None = None
    """Name of a packaged recipe, or a YAML file relative to this one; none: the experiment's, or that of `extends`."""
    extends: str | None = None
    """Another arm of this experiment, whose recipe and overrides this one starts from."""
    overrides: tuple[str, ...] = ()
    """Changes to the recipe, such as `mode=sequential` or `rl.steps=50`."""


class Experiment(Config):
    """Arms to compare over seeds."""

    name: str
    """Name of the experiment; without --out it is written to runs/NAME."""
    seeds: tuple[Seed, ...] = Field((0,), min_length=1)
    """Every arm runs once with each of these seeds."""
    recipe: str | None = None
    """The recipe of the arms that name none."""
    arms: dict[str, Arm] = Field(min_length=1)
    """The recipes to compare, by name; differences in the table are to the first one."""
    jobs: int = Field(2, ge=1)
    """Stages that run at the same time."""
    threads: int | None = Field(None, ge=1)
    """Threads of each stage; by default the cores are shared out among `jobs`."""
    columns: tuple[str, ...] = ()
    """Metrics in the table; all if left out."""

    @field_validator("name", "arms")
    @classmethod
    def _names_are_folder_names(cls, given: str | dict[str, Arm]) -> str | dict[str, Arm]:
        for name in [given] if isinstance(given, str) else given:
            if not re.fullmatch(r"[\w.-]*\w[\w.-]*", name):
                raise ValueError(f"{name!r} names a folder; use letters, digits, _ . and - only")
        return given

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"seeds must be different, got {list(seeds)}")
        return seeds


def load_experiment(name_or_path: str | Path) -> Experiment:
    """The experiment of that name or file, each arm with its recipe's path and all of its overrides.

    Paths of recipes in it are relative to the file.
    """
    path = find_recipe(name_or_path)
    experiment = parse_config(Experiment, load_yaml(path), str(path))
    arms = {}
    for name in experiment.arms:
        try:
            recipe, overrides = _whole(experiment, name)
            arms[name] = Arm(recipe=str(find_recipe(recipe, path.parent)), overrides=overrides)
        except UserError as error:
            raise UserError(f"{path}: arm {name}: {error}") from None
    return experiment.model_copy(update={"arms": arms})


def _whole(experiment: Experiment, name: str) -> tuple[str, tuple[str, ...]]:
    """The recipe of an arm, and its overrides after those of the arms that it extends; the nearest value holds."""
    chain: list[str] = []
    while name:
        if name in chain:
            raise UserError(f"extends itself: {' -> '.join([*chain, name])}; break the circle")
        if name not in experiment.arms:
            raise UserError(f"extends {name!r}, and there is no such arm{did_you_mean(name, experiment.arms)}")
        chain.append(name)
        name = experiment.arms[name].extends
    arms = [experiment.arms[name] for name in chain]
    recipe = next((arm.recipe for arm in arms if arm.recipe), experiment.recipe)
    if recipe is None:
        raise UserError("names no recipe, and the experiment has none; add `recipe: NAME` to either")
    overrides: dict[str, str] = {}
    for arm in reversed(arms):
        own = [(override.partition("=")[0].strip(), override) for override in arm.overrides]
        if len(dict(own)) < len(own):
            raise UserError("an override is given twice; give each key once")
        kept = {key: override for key, override in overrides.items() if key not in dict(own)}
        overrides = kept | dict(own)  # in this order: what comes later holds, also over the keys that lie in it
    return recipe, tuple(overrides.values())


def split_arm(name_or_path: str | Path) -> tuple[str, str]:
    """The experiment and the arm that `EXPERIMENT:ARM` names; ("", "") for the name or path of a file."""
    given = str(name_or_path)
    file, colon, arm = given.rpartition(":")
    return ("", "") if not colon or Path(given).is_file() else (file, arm)


def arm_of(experiment: str, name: str) -> tuple[Arm, str]:
    """An arm of an experiment with its recipe's path and all its overrides, and the name of its runs."""
    found = load_experiment(experiment)
    if name not in found.arms:
        raise UserError(f"{experiment} has no arm {name!r}{did_you_mean(name, found.arms)}")
    return found.arms[name], f"{found.name}/{name}"
