"""`generate` and `eval` on a tiny random model that writes bytes."""

from __future__ import annotations

import io
import json
import re
import shutil
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from helpers.program import SHAPE, invoke
from polythink.cli.app import app
from polythink.cli.generate import read_prompts, watch
from polythink.cli.model import ModelChoice, find_model, params_for
from polythink.engine.engine import Engine
from polythink.engine.params import Request, SamplingParams
from polythink.errors import UserError
from polythink.models.build import ModelConfig, from_config
from polythink.models.lm import LanguageModel, ModelSettings, load, save
from polythink.run.folder import write_json
from polythink.run.jsonl import write_jsonl

polythink = partial(invoke, app)
BUDGETS = {"max_main_tokens": 400, "max_path_tokens": 12, "max_summary_tokens": 9, "max_trace_tokens": 500, "paths": 3}


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
    assert [find_model(str(p)) for p in (run_folder, run_folder / "sft", model)] == [str(model)] * 3
    assert find_model("Qwen/Qwen3-4B") == "Qwen/Qwen3-4B"
    for given, said in (
        (tmp_path / "nowhere", "no model folder"),
        (tmp_path, "holds no model; give a folder with config.json"),
        (run_folder / "eval", f"holds no model; {run_folder} does"),
        ("a/b/c", "an id on the hub is of the form owner/name"),
        ("smok", "a name on the hub is of the form owner/name"),
    ):
        with pytest.raises(UserError, match=re.escape(said)):
            find_model(str(given))


def test_decoding_is_the_models_own_with_changes(run_folder) -> None:
    model = find_model(str(run_folder))
    params = params_for(model, ModelChoice(), ["paths=2", "temperature=0.5"])
    assert params == SamplingParams(**BUDGETS | {"paths": 2, "temperature": 0.5})
    assert params_for(model, ModelChoice(mode="sequential"), []).mode == "sequential"
    with pytest.raises(UserError, match="decoding: unknown key path; did you mean 'paths'"):
        params_for(model, ModelChoice(), ["path=2"])
    assert params_for(model, ModelChoice(), ["fork_at=2"]).fork_at == 2
    assert params_for(model, ModelChoice(mode="sequential"), ["fork_at=null"]).fork_at is None
    for choice, more in ((ModelChoice(mode="sequential"), []), (ModelChoice(), ["mode=sequential"])):
        with pytest.raises(UserError, match="fork_at=2 has the runtime open the first block"):
            params_for(model, choice, ["fork_at=2", *more])


@pytest.mark.slow
def test_generate_prints_the_trace_that_the_engine_draws(lm, seed, run_folder) -> None:
    done = polythink("generate", run_folder, "1+1", "--seed", seed)
    (rollout,) = Engine(lm).generate([request_of(lm)], SamplingParams(**BUDGETS), seed)
    assert done.stdout == rollout.text + "\n"
    fewer = polythink("generate", run_folder, "1+1", "max_trace_tokens=60", "--seed", seed, "--paths", 1)
    changed = SamplingParams(**BUDGETS | {"paths": 1, "max_trace_tokens": 60})
    assert fewer.stdout == Engine(lm).generate([request_of(lm)], changed, seed)[0].text + "\n" != done.stdout


def test_a_terminal_shows_the_paths_side_by_side_and_the_whole_trace_once(lm, seed) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=8)
    rollout = watch(Engine(lm), request_of(lm), SamplingParams(**BUDGETS), seed, console)
    written = console.file.getvalue()
    lines = written[written.rindex("\x1b[?1049l") :].splitlines()  # after the live view has left
    blocks = len({s.block for s in rollout.segments if s.kind == "summary"})
    assert sum("path 1" in line and "path 2" in line and "path 3" in line for line in lines) == blocks > 1
    assert lines[-1].startswith(f"{rollout.tokens} tokens, {rollout.critical_path} on the critical path")


def test_generate_prints_one_json_object_per_response(lm, run_folder, tmp_path) -> None:
    (tmp_path / "prompts.txt").write_text("1+1\n\n2+2\n")
    command = ("generate", run_folder, "--file", tmp_path / "prompts.txt", "max_trace_tokens=60", "-n", 2, "--json")
    rows = [json.loads(line) for line in polythink(*command).stdout.splitlines()]
    assert [(row["prompt"], row["sample"]) for row in rows] == [("1+1", 0), ("1+1", 1), ("2+2", 0), ("2+2", 1)]
    alone = json.loads(polythink("generate", run_folder, "1+1", "max_trace_tokens=60", "--json").stdout)
    assert alone == rows[0], "a response does not depend on the others"
    assert rows[0]["text"] != rows[1]["text"]
    params = SamplingParams(**BUDGETS | {"max_trace_tokens": 60})
    (rollout,) = Engine(lm).generate([request_of(lm)], params)
    assert {**rows[0], "segments": len(rows[0]["segments"])} == {
        "prompt": "1+1", "sample": 0, "text": rollout.text, "segments": len(rollout.segments),
        "tokens": rollout.tokens, "critical_path": rollout.critical_path, "truncated": rollout.truncated,
        **rollout.stopped, "finish_reason": rollout.finish_reason, "seed": 0,
    }  # fmt: skip
    assert "".join(segment["text"] for segment in rows[0]["segments"]) == rollout.text
    assert sum(segment["tokens"] for segment in rows[0]["segments"]) == rollout.tokens


