"""Experiments over real processes that do next to nothing: sharing, resuming, failing, being killed."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from helpers import fake_recipe
from helpers.program import Forked
from polythink.errors import UserError
from polythink.pipeline import schedule
from polythink.pipeline.arms import Experiment, load_experiment
from polythink.pipeline.experiment import Outcome, run_experiment
from polythink.run.config import RECIPES, load_yaml, parse_config
from polythink.run.folder import read_json

HERE = Path(__file__).parent
COMMAND = (sys.executable, str(HERE.parent / "helpers" / "fake_stage.py"))

RECIPE = """
name: fake
seed: 0
stages:
  base: {kind: sft, any_seed: true}
  sft: {kind: sft, skill: 0.3}
  eval_sft: {kind: eval}
  rl: {kind: grpo, skill: 0.5}
  eval_rl: {kind: eval}
"""


@pytest.fixture(autouse=True)
def log(tmp_path, monkeypatch) -> Path:
    """What the fake stages write about themselves."""
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "log"))
    (tmp_path / "fake.yaml").write_text(RECIPE)
    return tmp_path / "log"


def experiment(folder: Path, seeds: tuple[int, ...] = (0,), jobs: int = 2, **arms: list[str]) -> Experiment:
    data = {name: {"recipe": str(folder / "fake.yaml"), "overrides": overrides} for name, overrides in arms.items()}
    return parse_config(Experiment, {"name": "trial", "seeds": list(seeds), "jobs": jobs, "arms": data}, "trial")


def run(given: Experiment, out: Path, **options) -> Outcome:
    return run_experiment(given, out, load=fake_recipe.load, command=COMMAND, **options)


def events(log: Path, kind: str) -> Counter[str]:
    return Counter(" ".join(line.split()[1:3]) for line in log.read_text().splitlines() if line.startswith(kind))


@pytest.mark.slow
def test_shared_stages_run_once_and_every_run_gets_its_folder(tmp_path, log) -> None:
    given = experiment(tmp_path, seeds=(0, 1), plain=[], strong=["rl.skill=0.9"])
    outcome = run(given, tmp_path / "out")
    assert outcome.failures == ()
    starts = events(log, "start")
    assert set(starts.values()) == {1}
    assert Counter(name.split()[0] for name in starts) == {"base": 1, "sft": 2, "eval_sft": 2, "rl": 4, "eval_rl": 4}
    assert len(list((tmp_path / "out/stages").iterdir())) == 13
    folder = tmp_path / "out/runs/strong-seed1"
    stages = read_json(folder / "stages.json")
    assert [(s["name"], s["kind"]) for s in stages] == [
        ("base", "sft"), ("sft", "sft"), ("eval_sft", "eval"), ("rl", "grpo"), ("eval_rl", "eval"),
    ]  # fmt: skip
    assert all((folder / s["folder"] / "result.json").is_file() and not Path(s["folder"]).is_absolute() for s in stages)
    recipe = load_yaml(folder / "recipe.yaml")
    assert (recipe["seed"], recipe["stages"]["rl"]["skill"]) == (1, 0.9)
    assert read_json(folder / "environment.json")["python"]
    table = read_json(tmp_path / "out/table.json")
    assert table["name"] == "trial"
    assert "<title>trial</title>" in (tmp_path / "out/report.html").read_text()
    assert [(c["arms"], c["after"]) for c in table["columns"]] == [
        (["plain", "strong"], "sft"), (["plain"], "rl"), (["strong"], "rl"),
    ]  # fmt: skip
    assert table["columns"][2]["differences"]["easy"]["mean@4"]["value"] > 0.2
    assert table["columns"][2]["seconds"] == 30.0
    assert "t interval over seeds" in outcome.table
    for page in (folder / "report.html", tmp_path / "out/report.html", tmp_path / "out/table.html"):
        assert "mean@4" in page.read_text()


def test_every_stage_is_told_the_folder_of_the_stage_it_builds_on(tmp_path, log) -> None:
    run(experiment(tmp_path, plain=[]), tmp_path / "out")
    previous = {line.split()[1]: line.split()[4] for line in log.read_text().splitlines() if line.startswith("start")}
    names = {name: Path(folder).name.rpartition("-")[0] for name, folder in previous.items()}
    assert names == {"base": "", "sft": "base", "eval_sft": "sft", "rl": "sft", "eval_rl": "rl"}


@pytest.mark.slow
def test_a_second_time_only_what_is_new_is_run(tmp_path, log) -> None:
    run(experiment(tmp_path, plain=[]), tmp_path / "out")
    before = events(log, "start")
    again = run(experiment(tmp_path, plain=[]), tmp_path / "out")
    assert events(log, "start") == before
    assert "mean@4" in again.table
    run(experiment(tmp_path, plain=[], more=["rl.steps=2"]), tmp_path / "out")
    assert Counter(name.split()[0] for name in events(log, "start")) == {
        "base": 1, "sft": 1, "eval_sft": 1, "rl": 2, "eval_rl": 2,
    }  # fmt: skip


def test_as_many_stages_run_at_once_as_are_asked_for_and_they_share_the_cores(tmp_path, log) -> None:
    alone = "stages={base: {kind: sft, together: 3}}"
    run(experiment(tmp_path, seeds=(0, 1, 2, 3, 4), plain=[alone]), tmp_path / "out", jobs=3)
    running = most = 0
    for line in log.read_text().splitlines():
        running += line.startswith("start") - line.startswith("end")
        most = max(most, running)
    assert most == 3
    cores = len(os.sched_getaffinity(0))
    assert f"threads={max(1, cores // 3)}" in log.read_text()


def test_a_stage_beside_which_nothing_can_run_has_all_cores(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(schedule.os, "sched_getaffinity", lambda pid: set(range(8)))
    jobs = [
        schedule.Job(name, name, after, {}, tmp_path, ("a",))
        for name, after in (("base", None), ("sft", "base"), ("eval", "sft"), ("rl", "sft"), ("end", "rl"))
    ]
    assert schedule.shared_threads(jobs, 4) == {"base": 8, "sft": 8, "eval": 2, "rl": 4, "end": 4}
    assert schedule.shared_threads(jobs, 1) == dict.fromkeys(("base", "sft", "eval", "rl", "end"), 8)


@pytest.mark.slow
def test_the_file_may_say_how_many_threads(tmp_path, log) -> None:
    given = experiment(tmp_path, plain=["check=null"]).model_copy(update={"threads": 7})
    run(given, tmp_path / "out")
    assert set(line.split()[3] for line in log.read_text().splitlines() if line.startswith("start")) == {"threads=7"}


@pytest.mark.slow
def test_what_most_stages_wait_for_is_started_first(tmp_path, log) -> None:
    run(experiment(tmp_path, seeds=(0, 1), plain=[]), tmp_path / "out", jobs=1)
    started = [line.split()[1] for line in log.read_text().splitlines() if line.startswith("start")]
    assert started == ["base", "sft", "sft", "rl", "rl", "eval_sft", "eval_rl", "eval_sft", "eval_rl"]


@pytest.mark.slow
def test_a_failed_stage_stops_its_arm_alone_and_is_tried_again(tmp_path, log) -> None:
    outcome = run(experiment(tmp_path, plain=[], broken=["rl.fail=true"]), tmp_path / "out")
    (failure,) = outcome.failures
    assert failure.startswith("stage rl of broken-seed0 ended with status 3; the end of ")
    assert failure.endswith("log.txt:\n    the loss is not a number")
    assert Counter(name.split()[0] for name in events(log, "end")) == {
        "base": 1, "sft": 1, "eval_sft": 1, "rl": 1, "eval_rl": 1,
    }  # fmt: skip
    assert [c["arms"] for c in read_json(tmp_path / "out/table.json")["columns"]] == [["plain", "broken"], ["plain"]]
    run(experiment(tmp_path, plain=[], broken=["rl.fail=true"]), tmp_path / "out")
    assert sorted(n for n in events(log, "start").values()) == [1, 1, 1, 1, 1, 2]


def test_a_stage_that_does_not_say_it_is_done_or_is_killed_has_failed(tmp_path) -> None:
    given = experiment(tmp_path, plain=["stages={base: {kind: sft}}"])
    for code, sentence in (
        ("pass", "ended without result.json"),
        ("import os; os.kill(os.getpid(), 9)", "was killed by signal 9"),
    ):
        outcome = run_experiment(
            given, tmp_path / code[:4], load=fake_recipe.load, command=(sys.executable, "-c", code)
        )
        assert sentence in outcome.failures[0]
        assert "(it wrote nothing)" in outcome.failures[0]


# ---- kills ----


def run_gated(folder: Path) -> Outcome:
    """An experiment whose stage rl waits after one step until the file `gate` exists."""
    return run(experiment(folder, plain=["rl.steps=9", f"rl.gate={folder / 'gate'}"]), folder / "out")


def run_on(folder: Path) -> Outcome:
    """The same with its gate open."""
    (folder / "gate").touch()
    return run_gated(folder)


class Gated(Forked):
    """`run_gated` in a process of its own, which prints the number of failures; what it shows goes to a file."""

    def __init__(self, folder: Path, shown: str = "first") -> None:
        self.folder, self.shown = folder, folder / shown
        super().__init__()

    def run(self) -> None:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        sys.stdout, sys.stderr = self.out, self.shown.open("w")
        print(len(run_gated(self.folder).failures), flush=True)

    def finish(self) -> str:
        """Open the gate, and return what the experiment prints."""
        (self.folder / "gate").touch()
        assert self.wait(120) == 0
        return self.communicate()[0].strip()


def wait_for(file: Path, text: str, process: Gated) -> None:
    """Until the text is in the file; the process that it comes from must not have ended."""
    while not (file.exists() and text in file.read_text()):
        assert process.poll() is None, f"{text!r} did not come"
        time.sleep(0.02)


def stage_processes(folder: Path) -> list[int]:
    """Stages under `folder` that are running."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if len(command) > 2 and command[1].endswith("fake_stage.py") and command[2].startswith(str(folder)):
            found.append(int(process.name))
    return found


