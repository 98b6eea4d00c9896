"""`generate` and `eval` on a tiny random model that writes bytes."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from polythink.cli.generate import View, watch
from polythink.cli.main import app
from polythink.cli.model import decoding_for, model_folder
from polythink.engine.engine import Engine
from polythink.engine.params import Request, SamplingParams
from polythink.errors import UserError
from polythink.models.build import ModelConfig, from_config
from polythink.models.lm import LanguageModel, ModelSettings, load, save
from polythink.run.folder import write_json, write_jsonl
from polythink.trace.tree import Block

BUDGETS = {"max_main_tokens": 400, "max_path_tokens": 12, "max_summary_tokens": 9, "max_trace_tokens": 500, "paths": 3}
SHAPE = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
    "intermediate_size": 48,
}  # fmt: skip


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    """A run with one stage that left a model."""
    folder = tmp_path_factory.mktemp("run")
    lm = from_config(ModelConfig(tokenizer="bytes", **SHAPE), "parallel_r1", seed=0)
    save(lm, folder / "sft" / "model", ModelSettings(prompt="Solve: {problem}", prompt_name="own", decoding=BUDGETS))
    (folder / "eval").mkdir()
    write_json(folder / "stages.json", [{"name": n, "kind": n, "folder": n} for n in ("sft", "eval")])
    return folder


@pytest.fixture(scope="module")
def lm(run_folder) -> LanguageModel:
    return load(run_folder / "sft" / "model")


def polythink(*arguments: object):
    """The result of a command; a `UserError` passes through, for `main` to print."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if isinstance(result.exception, Exception):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def seed(lm) -> int:
    """The first seed under which the model opens two blocks on the problem "1+1"."""
    for seed in range(200):
        (rollout,) = Engine(lm, max_num_seqs=1).generate([request_of(lm)], SamplingParams(**BUDGETS), seed)
        if len({s.block for s in rollout.segments if s.kind == "summary"}) > 1:
            return seed
    raise AssertionError("no seed opens two blocks")


def request_of(lm: LanguageModel) -> Request:
    return Request(tuple(lm.encode_prompt("Solve: 1+1")))


def test_a_model_is_found_in_its_run_its_stage_and_itself(run_folder, tmp_path) -> None:
    model = run_folder / "sft" / "model"
    assert [model_folder(p) for p in (run_folder, run_folder / "sft", model)] == [model] * 3
    with pytest.raises(UserError, match="no model folder"):
        polythink("generate", tmp_path / "nowhere", "1+1")
    with pytest.raises(UserError, match=r"cannot load a model|no config\.json"):
        polythink("generate", tmp_path, "1+1")


def test_decoding_is_the_models_own_with_changes(lm) -> None:
    decoding = decoding_for(lm, ["paths=2", "temperature=0.5"])
    assert decoding == SamplingParams(**BUDGETS | {"paths": 2, "temperature": 0.5})
    with pytest.raises(UserError, match="decoding: unknown key path; did you mean 'paths'"):
        decoding_for(lm, ["path=2"])


def test_generate_prints_the_trace_that_the_engine_draws(lm, seed, run_folder) -> None:
    done = polythink("generate", run_folder, "1+1", "--seed", seed)
    (rollout,) = Engine(lm).generate([request_of(lm)], SamplingParams(**BUDGETS), seed)
    assert done.stdout == rollout.text + "\n"
    fewer = polythink("generate", run_folder, "1+1", "max_trace_tokens=60", "--seed", seed, "--paths", 1)
    changed = SamplingParams(**BUDGETS | {"paths": 1, "max_trace_tokens": 60})
    assert fewer.stdout == Engine(lm).generate([request_of(lm)], changed, seed)[0].text + "\n" != done.stdout


def test_the_view_holds_at_the_end_what_was_drawn(lm, seed) -> None:
    view = View(lm)
    snapshots = []

    def see(event) -> None:
        view.see(event)
        snapshots.append(sum(len(b.paths) for b in view.trace().blocks))

    (rollout,) = Engine(lm).generate([request_of(lm)], SamplingParams(**BUDGETS), seed, on_event=see)
    assert snapshots == sorted(snapshots)
    drawn = [s for s in rollout.segments if s.kind != "main"]

    def text(segment) -> str:
        return lm.decode([t for t in segment.tokens if t not in lm.tag_ids.values()])

    blocks = view.trace().blocks
    assert len(blocks) >= 2
    for number, block in enumerate(blocks):
        assert [p.parts[0] for p in block.paths] == [text(s) for s in drawn if s.block == number and s.kind == "path"]
        assert block.summary.parts[0] == next(text(s) for s in drawn if s.block == number and s.kind == "summary")
    assert all(part.strip() for part in view.trace().parts if not isinstance(part, Block))


def test_a_terminal_shows_the_paths_side_by_side(lm, seed) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=60)
    rollout = watch(Engine(lm), request_of(lm), SamplingParams(**BUDGETS), seed, console)
    lines = console.file.getvalue().splitlines()
    assert any("path 1" in line and "path 2" in line and "path 3" in line for line in lines)
    assert f"{rollout.tokens} tokens, " in lines[-1]
    assert "on the critical path" in lines[-1]


# ---- eval ----


@pytest.fixture
def problems(tmp_path) -> Path:
    rows = [{"question": f"{i}+1", "answer": f"#### {i + 1}"} for i in range(4)]
    write_jsonl(tmp_path / "sums.jsonl", rows)
    return tmp_path / "sums.jsonl"


def test_eval_writes_samples_and_metrics(run_folder, problems, tmp_path) -> None:
    out = tmp_path / "out"
    done = polythink(
        "eval", run_folder, "max_main_tokens=20", "--problems", problems, "--samples", 2, "--limit", 3, "--out", out,
        "--prompt", "none", "--greedy", "--heads",
    )  # fmt: skip
    result = json.loads((out / "eval.json").read_text())
    assert (result["n"], result["samples"], result["prompt"]["name"]) == (3, 2, "none")
    assert result["decoding"]["max_main_tokens"] == 20
    assert len((out / "samples.jsonl").read_text().splitlines()) == 6
    assert len((out / "greedy.jsonl").read_text().splitlines()) == 3
    for name in ("mean@2", "pass@2", "maj@2", "greedy", "tokens"):
        assert f"| {name} " in done.output
    polythink("report", out)
    assert "Which heads are alike: decoder" in (out / "report.html").read_text(encoding="utf-8")


def test_eval_with_the_models_own_prompt_records_it(run_folder, problems, tmp_path) -> None:
    polythink(
        "eval", run_folder, "max_main_tokens=5", "--problems", problems, "--samples", 1, "--out", tmp_path / "out"
    )
    assert json.loads((tmp_path / "out" / "eval.json").read_text())["prompt"]["name"] == "own"


def test_eval_refuses_a_closed_vocabulary_with_a_sentence(problems, tmp_path) -> None:
    from polythink.problems.tasks.countdown import VOCABULARY

    save(from_config(ModelConfig(tokenizer="countdown", **SHAPE), "parallel_r1", VOCABULARY), tmp_path / "closed")
    write_jsonl(tmp_path / "words.jsonl", [{"question": "How many eggs?", "answer": "3"}])
    with pytest.raises(UserError, match="closed vocabulary has no token for 'How', 'many'"):
        polythink(
            "eval", tmp_path / "closed", "--problems", tmp_path / "words.jsonl", "--samples", 1, "--out", tmp_path / "o"
        )
    assert not (tmp_path / "o").exists()
