"""The variants of Parallel-R1: every arm of the three families, what each changes; how arms are named and refused."""

from __future__ import annotations

import math
from functools import cache

import pytest

from helpers.run_folders import run_arm
from polythink.cli.recipes import packaged
from polythink.errors import UserError
from polythink.pipeline.arms import load_experiment, split_arm
from polythink.pipeline.recipe import Recipe, load_recipe
from polythink.pipeline.stage import TRAINS
from polythink.run.folder import read_json
from polythink.run.jsonl import read_jsonl

SIZES = ("tiny", "qwen3-0.6b", "qwen3-4b")

# arm -> mode, stages between the cold start and the evaluation, reward of the last of them
VARIANTS = {
    "grpo": ("sequential", "rl_hard", "accuracy"),
    "grpo-easy": ("sequential", "rl_easy rl_hard", "accuracy"),
    "sft-seen": ("sequential", "sft", None),
    "sft-unseen": ("structured", "sft", None),
    "seen": ("sequential", "sft rl_easy rl_hard", "accuracy"),
    "seen-no-easy": ("sequential", "sft rl_hard", "accuracy"),
    "seen-no-prompt": ("sequential", "sft rl_easy rl_hard", "accuracy"),
    "unseen-s1": ("structured", "sft rl_hard", "accuracy"),
    "unseen-s1-easy": ("structured", "sft rl_easy rl_hard", "accuracy"),
    "unseen-s1-no-prompt": ("structured", "sft rl_hard", "accuracy"),
    "unseen-s2": ("structured", "sft rl_hard", "alternating"),
    "unseen-s2-easy": ("structured", "sft rl_easy rl_hard", "alternating"),
    "unseen-s2-no-prompt": ("structured", "sft rl_hard", "alternating"),
    "unseen-parallel": ("structured", "sft rl_hard", "parallel"),
    "unseen-tiered": ("structured", "sft rl_hard", "tiered"),
    "unseen-scaffold": ("structured", "sft rl_hard rl_scaffold", "accuracy"),
    "unseen-scaffold-kept": ("structured", "sft rl_hard", "scaffold"),
    "unseen-shuffled": ("structured", "sft rl_hard", "alternating_shuffled"),
    "seen-published": ("seen_published", "sft rl_easy rl_hard", "accuracy"),
    "seen-reread": ("reread", "sft rl_easy rl_hard", "accuracy"),
    "unseen-published": ("unseen_published", "sft rl_hard", "alternating"),
    "unseen-reread": ("reread", "sft rl_hard", "alternating"),
    "unseen-distinct": ("structured", "sft rl_hard", "alternating_distinct"),
    "unseen-p-grpo": ("structured", "sft rl_hard", "p_grpo"),
    "unseen-path-credit": ("structured", "sft rl_hard", "accuracy"),
    "unseen-lora": ("structured", "sft rl_hard", "accuracy"),
}
SAMPLE = ("grpo", "seen", "seen-no-prompt", "unseen-s2", "unseen-scaffold")
TRAINING = ("sft", "rl_easy", "rl_hard", "rl_scaffold")


@cache
def variant(size: str, arm: str) -> Recipe:
    return load_recipe(f"parallel-r1-{size}:{arm}")


@pytest.mark.parametrize("size", SIZES)
def test_every_arm_is_the_variant_that_its_name_says(size):
    family = f"parallel-r1-{size}"
    assert load_experiment(family).arms.keys() == VARIANTS.keys()
    for arm in VARIANTS if size == "qwen3-4b" else SAMPLE:  # the test that runs them has all of the tiny ones
        (mode, stages, reward), recipe = VARIANTS[arm], variant(size, arm)
        assert recipe.name == f"{family}/{arm}"
        assert recipe.mode == mode
        assert " ".join(name for name in recipe.stages if name in TRAINING) == stages, arm
        last = recipe.stages[stages.split()[-1]]
        named = getattr(last, "reward", None)
        assert reward in (named and named.name, "scaffold" if named and named.switch else None), arm
        assert (
            recipe.prompt == {"tiny": "countdown_parallel"}.get(size, "parallel") or "no-prompt" in arm or "grpo" in arm
        )
        assert (recipe.prompt == "none") == ("no-prompt" in arm)
        high = 0.28 if reward in ("p_grpo", "scaffold") or (reward or "").startswith("alternating") else 0.2
        assert getattr(last, "clip_high", high) == high, arm


