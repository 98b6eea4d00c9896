"""Published problems through the whole program: drawn, graded and reported; what is wrong with a set is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.program import SHAPE
from helpers.sweep import sweep
from polythink.models.build import ModelConfig, from_config
from polythink.models.lm import ModelSettings, save
from polythink.problems.grade import VERDICTS
from polythink.problems.prompts import get_prompt
from polythink.problems.tasks.countdown import VOCABULARY
from polythink.run.folder import read_json
from polythink.run.jsonl import read_jsonl

BUDGETS = {"max_main_tokens": 60, "max_path_tokens": 12, "max_summary_tokens": 9, "max_trace_tokens": 160}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """Two random models: `bytes` reads anything, `closed` the words of the synthetic task alone."""
    folder, prompt = tmp_path_factory.mktemp("models"), get_prompt("sequential")
    used = {"prompt": prompt.text, "prompt_name": prompt.name, "prompt_hash": prompt.hash, "decoding": BUDGETS}
    save(from_config(ModelConfig(tokenizer="bytes", **SHAPE), "parallel_r1"), folder / "bytes", ModelSettings(**used))
    closed = from_config(ModelConfig(tokenizer="countdown", **SHAPE), "parallel_r1", VOCABULARY)
    save(closed, folder / "closed", ModelSettings(decoding=BUDGETS))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stem", "mode"),
    sweep(
        [(stem, mode) for stem in ("gsm8k_test", "aime24") for mode in ("structured", "sequential")],
        [("gsm8k_test", "structured"), ("aime24", "sequential")],
    ),
)
def test_twenty_problems_are_drawn_graded_and_reported(polythink, models, shared_data, tmp_path, stem, mode):
    command = ("eval", models / "bytes", f"mode={mode}", "--problems", shared_data / f"{stem}.parquet")
    status, out, err = polythink(*command, "--limit", 20, "--samples", 2, "--out", tmp_path)
    assert (status, err) == (0, "")
    result, rows = read_json(tmp_path / "eval.json"), read_jsonl(tmp_path / "samples.jsonl")
    assert (result["problems"], result["n"], result["samples"]) == (stem, 20, 2)
    assert result["decoding"]["mode"] == mode
    assert result["prompt"]["hash"] == get_prompt("sequential").hash
    assert len(rows) == 40 == sum(result["verdicts"].values())
    assert {row["verdict"] for row in rows} <= set(VERDICTS)
    assert len({row["problem"] for row in rows}) == 20
    assert all(row["question"] and row["answer"] for row in rows)
    assert "| mean@2 " in out
    if mode == "structured":  # blocks are drawn, and shorten the critical path; in flat text nothing can
        assert any(row["critical_path"] < row["tokens"] for row in rows)
    else:
        assert all(row["critical_path"] == row["tokens"] for row in rows)
    status, out, err = polythink("report", tmp_path)
    assert (status, err) == (0, "")
    assert stem in Path(out.strip()).read_text(encoding="utf-8")


@pytest.mark.parametrize("stem", ["gsm8k_test", "aime24"])
def test_a_closed_vocabulary_is_refused_with_a_sentence(polythink, models, shared_data, tmp_path, stem):
    command = ("eval", models / "closed", "--problems", shared_data / f"{stem}.parquet", "--limit", 20)
    status, _, err = polythink(*command, "--out", tmp_path / "out")
    assert status == 2
    assert err.startswith(f"polythink: none of the 20 problems of {stem} can be asked: '")
    assert "the tokenizer's closed vocabulary has no token for '" in err
    assert "model.tokenizer=bytes" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("stem", "notes"),
    [
        ("amc23", ("8 of 40 problems occur both in DAPO-Math-17k",)),
        ("math_test", ("828 of 5,000 problems occur both in DAPO-Math-17k", "66 answers were cut")),
        ("math300", ("8 of 316 problems occur both", "26 of 316 problems lost the text", "5 of 316 problems have a")),
        ("aime24", ("1 of 30 problems lost the text",)),
        ("gsm8k_test", ()),
    ],
)
def test_an_evaluation_says_what_is_wrong_with_its_set(polythink, models, shared_data, tmp_path, stem, notes):
    command = ("eval", models / "bytes", "max_trace_tokens=5", "--problems", shared_data / f"{stem}.parquet")
    status, out, _ = polythink(*command, "--limit", 1, "--samples", 1, "--out", tmp_path)
    assert status == 0
    said = [line for line in out.splitlines() if line.startswith(f"note on {stem}: ")]
    recorded = read_json(tmp_path / "eval.json")["notes"]
    assert [line.removeprefix(f"note on {stem}: ") for line in said] == recorded
    assert len(recorded) == len(notes)
    assert all(any(note in line for line in recorded) for note in notes)
    polythink("report", tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert all(note in page for note in notes)
