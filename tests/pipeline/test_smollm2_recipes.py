"""The recipes for SmolLM2, line by line, on a tiny Llama with a tokenizer of the same make; what their arms change."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.smollm2 import FILE, tiny_model, tiny_tokenizer, write_gguf
from polythink.errors import UserError
from polythink.pipeline.arms import load_experiment
from polythink.pipeline.recipe import load_recipe, run_recipe
from polythink.problems.sets import DATA_FOLDER, load_problems
from polythink.run.config import RECIPES
from polythink.run.folder import read_json
from polythink.run.jsonl import read_jsonl, write_jsonl

pytest.importorskip("gguf", reason="needs the package gguf (pip install gguf)")

SHORT = {
    "steps": 2, "batch": 9, "prompts_per_step": 2, "group_size": 2, "limit": 1, "samples": 1, "checkpoint_every": 5,
    "micro_batch": 9,
}  # fmt: skip
BUDGETS = {"max_main_tokens": 16, "max_path_tokens": 10, "max_summary_tokens": 6, "max_trace_tokens": 60}
SOLUTION = "Pens cost 2*3=<<2*3=6>>6.\nCaps cost 4*5=<<4*5=20>>20.\nAll cost 6+20=<<6+20=26>>26.\n#### 26"
ASKED = "How much are 2 pens for $3 and {} caps for $5?"
TRACE = (
    "Count. <Parallel><Path> 2*3 is 6 </Path><Path> 4*5 is 20 </Path></Parallel>\n<Summary> 6 and 20 "
    "</Summary> Final Answer: 26"
)
TRACES = Path(__file__).parents[2] / "docs" / "scripts" / "smollm2-traces.yaml"
ARMS = {  # arm -> mode, prompt, rollouts per problem in times of those of `parallel`
    "sequential": ("sequential", "one_way", 1),
    "sequential_tokens": ("sequential", "one_way", 2),
    "parallel": ("structured", "two_ways", 1),
    "alternating": ("structured", "two_ways", 1),
    "scaffold": ("structured", "two_ways", 1),
}


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the recipes name: the model, GSM8K, real traces."""
    folder = tmp_path_factory.mktemp("machine")
    (folder / "runs" / "models").mkdir(parents=True)
    (folder / "runs" / "data").mkdir()
    texts = [problem.question + problem.solution for problem in load_problems("stories-two:train", limit=200)]
    tokenizer = tiny_tokenizer().train_new_from_iterator(texts, 800)  # so that few tokens make a text
    model = tiny_model(len(tokenizer))
    model.config.max_position_embeddings = 2048
    write_gguf(folder / "runs" / "models" / FILE, model, tokenizer)
    rows = [{"question": ASKED.format(n), "answer": SOLUTION} for n in range(4)]
    for split in ("train", "test"):
        write_jsonl(folder / f"gsm8k_{split}.jsonl", rows)
    traces = [{"question": row["question"], "trace": "", "trace_compact": TRACE} for row in rows]
    pq.write_table(pa.Table.from_pylist(traces), folder / "runs" / "data" / "parallel_gsm8k.parquet")
    return folder


