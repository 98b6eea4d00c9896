"""`eval --compare` and `eval --tunnel` from the command line, on tiny models of both dialects."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.program import SHAPE
from helpers.sweep import sweep
from polythink.models.build import ModelConfig, from_config
from polythink.models.lm import ModelSettings, save
from polythink.problems.prompts import get_prompt
from polythink.problems.tasks.countdown import VOCABULARY
from polythink.run.jsonl import write_jsonl

BUDGETS = dict(paths=2, max_blocks=1, max_main_tokens=8, max_path_tokens=9, max_summary_tokens=6, max_trace_tokens=80)
SYNTHETIC = ("--problems", "countdown-mini:heldout", "--limit", 3, "--samples", 2)
COMPARE = ("--compare", "compare.sequential_prompt=countdown_sequential")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    found = {}
    prompt = get_prompt("countdown_parallel")
    for dialect, tokenizer in (("parathinker", "countdown"), ("parallel_r1", "countdown"), ("parathinker", "bytes")):
        folder = found[f"{dialect}, {tokenizer}"] = tmp_path_factory.mktemp("model")
        lm = from_config(ModelConfig(tokenizer=tokenizer, **SHAPE), dialect, VOCABULARY)
        save(lm, folder, ModelSettings(dialect, prompt=prompt.text, prompt_name=prompt.name, decoding=BUDGETS))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("dialect", sweep(["parathinker", "parallel_r1"], ["parathinker"]))
def test_compare_prints_a_table_and_leaves_a_report(dialect, models, polythink, tmp_path) -> None:
    out = tmp_path / "out"
    status, printed, _ = polythink(
        "eval", models[f"{dialect}, countdown"], *SYNTHETIC, *COMPARE, "compare.paths=[1,2]", "--out", out
    )
    assert status == 0
    for name in ("parallel", "re-prefill", "majority of the paths", "oracle", "sequential, same tokens"):
        assert f"| {name} " in printed
    assert f"report: {out / 'report.html'}" in printed
    result = json.loads((out / "compare.json").read_text())
    assert (result["paths"], result["samples"], result["n"]) == ([1, 2], 2, 3)
    report = (out / "report.html").read_text()
    assert "Accuracy by number of paths" in report
    assert "No evaluation has finished" not in report


def test_a_text_problem_is_compared_by_its_answers(models, polythink, tmp_path) -> None:
    write_jsonl(tmp_path / "sums.jsonl", [{"question": f"{i}+1", "answer": f"#### {i + 1}"} for i in range(2)])
    status, printed, _ = polythink(
        "eval", models["parathinker, bytes"], "--problems", tmp_path / "sums.jsonl", "--samples", 1, "--compare",
        "compare.sequential_prompt=none", "compare.paths=[1,2]", "--prompt", "none", "--out", tmp_path / "out",
    )  # fmt: skip
    assert status == 0
    assert "| oracle " in printed
    assert "marked path" not in printed


def test_tunnel_prints_both_tables_and_leaves_a_report(models, polythink, tmp_path) -> None:
    out = tmp_path / "out"
    status, printed, _ = polythink(
        "eval", models["parathinker, countdown"], *SYNTHETIC, "--tunnel", "tunnel.budgets=[4,8]",
        "tunnel.paths=[1,2]", "tunnel.prefixes=[1]", "tunnel.continuations=4", "--out", out,
    )  # fmt: skip
    assert status == 0
    assert "| 2 paths " in printed
    assert " wrong prefix |" in printed
    result = json.loads((out / "tunnel.json").read_text())
    assert [p["prefix"] for p in result["recovery"]["points"]] == [1]
    assert "Recovery" in (out / "report.html").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--compare"], "eval --compare: sequential_prompt is missing"),
        (["--compare", "compare.sequential_prompt=countdown_seq"], "no prompt 'countdown_seq'"),
        ([*COMPARE, "compare.paths=[1,32]"], "32 paths are more than the 16 numbers of the dialect parathinker"),
        ([*COMPARE, "compare.paths=[1;2]"], "paths"),
        ([*COMPARE, "compare.budgets=[4]"], "unknown key budgets"),
        ([*COMPARE, "tunnel.budgets=[4]"], "tunnel.budgets=[4] belongs to --tunnel, which was not given"),
        ([*COMPARE, "mode=sequential"], "a mode that draws them at once"),
        (["--compare", "--tunnel"], "run them one after another"),
        (["compare.paths=[1,2]"], "compare.paths=[1,2] belongs to --compare, which was not given"),
        (["--tunnel"], "set budgets, prefixes or both"),
        (["--tunnel", "tunnel.prefixes=[0.5,x]"], "prefixes.1"),
        (["--tunnel", "tunnel.prefixes=[50]"], "leaves nothing of max_path_tokens=9"),
    ],
)
def test_a_mistake_is_one_sentence(options, said, models, polythink, tmp_path) -> None:
    status, _, err = polythink(
        "eval", models["parathinker, countdown"], *SYNTHETIC, *options, "--out", tmp_path / "out"
    )
    assert status == 2
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()
