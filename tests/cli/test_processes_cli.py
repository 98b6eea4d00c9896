"""`polythink train` in several processes: one of them reads, says and writes; kills and mistakes end all of them."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.program import HEAD
from helpers.ranks import free_port, program, said, together
from helpers.training import without_times
from polythink.pipeline.recipe import load_recipe, run_recipe
from polythink.run.folder import read_json
from polythink.run.jsonl import read_jsonl
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
CLOSE = 1e-5  # float32: sums in another order


@pytest.fixture
def recipe(tmp_path) -> Path:
    (tmp_path / "small.yaml").write_text(RECIPE)
    return tmp_path / "small.yaml"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The folder of a run in one process."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "small.yaml").write_text(RECIPE)
    run_recipe(load_recipe(folder / "small.yaml"), folder / "run", log=lambda text: None)
    return folder / "run"


def assert_same(one: Path, many: Path) -> None:
    """Files of the same names, and the same numbers in them."""
    names = [
        {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file() and "checkpoint" not in path.parts}
        for run in (one, many)
    ]
    assert names[0] == names[1]
    for stage in ("sft", "rl"):
        rows = [without_times(read_jsonl(run / stage / "metrics.jsonl")) for run in (one, many)]
        for ours, theirs in zip(*rows, strict=True):
            for name, value in ours.items():
                near = pytest.approx(value, rel=CLOSE, abs=CLOSE) if isinstance(value, float) else value
                assert theirs[name] == near, (stage, name)
    samples = [read_jsonl(run / "check" / "samples-countdown-mini-heldout.jsonl") for run in (one, many)]
    assert [row["text"] for row in samples[0]] == [row["text"] for row in samples[1]]


def ends(found: list) -> list[int]:
    return [ended.status for ended in found]


def test_two_processes_run_a_recipe_as_one(recipe, whole):
    folder = recipe.parent
    assert ends(together(2, program, folder, "train", str(recipe), "--out", str(folder / "run"))) == [0, 0]
    assert_same(whole, folder / "run")
    first, second = said(folder, "out", 2)
    assert "stage 4 of 4: check (eval)" in first
    assert f"report: {folder / 'run' / 'report.html'}" in first
    assert (second, said(folder, "err", 2)) == ("", ["", ""]), "the first process speaks for all"
    assert len(read_json(folder / "run" / "sft" / "stage.json")["attempts"]) == 1


def test_mistakes_are_said_once(recipe):
    folder = recipe.parent
    wrong = 'stages={only: {kind: sft, steps: 1, data: [{problems: "countdown-easy:train", weight: 1}], max_tokens: 2}}'
    found = together(2, program, folder, "train", str(recipe), wrong, "--out", str(folder / "run"))
    assert ends(found) == [2, 2]
    first, second = said(folder, "err", 2)
    assert re.fullmatch(r"polythink: .+\n", first)
    assert second == ""
    assert not (folder / "run").exists()


# ---- with torchrun: every process imports torch, which takes its time ----


def torchrun(*arguments: object, nodes: tuple[int, int] = (1, 0), port: int = 0) -> subprocess.Popen:
    """Two processes on this machine, or one of each of two nodes."""
    count, node = nodes
    where = ["--standalone", "--nproc-per-node", "2"]
    if count > 1:
        where = ["--nnodes", str(count), "--node-rank", str(node), "--nproc-per-node", "1",
                 "--master-addr", "127.0.0.1", "--master-port", str(port)]  # fmt: skip
    command = [sys.executable, "-m", "torch.distributed.run", *where, "-m", "polythink", "train"]
    return subprocess.Popen(
        [*command, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


def children(process: int) -> list[int]:
    """The processes that train: those of torchrun, in the order of their ranks."""
    found = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(pid) for pid in found if b"polythink" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.long
def test_torchrun_on_one_node_and_on_two(recipe, whole):
    run = recipe.parent / "run"
    process = torchrun(recipe, "--out", run)
    _, err = process.communicate(timeout=500)
    assert process.returncode == 0, err
    assert_same(whole, run)
    port, run = free_port(), recipe.parent / "nodes"
    nodes = [torchrun(recipe, "--out", run, nodes=(2, node), port=port) for node in (0, 1)]
    for process in nodes:
        _, err = process.communicate(timeout=500)
        assert process.returncode == 0, err
    assert_same(whole, run)


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
@pytest.mark.parametrize("number", range(20))
def test_torchrun_killed_at_a_random_moment_goes_on_to_the_same_numbers(recipe, whole, number):
    """Kill -9 of one of the two; the other ends within seconds with one sentence; then one process, or two, go on."""
    run, rng = recipe.parent / "run", random.Random(number)
    process = torchrun(recipe, "--out", run)
    rank, steps = rng.randrange(2), rng.randrange(1, 12)
    end = time.monotonic() + 200
    while steps_in(run) < steps and time.monotonic() < end:
        time.sleep(0.005)
    time.sleep(rng.random() / 4)
    killed_at = time.monotonic()
    if workers := children(process.pid):
        os.kill(workers[rank], signal.SIGKILL)
    _, err = process.communicate(timeout=100)
    assert time.monotonic() - killed_at < 60
    ended = [line for line in err.splitlines() if line.startswith("polythink: ")]
    if process.returncode:
        assert len(ended) == 1, err
        assert re.match(rf"polythink: (terminated|{LOST})", ended[0]), err
    again = torchrun(recipe, "--out", run, "--resume")
    _, err = again.communicate(timeout=500)
    assert again.returncode == 0, err
    assert_same(whole, run)


def steps_in(run: Path) -> int:
    files = [run / stage / "metrics.jsonl" for stage in ("sft", "rl")]
    return sum(file.read_bytes().count(b"\n") for file in files if file.is_file())
