"""Recipes as files: what is read, what is merged, what is refused and in which words."""

from __future__ import annotations

import subprocess
import sys
from typing import Annotated, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, model_validator

from polythink.errors import UserError
from polythink.run import config
from polythink.run.config import (
    Config,
    apply_overrides,
    digest,
    dump_yaml,
    find_recipe,
    load_yaml,
    merge,
    parse_config,
    parse_yaml,
)


class Term(Config):
    name: str
    weight: float = 1.0


class Sft(Config):
    kind: Literal["sft"]
    steps: int = Field(100, ge=1)
    mix: tuple[float, ...] = ()
    schedule: Literal["cosine", "constant"] = "cosine"


class Grpo(Config):
    kind: Literal["grpo"]
    steps: int = 50
    terms: tuple[Term, ...] = ()
    clip: float | None = None
    prompt: int | str = "none"
    also: str | Term | list[Term | str] = "none"
    log: bool = True

    @model_validator(mode="after")
    def _check(self) -> Grpo:
        if self.steps % 2:
            raise ValueError("steps must be even")
        return self


class Recipe(Config):
    name: str
    seed: int = 0
    stages: dict[str, Annotated[Sft | Grpo, Field(discriminator="kind")]] = Field(default_factory=dict)


def message(data: object) -> str:
    with pytest.raises(UserError) as error:
        parse_config(Recipe, data, "r.yaml")
    assert "\n" not in str(error.value)
    return str(error.value)


def stage(**keys: object) -> dict:
    return {"name": "r", "stages": {"rl": {"kind": "grpo", **keys}}}


def test_a_right_recipe_is_parsed_and_frozen() -> None:
    recipe = parse_config(Recipe, stage(steps=2, terms=[{"name": "accuracy", "weight": 2}], clip=1), "r.yaml")
    assert recipe.stages["rl"].terms[0].weight == 2.0
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 1
    assert parse_config(Recipe, {"name": "r", "stages": {"a": {"kind": "sft", "mix": [0.5, 1]}}}, "").stages[
        "a"
    ].mix == (
        0.5,
        1.0,
    )


def sft(**keys: object) -> dict:
    return {"name": "r", "stages": {"a": {"kind": "sft", **keys}}}


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"nme": "r"}, "unknown key nme; did you mean 'name'?"),
        ({"name": "r", "qqqqq": 1}, "unknown key qqqqq; known: name, seed, stages"),
        (stage(stepz=1), "unknown key stages.rl.stepz; did you mean 'steps'?"),
        (
            stage(terms=[{"name": "a"}, {"name": "b", "wieght": 1}]),
            "unknown key stages.rl.terms.1.wieght; did you mean 'weight'?",
        ),
        ({}, "name is missing"),
        (stage(terms=[{}]), "stages.rl.terms.0.name is missing"),
        ({"name": "r", "stages": {"a": {}}}, "stages.a.kind is missing"),
        ({"name": "r", "stages": {"a": {"kind": "grppo"}}}, "stages.a.kind is 'grppo'; did you mean 'grpo'?"),
        ({"name": "r", "stages": {"a": 3}}, "stages.a must be a mapping, got 3"),
        (sft(steps=0), "stages.a.steps must be greater than or equal to 1, got 0"),
        (sft(schedule="cos"), "stages.a.schedule must be 'cosine' or 'constant', got \"cos\""),
        (sft(mix=[1, "x"]), 'stages.a.mix.1 must be a number, got "x"'),
        (stage(steps="fifty"), 'stages.rl.steps must be a whole number, got "fifty"'),
        (stage(steps=2.5), "stages.rl.steps must be a whole number, got 2.5"),
        (stage(steps=True), "stages.rl.steps must be a number, got true"),
        (stage(clip=False), "stages.rl.clip must be a number, got false"),
        (stage(clip=float("inf")), "stages.rl.clip must be a finite number, got Infinity"),
        (stage(log="perhaps"), 'stages.rl.log must be true or false, got "perhaps"'),
        (stage(terms={}), "stages.rl.terms must be a list, got {}"),
        (stage(prompt=[1]), "stages.rl.prompt must be a whole number or text, got [1]"),
        (stage(also=3), "stages.rl.also must be text or a mapping or a list, got 3"),
        (stage(also={"name": 3}), "stages.rl.also.name must be text, got 3"),
        (stage(also={}), "stages.rl.also.name is missing"),
        (stage(also={"nme": "a"}), "unknown key stages.rl.also.nme"),
        (stage(also=["a", {"name": "a"}, {"name": "a", "weight": "b"}]), "stages.rl.also.2.weight must be a number"),
        (stage(also=["a", 3]), "stages.rl.also.1 must be a mapping or text, got 3"),
        (sft(mix=[1, True]), "stages.a.mix.1 must be a number, got true"),
        (stage(steps=3), "stages.rl: steps must be even"),
        ({"name": 3, "seed": "x"}, "name must be text, got 3 (and 1 more mistake)"),
        ([], "the whole must be a mapping, got []"),
    ],
)
def test_every_mistake_is_one_sentence(data: object, sentence: str) -> None:
    assert message(data).startswith(f"r.yaml: {sentence}")


