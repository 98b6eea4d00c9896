"""Samples of fine-tuning: what the model writes at every checkpoint, without a trace in what it learns."""

from __future__ import annotations

import pytest

from helpers.training import PROMPT, forking_lm, mixture, same_bits, sft_config, weights_of
from polythink.engine.engine import Engine
from polythink.engine.params import Request, SamplingParams
from polythink.errors import UserError
from polythink.models.lm import load
from polythink.pipeline.plan import SFTStage
from polythink.pipeline.recipe import Recipe
from polythink.pipeline.runners import sft
from polythink.problems.tasks.countdown import problems
from polythink.run.config import parse_config
from polythink.run.jsonl import read_jsonl, write_jsonl
from polythink.train.sft import train_sft

PARAMS = SamplingParams(
    paths=2, max_blocks=1, max_main_tokens=12, max_path_tokens=6, max_summary_tokens=4, max_trace_tokens=40
)


def run(folder, mini, asked=(), steps=5):
    lm, config = forking_lm(), sft_config(steps=steps, batch=4)
    train_sft(lm, config, mixture(lm, config, mini), folder, prompt=PROMPT, params=PARAMS, problems=asked, seed=3)
    return weights_of(lm.model)


def test_a_stage_is_the_same_with_and_without_samples(mini, tmp_path):
    asked = problems("mini", "heldout")[:2]
    plain, watched = run(tmp_path / "plain", mini), run(tmp_path / "watched", mini, asked)
    assert same_bits(plain, watched)
    assert not (tmp_path / "plain" / "samples.jsonl").exists()
    rows = read_jsonl(tmp_path / "watched" / "samples.jsonl")
    keys = [problem.key for problem in asked]
    assert [(row["step"], row["problem"]) for row in rows] == [(s, key) for s in (2, 4, 5) for key in keys]
    assert {row["verdict"] for row in rows} <= {"right", "wrong", "unparsed"}
    assert any(s["kind"] == "path" for row in rows for s in row["segments"])
    write_jsonl(tmp_path / "asked.jsonl", [{"id": p.key, "question": p.question, "answer": p.answer,
                                            "checker": p.checker} for p in asked])  # fmt: skip
    run(tmp_path / "from a file", mini, tmp_path / "asked.jsonl")
    again = read_jsonl(tmp_path / "from a file" / "samples.jsonl")
    assert [(row["problem"], row["text"]) for row in again] == [(row["problem"], row["text"]) for row in rows]
    lm = load(tmp_path / "watched" / "model")  # the last samples are those of the model that the stage leaves
    prompts = [tuple(lm.encode_prompt(PROMPT.fill(problem.question), PROMPT.text)) for problem in asked]
    requests = [Request(ids, key, i) for i, (ids, key) in enumerate(zip(prompts, keys, strict=True))]
    again = Engine(lm).generate(requests, PARAMS, 3)
    assert [rollout.text for rollout in again] == [row["text"] for row in rows[-2:]]


def test_a_stage_that_goes_on_has_each_sample_once(mini, tmp_path, monkeypatch):
    asked = problems("mini", "heldout")[:2]
    whole = run(tmp_path / "whole", mini, asked)
    with monkeypatch.context() as patch:
        patch.setattr("polythink.train.sft.save_checkpoint", fails_at(4))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "stopped", mini, asked)
    assert read_jsonl(tmp_path / "stopped" / "samples.jsonl")[-1]["step"] == 4, "drawn, and not yet kept"
    assert same_bits(run(tmp_path / "stopped", mini, asked), whole)
    found = [read_jsonl(tmp_path / name / "samples.jsonl") for name in ("whole", "stopped")]
    assert found[0] == found[1]


def fails_at(step):
    from polythink.train.sft import save_checkpoint

    def save(folder, done, *rest):
        if done == step:
            raise KeyboardInterrupt
        return save_checkpoint(folder, done, *rest)

    return save


def test_a_recipe_names_the_problems(tmp_path):
    given = {
        "kind": "sft", "steps": 1, "batch": 2, "data": [{"problems": "countdown-mini:train", "weight": 1}],
        "sample_problems": ["countdown-mini:heldout", "countdown-easy:heldout"], "log_samples": 2,
    }  # fmt: skip
    assert parse_config(SFTStage, {**given, "sample_problems": ()}, "test").log_samples == 2
    recipe = {"name": "test", "prompt": "countdown_parallel", "decoding": {"max_trace_tokens": 30}, "model": SMALL}
    (plan,) = parse_config(Recipe, {**recipe, "stages": {"a": given}}, "test").plan()
    (other,) = parse_config(Recipe, {**recipe, "stages": {"a": {**given, "sample_problems": []}}}, "test").plan()
    assert plan.digest == other.digest, "it changes nothing of what comes out"
    sft(plan, tmp_path, None, lambda text: None)
    rows = read_jsonl(tmp_path / "samples.jsonl")
    assert len(rows) == 4
    assert {row["step"] for row in rows} == {1}
    wrong = {**given, "sample_problems": ["countdown-minni:heldout"]}
    with pytest.raises(UserError, match="countdown-minni"):
        parse_config(Recipe, {**recipe, "stages": {"a": wrong}}, "test").plan()


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 16, "intermediate_size": 64,
         "tokenizer": "countdown"}  # fmt: skip
