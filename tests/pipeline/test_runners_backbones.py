"""Every architecture of the package is a backbone: the whole smoke recipe runs on it, and draws what it trains."""

from __future__ import annotations

import pytest

from helpers.sweep import sweep
from polythink.evaluate import head_file
from polythink.models.architectures.counting import counted, total
from polythink.models.build import architecture_config, new_tokenizer
from polythink.models.lm import load
from polythink.pipeline.recipe import load_recipe, run_recipe
from polythink.problems.tasks.countdown import VOCABULARY
from polythink.run.folder import read_json
from polythink.run.jsonl import read_jsonl

DRAWN = True  # by `helpers.charts`: its charts are drawn
# every kind of stage once
FEW = (
    "base.steps=2", "base.batch=4", "coldstart.limit=4", "sft.steps=2", "sft.batch=4", "after_sft=null", "rl_easy=null",
    "rl_hard.steps=1", "rl_hard.prompts_per_step=2", "rl_hard.group_size=2", "rl_hard.drop_zero_spread=false",
    "final.limit=2", "final.samples=1", "final.heads=true",
)  # fmt: skip


@pytest.mark.slow  # the others are eit without its maps, and what every other recipe is run with
@pytest.mark.parametrize("architecture", sweep(["qwen3", "eit", "partialformer", "vanilla"], ["eit"]))
def test_the_smoke_recipe(architecture, tmp_path):
    """Its evaluation compares the heads, and the report draws them."""
    recipe = load_recipe("countdown-smoke" if architecture == "qwen3" else f"countdown-smoke-{architecture}", FEW)
    report = run_recipe(recipe, tmp_path / "run", log=lambda line: None)
    assert all(read_json(tmp_path / "run" / name / "result.json") for name in recipe.stages)
    (step,) = read_jsonl(tmp_path / "run" / "rl_hard" / "metrics.jsonl")
    assert step["loss"] is not None
    assert 0 <= step["logprob_gap"] < 1e-4
    lm = load(tmp_path / "run" / "rl_hard" / "model")
    assert lm.model.config.model_type == architecture
    layers = head_file.load(tmp_path / "run" / "final" / "heads.npz").at("decoder")
    assert len(layers) == 3
    assert "Heads, final" in report.read_text(encoding="utf-8")


@pytest.mark.parametrize("architecture", ["eit", "partialformer", "vanilla"])
def test_only_the_backbone_differs(architecture):
    """Stage by stage the smoke recipe, at about its size; without a path, so nothing is downloaded."""
    recipe, smoke = load_recipe(f"countdown-smoke-{architecture}"), load_recipe("countdown-smoke")
    config = architecture_config(recipe.model, new_tokenizer(recipe.model, recipe.dialect, VOCABULARY))
    assert config.model_type == architecture
    assert 0.1e6 < total(*counted(config, 1).values()).parameters < 0.2e6
    shared = {"name", "model", "stages"}
    assert recipe.model_dump(exclude=shared) == smoke.model_dump(exclude=shared)
    assert list(recipe.stages) == list(smoke.stages)
    for name, stage in recipe.stages.items():
        assert stage.model_dump(exclude={"heads"}) == smoke.stages[name].model_dump(exclude={"heads"})
