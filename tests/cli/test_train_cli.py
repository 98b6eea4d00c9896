"""`polythink train --dry-run` on all that is packaged: what it prints is the recipe, whole, and nothing is run."""

from __future__ import annotations

import json

import pytest

from polythink.pipeline.recipe import load_recipe
from polythink.run.config import RECIPES, load_yaml

PACKAGED = sorted(path.stem for path in RECIPES.glob("*.yaml") if "arms" not in load_yaml(path))


@pytest.mark.parametrize("name", PACKAGED)
def test_a_dry_run_prints_the_resolved_recipe_and_does_nothing(polythink, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("polythink.pipeline.requirements.check_requirements", lambda plans: None)  # of this machine
    status, printed, err = polythink("train", name, "seed=7", "--dry-run", "--out", "run")
    assert (status, err) == (0, "")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "resolved.yaml").write_text(printed)
    assert load_recipe(tmp_path / "resolved.yaml") == load_recipe(name, ["seed=7"])
    assert "extends" not in load_yaml(tmp_path / "resolved.yaml")


def test_the_four_recipes_are_there():
    assert {"countdown", "countdown-smoke", "parallel-r1-seen-qwen3-4b", "parallel-r1-unseen-qwen3-4b"} <= set(PACKAGED)


def test_nothing_is_run_without_them_and_a_dry_run_says_so(polythink, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("polythink.pipeline.requirements.installed", lambda module: module != "sacrebleu")
    status, out, err = polythink("train", "translation-grammar", "--out", "run")
    assert (status, out) == (2, "")
    assert "sacrebleu" in err
    assert list(tmp_path.iterdir()) == []
    status, out, err = polythink("train", "translation-grammar", "--dry-run")
    assert status == 2
    assert out.startswith("name: translation-grammar\n")
    assert "sacrebleu" in err


def test_a_dry_run_looks_into_the_files_that_the_recipe_names(polythink, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text("name: own\nstages: {a: {kind: eval, problems: [own.jsonl]}}")
    (tmp_path / "own.jsonl").write_text('{"q": "1+1", "answer": "2"}')
    for option in ("--dry-run", "--quiet"):  # and the run itself
        status, _, err = polythink("train", "own.yaml", option)
        assert status == 2
        assert (
            "stages.a.problems: row 0 of own has no question: needed is a column question or problem or prompt" in err
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own.jsonl", "own.yaml"]


# ---- paths in the home folder ----


@pytest.fixture
def home(tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


ONE = "name: one\nstages:\n  a: {kind: eval, problems: ['countdown-easy']}\n"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["train", "~/one.yaml", "model.path=~/none", "--dry-run"], "no model folder '{home}/none'"),
        (["train", "~/one.yaml", "prompt=~/none.txt", "--dry-run"], "no prompt file {home}/none.txt"),
        (["train", "~/one.yaml", "a.problems=[~/none.jsonl]", "--dry-run"], "no file {home}/none.jsonl"),
        (["train", "~/one.yaml", "a={kind: sft, steps: 1, data: [{file: ~/none.jsonl}]}"], "no file {home}/none.jsonl"),
        (["train", "~/one.yaml", "--out=~/used"], "{home}/used holds a run already"),
        (["train", "extending.yaml", "--out=~/used"], "{home}/used holds a run already"),
        (["train", "translation-grammar", "train.data=~/none.tsv", "--dry-run"], "no file {home}/none.tsv"),
        (["experiment", "~/none.yaml"], "no file {home}/none.yaml"),
        (["report", "~/none"], "no run folder '{home}/none'"),
        (["generate", "~/none", "x"], "no model folder '{home}/none'"),
        (["generate", "~/none", "--file=~/none.txt"], "cannot read {home}/none.txt"),
        (["eval", "~/none", "--problems=~/none.jsonl", "--out=~/out"], "{home}/none"),
        (["data", "show", "~/none.jsonl"], "no file {home}/none.jsonl"),
        (["data", "grade", "~/none.jsonl", "--text", "a", "--answer", "b"], "{home}/none.jsonl"),
        (["trace", "check", "~/none.jsonl", "--field", "a"], "{home}/none.jsonl"),
        (["params", "~/none"], "{home}/none"),
    ],
)  # fmt: skip
def test_a_path_in_the_home_folder_is_found_there_by_every_command(polythink, home, command, said):
    (home / "one.yaml").write_text(ONE)
    (home / "used").mkdir()
    (home / "used" / "recipe.yaml").write_text(ONE)
    (home.parent / "work" / "extending.yaml").write_text("extends: ~/one.yaml\n")
    status, _, err = polythink(*command)
    assert status == 2
    assert said.format(home=home) in err
    assert [path.name for path in (home.parent / "work").iterdir()] == ["extending.yaml"]


@pytest.mark.parametrize("name", ["..", "", "../x", "/tmp/x", "a//b", " ", "a\nb"])
def test_a_name_that_leads_elsewhere_is_refused(polythink, tmp_path, name):
    (tmp_path / "r.yaml").write_text(f"name: {json.dumps(name)}\nstages:\n  a: {{kind: eval, problems: [gsm8k]}}\n")
    status, _, err = polythink("train", tmp_path / "r.yaml", "--dry-run")
    assert (status, "the name becomes a folder under runs/" in err) == (2, True)


# ---- names, options and keys ----


@pytest.mark.parametrize(
    ("command", "said", "unsaid"),
    [
        (["train", "zzz"], "no packaged recipe of that name; known: countdown, ", "countdown-experiment"),
        (["experiment", "zzz"], "no packaged experiment of that name; known: countdown-experiment, ", "smoke"),
        (["train", "countdown-experimen"], "It is an experiment, not a recipe; run it with: polythink exper", "known"),
        (["experiment", "countdown-smok"], "run it with: polythink train countdown-smoke", "known"),
        (["train", "countdown-smoke", "--base.steps", "5"], "keys go without dashes: base.steps=5\n", "Usage"),
        (["params", "countdown", "--with", "foo"], "the package's are vanilla, eit, e_eit, partialformer", "yoso"),
        (["generate", "nowhere/model", "x", "--paths", "2", "paths=3"], "the same setting", "Traceback"),
        (["train", "countdown-smoke", "seed=1", "seed=2"], "seed is given twice", "Traceback"),
    ],
)
def test_a_mistaken_name_or_option_is_told_what_was_meant(polythink, tmp_path, monkeypatch, command, said, unsaid):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nowhere" / "model").mkdir(parents=True)
    (tmp_path / "nowhere" / "model" / "config.json").write_text("{}")
    status, _, err = polythink(*command)
    assert status == 2
    assert said in err
    assert unsaid not in err


def test_the_exit_status_is_in_the_help_of_every_command(polythink):
    for command in (["train"], ["experiment"], ["report"], ["params"], ["generate"], ["eval"], ["data", "show"],
                    ["data", "coldstart"], ["trace", "check"], ["recipes"], ["explain"], []):  # fmt: skip
        status, out, _ = polythink(*command, "--help")
        assert status == 0
        assert "Exit status: 0 success, 1 something" in out


def test_explain_without_a_topic_fits_a_terminal(polythink, monkeypatch):
    monkeypatch.setenv("COLUMNS", "70")
    status, out, _ = polythink("explain")
    assert status == 0
    assert max(map(len, out.splitlines())) <= 70
