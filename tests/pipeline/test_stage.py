"""Stages in their folders: a whole recipe, sharing, resuming after a real kill, and what is refused."""

from __future__ import annotations

import json
import re
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from platform import python_version

import pytest
import torch

from helpers.training import SHAPE, checkpointed, killed, make_lm, same_bits, without_times
from polythink.errors import UserError
from polythink.evaluate.journal import Journal
from polythink.evaluate.run import evaluate
from polythink.models.lm import load, save
from polythink.pipeline.plan import file_name
from polythink.pipeline.recipe import Recipe, run_recipe
from polythink.pipeline.stage import check_folder, main, run_stage
from polythink.problems.prompts import get_prompt
from polythink.run.config import parse_config
from polythink.run.folder import folder_lock, read_json, write_json
from polythink.run.jsonl import read_jsonl, write_jsonl
from polythink.train.checkpoint import load_checkpoint, save_checkpoint
from polythink.train.config import TrainingConfig
from polythink.train.optimiser import make_optimiser

DECODING = {"paths": 2, "max_main_tokens": 16, "max_path_tokens": 8, "max_summary_tokens": 4, "max_trace_tokens": 60}
EASY = "countdown-easy:train"


def recipe_of(**stages) -> Recipe:
    data = {"name": "test", "prompt": "countdown_parallel", "decoding": DECODING, "model": SHAPE, "stages": stages}
    return parse_config(Recipe, data, "test")


def sft(**changes) -> dict:
    return {"kind": "sft", "steps": 3, "batch": 8, "lr": 3e-3, "data": [{"problems": EASY, "weight": 1}], **changes}


def grpo(**changes) -> dict:
    plain = {"kind": "grpo", "problems": [EASY], "reward": "tiered", "steps": 2, "prompts_per_step": 2, "group_size": 2}
    return {**plain, "lr": 1e-3, "drop_zero_spread": False, **changes}


COLDSTART = {
    "kind": "coldstart", "problems": [EASY], "limit": 20, "teacher": {"kind": "countdown", "styles": {"parallel": 1}},
}  # fmt: skip
EVAL = {"kind": "eval", "problems": ["countdown-easy:heldout"], "limit": 4, "samples": 2}


def quiet(*args) -> None:
    pass


# ---- a whole recipe ----


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    recipe = recipe_of(
        base=sft(), start=COLDSTART, sft=sft(data=[{"stage": "start"}]), check={**EVAL, "greedy": True},
        rl=grpo(), final={**EVAL, "prompts": ["countdown_parallel", "countdown_sequential"]},
    )  # fmt: skip
    out = tmp_path_factory.mktemp("runs") / "run"
    report = run_recipe(recipe, out, log=quiet)
    return recipe, out, report


def test_a_run_folder_holds_everything(whole):
    recipe, out, report = whole
    assert report == out / "report.html"
    stages = read_json(out / "stages.json")
    assert [(s["name"], s["folder"]) for s in stages] == [(name, name) for name in recipe.stages]
    for stage in stages:
        folder = out / stage["folder"]
        assert read_json(folder / "result.json")["kind"] == stage["kind"]
        assert (folder / "model" / "polythink.json").exists() == (stage["kind"] in ("sft", "grpo"))
        assert (folder / "metrics.jsonl").exists() == (stage["kind"] in ("sft", "grpo"))
    assert (out / "environment.json").exists()
    assert (out / "check" / "greedy-countdown-easy-heldout.jsonl").exists()
    names = {path.name for path in (out / "final").glob("eval-*.json")}
    assert names == {f"eval-countdown-easy-heldout-countdown_{style}.json" for style in ("parallel", "sequential")}


def test_a_stage_says_what_it_was_built_on(whole):
    _, out, _ = whole
    assert read_json(out / "rl" / "stage.json")["previous"] == "../sft"
    assert read_json(out / "final" / "stage.json")["previous"] == "../rl"
    assert read_json(out / "base" / "stage.json")["previous"] is None
    assert read_json(out / "start" / "table.json")[0]["jobs"] == 20


