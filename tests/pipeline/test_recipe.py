"""Recipes: packaged ones are valid, plans are self-contained and identified by content, mistakes get one sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from polythink.errors import UserError
from polythink.pipeline.plan import StagePlan
from polythink.pipeline.recipe import Recipe, load_recipe
from polythink.pipeline.runners import starting_model
from polythink.run.config import RECIPES, dump_yaml, load_yaml, parse_config
from polythink.run.jsonl import write_jsonl
from polythink.trace.dialect import get_dialect

PACKAGED = sorted(path.stem for path in RECIPES.glob("*.yaml") if "arms" not in load_yaml(path))
SMALL = {
    "name": "small",
    "prompt": "countdown_parallel",
    "stages": {
        "base": {"kind": "sft", "steps": 2, "data": [{"problems": "countdown-easy:train", "weight": 1}]},
        "start": {
            "kind": "coldstart", "problems": ["countdown-easy:train"],
            "teacher": {"kind": "countdown", "styles": {"parallel": 1}},
        },
        "sft": {"kind": "sft", "steps": 2, "data": [{"stage": "start"}]},
        "check": {"kind": "eval", "problems": ["countdown-easy"]},
        "rl": {"kind": "grpo", "problems": ["countdown-easy:train"], "reward": "accuracy", "steps": 2},
    },
}  # fmt: skip


@pytest.fixture
def small(tmp_path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL, sort_keys=False))
    return path


def digests(recipe: Recipe) -> dict[str, str]:
    return {plan.name: plan.digest for plan in recipe.plan()}


# ---- what is packaged ----


def test_there_are_recipes():
    assert {"countdown", "countdown-smoke", "parallel-r1-seen-qwen3-4b", "parallel-r1-unseen-qwen3-4b"} <= set(PACKAGED)


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_recipes_are_valid_and_survive_being_written(name, tmp_path):
    recipe = load_recipe(name)
    assert recipe.name == name
    path = tmp_path / "resolved.yaml"
    path.write_text(dump_yaml(recipe.model_dump(mode="json")))
    again = load_recipe(path)
    assert again == recipe
    assert digests(again) == digests(recipe)


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_recipes_explain_every_stage(name):
    text = (RECIPES / f"{name}.yaml").read_text()
    assert text.startswith("# ")
    commented = sum("#" in line for line in text.splitlines())
    assert commented > len(text.splitlines()) / 4


def test_published_hyper_parameters_of_parathinker():
    """Sections 4 and 5 of the facts on ParaThinker: scripts and paper."""
    recipe = load_recipe("parathinker-deepseek-1.5b")
    sft = recipe.stages["sft"]
    assert (sft.epochs, sft.lr, sft.schedule, sft.warmup, sft.weight_decay) == (3, 1e-5, "constant", 0, 0.05)
    assert (sft.max_grad_norm, sft.batch, sft.max_tokens, sft.autocast) == (0.5, 64, 28_672, True)
    assert recipe.model.thought_embeddings
    assert recipe.model.gradient_checkpointing
    (plan,) = [plan for plan in recipe.plan() if plan.name == "final"]
    d = plan.decoding
    assert (d.paths, d.join_when, d.max_path_tokens, d.temperature, d.top_p) == (8, "first", 16_384, 0.5, 1.0)
    assert get_dialect(plan.dialect).inventory == 8
    assert plan.decoding.summary_prefix in recipe.stages["teach"].assemble.template  # so that it is forced


def test_published_hyper_parameters():
    """The table of facts on Parallel-R1, paper and scripts."""
    seen, unseen = load_recipe("parallel-r1-seen-qwen3-4b"), load_recipe("parallel-r1-unseen-qwen3-4b")
    sft = seen.stages["sft"]
    assert (sft.batch, sft.lr, sft.weight_decay, sft.schedule, sft.warmup) == (128, 1e-5, 0.01, "cosine", 0.1)
    assert (sft.betas, sft.max_grad_norm, sft.max_tokens, sft.steps) == ((0.9, 0.95), 1.0, 4096, 58)
    assert unseen.stages["sft"].steps == 230
    form = seen.stages["rl_easy"]
    assert (form.prompts_per_step, form.group_size, form.lr, form.steps) == (1024, 5, 1e-6, 35)
    assert "rl_easy" not in unseen.stages
    for recipe in (seen, unseen):
        rl = recipe.stages["rl_hard"]
        assert (rl.prompts_per_step, rl.group_size, rl.mini_batches, rl.lr, rl.steps) == (256, 8, 2, 1e-6, 300)
        assert (rl.dual_clip, rl.kl_coef, rl.clip_low, rl.clip_high) == (3, 0, 0.2, 0.2 if recipe is seen else 0.28)
        assert (rl.scale_rewards, rl.loss_type) == (True, "token-mean")
        assert not rl.drop_zero_spread
        decoding = recipe.plan()[-1].decoding
        assert (decoding.paths, decoding.max_blocks, decoding.max_trace_tokens) == (2, 4, 3000)
        assert (decoding.temperature, decoding.top_p) == (1, 1)
    assert (seen.mode, unseen.mode) == ("sequential", "structured")
    assert seen.stages["rl_hard"].clip_high == 0.2
    assert unseen.stages["rl_hard"].clip_high == 0.28
    assert [p.steps for p in unseen.stages["rl_hard"].reward.cycle] == [8, 2]


# ---- plans ----


def test_a_plan_is_self_contained(small):
    plans = load_recipe(small, ["decoding.paths=3", "rl.decoding.temperature=0.7", "rl.mode=sequential"]).plan()
    rl = plans[-1]
    assert (rl.mode, rl.decoding.mode, rl.decoding.paths, rl.decoding.temperature) == (
        "sequential",
        "sequential",
        3,
        0.7,
    )
    assert [(p.name, p.previous) for p in plans] == [
        ("base", None), ("start", "base"), ("sft", "start"), ("check", "sft"), ("rl", "sft"),
    ]  # fmt: skip
    assert parse_config(StagePlan, rl.model_dump(mode="json"), "plan") == rl


def test_identity_follows_content_down_the_chain(small):
    plain = digests(load_recipe(small))
    changed = digests(load_recipe(small, ["sft.lr=0.5"]))
    assert {name for name in plain if plain[name] != changed[name]} == {"sft", "check", "rl"}
    seeded = digests(load_recipe(small, ["seed=1", "base.seed=0", "start.seed=0", "sft.seed=0"]))
    assert {name for name in plain if plain[name] != seeded[name]} == {"check", "rl"}
    assert digests(load_recipe(small, ["check=null"]))["rl"] == plain["rl"], "an evaluation changes nothing after it"
    assert digests(load_recipe(small, ["rl.checkpoint_every=7", "name=other"])) == plain
    prompted = digests(load_recipe(small, ["rl.prompt=countdown_sequential"]))
    assert {name for name in plain if plain[name] != prompted[name]} == {"rl"}


def test_identity_follows_the_content_of_files(small, tmp_path):
    rows, prompt = tmp_path / "rows.jsonl", tmp_path / "own.txt"
    found = []
    for question, words in (("1 2 -> 3", "{problem} :"), ("2 2 -> 4", "{problem} :"), ("1 2 -> 3", "{problem} ok :")):
        write_jsonl(rows, [{"question": question, "trace": "ok"}])
        prompt.write_text(words)
        recipe = load_recipe(small, [f"sft.data=[{{file: '{rows}'}}]", f"rl.prompt={prompt}"])
        found.append(digests(recipe))
    assert len({d["sft"] for d in found}) == 2
    assert found[0]["sft"] == found[2]["sft"]
    assert found[0]["rl"] != found[2]["rl"]


def test_a_recipe_that_extends_another_is_a_handful_of_lines(small, tmp_path):
    child = tmp_path / "child.yaml"
    child.write_text("extends: small.yaml\nname: child\nstages: {check: null, rl: {steps: 9}}\n")
    recipe = load_recipe(child)
    assert list(recipe.stages) == ["base", "start", "sft", "rl"]
    assert (recipe.stages["rl"].steps, recipe.stages["rl"].reward.name) == (9, "accuracy")


# ---- mistakes ----


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rl.stepz=5", "did you mean 'steps'"),
        ("moed=sequential", "unknown key moed.*did you mean 'mode'"),
        ("rl.steps=many", "stages.rl.steps must be a whole number"),
        ("rl.kind=ppo", "stages.rl.kind is 'ppo'"),
        ("rl.reward=acuracy", "did you mean 'accuracy'"),
        ("rl.mode=rereed", "stages.rl.mode must be 'structured', 'reread'"),
        ("decoding.pathz=3", "decoding of stage base: unknown key pathz.*did you mean 'paths'"),
        ("rl.decoding.paths=0", "decoding of stage rl: paths"),
        ("decoding.mode=sequential", "set mode: sequential"),
        ("prompt=countdown_paralel", "did you mean 'countdown_parallel'"),
        ("dialect=paralel_r1", "did you mean 'parallel_r1'"),
        ("sft.data=[{stage: strat}]", "no earlier coldstart stage 'strat'; did you mean 'start'"),
        ("base.data=[{stage: start}]", "stages.base.data: no earlier coldstart stage 'start'"),
        ("sft.data=[{file: nowhere.jsonl}]", "stages.sft.data: no file nowhere.jsonl"),
        ("sft.data=[{problems: gsm8k, weight: 1}]", "synthetic sets only"),
        ("rl.problems=[countdown-hrad]", "did you mean 'countdown-hard'"),
        ("rl.problems=[gsm8k:dev]", "gsm8k has no split 'dev'"),
        ("rl.problems=[nowhere.parquet]", "stages.rl.problems: no file nowhere.parquet"),
        ("check.problems=[countdown-easy, countdown-easy]", "would write the same files"),
        ("check.prompts=[none, none]", "stages.check.prompts: two of them would write the same files"),
        ("stages.../up={kind: eval, problems: [gsm8k]}", "must look like"),
        ("stages.a b={kind: eval, problems: [gsm8k]}", "a stage's name becomes a folder"),
        ("stages={}", "stages"),
        ("model.hidden=3", "unknown key model.hidden"),
        ("base.data.0.demonstrations.stile=parallel", "data.0.demonstrations.stile; did you mean 'style'"),
        ("sft.data.0.demonstrations={}", "demonstrations are made of problems"),
        ("rl.reward=nowhere_at_all:f", "no module 'nowhere_at_all'"),
    ],
)
def test_mistakes_get_one_sentence(small, override, message):
    with pytest.raises(UserError, match=message) as caught:
        load_recipe(small, [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["decoding.paths=20"], r"stages\.before: decoding\.paths: 20 paths are more than the 16 numbers"),
        (["rl.decoding.paths=17"], r"stages\.rl: decoding\.paths: 17 paths .* parathinker:17"),
        (["after.decoding.max_blocks=0"], r"stages\.after: decoding\.max_blocks is 0, .* allow one block"),
        (["rl.decoding.max_blocks=0", "rl.decoding.fork_at=0"], r"stages\.rl: decoding\.max_blocks is 0"),
    ],
)
def test_blocks_that_cannot_be_are_found_before_training(overrides, message):
    with pytest.raises(UserError, match=message):
        load_recipe("parathinker-rl-tiny", overrides)


@pytest.mark.parametrize(
    "overrides", [["rl.decoding.max_blocks=0", "rl.decoding.fork_at=3"], ["rl.mode=sequential", "rl.decoding.paths=20"],
                  ["dialect=parathinker:20", "decoding.paths=20"],
                  ["dialect=parallel_r1", "model.thought_embeddings=null", "decoding.max_blocks=0"]]
)  # fmt: skip
def test_blocks_that_can_be_are_not_refused(overrides):
    load_recipe("parathinker-rl-tiny", overrides)


def test_unknown_recipes_are_told_the_nearest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="did you mean 'countdown-smoke'"):
        load_recipe("countdown-smok")


@pytest.mark.slow
def test_a_recipe_is_read_and_a_typo_found_without_torch():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from polythink.errors import UserError\n"
        "from polythink.pipeline.recipe import load_recipe\n"
        "from polythink.run.config import dump_yaml\n"
        "recipe = load_recipe('countdown-smoke', ['rl_easy.steps=5'])\n"
        "print(dump_yaml(recipe.model_dump(mode='json'))[:20], [plan.name for plan in recipe.plan()])\n"
        "for override in ('rl_easy.stepz=5', 'rl_easy.problems=[countdown-hrad]', 'rl_easy.reward=acuracy'):\n"
        "    try:\n"
        "        load_recipe('countdown-smoke', [override])\n"
        "    except UserError as error:\n"
        "        print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("did you mean") == 3


def test_the_content_of_a_dialect_file_is_part_of_every_digest(small, tmp_path):
    file = tmp_path / "mine.yaml"
    text = "name: mine\nblock: [{paths: [<P>, </P>]}, {summary: [<S>, </S>]}]\n"
    file.write_text(text)
    first = digests(load_recipe(small, [f"dialect={file}"]))
    assert digests(load_recipe(small, [f"dialect={file}"])) == first
    file.write_text(text.replace("<S>", "<Sum>"))
    changed = digests(load_recipe(small, [f"dialect={file}"]))
    assert all(changed[name] != first[name] for name in first)
    file.write_text("name: mine")
    with pytest.raises(UserError, match="has no 'block'"):
        load_recipe(small, [f"dialect={file}"])


def test_what_is_measured_before_training_is_what_is_trained(tmp_path):
    """An evaluation's own seed is of its sampling: the weights are drawn with the seed of the training."""
    check = SMALL["stages"]["check"] | {"limit": 1, "samples": 1, "seed": 0}
    whole = {**SMALL, "seed": 1, "stages": {"before": check, "base": SMALL["stages"]["base"], "after": check}}
    shape = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 1}

    def planned(**changes) -> dict[str, StagePlan]:
        return {plan.name: plan for plan in parse_config(Recipe, whole | {"model": shape} | changes, "small").plan()}

    plans = planned()
    assert [plan.model_seed for plan in plans.values()] == [1, None, None]
    assert plans["before"].digest != planned(seed=2)["before"].digest, "another model"
    first, trained = (starting_model(plans[name], None).model.state_dict() for name in ("before", "base"))
    assert all(first[name].equal(trained[name]) for name in trained)
    for changes in ({"seed": 0}, {"model": {"path": str(tmp_path)}}):  # nothing else is drawn: as it was
        plan = planned(**changes)["before"]
        assert "model_seed" not in plan.model_dump()
    assert plan.digest == planned(model={"path": str(tmp_path)}, seed=2)["before"].digest, "measured once for all seeds"
