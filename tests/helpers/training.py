"""A tiny model of the synthetic task, and the pieces that the loops take."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from polythink.models.build import ModelConfig, from_config
from polythink.models.lm import LanguageModel
from polythink.problems.prompts import Prompt
from polythink.problems.tasks.countdown import VOCABULARY, problems
from polythink.run.folder import write_json

SHAPE = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, head_dim=16, intermediate_size=64)
PROMPT = Prompt("plain", "{problem} :")


def make_lm(seed: int = 0, **shape) -> LanguageModel:
    return from_config(ModelConfig(**{**SHAPE, **shape}), "parallel_r1", VOCABULARY, seed)


def weights_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def gradients(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def without_times(rows: list[dict]) -> list[dict]:
    return [{k: v for k, v in row.items() if not k.endswith("seconds")} for row in rows]


def killed(plan, folder: Path, rows: int) -> None:
    """Run a stage in a process of its own and kill it as soon as it has written so many rows of metrics."""
    spec = folder.parent / "spec.json"
    write_json(spec, {"plan": plan.model_dump(mode="json"), "folder": str(folder), "previous": None})
    process = subprocess.Popen([sys.executable, "-m", "polythink.pipeline.stage", str(spec)])
    metrics = folder / "metrics.jsonl"
    try:
        while not metrics.exists() or len(metrics.read_bytes().splitlines()) < rows:
            assert process.poll() is None, "the stage ended before it could be killed"
            time.sleep(0.005)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL


@pytest.fixture
def lm() -> LanguageModel:
    return make_lm()


@pytest.fixture(scope="session")
def mini():
    """All training problems of two numbers."""
    return problems("mini", "train")