def run_short(name: str, machine: Path, out: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> Mapping[str, dict]:
    """Two steps of every stage of a recipe; what each stage's result.json says."""
    monkeypatch.chdir(machine)
    monkeypatch.setenv(DATA_FOLDER, str(machine))
    overrides = [f"decoding.{key}={value}" for key, value in BUDGETS.items()]
    for stage, config in load_recipe(name).stages.items():
        known = {key: value for key, value in SHORT.items() if key in type(config).model_fields}
        overrides += [f"{stage}.{key}={value}" for key, value in known.items()]
    given = {override.partition("=")[0]: override for override in (*overrides, *more)}
    recipe = load_recipe(name, list(given.values()))
    run_recipe(recipe, out, log=lambda text: None)
    found = {stage: read_json(out / stage / "result.json") for stage in recipe.stages}
    for stage, config in recipe.stages.items():
        if config.kind in ("sft", "grpo"):
            assert len(read_jsonl(out / stage / "metrics.jsonl")) == 2, stage
    return found


def test_every_stage_of_the_cpu_recipe_runs(machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run_short("smollm2-cpu", machine, tmp_path / "run", monkeypatch)
    assert list(found) == ["before", "sft", "after_sft", "rl_easy", "final"]
    assert found["sft"]["dropped"] == {}
    for stage in ("before", "after_sft", "final"):
        evaluated = read_json(tmp_path / "run" / stage / "eval-stories-two-heldout.json")
        assert evaluated["n"] == 1


@pytest.mark.long
def test_every_stage_of_the_gpu_recipe_runs(machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run_short("smollm2-gpu", machine, tmp_path / "run", monkeypatch, "coldstart.limit=4")
    assert list(found) == ["before", "coldstart", "sft", "after_sft", "rl_easy", "rl_hard", "final"]
    assert found["coldstart"]["table"][0]["kept"] == 4
    kept = read_jsonl(tmp_path / "run" / "coldstart" / "kept.jsonl")
    assert any("<Path> Pens cost 2*3=6. </Path>" in row["trace"] for row in kept)
    assert (tmp_path / "run" / "final" / "eval-gsm8k-test.json").is_file()


@pytest.mark.long
def test_fine_tuning_on_real_traces_runs(machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run_short(str(TRACES), machine, tmp_path / "run", monkeypatch, "sft.batch=3")
    assert (list(found), found["sft"]["dropped"]) == (["coldstart", "sft", "after_sft"], {})


def test_a_recipe_can_be_read_without_its_weights_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("smollm2-cpu")
    with pytest.raises(UserError) as error:
        run_recipe(recipe, tmp_path / "run", log=lambda text: None)
    assert str(error.value) == (
        f"no .gguf file 'runs/models/{FILE}': there is no folder 'runs/models'; `python docs/fetch_smollm2.py "
        "runs/models` in a clone of polythink fetches it"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("file", [*sorted(RECIPES.glob("*smollm2*.yaml")), TRACES], ids=lambda file: file.stem)
def test_every_recipe_of_the_model_says_where_it_comes_from(file: Path) -> None:
    assert "python docs/fetch_smollm2.py runs/models" in file.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "trained"), [("smollm2-experiment", "rl_hard"), ("smollm2-cpu-experiment", "rl_easy")]
)
def test_arms_change_what_their_names_say(name: str, trained: str) -> None:
    assert load_experiment(name).arms.keys() == ARMS.keys()
    stages, digests = {}, set()
    for arm, (mode, prompt, _) in ARMS.items():
        recipe = load_recipe(f"{name}:{arm}")
        plans = {plan.name: plan for plan in recipe.plan()}
        for stage in ("after_sft", trained, "final"):
            assert (plans[stage].mode, plans[stage].prompt) == (mode, prompt), (arm, stage)
        assert [stage.kind for stage in recipe.stages.values()].count("grpo") == 1
        stages[arm] = recipe.stages[trained]
        digests.add(plans["sft"].digest)
    assert len(digests) == 1  # all arms begin with one fine-tuned model
    plain = stages["parallel"]
    assert plain.reward.name == "accuracy"
    for arm, (*_, times) in ARMS.items():  # and are trained alike, but for this
        assert stages[arm].group_size == times * plain.group_size
        changed = {"reward": plain.reward, "group_size": plain.group_size, "mode": plain.mode, "prompt": plain.prompt}
        assert stages[arm].model_copy(update=changed) == plain, arm
        assert (stages[arm].reward == plain.reward) == (arm not in ("alternating", "scaffold"))
    first, then = stages["scaffold"].reward.switch
    assert (first.steps, first.reward) == (plain.steps // 2, stages["alternating"].reward)
    assert (then.steps, then.reward) == (None, plain.reward)


def test_seeds_of_parathinker_share_the_responses_of_the_teacher() -> None:
    (arm,) = load_experiment("parathinker-smollm2-experiment").arms
    name, file = f"parathinker-smollm2-experiment:{arm}", f"model.path=runs/models/{FILE}"  # its own is made by a run
    recipes = [load_recipe(name, [f"seed={k}", file]) for k in (0, 1)]
    plans = [{plan.name: plan.digest for plan in recipe.plan()} for recipe in recipes]
    assert [list(plan) for plan in plans] == [["coldstart", "sft", "compare"]] * 2
    assert [plans[0][name] == plans[1][name] for name in plans[0]] == [True, False, False]
