"""`compare` and `tunnel` as stages: run, resumed, refused in the recipe, and picked up by an experiment's table."""

from __future__ import annotations

from dataclasses import replace

import pytest

from helpers.training import SHAPE
from polythink.errors import UserError
from polythink.evaluate.metrics import Estimate, describe, difference, read_measures
from polythink.pipeline.arms import Arm, Experiment
from polythink.pipeline.experiment import evaluations, resolve
from polythink.pipeline.recipe import Recipe, run_recipe
from polythink.pipeline.results_table import Evaluated, clamp, make_table
from polythink.pipeline.schedule import Job
from polythink.pipeline.stage import run_stage
from polythink.run.config import parse_config
from polythink.run.folder import read_json

DRAWN = True  # by `helpers.charts`: its charts are drawn
DECODING = {"paths": 2, "max_main_tokens": 4, "max_path_tokens": 6, "max_summary_tokens": 4, "max_trace_tokens": 60}
PROBLEMS = ["countdown-mini:heldout", "countdown-easy:heldout"]
COMPARE = {
    "kind": "compare", "problems": PROBLEMS, "limit": 3, "samples": 2, "paths": [1, 2],
    "sequential_prompt": "countdown_sequential",
}  # fmt: skip
TUNNEL = {
    "kind": "tunnel", "problems": PROBLEMS[:1], "limit": 3, "samples": 2, "budgets": [4, 8], "paths": [1, 2],
    "prefixes": [1], "traces": 2, "continuations": 4,
}  # fmt: skip


def recipe_of(seed: int = 0, **stages) -> Recipe:
    base = {"name": "test", "prompt": "countdown_parallel", "decoding": DECODING, "dialect": "parathinker"}
    model = {**SHAPE, "num_hidden_layers": 1}
    return parse_config(Recipe, {**base, "model": model, "seed": seed, "stages": stages}, "test")


def quiet(*args) -> None:
    pass


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    recipe = recipe_of(against=COMPARE, tunnel=TUNNEL)
    out = tmp_path_factory.mktemp("runs") / "run"
    run_recipe(recipe, out, log=quiet)
    return recipe, out


@pytest.mark.parametrize("trained", [False, True])
def test_a_stage_may_measure_in_another_type(trained, tmp_path) -> None:
    sft = {
        "kind": "sft",
        "steps": 1,
        "batch": 1,
        "micro_batch": 1,
        "data": [{"problems": "countdown-mini:train", "weight": 1}],
    }
    measure = {"kind": "eval", "problems": PROBLEMS[:1], "limit": 2, "samples": 1}
    stages = {"train": sft} if trained else {}
    recipe = recipe_of(**stages, saved=measure, half=measure | {"dtype": "bfloat16"})
    run_recipe(recipe, tmp_path / "run", log=quiet)
    label = PROBLEMS[0].replace(":", "-")
    found = [read_json(tmp_path / "run" / name / f"eval-{label}.json")["provenance"] for name in ("saved", "half")]
    assert [about["dtype"] for about in found] == ["float32", "bfloat16"]
    assert found[0]["weights"] != found[1]["weights"]


def test_a_recipe_can_compare(whole) -> None:
    _, out = whole
    assert {p.name for p in (out / "against").glob("compare-*.json")} == {
        "compare-countdown-mini-heldout.json", "compare-countdown-easy-heldout.json"
    }  # fmt: skip
    result = read_json(out / "against" / "result.json")
    for label in ("countdown-mini-heldout", "countdown-easy-heldout"):
        found = read_json(out / "against" / f"compare-{label}.json")
        assert result["evaluations"][label] == {name: m["value"] for name, m in found["metrics"].items()}
    assert read_json(out / "tunnel" / "result.json")["evaluations"].keys() == {"countdown-mini-heldout"}
    report = (out / "report.html").read_text()
    for title in ("Accuracy by number of paths", "Accuracy by critical path", "Accuracy by budget", "Recovery"):
        assert f'aria-label="{title}"' in report
    assert report.count("<h3>countdown-mini:heldout</h3>") == 2


def test_what_is_done_is_not_done_again(whole, monkeypatch) -> None:
    recipe, out = whole
    plan = recipe.plan()[0]
    (out / "against" / "result.json").unlink()
    (out / "against" / "compare-countdown-easy-heldout.json").unlink()
    asked = []

    def only_the_missing(engine, problem_set, *args, name, **named):
        asked.append(name)
        raise UserError("stopped")

    monkeypatch.setattr("polythink.pipeline.runners.compare", only_the_missing)
    with pytest.raises(UserError, match="stopped"):
        run_stage(plan, out / "against", resume=True, log=quiet)
    assert asked == ["countdown-easy-heldout"]
    monkeypatch.undo()
    assert run_stage(plan, out / "against", resume=True, log=quiet)["evaluations"].keys() == {
        "countdown-mini-heldout", "countdown-easy-heldout"
    }  # fmt: skip


def test_joins_that_cannot_be_scaled_are_refused_before_anything_is_drawn(tmp_path) -> None:
    recipe = recipe_of(against={**COMPARE, "decoding": {"length_scaling_above": 1}})
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"architecture": "vanilla"})})
    with pytest.raises(UserError, match="or set length_scaling_above: 0"):
        run_stage(recipe.plan()[0], tmp_path, log=quiet)
    assert list(tmp_path.iterdir()) == [], "a refused stage leaves nothing"


