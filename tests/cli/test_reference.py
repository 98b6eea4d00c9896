"""docs/reference is what the code says, and names every file and column that a run writes."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from pathlib import Path

import pytest

from helpers.program import HEAD
from helpers.run_folders import run_of
from polythink.run.jsonl import read_jsonl
from polythink.trace.rollout import TRUNCATIONS

GENERATOR = Path(__file__).parents[2] / "docs" / "generate_reference.py"
spec = importlib.util.spec_from_file_location("generate_reference", GENERATOR)
generator = importlib.util.module_from_spec(spec)
spec.loader.exec_module(generator)
RECIPE = (
    HEAD
    + """\
  start: {kind: coldstart, problems: ["countdown-easy:train"], limit: 4,
          teacher: {kind: countdown, styles: {parallel: 1}}}
  sft: {kind: sft, steps: 1, batch: 4, lr: 3e-3, data: [{stage: start}]}
  rl: {kind: grpo, problems: ["countdown-mini:train"], steps: 1, prompts_per_step: 2, group_size: 2, reward: accuracy}
  check: {kind: eval, problems: ["countdown-mini:heldout"], limit: 2, samples: 2, greedy: true, heads: true}
"""
)


@pytest.mark.parametrize("name", generator.pages())
def test_the_reference_is_current(name: str) -> None:
    written = (generator.FOLDER / name).read_text(encoding="utf-8")
    assert written == generator.pages()[name], "write it anew: python docs/generate_reference.py"


@pytest.mark.parametrize("received", generator.RECEIVED, ids=lambda cls: cls.__name__)
def test_every_field_that_a_function_receives_has_a_sentence(received: type) -> None:
    rows = {name.partition("(")[0]: text for name, _, text in generator.members(received)}
    assert {field.name for field in dataclasses.fields(received)} <= rows.keys()
    assert [name for name, text in rows.items() if not text] == []


def test_every_finish_reason_is_described() -> None:
    words = re.findall(r"`(\w+)`", (generator.FOLDER / "outputs.md").read_text(encoding="utf-8").split("\n\n")[-1])
    assert {"tag", "fork", "eos", *TRUNCATIONS, "stop", "abort"} <= set(words)


def described() -> dict[str, set[str]]:
    """The names in the first column of each table of outputs.md, by the heading above it."""
    sections = (generator.FOLDER / "outputs.md").read_text(encoding="utf-8").split("\n## ")[1:]
    return {
        section.splitlines()[0]: {
            name for cell in re.findall(r"^\| `(.+?)` \|", section, re.MULTILINE) for name in cell.split(", ")
        }
        for section in sections
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return run_of(RECIPE, tmp_path_factory.mktemp("run"))


def test_every_file_of_a_run_is_described(run: Path) -> None:
    known = {name for names in described().values() for name in names}
    patterns = [re.compile(re.escape(name).replace("NAME", r"[\w.-]+") + "$") for name in known]
    for file in run.rglob("*"):
        if file.is_file() and "checkpoint" not in file.parts:
            assert any(pattern.match(file.name) for pattern in patterns), file.relative_to(run)


def test_every_column_of_a_run_is_described(run: Path) -> None:
    known = described()
    every = known["metrics.jsonl, every kind"]
    samples = {key for file in run.glob("*/samples*.jsonl") for row in read_jsonl(file) for key in row}
    assert samples - known["samples.jsonl"] == set()
    for stage, columns in (("sft", every), ("rl", every | known["metrics.jsonl, grpo"])):
        found = {
            re.sub("^reward/.*", "reward/NAME", key) for row in read_jsonl(run / stage / "metrics.jsonl") for key in row
        }
        assert found - columns == set(), stage