# ---- files ----


def write(folder, **files: str) -> None:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)


def test_extends_merges_deeply_over_a_chain_of_files(tmp_path) -> None:
    (tmp_path / "sub").mkdir()
    write(
        tmp_path,
        base="name: base\nseed: 1\nstages: {sft: {kind: sft, steps: 10}, rl: {kind: grpo, terms: [{name: a}]}}",
    )
    write(tmp_path / "sub", middle="extends: ../base.yaml\nstages: {rl: {steps: 4}}")
    write(tmp_path, top="extends: sub/middle.yaml\nname: top\nstages: {rl: {terms: [{name: b}]}, eval: {kind: sft}}")
    assert load_yaml(tmp_path / "top.yaml") == {
        "name": "top",
        "seed": 1,
        "stages": {
            "sft": {"kind": "sft", "steps": 10},
            "rl": {"kind": "grpo", "terms": [{"name": "b"}], "steps": 4},
            "eval": {"kind": "sft"},
        },
    }
    assert list(load_yaml(tmp_path / "top.yaml")["stages"]) == ["sft", "rl", "eval"]


def test_a_circle_of_extends_is_named(tmp_path) -> None:
    write(tmp_path, a="extends: b.yaml", b="extends: c.yaml", c="extends: a.yaml", own="extends: own.yaml")
    with pytest.raises(UserError, match=r"a\.yaml -> b\.yaml -> c\.yaml -> a\.yaml"):
        load_yaml(tmp_path / "a.yaml")
    with pytest.raises(UserError, match=r"own\.yaml -> own\.yaml"):
        load_yaml(tmp_path / "own.yaml")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: [1, 2", "not valid YAML in line 1, column 9"),
        ("a: 1\nb: 2\na: 3", "key 'a' is given twice"),
        ("- 1\n- 2", "must hold a mapping"),
        ("", "must hold a mapping"),
        ("extends: 3", "extends must be the name or path of one recipe, got 3"),
        ("extends: nowhere.yaml", "no file"),
    ],
)
def test_broken_files_say_what_is_wrong(tmp_path, text: str, sentence: str) -> None:
    write(tmp_path, broken=text)
    with pytest.raises(UserError, match=sentence.replace("[", r"\[")):
        load_yaml(tmp_path / "broken.yaml")