def steps_of(log: Path, stage: str) -> list[int]:
    return [int(line.split()[3]) for line in log.read_text().splitlines() if line.startswith(f"step {stage} ")]


@pytest.mark.slow
def test_after_a_power_cut_finished_stages_stay_and_the_open_one_goes_on(tmp_path, log) -> None:
    first = Gated(tmp_path)
    wait_for(log, "step rl", first)
    first.kill()
    assert first.wait(120) == -signal.SIGKILL
    for pid in stage_processes(tmp_path):
        with suppress(ProcessLookupError):  # eval_sft may end meanwhile
            os.kill(pid, signal.SIGKILL)
    assert steps_of(log, "rl") == [0]
    assert run_on(tmp_path).failures == ()
    starts = Counter(name.split()[0] for name in events(log, "start").elements())
    assert starts == {"base": 1, "sft": 1, "eval_sft": starts["eval_sft"], "rl": 2, "eval_rl": 1}
    assert steps_of(log, "rl") == list(range(9)), "no step is taken twice"


@pytest.mark.slow
def test_what_a_killed_experiment_left_running_is_waited_for_and_not_run_twice(tmp_path, log) -> None:
    first = Gated(tmp_path)
    wait_for(log, "step rl", first)
    first.kill()
    assert first.wait(120) == -signal.SIGKILL
    second = Gated(tmp_path, "second")
    wait_for(tmp_path / "second", "rl (plain-seed0): waiting (runs in another process)", second)
    assert second.finish() == "0"
    assert "rl (plain-seed0): done (by another process)" in (tmp_path / "second").read_text()
    assert steps_of(log, "rl") == list(range(9))
    assert set(events(log, "start").values()) == {1}
    assert events(log, "start").total() == 5


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_stops_the_stages_as_well(tmp_path, log, number: signal.Signals) -> None:
    first = Gated(tmp_path)
    wait_for(log, "step rl", first)
    os.kill(first.pid, number)
    assert first.wait(120) not in (0, None)
    assert stage_processes(tmp_path) == []
    assert run_on(tmp_path).failures == ()


