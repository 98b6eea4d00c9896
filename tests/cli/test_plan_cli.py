"""`polythink params RECIPE --plan MACHINE`: a column per stage, and what a machine cannot hold."""

from __future__ import annotations

import pytest

from polythink.bench.devices import DEVICES, machine
from polythink.bench.floor import Shape
from polythink.cli.on_paper import shape_of_recipe, verdict
from polythink.errors import UserError
from polythink.pipeline.on_paper import Forward, Place, sheets
from polythink.pipeline.recipe import load_recipe

SMALL = Shape(4_022_000_000, 0, 36, 2560, 9728, 32, 8, 128, 151_936)


@pytest.mark.parametrize(
    ("recipe", "millions"),
    [
        ("parallel-r1-qwen3-4b:unseen-s2", 4022),
        ("parallel-r1-seen-qwen3-0.6b", 596),
        ("parathinker-deepseek-1.5b", 1777),
    ],
)
def test_models_of_packaged_recipes_are_known_without_a_download(recipe, millions):
    assert round(shape_of_recipe(load_recipe(recipe)).parameters / 1e6) == millions


DRAWS = ("rl_easy", "rl_hard", "eval", "eval_math")
BOUNDS = [f"{stage}.kv_cache_memory_bytes" for stage in DRAWS]  # that the recipe sets


def planned(
    name: str, *overrides: str, recipe: str = "parallel-r1-seen-qwen3-4b", length: int | None = None, bounds=BOUNDS
):
    count, _, device = machine(name)
    given = {text.partition("=")[0] for text in overrides}
    plan = load_recipe(recipe, [*overrides, *(f"{key}=null" for key in bounds if key not in given)]).plan()
    return {s.name: s for s in sheets(plan, SMALL, Place(count, device, 256, length, 1))}


def test_machines():
    assert machine("8xH100") == (8, "H100", DEVICES["H100"])
    assert machine("a100-80") == (1, "A100-80", DEVICES["A100-80"])
    assert all(device.source for device in DEVICES.values())
    for wrong in ("8xH10", "0xH100", "xH100", "", "99999xcpu"):
        with pytest.raises(
            UserError, match="give a device of H100, H200, A100-80, 4090, cpu, or several, such as 8xH100"
        ):
            machine(wrong)


def test_a_stage_is_divided_among_the_devices():
    one, eight = planned("H100"), planned("8xH100")
    assert list(eight) == ["sft", "rl_easy", "rl_hard", "eval", "eval_math"], "a cold start runs another model"
    assert eight["sft"].memory["training"]["weights"] * 8 == one["sft"].memory["training"]["weights"]
    assert eight["sft"].floors["training"] * 8 == pytest.approx(one["sft"].floors["training"])
    assert eight["sft"].tokens == one["sft"].tokens
    assert eight["rl_hard"].memory["drawing"]["whole copy to draw"] == 2 * SMALL.parameters
    assert one["sft"].too_much(DEVICES["H100"]) == [], "77 GB of 80"
    assert one["rl_hard"].too_much(DEVICES["A100-80"]) == ["drawing", "training"], "a copy in bfloat16 to draw from"
    assert one["rl_hard"].too_much(DEVICES["4090"]) == ["drawing", "training"]
    assert eight["rl_hard"].too_much(DEVICES["H100"]) == ["drawing"]


def test_two_devices_draw_no_more_than_twice_as_fast_as_one():
    """One process draws from a copy in bfloat16 too, where it trains under autocast."""
    one, two = planned("H100"), planned("2xH100")
    for stage in ("rl_easy", "rl_hard"):
        assert "whole copy to draw" in one[stage].memory["drawing"]
        assert two[stage].floors["drawing"] < one[stage].floors["drawing"] <= 2 * two[stage].floors["drawing"]


def test_keys_that_change_what_is_held():
    plain = planned("8xH100")["rl_hard"]
    bound = planned("8xH100", "rl_hard.kv_cache_memory_bytes=20000000000")["rl_hard"]
    assert bound.memory["drawing"]["keys and values"] == 20e9
    assert bound.too_much(DEVICES["H100"]) == []
    kept = planned("8xH100", "model.gradient_checkpointing=false")["rl_hard"]
    assert kept.memory["training"]["activations"] == plain.spared["activations"]
    assert kept.floors["training"] < plain.floors["training"]
    eager = planned("8xH100", "rl_hard.compile=false", "model.gradient_checkpointing=false")["rl_hard"]
    assert kept.memory["training"]["activations"] < eager.memory["training"]["activations"]
    moved = planned("8xH100", "rl_hard.activation_offloading=true")["rl_hard"]
    assert (
        0 < moved.memory["training"]["activations, offloaded"] < plain.memory["training"]["activations, checkpointed"]
    )
    assert moved.spared.keys() == {"activations", "activations, checkpointed"}
    lora = planned("8xH100", "rl_hard.lora.r=1")["rl_hard"]
    assert lora.trained < SMALL.parameters / 1000
    assert lora.floors["training"] < plain.floors["training"]
    short = planned("8xH100", length=300)["rl_hard"]
    assert short.tokens == 256 * 8 * (256 + 300)
    assert short.peak("drawing") == plain.peak("drawing")
    assert short.floors["drawing"] < plain.floors["drawing"] / 5
    forked = planned("8xH100", "mode=structured")["rl_hard"]
    assert forked.floors["drawing"] < plain.floors["drawing"], "fewer steps for as many tokens"


