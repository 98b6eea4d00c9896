"""What a folder holds: stages that are refused leave nothing, what is gone or damaged is said, leftovers are swept."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from helpers.training import SHAPE
from polythink.errors import UserError
from polythink.pipeline import runners
from polythink.pipeline.arms import Experiment
from polythink.pipeline.experiment import run_experiment
from polythink.pipeline.plan import hash_of_path
from polythink.pipeline.recipe import Recipe, run_recipe
from polythink.pipeline.schedule import Job, _failure
from polythink.pipeline.stage import main, run_stage
from polythink.run.config import dump_yaml, parse_config
from polythink.run.folder import read_json, write_json
from polythink.run.jsonl import write_jsonl

DECODING = {"paths": 2, "max_main_tokens": 8, "max_path_tokens": 4, "max_summary_tokens": 4, "max_trace_tokens": 40}
TRACE = "9 + 8 = 17 ok \\boxed{ 9 + 8 }"


def sft(**changes) -> dict:
    data = [{"problems": "countdown-mini:train", "weight": 1}]
    return {"kind": "sft", "steps": 2, "batch": 2, "lr": 1e-3, "data": data, **changes}


EVAL = {"kind": "eval", "problems": ["countdown-mini:heldout"], "limit": 1, "samples": 1}


def recipe_of(seed: int = 0, **stages) -> Recipe:
    data = {"name": "test", "seed": seed, "prompt": "countdown_parallel", "decoding": DECODING, "model": SHAPE}
    return parse_config(Recipe, {**data, "stages": stages}, "test")


def quiet(*args) -> None:
    pass


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    run_recipe(recipe_of(one=sft(), two=sft(steps=3)), out, log=quiet)
    return out


@pytest.fixture
def run(finished, tmp_path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


# ---- a configuration that a stage refuses ----


def test_a_refused_configuration_leaves_nothing_and_the_corrected_one_runs_there(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", [{"question": "9 8 -> 17", "response": TRACE}])
    wrong = recipe_of(one=sft(data=[{"file": str(tmp_path / "rows.jsonl")}]))
    out = tmp_path / "run"
    with pytest.raises(UserError):
        run_recipe(wrong, out, log=quiet)
    assert not out.exists()
    write_jsonl(tmp_path / "rows.jsonl", [{"question": "9 8 -> 17", "trace": TRACE}])
    run_recipe(wrong.model_copy(update={"seed": 1}), out, log=quiet)
    assert (out / "report.html").exists()


def test_what_was_in_the_folder_stays_when_a_run_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    write_jsonl(tmp_path / "rows.jsonl", [{"question": "9 8 -> 17"}])
    with pytest.raises(UserError):
        run_recipe(recipe_of(one=sft(data=[{"file": str(tmp_path / "rows.jsonl")}])), tmp_path, log=quiet)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "rows.jsonl"]


def test_a_stage_refused_after_others_leaves_them(run, tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", [{"question": "9 8 -> 17"}])
    stages = {"one": sft(), "two": sft(steps=3)}
    longer = recipe_of(**stages, three=sft(data=[{"file": str(tmp_path / "rows.jsonl")}]))
    with pytest.raises(UserError):
        run_recipe(longer, run, resume=True, log=quiet)
    assert not (run / "three").exists()
    run_recipe(recipe_of(**stages, three=EVAL), run, resume=True, log=quiet)
    assert (run / "three" / "result.json").exists()


def test_an_arm_whose_stage_is_refused_says_why_and_the_others_end(tmp_path, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    asking = {"kind": "coldstart", "problems": ["countdown-mini:train"], "limit": 2}
    teachers = {
        "good": {"kind": "countdown", "styles": {"parallel": 1}},
        "bad": {"kind": "endpoint", "url": "http://localhost:1/v1", "model": "m", "key_env": "NO_SUCH_KEY"},
    }
    for name, teacher in teachers.items():
        (tmp_path / f"{name}.yaml").write_text(
            dump_yaml(recipe_of(ask={**asking, "teacher": teacher}).model_dump(mode="json"))
        )
    arms = {name: {"recipe": str(tmp_path / f"{name}.yaml")} for name in ("bad", "good")}
    trial = parse_config(Experiment, {"name": "trial", "seeds": [0], "jobs": 2, "arms": arms}, "trial")
    for _ in range(2):  # the second time with what the first has left
        (failure,) = run_experiment(trial, tmp_path / "out").failures
        assert failure.startswith("stage ask of bad-seed0 ended with status 2; the end of ")
        assert "\n    error: the environment variable NO_SUCH_KEY should hold the endpoint's key" in failure
    assert len(list(tmp_path.glob("out/stages/ask-*/result.json"))) == 1


def test_the_failure_of_a_stage_whose_log_is_gone_is_told_without_it(tmp_path):
    job = Job("ask", "0" * 64, None, {}, tmp_path / "gone", ("a",))
    assert _failure(job, 2).endswith("log.txt:\n    (it wrote nothing)")


# ---- another recipe ----


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (recipe_of(1, one=sft(), two=sft(steps=3)), r"\(seed: 0 -> 1\)"),
        (
            recipe_of(one=sft(lr=0.5, batch=4), two=sft(steps=3)),
            r"\((one\.lr: 0\.001 -> 0\.5|one\.batch: 2 -> 4), one\.",
        ),
        (recipe_of(one=sft(decoding={"paths": 1}), two=sft(steps=3)), r"decoding\.paths: 2 -> 1"),
        (recipe_of(other=sft()), r"holds a run of another recipe \(its stages: one, two\)"),
    ],
)
def test_the_keys_that_differ_are_named(run, recipe, said):
    with pytest.raises(UserError, match=said):
        run_recipe(recipe, run, resume=True, log=quiet)


def test_the_file_that_has_changed_is_named(tmp_path):
    rows = tmp_path / "rows.jsonl"
    write_jsonl(rows, [{"question": "9 8 -> 17", "trace": TRACE}])
    recipe = recipe_of(one=sft(data=[{"file": str(rows)}]))
    run_recipe(recipe, tmp_path / "run", log=quiet)
    write_jsonl(rows, [{"question": "9 7 -> 16", "trace": TRACE}])
    with pytest.raises(UserError, match=r"rows\.jsonl has changed"):
        run_recipe(recipe, tmp_path / "run", resume=True, log=quiet)


@pytest.mark.parametrize("change", [True, False], ids=["changed", "gone"])
def test_a_file_that_changes_after_it_was_planned_is_not_used_under_the_old_digest(tmp_path, monkeypatch, change):
    rows, out = tmp_path / "rows.jsonl", tmp_path / "run"
    write_jsonl(rows, [{"question": "9 8 -> 17", "answer": "9 + 8", "checker": "countdown"}])
    recipe = recipe_of(one=sft(), two={**EVAL, "problems": [str(rows)]})
    train = runners.RUNNERS["sft"]

    def edited_meanwhile(*args):
        if change:
            write_jsonl(rows, [{"question": "9 7 -> 16", "answer": "9 + 7", "checker": "countdown"}])
        else:
            rows.unlink()
        return train(*args)

    with monkeypatch.context() as patch:
        patch.setitem(runners.RUNNERS, "sft", edited_meanwhile)
        with pytest.raises(UserError, match=r"rows\.jsonl has changed since the stage two was planned; run the same"):
            run_recipe(recipe, out, log=quiet)
    assert not (out / "two").exists()
    if change:
        run_recipe(recipe, out, resume=True, log=quiet)
        assert read_json(out / "two" / "stage.json")["inputs"][str(rows)] == hash_of_path(rows)


def test_the_process_of_a_stage_is_told_what_its_files_were(tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    write_jsonl(rows, [{"question": "9 8 -> 17", "trace": TRACE}])
    (plan,) = recipe_of(one=sft(data=[{"file": str(rows)}])).plan()
    write_json(tmp_path / "spec.json", {"plan": plan.model_dump(mode="json"), "folder": str(tmp_path / "one")})
    write_jsonl(rows, [{"question": "9 7 -> 16", "trace": TRACE}])
    assert main([str(tmp_path / "spec.json")]) == 2
    assert "rows.jsonl has changed since the stage one was planned" in capsys.readouterr().err
    assert not (tmp_path / "one").exists()


# ---- a model that is gone ----


@pytest.mark.parametrize("gone", ["model", "model/config.json"])
def test_a_model_that_is_gone_is_said_before_anything_runs(run, gone):
    shutil.rmtree(run / "two" / gone) if gone == "model" else (run / "two" / gone).unlink()
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    stages = {"one": sft(), "two": sft(steps=3)}
    asking = {"kind": "coldstart", "problems": ["countdown-mini:train"], "limit": 2,
              "teacher": {"kind": "countdown", "styles": {"parallel": 1}}}  # fmt: skip
    for more in ({"three": EVAL}, {"ask": asking, "three": sft()}, {"check": EVAL, "three": sft()}):
        with pytest.raises(UserError, match=r"two was trained, but its model is gone: there is no .*config\.json"):
            run_recipe(recipe_of(**stages, **more), run, resume=True, log=quiet)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()} == before
    run_recipe(recipe_of(**stages), run, resume=True, log=quiet)  # nothing needs it


def test_the_model_of_an_earlier_stage_is_not_needed(run):
    shutil.rmtree(run / "one" / "model")
    run_recipe(recipe_of(one=sft(), two=sft(steps=3), three=EVAL), run, resume=True, log=quiet)


def test_a_stage_on_its_own_does_not_begin_from_an_older_model(run, tmp_path):
    plan = recipe_of(one=sft(), two=sft(steps=3), three=EVAL).plan()[2]
    shutil.rmtree(run / "two" / "model")
    with pytest.raises(UserError, match="its model is gone"):
        run_stage(plan, tmp_path / "three", run / "two", log=quiet)
    assert not (tmp_path / "three").exists()


# ---- names, leftovers, damage ----


def test_a_folder_named_like_a_problem_set_changes_nothing(tmp_path, monkeypatch):
    recipe = recipe_of(one=sft(), two={**EVAL, "problems": ["countdown-mini", "gsm8k"]})
    monkeypatch.chdir(tmp_path)
    before = [plan.digest for plan in recipe.plan()]
    for name in ("countdown-mini:train", "countdown-mini", "gsm8k", "countdown_parallel"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rows.jsonl").write_text("{}")
    assert [plan.digest for plan in recipe.plan()] == before


def test_leftovers_of_a_kill_are_swept_and_nothing_else(run):
    left, mine = run / ".stages.json.0a1b2c3d.tmp", run / ".mine.tmp"
    left.write_text("half")
    mine.write_text("mine")
    run_recipe(recipe_of(one=sft(), two=sft(steps=3)), run, resume=True, log=quiet)
    assert not left.exists()
    assert mine.exists()


@pytest.mark.parametrize("content", [[], 3, "text"])
def test_a_damaged_result_is_one_sentence(run, content):
    write_json(run / "one" / "result.json", content)
    with pytest.raises(UserError, match=r"result\.json is damaged"):
        run_recipe(recipe_of(one=sft(), two=sft(steps=3)), run, resume=True, log=quiet)
    write_json(run / "stages.json", {"a": 1})
    with pytest.raises(UserError, match=r"stages\.json is damaged"):
        run_recipe(recipe_of(one=sft(), two=sft(steps=3)), run, resume=True, log=quiet)


def test_a_stage_says_which_files_it_read(run):
    assert list(read_json(run / "one" / "stage.json")["inputs"]) == ["prompt countdown_parallel"]
