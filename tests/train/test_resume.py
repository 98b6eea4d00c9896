"""What a stage's folder must hold to go on, and who may work in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from shutil import rmtree

import pytest

from helpers.sweep import sweep
from helpers.training import make_lm, mixture, sft_config, without_times
from polythink.engine.params import SamplingParams
from polythink.errors import UserError
from polythink.problems.prompts import get_prompt
from polythink.run.config import parse_config
from polythink.run.folder import folder_lock
from polythink.run.jsonl import JsonlWriter, read_jsonl, write_jsonl
from polythink.train import grpo, sft
from polythink.train.config import GRPOConfig
from polythink.train.grpo import train_grpo
from polythink.train.sft import train_sft

PARAMS = SamplingParams(max_main_tokens=6, max_path_tokens=4, max_summary_tokens=3, max_trace_tokens=40)


def run(kind: str, mini, folder: Path, steps: int = 4) -> dict:
    lm = make_lm()
    if kind == "sft":
        config = sft_config(steps=steps)
        return train_sft(lm, config, mixture(lm, config, mini), folder)
    given = {"reward": "accuracy", "prompts_per_step": 2, "group_size": 2, "checkpoint_every": 2, "lr": 1e-3}
    config = parse_config(GRPOConfig, {**given, "steps": steps}, "test")
    return train_grpo(lm, config, mini, folder, prompt=get_prompt("countdown_parallel"), params=PARAMS)


@pytest.mark.parametrize(
    ("kind", "kept", "first"),
    sweep(
        [(kind, *rows) for kind in ("sft", "grpo") for rows in ((None, 1), ((), 1), ((1, 2, 3), 4), ((1, 3, 4), 2))],
        [("sft", None, 1), ("sft", (), 1), ("sft", (1, 2, 3), 4), ("sft", (1, 3, 4), 2), ("grpo", (1, 3, 4), 2)],
    ),
)
def test_metrics_that_are_gone_are_one_sentence(mini, tmp_path, kind, kept, first):
    """The checkpoint is at the last step, so no row would be written again."""
    run(kind, mini, tmp_path)
    file = tmp_path / "metrics.jsonl"
    rows = read_jsonl(file)
    file.unlink()
    if kept is not None:
        write_jsonl(file, [row for row in rows if row["step"] in kept])
    lacking = 4 - len(kept or ())
    message = (
        rf"metrics.jsonl lacks {lacking} of the 4 steps .*the first is step {first}\); put the file back, or delete"
    )
    with pytest.raises(UserError, match=message):
        run(kind, mini, tmp_path)
    write_jsonl(file, rows)
    assert run(kind, mini, tmp_path)["steps"] == 4, "put back, it goes on"


@pytest.mark.parametrize("kind", ["sft", "grpo"])
def test_rows_are_on_the_disk_before_the_checkpoint_that_counts_on_them(mini, tmp_path, kind, monkeypatch):
    done: list[str] = []
    loop = sft if kind == "sft" else grpo
    sync, save = JsonlWriter.sync, loop.save_checkpoint
    monkeypatch.setattr(JsonlWriter, "sync", lambda self: done.append(self.path.name) or sync(self))
    monkeypatch.setattr(loop, "save_checkpoint", lambda *args: done.append("checkpoint") or save(*args))
    run(kind, mini, tmp_path)
    assert done == ["metrics.jsonl", "checkpoint"] * 2


def test_after_the_checkpoint_is_deleted_the_stage_starts_again(mini, tmp_path):
    expected = run("sft", mini, tmp_path)
    rows = without_times(read_jsonl(tmp_path / "metrics.jsonl"))
    (tmp_path / "metrics.jsonl").unlink()
    rmtree(tmp_path / "checkpoint" / "step-000004")
    assert {**run("sft", mini, tmp_path), "seconds": 0} == {**expected, "seconds": 0}
    assert without_times(read_jsonl(tmp_path / "metrics.jsonl")) == rows


@pytest.mark.parametrize("kind", ["sft", "grpo"])
def test_two_processes_do_not_train_in_one_folder(mini, tmp_path, kind):
    holder = subprocess.Popen(
        [sys.executable, "-c", "import sys; from polythink.run.folder import take_lock; "
         "take_lock(sys.argv[1]); print('held', flush=True); sys.stdin.read()", str(tmp_path / "checkpoint" / "lock")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match=r"another process is at work in .*checkpoint"):
            run(kind, mini, tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {"checkpoint"}
        holder.stdin.close()
    assert run(kind, mini, tmp_path, steps=2)["steps"] == 2
    with folder_lock(tmp_path / "checkpoint"):
        pass  # free again
