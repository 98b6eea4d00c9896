"""The front door: its names are frozen, it opens without torch, and the README's scripts run through it."""

from __future__ import annotations

import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import polythink
from helpers.training import make_lm
from polythink.models.lm import save
from polythink.problems.prompts import get_prompt
from polythink.run.folder import write_json
from polythink.run.jsonl import read_jsonl

SCRIPTS = sorted((Path(__file__).parents[1] / "docs" / "scripts").glob("*.py"))
NAMES = {
    "load", "LanguageModel", "Engine", "SamplingParams", "Request", "Rollout", "parse", "Trace", "train_sft",
    "SFTConfig", "train_grpo", "GRPOConfig", "evaluate", "load_problems", "grade", "UserError",
}  # fmt: skip
DECODING = {"paths": 3, "max_main_tokens": 24, "max_path_tokens": 16, "max_summary_tokens": 8, "max_trace_tokens": 96}


def test_the_names_are_these_and_no_others() -> None:
    assert set(polythink.__all__) == NAMES | {"__version__"}
    assert set(dir(polythink)) == set(polythink.__all__)
    for name in NAMES:
        assert callable(getattr(polythink, name)), name
    with pytest.raises(AttributeError, match="no attribute 'generate'"):
        _ = polythink.generate


def test_the_package_opens_without_what_its_rooms_need() -> None:
    heavy = ("torch", "transformers", "numpy", "pydantic")
    light = [
        name for name in sorted(NAMES) if name not in ("load", "LanguageModel", "Engine", "train_sft", "train_grpo")
    ]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({heavy}))\n"
        "import polythink, polythink.evaluate\n"
        "assert polythink.evaluate is sys.modules['polythink.evaluate'] and callable(polythink.evaluate)\n"
        "assert polythink.UserError and len(dir(polythink)) == 17\n"
        "del sys.modules['numpy'], sys.modules['pydantic']\n"
        f"[getattr(polythink, name) for name in {light}]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_evaluate_is_the_same_however_it_is_reached() -> None:
    from polythink import evaluate
    from polythink.evaluate.run import evaluate as function

    assert evaluate is polythink.evaluate
    assert callable(evaluate)
    assert evaluate.run.evaluate is function


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder in which the smoke recipe has left a model, here a random tiny one."""
    folder = tmp_path_factory.mktemp("reader")
    lm, prompt = make_lm(), get_prompt("countdown_parallel")
    settings = replace(lm.settings, prompt=prompt.text, prompt_name=prompt.name, decoding=DECODING)
    save(lm, folder / "runs" / "smoke" / "sft" / "model", settings)
    return folder


def test_there_are_four_scripts() -> None:
    assert [script.stem for script in SCRIPTS] == ["evaluate", "generate", "grpo", "sft"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_of_the_readme_runs_as_written(script, finished, monkeypatch, capsys) -> None:
    monkeypatch.chdir(finished)
    assert len(script.read_text(encoding="utf-8").splitlines()) <= 20
    runpy.run_path(str(script), run_name="__main__")
    said = capsys.readouterr().out
    assert {"evaluate": "mean@4", "generate": "steps", "grpo": "reward", "sft": "loss"}[script.stem] in said
    if script.stem in ("sft", "grpo"):
        run = finished / "runs" / f"my-{script.stem}"
        assert len(read_jsonl(run / "metrics.jsonl")) in (3, 5)
        assert polythink.load(run / "model").settings.prompt_name == "countdown_parallel"


def test_a_model_is_loaded_from_the_folder_of_its_run_too(finished) -> None:
    run = finished / "runs" / "smoke"
    write_json(run / "stages.json", [{"name": n, "kind": "sft", "folder": n} for n in ("sft", "unfinished")])
    for folder in (run, run / "sft"):
        assert polythink.load(folder).settings.prompt_name == "countdown_parallel"
    write_json(run / "stages.json", {"a": 1})
    with pytest.raises(polythink.UserError, match=r"stages\.json is damaged"):
        polythink.load(run)


def test_a_dialect_may_be_named_where_a_trace_is_parsed() -> None:
    text = "<think1>a</think1><think2>b</think2><summary>c</summary>"
    assert polythink.parse(text, "parathinker").blocks[0].paths
    with pytest.raises(polythink.UserError, match="did you mean 'parathinker'"):
        polythink.parse(text, "parathinke")
