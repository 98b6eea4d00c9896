"""What is part of a stage's identity, and what is not: it changes how the stage runs, not what comes out of it."""

from __future__ import annotations

from typing import Any

import pytest

from helpers.training import SHAPE
from polythink.pipeline.recipe import Recipe
from polythink.pipeline.stage import run_stage
from polythink.pipeline.text import TextRecipe
from polythink.run.config import parse_config
from polythink.run.folder import write_json
from polythink.run.jsonl import write_jsonl

EASY = ["countdown-easy:train"]
SFT = {"kind": "sft", "steps": 2, "data": [{"problems": EASY[0], "weight": 1}]}
GRPO = {"kind": "grpo", "problems": EASY, "reward": "accuracy", "steps": 2}


def identity(stage: dict, model: dict | None = None, **keys: Any) -> str:
    data = {"name": "small", "prompt": "countdown_parallel", "model": SHAPE | (model or {}), "stages": {"one": stage}}
    (plan,) = parse_config(Recipe, data | keys, "small").plan()
    return plan.digest


def text_identity(micro_batch: int, **dropout: float) -> str:
    stage = {"kind": "text", "data": "reverse", "steps": 2, "batch": 8, "micro_batch": micro_batch}
    model = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, **dropout}
    data = {"name": "t", "task": "translation", "model": model, "stages": {"one": stage}}
    (plan,) = parse_config(TextRecipe, data, "t").plan()
    return plan.digest


# ---- files ----


def test_the_content_of_a_set_in_the_data_folder_counts(tmp_path, monkeypatch):
    evaluation = {"kind": "eval", "problems": ["gsm8k", "gsm8k:train"]}
    elsewhere = identity(evaluation)
    monkeypatch.setenv("POLYTHINK_DATA", str(tmp_path))
    assert identity(evaluation) == elsewhere, "neither lies there"
    found = []
    for split, answer in (("test", "1"), ("test", "2"), ("train", "1"), ("other", "1")):
        write_jsonl(tmp_path / f"gsm8k_{split}.jsonl", [{"question": "1 + 0", "answer": answer}])
        found.append(identity(evaluation))
    assert len({elsewhere, *found}) == 4
    assert found[2] == found[3], "a file that no set is read from"


def test_the_type_that_a_model_is_measured_in_counts_where_it_is_another():
    evaluation = {"kind": "eval", "problems": EASY}
    saved, half = (identity(evaluation | given) for given in ({}, {"dtype": "bfloat16"}))
    assert identity(evaluation | {"dtype": None}) == saved != half


# ---- what a cold start reads ----

COLDSTART = {
    "kind": "coldstart", "problems": EASY, "teacher": {"kind": "countdown", "styles": {"parallel": 1}},
}  # fmt: skip


def test_a_cold_start_is_the_same_whatever_model_comes_after_it(tmp_path):
    plain = identity(COLDSTART)
    write_json(tmp_path / "config.json", {})
    for model in ({"hidden_size": 64}, {"path": str(tmp_path)}, {"gradient_checkpointing": True}):
        assert identity(COLDSTART, model) == plain
    for keys in ({"mode": "sequential"}, {"chat": True}, {"decoding": {"paths": 3, "temperature": 0.5}}):
        assert identity(COLDSTART, **keys) == plain
        assert identity(SFT, **keys) != identity(SFT)
    for keys in ({"seed": 1}, {"prompt": "none"}, {"dialect": "parathinker"}):
        assert identity(COLDSTART, **keys) != plain
    assert identity(COLDSTART | {"rule": "stack"}) != plain
    flat = COLDSTART | {"teacher": {"kind": "countdown", "styles": {"sequential": 1}}}
    assembled = [flat | {"assemble": {"prompt": prompt}} for prompt in ("sequential", "countdown_sequential")]
    assert len({plain, *(identity(stage, dialect="parathinker") for stage in assembled)}) == 3


def test_a_teacher_is_the_same_wherever_it_is_asked():
    def asking(**keys: Any) -> str:
        teacher = {"kind": "endpoint", "url": "http://localhost:8000/v1", "model": "m"} | keys
        return identity(COLDSTART | {"teacher": teacher})

    for keys in ({"url": "http://other:9/v1"}, {"timeout": 1}, {"time_limit": 1}, {"key_env": "A", "key_header": "b"}):
        assert asking(**keys) == asking()
    for keys in ({"model": "n"}, {"temperature": 0.5}, {"max_tokens": 9}, {"extra": {"top_p": 0.5}}):
        assert asking(**keys) != asking()


# ---- less memory ----


@pytest.mark.parametrize("stage", [SFT, GRPO])
def test_what_needs_less_memory_leaves_a_stage_the_same(stage):
    plain = identity(stage)
    assert identity(stage | {"micro_batch": 2}) == plain
    assert identity(stage | {"activation_offloading": True}) == plain
    assert identity(stage, {"gradient_checkpointing": True}) == plain
    assert identity(stage | {"lr": 0.5}) != plain


def test_a_stage_that_had_no_memory_goes_on_with_less(tmp_path, monkeypatch):
    def planned(**less):
        stage = SFT | {"steps": 1, "batch": 4} | less
        return parse_config(Recipe, {"name": "small", "model": SHAPE, "stages": {"one": stage}}, "small").plan()[0]

    def no_memory(*args):
        raise RuntimeError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr("polythink.train.sft.save", no_memory)
        with pytest.raises(RuntimeError):
            run_stage(planned(), tmp_path, log=lambda text: None)
    assert run_stage(planned(micro_batch=2), tmp_path, resume=True, log=lambda text: None)["name"] == "one"


def test_the_size_of_forwards_counts_where_each_draws_its_own_dropout(tmp_path):
    less = {"micro_batch": 2}
    for keys, model in (({"lora": {"lora_dropout": 0.1}}, {}), ({}, {"options": {"attention_dropout": 0.1}})):
        assert identity(SFT | keys | less, model) != identity(SFT | keys, model)
        assert identity(GRPO | keys | less, model) == identity(GRPO | keys, model), "it trains without dropout"
    for dropout in (0.0, 0.1):
        write_json(tmp_path / "config.json", {"attn_pdrop": dropout})
        there = {"path": str(tmp_path)}
        assert (identity(SFT | less, there) != identity(SFT, there)) == bool(dropout)
    assert text_identity(2, dropout=0.0) == text_identity(4, dropout=0.0)
    assert text_identity(2, dropout=0.1) != text_identity(4, dropout=0.1)
