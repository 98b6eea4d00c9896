"""Texts in several processes: the losses, gradients and weights of one; checkpoints that any number of them resumes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from test_text_training import TRAIN, VALID, config_of, make

from helpers.ranks import LONG, Ranks, program, said, together
from helpers.training import without_times
from polythink.run.folder import read_json
from polythink.run.jsonl import read_jsonl
from polythink.text.model import load_text_model, save_text_model
from polythink.text.train import divided, train_text
from polythink.train import distributed
from polythink.train.distributed import LOST

CLOSE = 1e-5  # float32: sums in another order
KINDS = {  # the last forward of a step is smaller; forwards of one process are cut for two; an even number of them
    "pairs": {"micro_batch": 3, "label_smoothing": 0.1, "average": 2, "average_every": 1},
    "by tokens": {"batch": None, "batch_tokens": 40, "accumulate": 1, "max_grad_norm": 0.5},
    "running text": {"block": 7, "micro_batch": 4},
}


def run(folder: Path, kind: str, steps: int = 5, dropout: float = 0.0) -> dict:
    """Train on a kind of texts, in as many processes as there are; the first saves the model."""
    lm = make(encoder=kind != "running text", dropout=dropout)
    found = train_text(lm, config_of(steps=steps, lr=1e-3, **KINDS[kind]), TRAIN, VALID, folder)
    distributed.on_main(lambda: save_text_model(lm, folder / "model"))
    return found


def everything(folder: Path) -> list[dict]:
    """All that the fast tests look at, in one launch."""
    run(folder / "begun", "pairs", 4)
    return [run(folder / kind, kind) for kind in KINDS]


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    everything(folder)
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    ended = together(2, everything, folder)
    assert [end.status for end in ended] == [0, 0], ended
    assert ended[0].value == ended[1].value, "summaries are known to all"
    return folder


def assert_same(one: Path, many: Path) -> None:
    rows = [without_times(read_jsonl(folder / "metrics.jsonl")) for folder in (one, many)]
    assert len(rows[0]) == len(rows[1]) == 5
    for ours, theirs in zip(*rows, strict=True):
        assert theirs == pytest.approx(ours, rel=CLOSE, abs=CLOSE)
    weights = [load_text_model(folder / "model").model.state_dict() for folder in (one, many)]
    for name, value in weights[0].items():
        if name.endswith("k_proj.bias"):  # changes no attention: its gradient is nothing but rounding
            continue
        torch.testing.assert_close(weights[1][name], value, rtol=CLOSE, atol=CLOSE, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_train_as_one(one, two, kind):
    assert_same(one / kind, two / kind)


def test_a_checkpoint_of_two_is_resumed_by_one(one, two):
    run(two / "begun", "pairs")
    assert_same(one / "pairs", two / "begun")


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_of_two_is_resumed_by_three_and_theirs_by_one(one, tmp_path, kind):
    assert [end.status for end in together(2, run, tmp_path, kind, 2)] == [0, 0]
    ended = together(3, run, tmp_path, kind, 4)
    assert [end.status for end in ended] == [0, 0, 0], ended
    run(tmp_path, kind)
    assert_same(one / kind, tmp_path)


@pytest.mark.parametrize(
    ("parts", "processes", "expected"),
    [
        ([[1, 2, 3]], 1, [[1, 2, 3]]),
        ([[1, 2, 3]], 2, [[1, 3], [2]]),
        ([[1, 2], [3, 4]], 2, [[1, 2], [3, 4]]),
        ([[1, 2, 3], [4, 5], [6]], 2, [[1, 3], [2], [4], [5], [6]]),
        ([[1], [2]], 4, [[1], [2]]),
    ],
)
def test_forwards_are_cut_for_processes(parts, processes, expected):
    assert divided(parts, processes) == expected


# ---- the program ----

RECIPE = """
name: small
task: translation
model: {hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2, dropout: 0.2}
stages:
  train: {kind: text, data: "copy:train", steps: 24, batch: 8, lr: 1e-2, checkpoint_every: 2}
  test: {kind: text_eval, data: ["copy:test"], limit: 3, max_new_tokens: 8}
"""


@pytest.mark.long
@pytest.mark.timeout(1800)  # three launches
def test_a_recipe_runs_under_a_launcher_and_resumes_to_the_same_bits(tmp_path):
    """With dropout, which differs from process to process. Kill -9 of the second: the first says one sentence."""
    (tmp_path / "small.yaml").write_text(RECIPE)
    one, other = tmp_path / "one", tmp_path / "other"
    commands = [("train", str(tmp_path / "small.yaml"), "--out", str(out)) for out in (one, other)]
    ended = together(2, program, tmp_path, *commands[0])
    assert [end.status for end in ended] == [0, 0], said(tmp_path, "err", 2)
    ranks = Ranks(2, program, tmp_path, *commands[1])
    metrics, until = other / "train" / "metrics.jsonl", time.monotonic() + LONG
    while not metrics.is_file() or metrics.read_bytes().count(b"\n") < 5:
        assert time.monotonic() < until
        time.sleep(0.002)
    os.kill(ranks.processes[1].pid, signal.SIGKILL)
    assert [end.status for end in ranks.wait()] == [2, -signal.SIGKILL], said(tmp_path, "err", 2)
    assert said(tmp_path, "err", 2)[0] == f"polythink: {LOST}\n"
    ended = together(2, program, tmp_path, *commands[1], "--resume")
    assert [end.status for end in ended] == [0, 0], said(tmp_path, "err", 2)
    results = [read_json(out / "test" / "result.json")["evaluations"] for out in (one, other)]
    assert results[0] == results[1]
    weights = [(out / "train" / "model" / "model.safetensors").read_bytes() for out in (one, other)]
    assert weights[0] == weights[1]
