"""The loops give trackers what their files hold, from the first process alone, also when a stage goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.ranks import together
from helpers.training import PROMPT, make_lm, mixture, sft_config
from polythink.engine.params import SamplingParams
from polythink.problems.tasks.countdown import problems
from polythink.run import trackers
from polythink.run.config import parse_config
from polythink.run.jsonl import JsonlWriter, read_jsonl
from polythink.train.config import GRPOConfig
from polythink.train.grpo import train_grpo
from polythink.train.sft import train_sft

PARAMS = SamplingParams(
    paths=2, max_blocks=1, max_main_tokens=12, max_path_tokens=6, max_summary_tokens=4, max_trace_tokens=40
)


class Written:
    """A tracker that writes what it is given to a file of its own, and begins anew as TensorBoard does."""

    last = 0

    def __init__(self, about):
        assert about.config["report_to"] == ["tensorboard"]
        (about.folder / "given.jsonl").unlink(missing_ok=True)
        self.file = JsonlWriter(about.folder / "given.jsonl")

    def log(self, step, numbers, samples):
        self.file.write({"step": step, "numbers": numbers, "samples": [sample["text"] for sample in samples]})

    def close(self, failed):
        self.file.write({"step": None, "failed": failed})


def run_sft(folder: Path, steps: int) -> int:
    trackers.TRACKERS["tensorboard"] = Written
    lm, config = make_lm(), sft_config(steps=steps, micro_batch=3, report_to="tensorboard")
    return train_sft(lm, config, mixture(lm, config, problems("mini", "train")), folder)["steps"]


@pytest.mark.long  # it starts processes, which import torch
def test_fine_tuning_in_two_processes(tmp_path):
    for steps in (3, 4):  # the second launch goes on from step 3
        assert [ended.value for ended in together(2, run_sft, tmp_path, steps)] == [steps, steps]
    rows, given = read_jsonl(tmp_path / "metrics.jsonl"), read_jsonl(tmp_path / "given.jsonl")
    assert given.pop() == {"step": None, "failed": False}
    assert [row["step"] for row in given] == [1, 2, 3, 4]
    assert [row["numbers"] | {"step": row["step"]} for row in given] == rows


def test_reinforcement_learning_gives_its_samples(monkeypatch, tmp_path):
    monkeypatch.setitem(trackers.TRACKERS, "tensorboard", Written)
    for steps in (2, 3):
        keys = {"reward": "accuracy", "steps": steps, "prompts_per_step": 2, "group_size": 2, "log_samples": 2}
        config = parse_config(GRPOConfig, {**keys, "checkpoint_every": 1, "report_to": ["tensorboard"]}, "test")
        train_grpo(make_lm(), config, problems("mini", "train"), tmp_path, prompt=PROMPT, params=PARAMS)
    rows, samples = (read_jsonl(tmp_path / f"{name}.jsonl") for name in ("metrics", "samples"))
    *given, last = read_jsonl(tmp_path / "given.jsonl")
    assert last == {"step": None, "failed": False}
    assert [row["step"] for row in given] == [1, 2, 3]
    for row, own in zip(rows, given, strict=True):
        numbers = {k: v for k, v in row.items() if isinstance(v, int | float) and k != "step"}
        assert own["numbers"] == numbers
        assert own["samples"] == [sample["text"] for sample in samples if sample["step"] == row["step"]]
        assert len(own["samples"]) == 2