def test_generate_reads_prompts_from_standard_input_and_from_columns(run_folder, tmp_path) -> None:
    few = ("max_trace_tokens=20", "--json", "--temperature", 0)
    write_jsonl(tmp_path / "rows.jsonl", [{"problem": "1+1", "other": "2+2"}])

    def prompts(*arguments: object, **options: str) -> list[str]:
        done = polythink("generate", run_folder, *arguments, *few, **options)
        return [json.loads(line)["prompt"] for line in done.stdout.splitlines()]

    assert prompts("-", input="1+1\n2+2\n") == ["1+1", "2+2"]
    assert prompts("--file", tmp_path / "rows.jsonl") == ["1+1"]
    assert prompts("--file", tmp_path / "rows.jsonl", "--column", "other") == ["2+2"]


def test_several_responses_are_told_apart_in_plain_text(run_folder) -> None:
    printed = polythink("generate", run_folder, "1+1", "max_trace_tokens=20", "-n", 2).stdout.splitlines()
    assert [line for line in printed if line.startswith("# prompt")] == [
        "# prompt 1, sample 1: 1+1", "# prompt 1, sample 2: 1+1",
    ]  # fmt: skip


def test_loading_is_announced_under_verbose(run_folder) -> None:
    done = polythink("-v", "generate", run_folder, "1+1", "max_trace_tokens=8")
    assert done.stderr.startswith(f"loading {run_folder / 'sft' / 'model'} ...\n")
    said = polythink("generate", run_folder, "1+1", "max_trace_tokens=8").stderr
    assert said.startswith("note: truncated segments: 1 by max_trace_tokens=8 (")
    assert polythink("-q", "generate", run_folder, "1+1", "max_trace_tokens=8").stderr == ""


def test_paths_that_the_budget_cannot_hold_are_refused(run_folder) -> None:
    with pytest.raises(UserError, match=r"a block of 99 paths takes \d+ tokens .*: set max_trace_tokens=\d+"):
        polythink("generate", run_folder, "1+1", "--paths", 99, "max_trace_tokens=90")
    with pytest.raises(UserError, match=r"a block of 99 paths"):
        polythink(
            "eval",
            run_folder,
            "--problems",
            "countdown-easy",
            "paths=99",
            "max_trace_tokens=90",
            "--out",
            run_folder / "none",
        )
    with pytest.raises(UserError, match="nothing could be sampled; truncated segments: 1 by max_trace_tokens=1"):
        polythink("generate", run_folder, "1+1", "max_trace_tokens=1")


def test_a_setting_given_by_option_and_key_is_no_silent_choice(run_folder) -> None:
    for option, key in (
        ("--paths=2", "paths=3"),
        ("--temperature=1", "temperature=0"),
        ("--mode=sequential", "mode=x"),
    ):
        with pytest.raises(UserError, match="are the same setting; give one of them"):
            polythink("generate", run_folder, "1+1", option, key)


def test_a_folder_that_is_not_ours_is_used_as_the_options_say(run_folder, tmp_path) -> None:
    foreign = shutil.copytree(run_folder / "sft" / "model", tmp_path / "foreign")
    (foreign / "polythink.json").unlink()
    options = ("--dialect", "parallel_r1", "--mode", "sequential", "--prompt", "none", "--no-chat", "--device", "cpu")
    few = ("max_trace_tokens=20", "--json", "--dtype", "float32", "--max-num-seqs", 1)
    row = json.loads(polythink("generate", foreign, "1+1", *options, *few).stdout)
    assert {segment["kind"] for segment in row["segments"]} == {"main"}
    assert row["tokens"] <= 20


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
    assert "Similarity of maps" in (out / "report.html").read_text(encoding="utf-8")


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


def test_prompts_are_told_apart_by_line_ends_alone(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_bytes("one \u2028 still one\r\ntwo\x0c still two\n\n three\x85 x".encode())
    assert read_prompts(None, file, None) == ["one \u2028 still one", "two\x0c still two", " three\x85 x"]