def test_models_go_from_stage_to_stage_and_say_how_to_use_them(whole):
    _, out, _ = whole
    lm = load(out / "rl" / "model")
    prompt = get_prompt("countdown_parallel")
    assert (lm.settings.prompt, lm.settings.prompt_hash) == (prompt.text, prompt.hash)
    assert (lm.settings.mode, lm.settings.dialect, lm.settings.decoding["paths"]) == ("structured", "parallel_r1", 2)
    start, end = (load(out / name / "model").model.state_dict() for name in ("sft", "rl"))
    change = max((start[name] - end[name]).abs().max().item() for name in start)
    assert 0 < change < 0.1, "reinforcement learning went on from the fine-tuned weights"
    assert not same_bits(load(out / "base" / "model").model.state_dict(), start)


def test_resuming_a_finished_run_runs_nothing(whole, monkeypatch):
    recipe, out, _ = whole
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    monkeypatch.setattr("polythink.pipeline.runners.RUNNERS", {})
    monkeypatch.setattr("sys.argv", ["polythink", "train", "--resume"])
    run_recipe(recipe, out, resume=True, log=quiet)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == before
    assert "later_attempts" not in read_json(out / "environment.json")


def test_a_stage_can_be_added_at_the_end(whole, tmp_path):
    recipe, out, _ = whole
    longer = recipe.model_copy(update={"stages": {**recipe.stages, "again": recipe.stages["check"]}})
    first = read_json(out / "environment.json")
    run_recipe(longer, out, resume=True, log=quiet)
    assert (out / "again" / "result.json").exists()
    found = read_json(out / "environment.json")
    assert len(found.pop("later_attempts")) == 1
    assert found == first
    assert len(read_json(out / "check" / "stage.json")["attempts"]) == 1, "it was done before that"


def test_another_recipe_does_not_mix_with_it(whole):
    recipe, out, _ = whole
    with pytest.raises(UserError, match="holds a run already"):
        run_recipe(recipe, out, log=quiet)
    other = recipe.model_copy(update={"seed": 5})
    with pytest.raises(UserError, match="a stage of another recipe"):
        run_recipe(other, out, resume=True, log=quiet)
    assert "seed: 0" in (out / "recipe.yaml").read_text(), "the refused recipe left no trace"


def test_a_run_that_is_under_way_is_not_run_twice(tmp_path):
    with folder_lock(tmp_path), pytest.raises(UserError, match="another process is at work"):
        run_recipe(recipe_of(start=COLDSTART), tmp_path, log=quiet)
    run_recipe(recipe_of(start=COLDSTART), tmp_path, log=quiet)


def test_what_is_known_of_the_problems_is_said(tmp_path):
    rows = [{"question": "1 2 -> 3", "answer": answer, "checker": "countdown"} for answer in ("+", "+", "-")]
    write_jsonl(tmp_path / "own.jsonl", rows)
    said = []
    plan = recipe_of(rl=grpo(problems=[str(tmp_path / "own.jsonl")], steps=1)).plan()[0]
    run_stage(plan, tmp_path / "rl", log=said.append)
    assert ["2 repeated questions were dropped, 1 with another answer" in line for line in said] == [True]


# ---- killed ----