def test_the_two_published_recipes_are_two_of_the_arms():
    for recipe, arm in (("seen", "seen"), ("unseen", "unseen-s2")):
        own, arm = load_recipe(f"parallel-r1-{recipe}-qwen3-4b"), variant("qwen3-4b", arm)
        assert arm.model_copy(update={"name": own.name}) == own


def test_the_scaffold_says_where_it_switches_and_what_becomes_of_the_optimiser():
    two = variant("qwen3-4b", "unseen-scaffold").stages
    assert (two["rl_hard"].steps, two["rl_hard"].reward.name, two["rl_hard"].clip_high) == (200, "alternating", 0.28)
    assert (two["rl_scaffold"].steps, two["rl_scaffold"].clip_high) == (100, 0.2)  # a stage begins with a new optimiser
    same = {key: value for key, value in two["rl_scaffold"] if key not in ("steps", "reward", "clip_high")}
    assert same == {key: getattr(two["rl_hard"], key) for key in same}
    one = variant("qwen3-4b", "unseen-scaffold-kept").stages["rl_hard"]
    assert (one.steps, one.reward.switch[0].steps, one.clip_high) == (300, 200, 0.28)


def test_arms_share_the_stages_that_they_have_in_common():
    plans = {arm: {p.name: p.digest for p in variant("tiny", arm).plan()} for arm in SAMPLE}
    assert len({plan["base"] for plan in plans.values()}) == 1
    assert plans["unseen-s2"]["sft"] == plans["unseen-scaffold"]["sft"] != plans["seen"]["sft"]


def test_overrides_of_ones_own_come_last():
    recipe = load_recipe("parallel-r1-tiny:unseen-s2", ["rl_hard.clip_high=0.3", "seed=5", "name=mine"])
    assert (recipe.stages["rl_hard"].clip_high, recipe.seed, recipe.name) == (0.3, 5, "mine")


def test_the_nearest_arm_has_the_last_word_also_over_a_key_that_lies_around_its_own(tmp_path):
    file = tmp_path / "trial.yaml"
    file.write_text(
        "name: trial\nrecipe: countdown-smoke\narms:\n  base: {overrides: [decoding.paths=4]}\n"
        "  fresh: {extends: base, overrides: ['decoding={paths: 3}']}\n"
        "  two: {extends: fresh, overrides: [decoding.paths=2]}\n"
    )
    paths = [load_recipe(f"{file}:{arm}").decoding["paths"] for arm in ("base", "fresh", "two")]
    assert paths == [4, 3, 2]


def test_a_colon_names_an_arm_unless_it_is_part_of_a_file_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert split_arm("countdown") == ("", "")
    assert split_arm("a:b") == ("a", "b")
    (tmp_path / "a:b").write_text("name: x")
    assert split_arm("a:b") == ("", "")


ARMS = "name: trial\nrecipe: countdown-smoke\narms:\n  plain: {{}}\n  other: {}\n"


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ("{extends: plan}", "arm other: extends 'plan', and there is no such arm; did you mean 'plain'"),
        ("{extends: other}", "arm other: extends itself: other -> other; break the circle"),
        ("{overrides: [seed=1, seed=2]}", "arm other: an override is given twice"),
        ("{recipe: nowhere.yaml}", "arm other: no file"),
    ],
)
def test_a_mistake_in_an_arm_is_one_sentence(tmp_path, other, said):
    file = tmp_path / "trial.yaml"
    file.write_text(ARMS.format(other))
    with pytest.raises(UserError, match=said):
        load_experiment(file)