def test_what_a_forward_of_training_is():
    """`auto` on a GPU: flex attention, compiled layers, rows of several traces that are as long as the longest one."""
    sft, rl = (planned("8xH100")[stage].forward for stage in ("sft", "rl_hard"))
    assert sft == Forward(1, 4096, True, "flex_attention", True)
    assert rl == Forward(2, 3328, True, "flex_attention", True), "3,000 after a prompt of 256, in whole steps"
    assert planned("cpu")["sft"].forward == Forward(1, 4096, False, "sdpa", False)
    assert planned("8xH100", "sft.pack=8192")["sft"].forward.tokens == 8192
    assert planned("8xH100", "sft.pack=null")["sft"].forward == Forward(1, 4096, False, "flex_attention", True)
    numbered = planned("8xH100", "rl_hard.pack=8192")["rl_hard"]
    assert numbered.memory["training"]["logits"] > planned("8xH100")["rl_hard"].memory["training"]["logits"]
    thoughts = planned("8xH100", "sft.compile=auto", recipe="parathinker-deepseek-1.5b", bounds=())["sft"].forward
    assert thoughts == Forward(1, 28_672, True, "flex_attention", False), "thought embeddings are not compiled"


def test_a_stage_whose_rollouts_a_server_draws_holds_what_training_needs():
    server = "rl_hard.rollouts={url: 'http://me:word@h:1/v1', weights_folder: runs/weights}"
    own, served = planned("8xH100")["rl_hard"], planned("8xH100", server)["rl_hard"]
    assert served.memory.keys() == served.floors.keys() == {"training"}
    copy = own.memory["training"].pop("whole copy to draw")
    assert copy == 2 * SMALL.parameters
    assert served.memory["training"] == own.memory["training"], "the model that is handed over waits on the CPU"
    assert served.floors["training"] == own.floors["training"]
    one = planned("H100", server, "rl_hard.lora.r=1")["rl_hard"].memory
    assert one["handing over"]["whole copy to hand over"] == 4 * SMALL.parameters, "with its adapters in the weights"
    assert (own.uncounted, served.uncounted) == (
        [], ["a server draws, http://***@h:1/v1: neither its memory nor its time is counted"],
    )  # fmt: skip


@pytest.mark.parametrize(("keys", "asked"), [("{problems: 50}", "50 problems"), ("{samples: 8}", "every problem")])
def test_what_is_drawn_before_the_first_step_is_said_not_to_be_counted(keys, asked):
    said = f"drawing 8 responses to {asked} before the first step (pass_rate) is not counted"
    assert planned("8xH100", f"rl_hard.pass_rate={keys}")["rl_hard"].uncounted == [said]


def test_what_is_too_much_is_said_with_what_to_do():
    found = list(planned("8xH100").values())
    said = verdict(found, 8, "H100", DEVICES["H100"]).splitlines()
    assert len(said) == 4
    assert said[1].startswith(
        "rl_hard: drawing needs 129 GB, and H100 has 80; keys and values alone take 114: set kv_cache"
    )
    assert verdict(found[:1], 8, "H100", DEVICES["H100"]).startswith("All stages fit")


@pytest.mark.parametrize("recipe", ["parallel-r1-seen-qwen3-4b", "parallel-r1-unseen-qwen3-4b"])
def test_the_recipes_of_4b_fit_a_node_as_written(recipe):
    found = sheets(load_recipe(recipe).plan(), SMALL, Place(8, DEVICES["H100"], 256, None, 1))
    assert verdict(list(found), 8, "H100", DEVICES["H100"]).startswith("All stages fit")


def test_the_command(polythink):
    status, shown, _ = polythink("params", "countdown-smoke", "--plan", "cpu", "--trace-tokens", 60)
    assert status == 0
    assert "countdown-smoke on 1 x cpu: 64 GB" in shown
    assert "|    base |     sft | after_sft | rl_easy | rl_hard |   final |" in shown
    assert "| attention                | sdpa        | sdpa        | sdpa        |" in shown
    assert "traces of 60 tokens" in shown
    assert shown.rstrip().endswith("what the runtime itself needs left aside.")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["countdown-smoke", "--plan", "8xH10"], "no machine '8xH10'"),
        (["lm-tiny", "--plan", "cpu"], "trains on texts"),
        (["tests", "--plan", "cpu"], "a folder"),
        (["countdown-smoke", "--plan", "cpu", "model.path=no/such-model"], "no/such-model"),
    ],
)
def test_what_cannot_be_planned_is_said(polythink, arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "tests").mkdir()
    status, _, err = polythink("params", *arguments)
    assert (status, len(err.splitlines())) == (2, 1)
    assert said in err
