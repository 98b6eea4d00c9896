"""Recipes of the two new kinds of ParaThinker data: solutions assembled by a cold start, and attribution."""

from __future__ import annotations

import pytest

from helpers.training import SHAPE
from polythink.errors import UserError
from polythink.models.lm import load
from polythink.pipeline.recipe import Recipe, run_recipe
from polythink.run.config import parse_config
from polythink.run.folder import read_json
from polythink.run.jsonl import read_jsonl
from polythink.trace.dialect import PARATHINKER
from polythink.trace.parse import parse

SFT = {"kind": "sft", "steps": 3, "batch": 8, "lr": 3e-3}
DECODING = {"paths": 3, "max_path_tokens": 24, "max_summary_tokens": 16, "max_trace_tokens": 128}


def recipe_of(stages: dict, **facts) -> Recipe:
    data = {"name": "test", "dialect": "parathinker", "decoding": DECODING, "model": SHAPE, "stages": stages, **facts}
    return parse_config(Recipe, data, "test")


def coldstart(**changes) -> dict:
    return {
        "kind": "coldstart", "problems": ["countdown-easy:train"], "limit": 20, "samples": 5,
        "teacher": {"kind": "countdown", "styles": {"sequential": 1}},
        "assemble": {"paths": [2, 3], "template": "\\boxed{ {answer} }", "prompt": "countdown_sequential", **changes},
    }  # fmt: skip


def test_a_coldstart_stage_assembles_and_fine_tuning_reads_it(tmp_path):
    stages = {"start": coldstart(filter="mixed", traces=2), "sft": {**SFT, "data": [{"stage": "start"}]}}
    said: list[str] = []
    run_recipe(recipe_of(stages, prompt="countdown_parallel"), tmp_path / "run", log=said.append)
    start = tmp_path / "run" / "start"
    result = read_json(start / "result.json")
    assert result["table"][0]["jobs"] == 40
    kept = read_jsonl(start / "kept.jsonl")
    assert len(kept) == result["table"][0]["kept"] >= 20
    assert {row["prompt"] for row in kept} == {"countdown_parallel"}
    assert {len(parse(row["trace"], PARATHINKER).blocks[0].paths) for row in kept} == {2, 3}
    rows = read_jsonl(start / "solutions" / "all.jsonl")
    assert {row["prompt"] for row in rows} == {"countdown_sequential"}
    assert {row["verdict"] for row in rows} == {"right", "wrong"}
    assert result["seconds"] == pytest.approx(
        sum(row["seconds"] for row in (*rows, *read_jsonl(start / "all.jsonl")))
    )  # fmt: skip
    assert sum("not kept because" in text for text in said) == 2
    assert read_json(tmp_path / "run" / "sft" / "result.json")["dropped"] == {}


def test_attribution_is_trained_and_evaluated(tmp_path):
    data = [{"problems": "attribution:train", "weight": 1, "demonstrations": {"paths": 3}}]
    check = {"kind": "eval", "problems": ["attribution"], "limit": 3, "samples": 2}
    model = {**SHAPE, "tokenizer": "attribution"}
    run_recipe(recipe_of({"sft": {**SFT, "data": data}, "check": check}, prompt="none", model=model), tmp_path / "run",
               log=lambda text: None)  # fmt: skip
    assert "of" in load(tmp_path / "run" / "sft" / "model").tokenizer.get_vocab()
    metrics = read_json(tmp_path / "run" / "check" / "eval-attribution.json")["metrics"]
    assert 0 <= metrics["right_lines"]["value"] <= 1
    rows = read_jsonl(tmp_path / "run" / "check" / "samples-attribution.jsonl")
    assert all(0 <= row["right_lines"] <= 1 and row["answer"].isdigit() for row in rows)


def test_mistakes_in_words():
    for change, message in [
        ({"summary": "teacher"}, "the countdown teacher writes no summaries"),
        ({"path": 3}, "did you mean 'paths'"),
        ({"prompt": "squential"}, "did you mean 'sequential'"),
    ]:
        with pytest.raises(UserError, match=message):
            recipe_of({"start": coldstart(**change)}).plan()
