"""Experiments whose results are damaged or gone: the failure is named, and the table of the rest is written."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from pathlib import Path

import pytest

from helpers import fake_recipe
from helpers.sweep import sweep
from polythink.errors import UserError
from polythink.pipeline.arms import Experiment
from polythink.pipeline.experiment import Outcome, run_experiment
from polythink.run.config import parse_config
from polythink.run.folder import read_json, write_json

COMMAND = (sys.executable, str(Path(__file__).parents[1] / "helpers" / "fake_stage.py"))
RECIPE = """
name: fake
seed: 0
stages:
  sft: {kind: sft, skill: 0.3}
  eval_sft: {kind: eval}
  rl: {kind: grpo, skill: 0.5}
  eval_rl: {kind: eval}
"""


def trial(folder: Path) -> Experiment:
    """Two arms of the recipe in `folder`."""
    arms = {name: {"recipe": str(folder / "fake.yaml"), "overrides": [f"rl.skill={skill}"]}
            for name, skill in (("plain", 0.5), ("strong", 0.9))}  # fmt: skip
    return parse_config(Experiment, {"name": "trial", "arms": arms}, "trial")


def run(folder: Path) -> Outcome:
    return run_experiment(trial(folder), folder / "out", load=fake_recipe.load, command=COMMAND)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder in which the experiment was run once."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "fake.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAKE_LOG", str(folder / "log"))
        assert run(folder).failures == ()
    return folder


@pytest.fixture
def again(finished, tmp_path, monkeypatch):
    """The experiment as it was left, in `tmp_path`, and a function that runs it again."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "log"))
    return lambda: run(tmp_path)


def stage(tmp_path: Path, name: str, run: str = "plain-seed0") -> Path:
    folder = tmp_path / "out" / "runs" / run
    listed = {s["name"]: s["folder"] for s in read_json(folder / "stages.json")}
    return (folder / listed[name]).resolve()


def columns(tmp_path: Path) -> list[tuple[list[str], str]]:
    return [(c["arms"], c["after"]) for c in read_json(tmp_path / "out" / "table.json")["columns"]]


@pytest.mark.parametrize("content", sweep([[], 3, "text"], [[]]))
def test_a_damaged_result_is_named_and_the_rest_is_in_the_table(tmp_path, again, content):
    write_json(stage(tmp_path, "eval_rl") / "result.json", content)
    outcome = again()
    assert any(
        "stage eval_rl of plain-seed0: " in text and "result.json is damaged" in text for text in outcome.failures
    )
    assert columns(tmp_path) == [(["plain", "strong"], "sft"), (["strong"], "rl")]


@pytest.mark.parametrize("content", [[], {}, {"metrics": 3, "n": 1}])
def test_a_damaged_evaluation_is_named(tmp_path, again, content):
    write_json(stage(tmp_path, "eval_rl") / "eval-easy.json", content)
    outcome = again()
    assert "eval-easy.json is damaged" in outcome.failures[0]
    assert columns(tmp_path) == [(["plain", "strong"], "sft"), (["strong"], "rl")]


def test_an_evaluation_over_a_stage_that_failed_is_left_out_and_both_are_named(tmp_path, again, monkeypatch):
    shutil.rmtree(stage(tmp_path, "rl"))
    broken = (*COMMAND[:1], "-c", "import sys; sys.exit(3)")
    monkeypatch.setattr(sys.modules[__name__], "COMMAND", broken)
    outcome = again()
    assert any(text.startswith("stage rl of plain-seed0 ended with status 3") for text in outcome.failures)
    assert any("stage eval_rl of plain-seed0 was done before and is left out" in text for text in outcome.failures)
    assert columns(tmp_path) == [(["plain", "strong"], "sft"), (["strong"], "rl")]
    assert (tmp_path / "out" / "report.html").exists()


def test_leftovers_are_swept_unless_another_process_is_at_work(tmp_path, again):
    left = [tmp_path / "out" / ".table.json.0a1b2c3d.tmp", tmp_path / "out/runs/plain-seed0/.recipe.yaml.0a1b2c3d.tmp"]
    for path in left:
        path.write_text("half")
    other = os.open(tmp_path / "out" / "lock", os.O_RDWR)
    fcntl.flock(other, fcntl.LOCK_SH)
    again()
    assert all(path.exists() for path in left)
    os.close(other)
    again()
    assert not any(path.exists() for path in left)


def test_the_folder_of_a_recipe_is_refused(tmp_path, again):
    write_json(tmp_path / "out" / "stages.json", [])
    with pytest.raises(UserError, match="holds the run of a recipe"):
        again()