SFT = sft(steps=25, batch=4, checkpoint_every=5, schedule="cosine")
GRPO = grpo(steps=10, checkpoint_every=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "kill_at", "fresh"),
    [
        pytest.param(SFT, 12, False, id="sft"),
        pytest.param(SFT, 12, True, id="sft-fresh", marks=pytest.mark.long),
        pytest.param(GRPO, 5, False, id="grpo", marks=pytest.mark.long),  # also: tests/train/test_dropout.py
        pytest.param(GRPO, 5, True, id="grpo-fresh", marks=pytest.mark.long),
    ],
)
def test_a_killed_stage_resumes_to_the_same_bits(tmp_path, stage, kill_at, fresh):
    plan = recipe_of(only=stage).plan()[0]
    run_stage(plan, tmp_path / "whole", log=quiet)
    folder = tmp_path / "killed"
    killed(plan, folder, kill_at, fresh)
    assert not (folder / "result.json").exists()
    torn = folder / "checkpoint" / ".step-000099.0123.tmp"
    torn.mkdir()
    (torn / "__0_0.distcp").write_bytes(b"half a checkpoint")
    with pytest.raises(UserError, match="unfinished stage"):
        run_stage(plan, folder, log=quiet)
    run_stage(plan, folder, resume=True, log=quiet)
    assert same_bits(*(checkpointed(tmp_path / name / "checkpoint") for name in ("whole", "killed")))
    assert same_bits(*(load(tmp_path / name / "model").model.state_dict() for name in ("whole", "killed")))
    rows = [without_times(read_jsonl(tmp_path / name / "metrics.jsonl")) for name in ("whole", "killed")]
    assert rows[0] == rows[1]
    assert not list(folder.rglob(".*.tmp"))


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: to a program the same as a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("hidden_size", [32, 256])  # what is smaller than a buffer fails later
def test_a_full_disk_is_one_sentence(tmp_path, hidden_size):
    lm = make_lm(hidden_size=hidden_size)
    optimiser = make_optimiser(lm.model, TrainingConfig())
    save_checkpoint(tmp_path, 1, lm.model, optimiser)
    with files_of_at_most(20_000):
        with pytest.raises(UserError, match=r"^cannot write .*/step-000002: File too large$"):
            save_checkpoint(tmp_path, 2, lm.model, optimiser)
        with pytest.raises(UserError, match=r"^cannot write .*/model: .*File too large"):
            save(lm, tmp_path / "model")
    assert {path.name for path in tmp_path.iterdir()} == {"step-000001", "model"}
    assert load_checkpoint(tmp_path, lm.model, optimiser) == 1, "the previous one is whole"


def test_killed_while_the_model_was_written(tmp_path, monkeypatch):
    plan = recipe_of(only=sft()).plan()[0]

    def full_disk(*args):
        raise UserError("cannot write: no space left")

    with monkeypatch.context() as patch:
        patch.setattr("polythink.train.sft.save", full_disk)
        with pytest.raises(UserError, match="no space"):
            run_stage(plan, tmp_path, log=quiet)
    assert check_folder(plan, tmp_path) == "begun"
    run_stage(plan, tmp_path, resume=True, log=quiet)
    assert check_folder(plan, tmp_path) == "done"
    assert len(read_jsonl(tmp_path / "metrics.jsonl")) == 3
    assert [attempt["python"] for attempt in read_json(tmp_path / "stage.json")["attempts"]] == [python_version()] * 2


def test_finished_evaluations_are_kept_and_their_time_counts(tmp_path, monkeypatch):
    plan = recipe_of(check={**EVAL, "problems": ["countdown-mini:heldout", "countdown-easy:heldout"]}).plan()[0]
    first, second = (tmp_path / f"eval-countdown-{level}-heldout.json" for level in ("mini", "easy"))

    def stopped_at_the_second(*args, **named):
        if first.exists():
            raise UserError("stopped")
        return evaluate(*args, **named)

    with monkeypatch.context() as patch:
        patch.setattr("polythink.pipeline.runners.evaluate", stopped_at_the_second)
        with pytest.raises(UserError, match="stopped"):
            run_stage(plan, tmp_path, log=quiet)
    write_json(first, {**read_json(first), "seconds": 1000})
    result = run_stage(plan, tmp_path, resume=True, log=quiet)
    assert result["seconds"] == 1000 + read_json(second)["seconds"]
    assert list(result["evaluations"]) == ["countdown-mini-heldout", "countdown-easy-heldout"]