def test_a_file_that_cannot_be_read(tmp_path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*No such file"):
        load_yaml(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="Is a directory"):
        load_yaml(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    with pytest.raises(UserError, match="not UTF-8"):
        load_yaml(tmp_path / "latin.yaml")


def test_a_name_means_the_packaged_recipe_and_a_file_name_the_file(tmp_path, monkeypatch) -> None:
    packaged, local = tmp_path / "packaged", tmp_path / "local"
    packaged.mkdir(), local.mkdir()
    monkeypatch.setattr(config, "RECIPES", packaged)
    write(packaged, small="name: packaged", large="name: large")
    write(local, small="extends: small\nseed: 3", **{"v2.5": "name: dotted"})
    assert find_recipe("small", local) == packaged / "small.yaml"
    assert find_recipe("small.yaml", local) == local / "small.yaml"
    assert find_recipe("large.yaml", local) == packaged / "large.yaml"
    assert find_recipe("v2.5.yaml", local) == local / "v2.5.yaml"
    assert load_yaml(find_recipe("small.yaml", local)) == {"name": "packaged", "seed": 3}
    with pytest.raises(UserError, match="no packaged recipe of that name; did you mean 'large'"):
        find_recipe("larg", local)
    with pytest.raises(UserError, match=r"no file .*elsewhere/small.yaml$"):
        find_recipe("elsewhere/small.yaml", local)


def test_merge_replaces_what_is_not_a_mapping() -> None:
    assert merge({"a": [1, 2], "b": {"c": 1}}, {"a": [3], "b": 2}) == {"a": [3], "b": 2}
    assert merge({"a": {"b": 1}}, {"a": {"c": None}}) == {"a": {"b": 1, "c": None}}


# ---- YAML itself ----


def test_yaml_reads_numbers_and_words_as_people_mean_them() -> None:
    text = "{a: 1e-4, b: no, c: 1:30, d: 2026-01-01, e: 10_000, f: true, g: .inf, h: 007, i: -2.5E+3, j: 0x10, k: , "
    assert parse_yaml(text + "l: '5'}", "t") == {
        "a": 1e-4, "b": "no", "c": "1:30", "d": "2026-01-01", "e": 10000, "f": True, "g": float("inf"), "h": "007",
        "i": -2500.0, "j": 16, "k": None, "l": "5",
    }  # fmt: skip


words = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"], include_characters="\n\t"))
awkward = st.sampled_from(
    ["1e-4", "no", "1", "0x1", "1_0", "~", "", "null", ".5", "5.", "<<", "a: b", "- x", "#", "1:30"]
)
scalars = (
    st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False) | words | awkward
)
trees = st.recursive(scalars, lambda t: st.lists(t, max_size=4) | st.dictionaries(words | awkward, t, max_size=4))


@pytest.mark.slow
@given(trees)
def test_what_is_dumped_is_read_back(data: object) -> None:
    assert parse_yaml(dump_yaml(data), "dump") == data


def test_a_dumped_recipe_is_readable() -> None:
    text = dump_yaml(
        {"name": "r", "seeds": [0, 1], "lr": 1e-5, "stages": {"rl": {"terms": [{"name": "a"}], "on": True}}}
    )
    assert text == "name: r\nseeds: [0, 1]\nlr: 1.0e-05\nstages:\n  rl:\n    terms:\n    - name: a\n    on: true\n"
    assert yaml.safe_load(dump_yaml({"a": [1, "x"], "b": {"c": None}})) == {"a": [1, "x"], "b": {"c": None}}


# ---- overrides ----


def test_overrides_set_nested_values_lists_and_whole_mappings() -> None:
    data = {"name": "r", "stages": {"rl_hard": {"steps": 5, "terms": [{"w": 1}, {"w": 2}]}}, "seeds": [0, 1]}
    done = apply_overrides(
        data,
        ["stages.rl_hard.steps=50", "stages.rl_hard.terms.1.w=1e-3", "seeds=[3, 4]", "name=a=b", "model.size=9",
         "stages.rl_hard.optimizer={lr: 0.1}", "seeds.0=7", "note="],
    )  # fmt: skip
    assert done == {
        "name": "a=b",
        "stages": {"rl_hard": {"steps": 50, "terms": [{"w": 1}, {"w": 1e-3}], "optimizer": {"lr": 0.1}}},
        "seeds": [7, 4],
        "model": {"size": 9},
        "note": None,
    }
    assert data["stages"]["rl_hard"]["steps"] == 5, "the given data must stay as it was"


def test_the_shorthand_leaves_out_stages_where_the_name_is_not_a_key_of_the_recipe() -> None:
    data = {"seed": 0, "stages": {"rl": {"steps": 5}, "seed": {"steps": 1}}}
    done = apply_overrides(data, ["rl.steps=50", "seed=3", "other=1"], shorthand="stages")
    assert done == {"seed": 3, "stages": {"rl": {"steps": 50}, "seed": {"steps": 1}}, "other": 1}
    assert apply_overrides(data, ["rl.steps=50"])["rl"] == {"steps": 50}


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("steps", "must look like key=value"),
        ("a..b=1", "must look like key=value"),
        ("=1", "must look like key=value"),
        ("terms.2.w=1", "terms is a list of 2; '2' must be a number from 0 to 1"),
        ("terms.x=1", "terms is a list of 2; 'x' must be a number"),
        ("name.first=1", 'name is "r" and has no keys'),
        ("a=[1", "override 'a=[1': not valid YAML"),
    ],
)
def test_broken_overrides_say_what_is_wrong(override: str, sentence: str) -> None:
    with pytest.raises(UserError) as error:
        apply_overrides({"name": "r", "terms": [{}, {}]}, [override])
    assert sentence in str(error.value)


# ---- digests ----


def test_a_digest_depends_on_content_alone() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 1.5})
    assert digest([1, 2]) != digest([2, 1])
    assert digest(Term(name="a")) == digest({"name": "a", "weight": 1.0})
    with pytest.raises(ValueError, match="Out of range"):
        digest({"a": float("nan")})


def test_a_digest_is_the_same_in_another_process() -> None:
    code = "from polythink.run.config import digest; print(digest({'b': {'x', }.pop(), 'a': [1, 0.1, None, True]}))"
    answers = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert answers == {digest({"a": [1, 0.1, None, True], "b": "x"})}
