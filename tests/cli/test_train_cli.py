"""`polythink train --dry-run` on all that is packaged: what it prints is the recipe, whole, and nothing is run."""

from __future__ import annotations

import pytest

from polythink.pipeline.recipe import load_recipe
from polythink.run.config import RECIPES, load_yaml

PACKAGED = sorted(path.stem for path in RECIPES.glob("*.yaml") if "arms" not in load_yaml(path))


@pytest.mark.parametrize("name", PACKAGED)
def test_a_dry_run_prints_the_resolved_recipe_and_does_nothing(polythink, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    status, printed, err = polythink("train", name, "seed=7", "--dry-run", "--out", "run")
    assert (status, err) == (0, "")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "resolved.yaml").write_text(printed)
    assert load_recipe(tmp_path / "resolved.yaml") == load_recipe(name, ["seed=7"])
    assert "extends" not in load_yaml(tmp_path / "resolved.yaml")


def test_the_four_recipes_are_there():
    assert {"countdown", "countdown-smoke", "parallel-r1-seen-qwen3-4b", "parallel-r1-unseen-qwen3-4b"} <= set(PACKAGED)