def test_arms_without_a_recipe_and_arms_that_are_not_there(tmp_path):
    file = tmp_path / "trial.yaml"
    file.write_text("name: trial\narms: {plain: {}}")
    with pytest.raises(UserError, match="names no recipe, and the experiment has none"):
        load_experiment(file)
    file.write_text(ARMS.format("{extends: plain, overrides: [seed=3]}"))
    assert load_recipe(f"{file}:other").seed == 3
    with pytest.raises(UserError, match="has no arm 'othr'; did you mean 'other'"):
        load_recipe(f"{file}:othr")


def test_a_stage_like_another(tmp_path):
    file = tmp_path / "mine.yaml"
    text = (
        "extends: countdown-smoke\nname: mine\nstages:\n  more: {like: rl_hard, steps: 3, reward: {preset: tiered}}\n"
    )
    file.write_text(text)
    stages = load_recipe(file).stages
    assert stages["more"].model_copy(update={"steps": 20, "reward": stages["rl_hard"].reward}) == stages["rl_hard"]
    assert (stages["more"].steps, stages["more"].reward.name) == (3, "tiered")
    file.write_text(text.replace("like: rl_hard", "like: rl_hrd"))
    with pytest.raises(UserError, match=r"stages.more.like: no earlier stage 'rl_hrd'; did you mean 'rl_hard'"):
        load_recipe(file)


# ---- what runs ----

MADE_HERE = (
    "parallel-r1-tiny", "countdown-experiment", "modes-experiment", "parathinker-experiment",
    "parathinker-attribution-experiment", "parathinker-retries-experiment", "translation-grammar-experiment",
)  # fmt: skip
ELSEWHERE = (  # their model is not made here
    "parallel-r1-qwen3-0.6b", "parallel-r1-qwen3-4b", "smollm2-experiment", "smollm2-cpu-experiment",
    "parathinker-smollm2-experiment",
)  # fmt: skip
STEPS = 2
SHORT = {
    "steps": STEPS, "batch": 4, "micro_batch": 2, "batch_tokens": 60, "prompts_per_step": 2, "group_size": 2,
    "checkpoint_every": 5, "average": 2, "average_every": 1, "max_new_tokens": 8,
}  # fmt: skip
ALSO = {"limit": 8, "valid_limit": 4, "samples": 1}  # where a recipe says nothing, too


def shortened(name: str) -> list[str]:
    """The overrides with which every stage of a recipe takes seconds."""
    found = []
    for stage, config in load_recipe(name).stages.items():
        fields = type(config).model_fields
        short = {key: value for key, value in SHORT.items() if getattr(config, key, None) is not None}
        if getattr(config, "epochs", None) is not None:
            short |= {"epochs": "null", "steps": STEPS}
        weights = [source.weight for source in getattr(config, "data", ()) if getattr(source, "weight", None)]
        if weights:  # every source gives a trace to a batch
            short["batch"] = max(short["batch"], math.ceil(sum(weights) / min(weights)))
        also = ALSO | {"samples": max(getattr(config, "best_of", None) or (1,))}
        found += [f"{stage}.{key}={value}" for key, value in (short | also).items() if key in fields]
    return found


def test_every_arm_of_every_packaged_experiment_is_planned():
    """And checked: a stage that could not do what it is told is refused by the plan."""
    assert sorted(name for name, about in packaged().items() if about.experiment) == sorted(MADE_HERE + ELSEWHERE)
    for name in (*MADE_HERE, *ELSEWHERE[:2]):  # the others have a test of their own, which takes seconds
        for arm in load_experiment(name).arms:
            *_, last = load_recipe(f"{name}:{arm}").stages.values()  # planned and checked as it is loaded
            assert last.kind in ("sft", "eval", "text_eval", "compare", "tunnel")


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", MADE_HERE)
def test_every_stage_of_every_arm_runs(tmp_path, name):
    """Two steps of each; stages that arms have in common run once, as in an experiment."""
    folders, arms = {}, load_experiment(name).arms
    for arm in arms:
        arm = f"{name}:{arm}"
        for plan, folder, _ in run_arm(load_recipe(arm, shortened(arm)), tmp_path, folders):
            if plan.stage.kind in TRAINS:
                assert len(read_jsonl(folder / "metrics.jsonl")) == STEPS, (arm, plan.name)
            assert read_json(folder / "result.json")
    assert len(folders) > len(arms)