def test_a_stage_that_does_not_listen_is_ended_all_the_same(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(schedule, "PATIENCE", 0.3)
    code = "import os, signal, time; signal.signal(15, signal.SIG_IGN); print(os.getpid(), flush=True); time.sleep(600)"
    job = schedule.Job("deaf", "0" * 64, None, {}, tmp_path / "deaf", ("a",))
    found = schedule.Schedule([job], 1, (sys.executable, "-c", code))
    log = tmp_path / "deaf/log.txt"

    def interrupt(states: dict, notes: dict) -> None:
        if log.exists() and log.read_text().endswith("\n"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        found.run(interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(int(log.read_text()), 0)


# ---- files ----


def test_an_experiment_file_is_checked_before_anything_runs(tmp_path) -> None:
    file = tmp_path / "trial.yaml"
    file.write_text(
        "name: trial\narms: {plain: {recipe: fake.yaml}, other: {recipe: fake.yaml, overrides: [rl.steps=2]}}"
    )
    given = load_experiment(file)
    assert given.seeds == (0,)
    assert given.arms["plain"].recipe == str(tmp_path / "fake.yaml")
    for text, sentence in (
        ("name: trial\narms: {plain: {recip: fake.yaml}}", "unknown key arms.plain.recip; did you mean 'recipe'?"),
        ("name: trial\narms: {}", "arms"),
        ("name: trial\narms: {a/b: {recipe: fake.yaml}}", "'a/b' names a folder"),
        ("name: trial\nseeds: [1, 1]\narms: {a: {recipe: fake.yaml}}", "seeds must be different"),
        ("name: trial\nseeds: []\narms: {a: {recipe: fake.yaml}}", "seeds"),
        ("name: trial\narms: {a: {recipe: nowhere.yaml}}", "arm a: no file"),
    ):
        file.write_text(text)
        with pytest.raises(UserError) as error:
            load_experiment(file)
        assert sentence in str(error.value)


def test_the_packaged_experiments_name_recipes_that_exist() -> None:
    files = [path for path in RECIPES.glob("*.yaml") if "arms" in load_yaml(path)]
    assert files
    for path in files:
        assert load_experiment(path.stem).arms


def test_a_wrong_override_is_found_before_anything_runs(tmp_path, log) -> None:
    with pytest.raises(UserError, match="arm b: override 'rl' must look like"):
        run(experiment(tmp_path, a=[], b=["rl"]), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not log.exists()