def test_what_measures_leaves_no_model_behind() -> None:
    sft = {"kind": "sft", "steps": 1, "lr": 1e-3, "data": [{"problems": "countdown-mini:train", "weight": 1}]}
    plans = recipe_of(one=sft, against=COMPARE, tunnel=TUNNEL, two=sft).plan()
    assert [plan.previous for plan in plans] == [None, "one", "one", "one"]
    assert "prompt countdown_sequential" in plans[1].inputs()


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ({"x": {**COMPARE, "paths": [1, 17]}}, "stages.x: 17 paths are more than the 16 numbers"),
        ({"x": {**COMPARE, "mode": "sequential"}}, "stages.x: paths are compared in a mode that draws them at once"),
        ({"x": {**TUNNEL, "paths": [1, 17], "budgets": [40]}}, "stages.x: 17 paths are more than"),
        ({"x": {**COMPARE, "sequential_prompt": "countdown_sequentia"}}, "did you mean 'countdown_sequential'"),
        ({"x": {k: v for k, v in COMPARE.items() if k != "sequential_prompt"}}, "sequential_prompt"),
        ({"x": {**COMPARE, "problems": ["countdown-mini:held"]}}, "has no split 'held'"),
        ({"x": {**TUNNEL, "prefixes": [], "budgets": []}}, "there is nothing to draw"),
        ({"x": {**TUNNEL, "prefix": [1]}}, "did you mean 'prefixes'"),
    ],
)
def test_mistakes_are_found_before_anything_is_run(stages, message) -> None:
    with pytest.raises(UserError, match=message):
        recipe_of(**stages).plan()


# ---- an experiment's table ----


def evaluated(folder, arm: str, seed: int) -> Evaluated:
    return Evaluated(arm, seed, -1, "against", "base", folder, 1.0)


def test_the_table_of_an_experiment_shows_the_arms(whole) -> None:
    recipe, out = whole
    experiment = Experiment(name="trial", arms={"a": Arm(recipe="r")})
    (run,) = resolve(experiment, lambda name, overrides: recipe)
    jobs = {plan.digest: Job(name, plan.digest, None, {}, out / name, ()) for name, plan in run.plans.items()}
    found = evaluations(run, jobs)
    assert [(e.stage, e.position, e.after) for e in found] == [("against", -2, "nothing"), ("tunnel", -1, "nothing")]
    table = make_table("trial", "a", found)
    shown = [row[1] for row in table.rows]
    for metric in ("parallel@2", "reread@2", "majority_paths@2", "gain_sequential@2", "wrong_prefix@1", "paths2@8"):
        assert metric in shown
    assert not any(".tokens@" in metric for metric in shown), "costs are shown where they are asked for"
    wanted = make_table("trial", "a", found, ("parallel@2", "parallel.tokens@2"))
    tokens = read_json(out / "against" / "compare-countdown-mini-heldout.json")["metrics"]["parallel.tokens@2"]
    by_set = wanted.columns[0].results["countdown-mini-heldout"]
    assert by_set["parallel.tokens@2"].value == tokens["value"]
    shown = [row[1] for row in wanted.rows if row[1] not in ("difference", "gain")]
    assert shown == ["parallel@2", "parallel.tokens@2"] * 2 + ["seconds"]


def test_arms_are_compared_problem_by_problem(whole, tmp_path) -> None:
    _, out = whole
    plan = recipe_of(seed=1, against={**COMPARE, "problems": PROBLEMS[:1]}).plan()[0]
    run_stage(plan, tmp_path, log=quiet)
    folders = [out / "against", tmp_path]
    one = [evaluated(folder, arm, 0) for folder, arm in zip(folders, "ab", strict=True)]
    name = "countdown-mini-heldout"
    found = make_table("trial", "a", one).columns[1].differences[name]
    mine, yours = (read_measures(folder / f"measures-{name}.jsonl")["parallel.tokens@2"] for folder in folders)
    assert found["parallel.tokens@2"] == difference(yours, mine)
    over_seeds = [replace(one[0], seed=0), replace(one[1], arm="a", seed=1)]
    (column,) = make_table("trial", "a", over_seeds).columns
    tokens = column.results[name]["parallel.tokens@2"]
    assert tokens.value == pytest.approx((mine.value + yours.value) / 2)
    assert tokens.low < tokens.value < tokens.high


def test_a_gain_may_be_negative_and_an_amount_is_no_share() -> None:
    wide = Estimate(0.5, -7.0, 7.0)
    assert clamp("gain_majority_paths@8", wide) == Estimate(0.5, -1, 1)
    assert clamp("parallel@8", wide) == Estimate(0.5, 0, 1)
    assert clamp("parallel.critical_path@8", wide) == Estimate(0.5, 0, 7)
    units = [describe(m).unit for m in ("tokens", "parallel.tokens@8", "sequential_tokens@8", "mean@8")]
    assert units == ["tokens", "tokens", "percent", "percent"]
