"""`polythink train` in several processes: one of them reads, says and writes; kills and mistakes end all of them."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from pathlib import Path

import pytest

from helpers.program import HEAD
from helpers.ranks import Ranks, free_port, program, said, together, torchrun
from helpers.run_folders import run_of
from helpers.training import without_times
from polythink.cli.runs import experiment
from polythink.errors import UserError
from polythink.run.folder import read_json
from polythink.run.jsonl import read_jsonl, write_jsonl
from polythink.train.distributed import LOST

RECIPE = (
    HEAD
    + """\
  start: {kind: coldstart, problems: ["countdown-easy:train"], limit: 20,
          teacher: {kind: countdown, styles: {parallel: 1}}}
  sft: {kind: sft, steps: 8, batch: 5, lr: 3e-3, data: [{stage: start}], checkpoint_every: 3}
  rl: {kind: grpo, problems: ["countdown-mini:train"], steps: 5, prompts_per_step: 3, group_size: 3, lr: 1e-3,
       checkpoint_every: 2, reward: {add: [{term: efficiency, weight: 1}]}}
  check: {kind: eval, problems: ["countdown-mini:heldout"], limit: 4, samples: 2}
"""
)
CLOSE = 1e-3  # after 13 steps of AdamW, which makes whole steps of gradients that are nothing but rounding


@pytest.fixture
def recipe(tmp_path) -> Path:
    (tmp_path / "small.yaml").write_text(RECIPE)
    return tmp_path / "small.yaml"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The folder of a run in one process."""
    return run_of(RECIPE, tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def whole_of_two(tmp_path_factory) -> Path:
    """The folder of a run in two processes."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "small.yaml").write_text(RECIPE)
    ended = together(2, program, folder, "train", str(folder / "small.yaml"), "--out", str(folder / "run"))
    assert ends(ended) == [0, 0], said(folder, "err", 2)
    return folder / "run"


def assert_same(one: Path, many: Path, close: float = CLOSE) -> None:
    """Files of the same names, and the same numbers in them; with `close` 0 the same bits."""
    names = [
        {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file() and "checkpoint" not in path.parts}
        for run in (one, many)
    ]
    assert names[0] == names[1]
    for stage in ("sft", "rl"):
        rows = [without_times(read_jsonl(run / stage / "metrics.jsonl")) for run in (one, many)]
        for ours, theirs in zip(*rows, strict=True):
            for name, value in ours.items():
                near = pytest.approx(value, rel=close, abs=close) if isinstance(value, float) else value
                assert theirs[name] == near, (stage, name)
    if not close:
        for name in ("sft/model/model.safetensors", "rl/model/model.safetensors", "rl/samples.jsonl"):
            assert (one / name).read_bytes() == (many / name).read_bytes(), name
    samples = [read_jsonl(run / "check" / "samples-countdown-mini-heldout.jsonl") for run in (one, many)]
    assert [row["text"] for row in samples[0]] == [row["text"] for row in samples[1]]
    results = [read_json(run / "check" / "result.json")["evaluations"] for run in (one, many)]
    assert results[0] == results[1], "drawn by all, the tokens that were run counted by all"


def ends(found: list) -> list[int]:
    return [ended.status for ended in found]


@pytest.mark.long
def test_two_processes_run_a_recipe_as_one(whole, whole_of_two):
    assert_same(whole, whole_of_two)
    first, second = said(whole_of_two.parent, "out", 2)
    assert "stage 4 of 4: check (eval)" in first
    assert f"report: {whole_of_two / 'report.html'}" in first
    assert (second, said(whole_of_two.parent, "err", 2)) == ("", ["", ""]), "the first process speaks for all"
    assert len(read_json(whole_of_two / "sft" / "stage.json")["attempts"]) == 1


def test_mistakes_are_said_once(recipe):
    folder = recipe.parent
    write_jsonl(folder / "rows.jsonl", [{"question": "1 2", "trace": "1 + 2 = 3"}])
    wrong = f"stages={{only: {{kind: sft, epochs: 1, batch: 8, data: [{{file: {folder / 'rows.jsonl'}}}]}}}}"
    found = together(2, program, folder, "train", str(recipe), wrong, "--out", str(folder / "run"))
    assert ends(found) == [2, 2]
    first, second = said(folder, "err", 2)
    assert first == "polythink: 1 epochs of the data are less than one batch of 8 traces\n"
    assert second == ""
    assert not (folder / "run").exists()


def test_what_starts_processes_of_its_own_is_refused(monkeypatch):
    for name, value in {"RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(UserError, match=r"without torchrun, or give torchrun one arm: .* countdown-experiment:ARM"):
        experiment("countdown-experiment")


# ---- with torchrun: every process imports torch, which takes its time ----


def children(process: int) -> list[int]:
    """The processes that train: those of torchrun, in the order of their ranks."""
    found = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(pid) for pid in found if b"polythink" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.long
def test_torchrun_on_one_node_and_on_two(recipe, whole_of_two):
    run = recipe.parent / "run"
    process = torchrun(recipe, "--out", run)
    _, err = process.communicate(timeout=500)
    assert process.returncode == 0, err
    assert_same(whole_of_two, run, close=0)
    port, run = free_port(), recipe.parent / "nodes"
    nodes = [torchrun(recipe, "--out", run, nodes=(2, node), port=port) for node in (0, 1)]
    for process in nodes:
        _, err = process.communicate(timeout=500)
        assert process.returncode == 0, err
    assert_same(whole_of_two, run, close=0)


@pytest.mark.long
def test_torchrun_with_a_mistake_ends_at_once(recipe):
    process = torchrun(recipe, "rl.stepz=1", "--out", recipe.parent / "run")
    started = time.monotonic()
    _, err = process.communicate(timeout=500)
    assert process.returncode == 1
    assert err.count("polythink: ") == 1
    assert "unknown key stages.rl.stepz; did you mean 'steps'?" in err
    assert time.monotonic() - started < 120


@pytest.mark.long
@pytest.mark.parametrize("number", range(3))
def test_torchrun_ends_what_is_left_after_a_kill(recipe, whole_of_two, number):
    """Kill -9 of one of the two: the other ends with one sentence within seconds; then two go on."""
    run, rng = recipe.parent / "run", random.Random(number)
    process = torchrun(recipe, "--out", run)
    wait_for(run, rng)
    killed_at = time.monotonic()
    os.kill(children(process.pid)[rng.randrange(2)], signal.SIGKILL)
    _, err = process.communicate(timeout=100)
    assert time.monotonic() - killed_at < 60
    assert process.returncode == 1
    (ended,) = [line for line in err.splitlines() if line.startswith("polythink: ")]
    assert re.match(rf"polythink: (terminated|{LOST})", ended), err
    again = torchrun(recipe, "--out", run, "--resume")
    _, err = again.communicate(timeout=500)
    assert again.returncode == 0, err
    assert_same(whole_of_two, run, close=0)


def wait_for(run: Path, rng: random.Random) -> None:
    """Until some moment between the first step and the last."""
    steps, end = rng.randrange(1, 12), time.monotonic() + 300
    while steps_in(run) < steps:
        assert time.monotonic() < end
        time.sleep(0.005)
    time.sleep(rng.random() / 4)


@pytest.mark.long
@pytest.mark.parametrize("number", range(20))
def test_killed_at_a_random_moment_two_go_on_to_the_same_numbers(recipe, whole_of_two, number):
    """Kill -9 without a launcher that ends the other: it notices by itself, and says one sentence."""
    folder, rng = recipe.parent, random.Random(number)
    ranks = Ranks(2, program, folder, "train", str(recipe), "--out", str(folder / "run"))
    wait_for(folder / "run", rng)
    rank = rng.randrange(2)
    os.kill(ranks.processes[rank].pid, signal.SIGKILL)
    ended = ranks.wait()
    if 0 not in ends(ended):  # otherwise the run was at its end before the kill came
        assert ended[rank].status == -signal.SIGKILL
        assert ended[1 - rank].status == 2
        assert said(folder, "err", 2)[1 - rank] == f"polythink: {LOST}\n"
    again = together(2, program, folder, "train", str(recipe), "--out", str(folder / "run"), "--resume")
    assert ends(again) == [0, 0], said(folder, "err", 2)
    assert_same(whole_of_two, folder / "run", close=0)


def steps_in(run: Path) -> int:
    files = [run / stage / "metrics.jsonl" for stage in ("sft", "rl")]
    return sum(file.read_bytes().count(b"\n") for file in files if file.is_file())