def test_an_evaluation_that_was_stopped_goes_on_where_it_was_and_comes_to_the_same(tmp_path, monkeypatch):
    plan = recipe_of(check={**EVAL, "problems": ["countdown-mini:heldout"]}).plan()[0]
    run_stage(plan, tmp_path / "whole", log=quiet)
    write = Journal.write

    def stopped(journal, draw, kept):
        write(journal, draw, kept)
        raise UserError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "write", stopped)
        with pytest.raises(UserError, match="stopped"):
            run_stage(plan, tmp_path / "out", log=quiet)
    assert (tmp_path / "out" / "samples-countdown-mini-heldout.partial.jsonl").exists()
    run_stage(plan, tmp_path / "out", resume=True, log=quiet)
    samples = "samples-countdown-mini-heldout.jsonl"
    assert (tmp_path / "out" / samples).read_bytes() == (tmp_path / "whole" / samples).read_bytes()
    assert not list((tmp_path / "out").glob("*.partial.jsonl"))
    found = read_json(tmp_path / "out" / "eval-countdown-mini-heldout.json")["provenance"]
    assert (found["problems"], found["limit"], found["dtype"]) == ("countdown-mini:heldout", EVAL["limit"], "float32")


def test_the_time_of_a_cold_start_is_that_of_all_its_attempts(tmp_path):
    plan = recipe_of(start=COLDSTART).plan()[0]
    started = time.monotonic()
    whole = run_stage(plan, tmp_path, log=quiet)["seconds"]
    assert 0 < whole < time.monotonic() - started
    rows = read_jsonl(tmp_path / "all.jsonl")
    write_jsonl(tmp_path / "all.jsonl", [{**rows[0], "seconds": 1000}, *rows[1:10]])
    (tmp_path / "result.json").unlink()
    again = run_stage(plan, tmp_path, resume=True, log=quiet)["seconds"]
    assert 1000 < again < 1000 + time.monotonic() - started
    assert len(read_jsonl(tmp_path / "all.jsonl")) == len(rows)


# ---- the program ----


def test_the_teacher_numbers_paths_as_the_recipe_says(tmp_path):
    teacher = {"kind": "countdown", "styles": {"parallel": 1}, "labels": "random"}
    recipe = recipe_of(start={**COLDSTART, "teacher": teacher}).model_copy(update={"dialect": "parathinker"})
    run_stage(recipe.plan()[0], tmp_path, log=quiet)
    assert any("<think16>" in row["trace"] for row in read_jsonl(tmp_path / "kept.jsonl"))


def test_the_program_runs_a_stage(tmp_path, capsys):
    plan = recipe_of(start=COLDSTART).plan()[0]
    spec = {"plan": plan.model_dump(mode="json"), "folder": str(tmp_path / "out"), "previous": None}
    write_json(tmp_path / "spec.json", spec)
    assert main([str(tmp_path / "spec.json")]) == 0
    assert json.loads((tmp_path / "out" / "result.json").read_text())["name"] == "start"
    assert main([str(tmp_path / "spec.json")]) == 0, "done already"
    del spec["plan"]["seed"]
    write_json(tmp_path / "spec.json", spec)
    capsys.readouterr()
    assert main([str(tmp_path / "spec.json")]) == 2
    assert "seed is missing" in capsys.readouterr().err
    assert main([]) == 2


def test_a_stage_without_memory_says_what_needs_less(tmp_path, monkeypatch, capsys):
    spec = {"plan": recipe_of(start=COLDSTART).plan()[0].model_dump(mode="json"), "folder": str(tmp_path / "out")}
    write_json(tmp_path / "spec.json", spec)
    monkeypatch.setattr("polythink.pipeline.stage.run_stage", lambda *args, **how: torch.empty(1 << 60))
    assert main([str(tmp_path / "spec.json")]) == 1
    assert re.fullmatch(
        r"error: the machine has no memory left for \d+ bytes more; .*--jobs\n", capsys.readouterr().err
    )


def test_a_launcher_is_to_take_the_whole_recipe(tmp_path, monkeypatch, capsys):
    for name, value in {"RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    assert main([str(tmp_path / "spec.json")]) == 2
    assert "give torchrun the whole recipe" in capsys.readouterr().err


def test_names_of_sets_become_names_of_files():
    assert file_name("countdown-hard:heldout") == "countdown-hard-heldout"
    assert file_name("some/folder/aime24.parquet") == "aime24"
